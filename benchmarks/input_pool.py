"""Real inputs enough that no call sees the one before again soon, and that caches do not hold them all.

batches, said = make(interface, batch=8)
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
"""Where Linux tells of a core's caches."""
CACHE_BYTES = 2**26
"""The largest cache where the system does not tell: more than most processors hold."""
BEYOND = 2.0
"""Times as much as the largest cache holds."""
MEMORY_SHARE = 0.125
"""Share of the machine's memory that a pool may take."""
LEAST, MOST = 8, 2**18
"""Batches in a pool."""
PICTURES = 32
"""Pictures that are made by code, which takes long; the others of a pool are these, moved sideways."""


def make(interface: Interface, batch: int) -> tuple[list[list[NDArray[np.generic]]], dict[str, Any]]:
    """Make a pool.

    Args:
        interface: What the generator takes, of one size.
        batch: Items in one call.

    Returns:
        The batches, each one array per input; and `batches`, `bytes` and the largest cache's `cache_bytes`.
    """
    item = sum(array.nbytes for array in real_inputs(interface, 1, seed=1)) / (
        interface.inputs[0].shape[0] if isinstance(interface.inputs[0].shape[0], int) else 1
    )
    cache = largest_cache()
    wanted = min(BEYOND * cache, MEMORY_SHARE * _memory())
    count = min(max(LEAST, int(wanted / (item * batch)) + 1), MOST)
    if interface.noise is not None:
        arrays = real_inputs(interface, count * batch, seed=1)
    else:
        arrays = _pictures(interface, count * batch)
    found = [[array[i * batch : (i + 1) * batch] for array in arrays] for i in range(count)]
    held = sum(array.nbytes for array in arrays)
    return found, {"batches": count, "bytes": held, "cache_bytes": cache}


def _pictures(interface: Interface, count: int) -> list[NDArray[np.generic]]:
    """Pictures made by code, and as many more as are wanted: the same, moved sideways, each by its own distance."""
    made = real_inputs(interface, min(count, PICTURES), seed=1)
    have = len(made[0])
    axis = 2 if interface.inputs[0].layout == "NHWC" else 3
    width = made[0].shape[axis]
    first = np.empty((count, *made[0].shape[1:]), made[0].dtype)
    for place in range(count):
        turn, which = divmod(place, have)
        first[place] = np.roll(made[0][which], turn * max(1, width // 7), axis - 1)
    return [first, *(array[np.arange(count) % have] for array in made[1:])]


def largest_cache() -> int:
    """Of a core's caches, bytes; a guess that is rather too large where the system does not tell."""
    found = [0]
    for path in CACHES.glob("index*/size"):
        text = path.read_text("ascii").strip()
        number, unit = text.rstrip("KMG"), text.lstrip("0123456789")
        if number.isdigit() and unit in ("", "K", "M", "G"):
            found.append(int(number) * 1024 ** " KMG".index(unit or " "))
    return max(found) or CACHE_BYTES


def _memory() -> float:
    """Of the machine, bytes; a gigabyte where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 2.0**30
