"""A pool of real inputs, larger than the caches, so that no call finds its input cached.

batches, pool_size = make(interface, batch=8)
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import Interface

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
"""Where Linux reports a core's caches."""
CACHE_BYTES = 2**26
"""Assumed size of the largest cache if the system does not report it: larger than most."""
BEYOND = 2.0
"""Size of a pool, as a multiple of the largest cache."""
MEMORY_SHARE = 0.125
"""Share of the machine's memory that a pool may take."""
LEAST, MOST = 8, 2**18
"""Fewest and most batches in a pool."""
PICTURES = 32
"""Number of different pictures that are generated, which is slow; the rest of a pool are shifted copies."""


def make(interface: Interface, batch: int) -> tuple[list[list[NDArray[np.generic]]], dict[str, Any]]:
    """Make a pool.

    Args:
        interface: Inputs of the generator, of a fixed size.
        batch: Items in one call.

    Returns:
        The batches, each a list of one array per input; and a table of `batches`, `bytes` and `cache_bytes`, the size
        of the largest cache.
    """
    item = sum(array.nbytes for array in real_inputs(interface, 1, seed=1)) / (
        interface.inputs[0].shape[0] if isinstance(interface.inputs[0].shape[0], int) else 1
    )
    cache = largest_cache()
    needed = min(BEYOND * cache, MEMORY_SHARE * _memory())
    count = min(max(LEAST, int(needed / (item * batch)) + 1), MOST)
    if interface.noise is not None:
        arrays = real_inputs(interface, count * batch, seed=1)
    else:
        arrays = _pictures(interface, count * batch)
    batches = [[array[i * batch : (i + 1) * batch] for array in arrays] for i in range(count)]
    size = sum(array.nbytes for array in arrays)
    return batches, {"batches": count, "bytes": size, "cache_bytes": cache}


def _pictures(interface: Interface, count: int) -> list[NDArray[np.generic]]:
    """Return `count` pictures: up to `PICTURES` different ones, then copies shifted sideways by growing distances."""
    made = real_inputs(interface, min(count, PICTURES), seed=1)
    have = len(made[0])
    axis = 2 if interface.inputs[0].layout == "NHWC" else 3
    width = made[0].shape[axis]
    first = np.empty((count, *made[0].shape[1:]), made[0].dtype)
    for index in range(count):
        turn, which = divmod(index, have)
        first[index] = np.roll(made[0][which], turn * max(1, width // 7), axis - 1)
    return [first, *(array[np.arange(count) % have] for array in made[1:])]


def largest_cache() -> int:
    """Return the size of a core's largest cache, bytes; `CACHE_BYTES` if the system does not report it."""
    sizes = [0]
    for path in CACHES.glob("index*/size"):
        text = path.read_text("ascii").strip()
        number, unit = text.rstrip("KMG"), text.lstrip("0123456789")
        if number.isdigit() and unit in ("", "K", "M", "G"):
            sizes.append(int(number) * 1024 ** " KMG".index(unit or " "))
    return max(sizes) or CACHE_BYTES


def _memory() -> float:
    """Return the machine's memory, bytes; one gigabyte if the system does not report it."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 2.0**30
