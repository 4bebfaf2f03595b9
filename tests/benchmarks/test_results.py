"""The tables of docs/results.md are those of the committed reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ganedge.benchmarks import training
from ganedge.benchmarks.studies import honesty, results
from ganedge.runtime.errors import InputError

ROOT = Path(__file__).parents[2]
MACHINE: dict[str, Any] = {"processor": "A processor", "threads": 2, "gpu": "", "versions": {}}


def _trained(**given: Any) -> dict[str, Any]:
    """A report of `gan-bench train` with one case."""
    case = {
        "variant": "mlp", "config": {"batch": 64, "size": 28}, "computes": {"plain": "fp32", "ganedge": "bf16"},
        "compiled": True, "device": "cpu", "images_per_s": {"plain": 100.4, "ganedge": 250.6},
        "partial": False, "speedup": 2.5, "speedup_low": 2.4, "speedup_high": 2.6,
    }  # fmt: skip
    return {
        "schema": training.SCHEMA, "kind": "training", "partial": False, "command": "gan-bench train --compile",
        "machine": MACHINE, "results": [case], "warnings": ["a busy machine"], **given,
    }  # fmt: skip


def _honest(**given: Any) -> dict[str, Any]:
    """A report of `make honesty` with one bar."""
    bar = {"what": "a slowdown is found", "count": 19, "of": 20, "wanted": 20, "held": False}
    return {"schema": honesty.SCHEMA, "partial": False, "machine": MACHINE, "bars": [bar], **given}


def test_the_results_page_shows_what_was_measured() -> None:
    text = (ROOT / "docs" / "results.md").read_text("utf-8")
    found = results.read(ROOT / "benchmarks" / "results")
    assert results.updated(text, found) == text, "make results, or python -m ganedge.benchmarks.studies.results"
    for name, report in found.latencies.items():
        assert not report["partial"]
        batches = sorted({row["batch"] for row in report["results"]})
        for plot in [f"{name}-batch{batch}.svg" for batch in batches] if len(batches) > 1 else [f"{name}.svg"]:
            assert 1000 < (ROOT / "benchmarks" / "results" / plot).stat().st_size < 300_000


def test_trainings_and_bars_are_told() -> None:
    on_gpu = _trained(machine={**MACHINE, "gpu": "A GPU, 1.2"}, warnings=[], command="")
    on_gpu["results"] = [{**on_gpu["results"][0], "device": "cuda", "compiled": False}]
    found = results.Committed({}, {"here": _trained(), "there": on_gpu}, {"here": _honest(partial=True)})
    text = results.tables(found)
    assert (
        "| `here`: A processor, 2 threads | mlp, 28 × 28, batch 64, bf16, compiled | 100 | 251 | 2.50 (2.40 to 2.60) |"
        in text
    )
    assert "| `there`: A GPU, 1.2 | mlp, 28 × 28, batch 64, bf16 |" in text
    assert "`here`: `gan-bench train --compile`" in text
    assert "`here`: warning: a busy machine" in text
    assert "| `here`: A processor, 2 threads | a slowdown is found | 19 of 20 | 20 |" in text
    assert "`here`: interrupted before all runs were done" in text


def test_reports_are_read_by_kind(tmp_path: Path) -> None:
    source = next((ROOT / "benchmarks" / "results").glob("*.json"))
    (tmp_path / "here.json").write_bytes(source.read_bytes())
    for kind, report in (("training", _trained()), ("honesty", _honest())):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "here.json").write_text(json.dumps(report))
    found = results.read(tmp_path)
    assert (found.training, found.honesty) == ({"here": _trained()}, {"here": _honest()})
    (tmp_path / "training" / "here.json").write_text(json.dumps(_trained(schema=1)))
    with pytest.raises(InputError, match=rf"here\.json is no report of schema {training.SCHEMA}: measure again"):
        results.read(tmp_path)
    (tmp_path / "training" / "here.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*here\.json"):
        results.read(tmp_path)


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no report: make results"):
        results.read(tmp_path)
    with pytest.raises(InputError, match="no markers"):
        results.updated("# A project", results.Committed({}, {}, {}))
