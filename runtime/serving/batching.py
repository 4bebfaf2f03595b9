"""Dynamic batching: requests that arrive at the same time run as one batch, which is faster than one by one.

    batcher = Batcher(generator.run_all, most=16)
    tensor, *extras = batcher.call(latents)             # from any thread; batched with concurrent requests

Requests that arrive while the engine computes a batch form the next batch. Unless `wait` is set, no request waits for
a batch to fill; under load batches fill anyway.
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
    """Arrays as `run` takes them, with any number of items."""
    answer: Future[Tensors]
    """Resolves to the outputs for these items."""

    @property
    def kind(self) -> tuple[tuple[int, ...], ...]:
        """The shapes without the batch dimension: requests share a batch only if these are equal."""
        return tuple(array.shape[1:] for array in self.inputs)


class Batcher:
    """A worker thread that runs a generator on batches of requests from other threads.

    Args:
        run: Computes all outputs of one batch of inputs, such as `Generator.run_all`.
        most: Most items in one batch; a request with more items runs alone.
        wait: Seconds to wait for a batch to fill.
        largest: Most input values in one batch, which limits the memory that large pictures need.
        seen: Called with the number of items of each batch.
    """

    def __init__(
        self,
        run: Callable[..., Tensors],
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
        """Number of waiting requests."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether the worker thread still accepts and computes requests."""
        return self._thread.is_alive() and not self._closed

    def submit(self, *inputs: NDArray[np.generic]) -> Future[Tensors]:
        """Queue a request; a future that is cancelled before its batch starts is not computed.

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

    def call(self, *inputs: NDArray[np.generic]) -> Tensors:
        """Queue a request and wait for its outputs."""
        return self.submit(*inputs).result()

    def close(self) -> None:
        """Finish the requests that are already queued, then stop the worker thread."""
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
        """Take the oldest request and those that can share its batch, in order; the caller holds the lock."""
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
        """Number of further items that fit into this request's batch."""
        items = len(first.inputs[0])
        each = max(1, sum(array.size for array in first.inputs) // items)
        return min(self._most, max(1, self._largest // each)) - items

    def _compute(self, batch: list[_Request]) -> None:
        try:
            outputs = self._outputs(batch)
        except Exception as error:  # noqa: BLE001 - every waiting request must get the error
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            for request in batch:  # One request may be invalid, or the batch too large: retry each alone.
                self._compute([request])
            return
        for request, tensors in zip(batch, outputs, strict=True):
            request.answer.set_result(tensors)

    def _outputs(self, batch: list[_Request]) -> Sequence[Tensors]:
        """Run a batch and split its outputs by request."""
        counts = [len(request.inputs[0]) for request in batch]
        if self._seen is not None:
            self._seen(sum(counts))
        if len(batch) == 1:
            return [self._run(*batch[0].inputs)]
        columns = zip(*(request.inputs for request in batch), strict=True)
        outputs = self._run(*(np.concatenate(arrays) for arrays in columns))
        ends = np.cumsum(counts)[:-1]
        return list(zip(*(np.split(output, ends) for output in outputs), strict=True))
