"""One seed, one stream: pinned to the bit, because artifacts outlive the machines they were made on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ganedge.runtime.errors import UsageError
from ganedge.runtime.latents import LatentStream, between, class_numbers, seed_of

if TYPE_CHECKING:
    from ganedge.runtime.manifest import Noise


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


def test_truncation() -> None:
    """Normal values outside are drawn again, one latent after the other; uniform ones are scaled."""
    random = np.random.RandomState(5)
    expected = []
    for _ in range(3):
        latent = random.standard_normal((40, 1))
        while (outside := np.abs(latent) > 0.5).any():
            latent[outside] = random.standard_normal(int(outside.sum()))
        expected.append(latent.astype(np.float32))
    drawn = LatentStream("normal", (40, 1), 5, truncation=0.5).take(3)
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn, np.stack(expected))
    uniform = LatentStream("uniform", (4,), 5, truncation=0.25).take(2)
    np.testing.assert_array_equal(uniform, LatentStream("uniform", (4,), 5).take(2) * np.float32(0.25))
    np.testing.assert_array_equal(
        LatentStream("uniform", (4,), 5, truncation=1.0).take(2), LatentStream("uniform", (4,), 5).take(2)
    )
    assert np.abs(LatentStream("normal", (4,), 5, truncation=0.01).take(2)).max() <= 0.01


@pytest.mark.parametrize(
    ("noise", "truncation", "most"), [("uniform", 1.01, "1"), ("normal", 0.009, "inf"), ("uniform", 0.0, "1")]
)
def test_a_truncation_out_of_range(noise: Noise, truncation: float, most: str) -> None:
    with pytest.raises(UsageError, match=f"truncation {truncation} is out of range: give 0.01 to {most}"):
        LatentStream(noise, (4,), 0, truncation=truncation)


def test_the_largest_seed_and_that_of_each_input() -> None:
    assert LatentStream("normal", (4,), 2**32 - 1).take(1).shape == (1, 4)
    assert [seed_of(index, 7) for index in (0, 1, 2)] == [7, 0x9E3779B1 + 7, (2 * 0x9E3779B1 + 7) % 2**32]


def test_labels_of_a_proof() -> None:
    labels = class_numbers(5, 3)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 2, 0, 1]
    assert class_numbers(3, 3).tolist() == [0, 1, 2]
    few = class_numbers(3, 1001)
    assert few.dtype == np.int64
    assert few.tolist() == [0, 500, 1000]


def test_the_way_from_one_latent_to_another() -> None:
    a, b = np.float32([[3.0], [0.0]]), np.float32([[0.0], [2.0]])
    straight = between("uniform", a, b, 5)
    assert straight.dtype == np.float32
    np.testing.assert_allclose(straight[1], [[2.25], [0.5]], rtol=1e-6)
    np.testing.assert_array_equal(straight[[0, -1]], [a, b])
    arc = between("normal", a, b, 3)
    assert arc.dtype == np.float32
    np.testing.assert_allclose(arc, [a, (a + b) * np.sqrt(0.5), b], rtol=1e-6, atol=1e-6)
    third = between("normal", a, np.float32([[1.0], [np.sqrt(3.0)]]), 3)[1]  # 60 degrees apart
    np.testing.assert_allclose(third, (a + np.float32([[1.0], [np.sqrt(3.0)]])) / np.sqrt(3.0), rtol=1e-5)
    for end in (2 * a, 0 * a, -a):  # no angle, or none that says which way round
        np.testing.assert_allclose(between("normal", a, end, 3)[1], (a + end) / 2, atol=1e-6)
