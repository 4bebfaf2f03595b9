"""The Python API: options by name, what it returns, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ganedge.runtime.errors import UsageError
from ganedge.train import train


def test_train_takes_the_long_options_and_returns_the_run(tmp_path: Path) -> None:
    run = train("circles", out=str(tmp_path / "run"), steps=3, batch=16, device="cpu")
    assert Path(os.fspath(run)) == run.path == tmp_path / "run"
    config = json.loads((run.path / "config.json").read_text())
    assert (config["config"]["batch"], config["training"]["steps"], config["training"]["data"]) == (16, 3, "circles")
    assert run.last_metrics["step"] == run.metrics()[-1]["step"] == 3
    png = run._repr_png_()
    assert png is not None
    assert png.startswith(b"\x89PNG")
    assert "step 3<br><img" in run._repr_html_()
    assert train("circles", out=run.path, steps=5, resume=True, device="cpu").last_metrics["step"] == 5


@pytest.mark.parametrize(
    ("variant", "options", "message"),
    [
        ("dcgan", {"data": "digits", "out": "x", "stepps": 3}, "dcgan has no option stepps: did you mean steps?"),
        ("dcgan", {"data": "digits", "out": "x", "qqqq": 3}, "no option qqqq: gan-train dcgan --help lists all"),
        ("dcgan", {"data": "digits"}, "no out: give the run folder"),
        ("dcgan", {"out": "x"}, "no data: give --data"),
        ("dcgann", {"out": "x"}, "unknown variant 'dcgann'"),
    ],
)
def test_what_train_refuses(variant: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        train(variant, **options)
