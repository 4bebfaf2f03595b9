"""One seed, one stream: pinned to the bit, because artifacts outlive the machines they were made on."""

from __future__ import annotations

import numpy as np
import pytest

from ganedge.runtime.errors import UsageError
from ganedge.runtime.latents import LatentStream


def test_the_numbers_are_pinned() -> None:
    normal = LatentStream("normal", (3,), 0).take(2)
    assert normal.dtype == np.float32
    np.testing.assert_array_equal(
        normal, np.float32([[1.7640524, 0.4001572, 0.978738], [2.2408931, 1.867558, -0.9772779]])
    )
    uniform = LatentStream("uniform", (2,), 1).take(1)
    np.testing.assert_array_equal(uniform, np.float32([[-0.16595599, 0.44064897]]))


@pytest.mark.parametrize("noise", ["normal", "uniform"])
def test_batches_do_not_matter(noise: str) -> None:
    whole = LatentStream(noise, (5, 1, 1), 7).take(9)  # type: ignore[arg-type]
    stream = LatentStream(noise, (5, 1, 1), 7)  # type: ignore[arg-type]
    np.testing.assert_array_equal(whole, np.concatenate([stream.take(n) for n in (1, 3, 5)]))


def test_the_distributions() -> None:
    normal = LatentStream("normal", (100,), 3).take(1000)
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    uniform = LatentStream("uniform", (100,), 3).take(1000)
    assert -1 <= uniform.min() < -0.99
    assert 0.99 < uniform.max() <= 1


def test_no_seed_draws_new_ones() -> None:
    assert not np.array_equal(LatentStream("normal", (4,), None).take(1), LatentStream("normal", (4,), None).take(1))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range(seed: int) -> None:
    with pytest.raises(UsageError, match=f"seed {seed} is out of range"):
        LatentStream("normal", (4,), seed)


def test_streams_do_not_meet() -> None:
    """Random states are used again once a stream is gone, never while it lives."""
    for _ in range(3):
        first, second = LatentStream("normal", (3,), 0), LatentStream("normal", (3,), 1)
        odd = second.take(1)
        mixed = [first.take(1), second.take(1), first.take(1)]
        np.testing.assert_array_equal(np.concatenate(mixed[::2]), LatentStream("normal", (3,), 0).take(2))
        np.testing.assert_array_equal(np.concatenate([odd, mixed[1]]), LatentStream("normal", (3,), 1).take(2))
