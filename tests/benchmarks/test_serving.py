"""The server's benchmark, with tiny numbers and real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganedge.benchmarks.studies.serving import measure
from ganedge.runtime.doctor import tiny_artifact
from ganedge.runtime.errors import GanEdgeError

pytest.importorskip("uvicorn", reason="the extra serve is not installed")


def test_both_ways_are_measured_and_refusals_are_no_errors(tmp_path: Path) -> None:
    file = tmp_path / "tiny.onnx"
    file.write_bytes(tiny_artifact())
    tallies = measure(file, "onnxruntime", 1, callers=6, seconds=0.3, queue=2)
    assert list(tallies) == ["joined", "one by one"]
    for tally in tallies.values():
        assert set(tally.statuses) <= {200, 429}
        assert tally.statuses[200] == len(tally.latencies) > 0
        assert tally.memory[0] > 1e6


def test_a_server_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "tiny.onnx"
    file.write_bytes(tiny_artifact())
    with pytest.raises(GanEdgeError, match=r"did not start: .*unknown engine"):
        measure(file, "magic", 1, callers=1, seconds=0.1, queue=2)
