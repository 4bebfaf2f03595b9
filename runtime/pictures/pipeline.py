"""Run the stages of a pipeline in parallel, with results in order.

    for result in ordered(paths, decode, infer, encode):
        ...

Stages hand over within a bounded window, so that memory does not grow with the number of items.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

AHEAD = 4
"""Items that are on their way at once."""


def ordered(items: Iterable[Any], *stages: Callable[[Any], Any]) -> Iterator[Any]:
    """Take every item through all stages, each stage in a thread of its own.

    Args:
        items: Consumed as results are taken, at most `AHEAD` of them early.
        *stages: Functions of one argument: the first takes an item, each other the result of the one before.

    Yields:
        The last stage's result for each item, in the items' order. Where a stage raised, taking that result raises.
    """
    pools = [ThreadPoolExecutor(1, f"ganedge-{stage.__name__}") for stage in stages]
    window: deque[Future[Any]] = deque()
    try:
        for item in items:
            window.append(_chain(pools, stages, item))
            if len(window) >= AHEAD:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)


def _chain(pools: list[ThreadPoolExecutor], stages: tuple[Callable[[Any], Any], ...], item: Any) -> Future[Any]:
    """Queue one item in every stage. Each queue is in order, so the stage that waits is always for an older result."""
    future: Future[Any] = Future()
    future.set_result(item)
    for pool, stage in zip(pools, stages, strict=True):
        future = pool.submit(_step, stage, future)
    return future


def _step(stage: Callable[[Any], Any], before: Future[Any]) -> Any:
    return stage(before.result())
