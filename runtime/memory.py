"""Measure the memory of this process, and parse amounts such as "500M".

with Peak() as peak:
    generator.run(tile)
print(peak.bytes)
"""

from __future__ import annotations

import ctypes
import math
import os
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UsageError

if TYPE_CHECKING:
    from types import TracebackType

STATM = Path("/proc/self/statm")
"""Where Linux tells the sizes of this process, in pages."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, from its malloc.h."""
SAMPLE_SECONDS = 0.001
"""Time between two looks at the memory."""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse(text: str) -> int:
    """Read an amount of memory: "500M", "1.5GB", "2GiB", or bytes.

    Raises:
        UsageError: it is none of these.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?|)b?\s*", text.lower())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"{text!r} is no amount of memory: give something like 500M, 1.5G or 2GiB")
    return int(float(match[1]) * UNITS[match[2]])


def parse_pixels(text: str) -> int:
    """Read a limit in millions of pixels, as `--max-pixels 268.4` gives it.

    Raises:
        UsageError: it is no number, or out of range.
    """
    try:
        millions = float(text)
    except ValueError:
        millions = math.nan
    if not 0 < millions < 1e6:
        raise UsageError(f"max-pixels is {text}: give millions of pixels, above 0 and below a million")
    return int(millions * 1e6)


def resident() -> int | None:
    """Bytes of memory this process holds now; None where the system does not tell (it does on Linux)."""
    try:
        return int(STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def settled() -> int | None:
    """As `resident`, after returning freed memory to the system, which new allocations would reuse unnoticed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc has it.
        trim(0)
    return resident()


def keep_freed() -> bool:
    """Let this process keep freed memory for what it allocates next; False where the C library has no such setting.

    A training step frees what the next one allocates again. glibc returns much of it to the system, and gets it back
    one page fault for every 4 KB, which are expensive in virtual machines. What was allocated in one piece of more than
    32 MB is returned as before.
    """
    setting = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if setting is None:
        return False
    return bool(setting(MMAP_THRESHOLD, 32 * 2**20) and setting(TRIM_THRESHOLD, 2**31 - 1))


class Peak:
    """The most memory held while a block runs, seen by a thread that looks every millisecond.

    Attributes:
        bytes: The peak; None where the system does not tell.
    """

    def __init__(self) -> None:
        self.bytes = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ganedge-memory", daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        now = resident()
        if now is not None and self.bytes is not None:
            self.bytes = max(self.bytes, now)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._look()
