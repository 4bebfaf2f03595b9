"""Latents that are the same on every machine: one seed, one stream.

    stream = LatentStream("normal", (100,), seed=0)
    first, more = stream.take(4), stream.take(12)

NumPy promises never to change the numbers of `RandomState` (NEP 19), which it does not promise for its newer
generators; a seed noted down today must give the same picture in ten years. Draws are made in double precision and in
order, so splitting them into batches changes nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from .errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .manifest import Noise

MIN_TRUNCATION = 0.01
"""The smallest truncation: below it, drawing again and again until a value fits takes too long."""
MAX_SEED = 2**32 - 1
"""The largest seed: RandomState takes 32 bits."""
MAX_SPARE = 16
"""Unused generators of random numbers that are kept."""

# Making a RandomState takes 100 times as long as seeding one, and longer than a small model: reuse them.
_spare: list[np.random.RandomState] = []


def class_numbers(count: int, classes: int) -> NDArray[np.int64]:
    """Labels `[count]` for a proof: every class in turn, or where there are more of them, some spread over all."""
    if count >= classes:
        return np.arange(count, dtype=np.int64) % classes
    return np.rint(np.linspace(0, classes - 1, count)).astype(np.int64)


def seed_of(index: int, seed: int) -> int:
    """The seed of a generator's input `index`, counted from 0, for the seed that a user gave.

    Inputs differ, and the first has the user's own seed; 0x9E3779B1 is 2³² divided by the golden ratio, made odd.
    """
    return (seed + 0x9E3779B1 * index) % 2**32


class LatentStream:
    """An endless, reproducible sequence of latents.

    Args:
        noise: "normal" (mean 0, variance 1) or "uniform" (-1 to 1).
        shape: The shape of one latent, without the batch.
        seed: 0 to 2³² - 1; None draws one from the operating system.
        truncation: Keep values within ± this: less variety, more typical results (Brock et al. 2018, section 3.1).
            Normal values outside are drawn again; uniform ones are scaled, and 1 is their whole range.

    Raises:
        UsageError: seed or truncation out of range.
    """

    def __init__(self, noise: Noise, shape: tuple[int, ...], seed: int | None, truncation: float | None = None) -> None:
        most = 1.0 if noise == "uniform" else float("inf")
        if truncation is not None and not MIN_TRUNCATION <= truncation <= most:
            raise UsageError(f"truncation {truncation} is out of range: give {MIN_TRUNCATION} to {most:g}")
        if seed is not None and not 0 <= seed <= MAX_SEED:
            raise UsageError(f"seed {seed} is out of range: give a whole number from 0 to {MAX_SEED}")
        self._noise = noise
        self._shape = shape
        self._truncation = truncation
        try:
            self._random = _spare.pop()
        except IndexError:
            self._random = np.random.RandomState(0)
        self._random.seed(int.from_bytes(os.urandom(4), "big") if seed is None else seed)

    def __del__(self, spare: list[np.random.RandomState] = _spare) -> None:
        if hasattr(self, "_random") and len(spare) < MAX_SPARE:
            spare.append(self._random)

    def take(self, count: int) -> NDArray[np.float32]:
        """Draw the next `count` latents, float32 `[count, *shape]`."""
        size = (count, *self._shape)
        if self._noise == "uniform":
            values: NDArray[np.float32] = self._random.uniform(-1.0, 1.0, size).astype(np.float32)
            if self._truncation is not None:
                values *= np.float32(self._truncation)
            return values
        if self._truncation is None:
            return self._random.standard_normal(size).astype(np.float32)
        # One latent after the other, so that the redrawn numbers do not depend on the batch size.
        return np.stack([self._truncated(self._truncation) for _ in range(count)])

    def _truncated(self, limit: float) -> NDArray[np.float32]:
        """One latent of normal values, each drawn again until it lies within the limit."""
        values = np.asarray(self._random.standard_normal(self._shape))
        outside = np.abs(values) > limit
        while outside.any():
            values[outside] = self._random.standard_normal(int(outside.sum()))
            outside = np.abs(values) > limit
        return values.astype(np.float32)


def between(noise: Noise, start: NDArray[np.float32], end: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """Go from one latent to another, both included.

    Normal latents go along the arc between them, so that those in the middle are as long as the generator knows them
    (spherical interpolation, Shoemake 1985; for GANs White 2016, section 2.1); uniform ones along the straight line.

    Args:
        noise: The distribution the two come from.
        start: One latent, `[...]`.
        end: The same shape.
        steps: 2 or more.

    Returns:
        float32 `[steps, ...]`.
    """
    t = np.linspace(0.0, 1.0, steps).reshape(-1, *(1 for _ in start.shape))
    a, b = start.astype(np.float64), end.astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    angle = float(np.arccos(np.clip((a * b).sum() / lengths, -1.0, 1.0))) if lengths else 0.0
    if noise == "uniform" or np.sin(angle) < 1e-6:
        path = (1 - t) * a + t * b
    else:
        path = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return np.asarray(path, dtype=np.float32)
