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

MAX_SEED = 2**32 - 1
"""The largest seed: RandomState takes 32 bits."""


class LatentStream:
    """An endless, reproducible sequence of latents.

    Args:
        noise: "normal" (mean 0, variance 1) or "uniform" (-1 to 1).
        shape: The shape of one latent, without the batch.
        seed: 0 to 2³² - 1; None draws one from the operating system.

    Raises:
        UsageError: the seed is out of range.
    """

    def __init__(self, noise: Noise, shape: tuple[int, ...], seed: int | None) -> None:
        if seed is not None and not 0 <= seed <= MAX_SEED:
            raise UsageError(f"seed {seed} is out of range: give a whole number from 0 to {MAX_SEED}")
        self._noise = noise
        self._shape = shape
        self._random = np.random.RandomState(int.from_bytes(os.urandom(4), "big") if seed is None else seed)

    def take(self, count: int) -> NDArray[np.float32]:
        """Draw the next `count` latents, float32 `[count, *shape]`."""
        size = (count, *self._shape)
        if self._noise == "normal":
            return self._random.standard_normal(size).astype(np.float32)
        return self._random.uniform(-1.0, 1.0, size).astype(np.float32)
