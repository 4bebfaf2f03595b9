"""Batches of what is asked for at the same time: the same answers, in the right hands."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ganedge.runtime.errors import EngineError, InputError, UsageError
from ganedge.runtime.serving.batching import Batcher


class Doubler:
    """Doubles; notes each batch, and can be held up."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the double, and a second output: each item's first value."""
        self.go.wait(10)
        self.batches.append(len(inputs[0]))
        if np.isnan(inputs[0]).any():
            raise InputError("not a number")
        return 2 * inputs[0], inputs[0][:, 0]


def test_what_waits_is_computed_together_and_each_gets_its_own() -> None:
    run = Doubler()
    run.go.clear()
    batcher = Batcher(run, most=8)
    asked = [np.full((1 + index % 3, 2), index, np.float32) for index in range(9)]
    futures = [batcher.submit(array) for array in asked]
    run.go.set()
    for array, future in zip(asked, futures, strict=True):
        double, first = future.result(10)
        np.testing.assert_array_equal(double, 2 * array)
        np.testing.assert_array_equal(first, array[:, 0])
    batcher.close()
    assert sum(run.batches) == sum(map(len, asked))
    assert max(run.batches) <= 8
    assert len(run.batches) < 9


def test_other_shapes_wait_for_their_own_batch_and_none_for_ever() -> None:
    run = Doubler()
    run.go.clear()
    with ThreadPoolExecutor(8) as pool:
        batcher = Batcher(run, most=4, wait=0.01)
        answers = [pool.submit(batcher.call, np.full((1, 1 + index % 2), index, np.float32)) for index in range(8)]
        run.go.set()
        assert [float(answer.result(10)[0][0, 0]) for answer in answers] == [2.0 * index for index in range(8)]
        batcher.close()


def test_one_request_at_fault_does_not_fail_the_others() -> None:
    run = Doubler()
    run.go.clear()
    batcher = Batcher(run, most=8, wait=0.2)
    futures = [batcher.submit(np.full((1, 2), value, np.float32)) for value in (1.0, np.nan, 3.0)]
    run.go.set()
    assert futures[0].result(10)[0][0, 0] == 2
    assert futures[2].result(10)[0][0, 0] == 6
    with pytest.raises(InputError):
        futures[1].result(10)
    batcher.close()


def test_large_inputs_are_not_piled_up_and_a_large_request_goes_alone() -> None:
    run = Doubler()
    run.go.clear()
    batcher = Batcher(run, most=8, largest=20, wait=0.2)
    futures = [batcher.submit(np.ones((count, 10), np.float32)) for count in (1, 1, 1, 9)]
    run.go.set()
    assert [len(future.result(10)[0]) for future in futures] == [1, 1, 1, 9]
    batcher.close()
    assert sorted(run.batches) == [1, 2, 9]


def test_closing_answers_first_and_then_refuses() -> None:
    run = Doubler()
    run.go.clear()
    batcher = Batcher(run, most=1)
    futures = [batcher.submit(np.ones((1, 1), np.float32)) for _ in range(3)]
    futures[2].cancel()
    run.go.set()
    batcher.close()
    assert [future.done() for future in futures] == [True] * 3
    assert len(run.batches) == 2, "what was cancelled is not computed"
    with pytest.raises(EngineError, match="stopping"):
        batcher.submit(np.ones((1, 1), np.float32))
    for mistake in ({"most": 0}, {"most": 1, "wait": -1.0}, {"most": 1, "wait": float("nan")}):
        with pytest.raises(UsageError):
            Batcher(run, **mistake)  # type: ignore[arg-type]
