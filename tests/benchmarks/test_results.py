"""The README's table of latencies is that of the committed reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganedge.benchmarks import results
from ganedge.runtime.errors import InputError

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_what_was_measured() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    reports = results.read(ROOT / "benchmarks" / "results")
    assert results.updated(text, reports) == text, "make results, or python -m ganedge.benchmarks.results"
    for name, report in reports.items():
        assert not report["partial"]
        plots = sorted((ROOT / "benchmarks" / "results").glob(f"{name}*.svg"))
        assert len(plots) >= len({row["batch"] for row in report["results"]}), "one for each batch size"
        assert all(plot.stat().st_size < 300_000 for plot in plots)


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no report: make results"):
        results.read(tmp_path)
    with pytest.raises(InputError, match="no markers"):
        results.updated("# A project", {})
