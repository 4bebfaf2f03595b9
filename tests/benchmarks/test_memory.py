"""The memory bench: pictures are read from disk in every epoch, and the process hardly grows."""

from __future__ import annotations

from pathlib import Path

from ganedge.benchmarks.studies import memory

COUNT, SIZE, BATCH = 1000, 48, 50
"""Together 7 MB, and steps so small that what they need and give back hardly shows."""


def test_memory_stays_flat_over_epochs(tmp_path: Path) -> None:
    memory.write_pictures(tmp_path, COUNT, SIZE)
    assert len(list(tmp_path.glob("*/*.png"))) == COUNT
    found = memory.measure(tmp_path, epochs=4, size=SIZE, batch=BATCH)
    assert found["pictures"] == COUNT
    assert len(found["resident_mb"]) == 4
    held = COUNT * SIZE * SIZE * 3 / 1e6
    grown = found["resident_mb"][-1] - found["resident_mb"][1]
    assert grown < held, f"who kept every picture would have grown by {2 * held:.0f} MB in two epochs: {found}"
