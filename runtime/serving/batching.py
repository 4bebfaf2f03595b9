"""Requests that come at the same time computed as one batch, which costs an engine less than one by one.

    batcher = Batcher(generator.run, most=16)
    tensor = batcher.call(latents)                      # from any thread; joined with what others ask for meanwhile

While the engine computes one batch the requests that arrive make the next: none waits for a batch to fill unless `wait`
says so, and under load the batches fill by themselves.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ganedge.runtime.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Tensors = Sequence[NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class _Request:
    """One request."""

    inputs: Tensors
    """As `run` takes them, any number of items."""
    answer: Future[NDArray[np.generic]]
    """Gets the output of these items."""

    @property
    def kind(self) -> tuple[tuple[int, ...], ...]:
        """What must be equal for two requests to share a batch: all dimensions but the first."""
        return tuple(array.shape[1:] for array in self.inputs)


class Batcher:
    """One thread that runs a generator on what all others ask for.

    Args:
        run: From one batch of inputs to its output, such as `Generator.run`.
        most: Items in one batch; a single request may bring more and is then computed alone.
        wait: Seconds to wait for a batch to fill.
        largest: Input values in one batch, so that large pictures are not piled up.
        seen: Called with the items of each batch.
    """

    def __init__(
        self,
        run: Callable[..., NDArray[np.generic]],
        most: int,
        wait: float = 0.0,
        largest: int = 2**22,
        seen: Callable[[int], None] | None = None,
    ) -> None:
        if most < 1:
            raise UsageError(f"the largest batch is {most}: give 1 or more")
        if not 0 <= wait <= 10:
            raise UsageError(f"a batch waits {wait} seconds to fill: give 0 to 10")
        self._run = run
        self._most = most
        self._wait = wait
        self._largest = largest
        self._seen = seen
        self._queue: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="ganedge-batcher", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether requests are still computed."""
        return self._thread.is_alive() and not self._closed

    def submit(self, *inputs: NDArray[np.generic]) -> Future[NDArray[np.generic]]:
        """Ask for the output of some items; cancelling the answer before its batch begins saves the work.

        Raises:
            EngineError: the batcher is closed.
        """
        request = _Request(inputs, Future())
        with self._changed:
            if self._closed:
                raise EngineError("this server is stopping: ask another")
            self._queue.append(request)
            self._changed.notify()
        return request.answer

    def call(self, *inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        """Ask, and wait for the output."""
        return self.submit(*inputs).result()

    def close(self) -> None:
        """Compute what was request for already, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return
                batch = self._gather()
            batch = [request for request in batch if request.answer.set_running_or_notify_cancel()]
            if batch:
                self._compute(batch)

    def _gather(self) -> list[_Request]:
        """Take the oldest request and those that may share its batch, in order; the lock is held."""
        first = self._queue.popleft()
        batch, room = [first], self._room(first)
        end = time.monotonic() + self._wait
        while True:
            for request in [request for request in self._queue if request.kind == first.kind]:
                if len(request.inputs[0]) <= room:
                    self._queue.remove(request)
                    batch.append(request)
                    room -= len(request.inputs[0])
            left = end - time.monotonic()
            if room < 1 or left <= 0 or self._closed or not self._changed.wait(left):
                return batch

    def _room(self, first: _Request) -> int:
        """Items that fit beside a request."""
        items = len(first.inputs[0])
        each = max(1, sum(array.size for array in first.inputs) // items)
        return min(self._most, max(1, self._largest // each)) - items

    def _compute(self, batch: list[_Request]) -> None:
        try:
            outputs = self._outputs(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for request in batch:  # One of them may be at fault, or all together too large: each alone.
                self._compute([request])
            return
        for request, output in zip(batch, outputs, strict=True):
            request.answer.set_result(output)

    def _outputs(self, batch: list[_Request]) -> list[NDArray[np.generic]]:
        """Run a batch and part its output."""
        counts = [len(request.inputs[0]) for request in batch]
        if self._seen is not None:
            self._seen(sum(counts))
        if len(batch) == 1:
            return [self._run(*batch[0].inputs)]
        columns = zip(*(request.inputs for request in batch), strict=True)
        output = self._run(*(np.concatenate(arrays) for arrays in columns))
        return np.split(output, np.cumsum(counts)[:-1])
