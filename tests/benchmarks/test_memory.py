"""The memory bench: pictures are read from disk in every epoch, and the process hardly grows."""

from __future__ import annotations

from pathlib import Path

from ganedge.benchmarks import memory


def test_memory_stays_flat_over_epochs(tmp_path: Path) -> None:
    memory.write_pictures(tmp_path, 1500)
    assert len(list(tmp_path.glob("*/*.png"))) == 1500
    found = memory.measure(tmp_path, epochs=4)
    assert found["pictures"] == 1500 and len(found["resident_mb"]) == 4
    held = 1500 * 16 * 16 * 3 / 1e6
    assert found["resident_mb"][-1] - found["resident_mb"][1] < 10 * held + 5, found
