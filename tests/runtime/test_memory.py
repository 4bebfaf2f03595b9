"""Memory that a process keeps: what a training step frees, the next one gets without asking the system again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import sys

import numpy

from ganedge.runtime import memory

if sys.argv[1] == "kept":
    assert memory.keep_freed()
for turn in range(12):
    parts = [numpy.ones(2**20) for _ in range(12)]  # 8 MB each
    del parts
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    faults = {}
    for way in ("returned", "kept"):
        line = [sys.executable, "-c", FAULTS, way]
        faults[way] = int(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    assert faults["kept"] * 5 < faults["returned"], faults
