"""FID and KID of whole sets of pictures: near for a faithful artifact, far for a wrong one, refused where senseless."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganedge.benchmarks import distance, latency, recommend, report
from ganedge.models import find
from ganedge.runtime import engines
from ganedge.runtime.errors import UsageError

Command = Callable[..., Any]


def test_near_and_far(artifact: Path, tiny_run: Path) -> None:
    """An artifact that draws far too bright is no reference's twin; the honest one draws the same."""

    def change(subject: latency.Subject) -> None:
        last = subject.competitors[-1]
        run = last.run
        object.__setattr__(last, "run", lambda arrays: run(arrays) + 1)

    wanted = distance.Distance(64, data="digits")
    settings = latency.Settings(
        (5,), engine="onnxruntime", seconds=0.02, iterations=2, processes=0, distance=wanted, threads=1
    )
    found = latency.measure([artifact, artifact], str(tiny_run), settings, change=change)
    eager, honest, wrong = found["competitors"].values()
    assert found["distance"] == {"features": "small", "pictures": 65, "data": "digits", "data_pictures": 64}
    assert eager["fid"] is None
    assert honest["fid"] == pytest.approx(0, abs=0.01)
    assert wrong["fid"] > 10 * max(honest["fid"], 0.01)
    assert wrong["kid"] > honest["kid"]
    assert honest["data_fid"] == pytest.approx(eager["data_fid"], rel=1e-3)
    assert honest["data_fid"] > honest["fid"]
    text = report.table(found)
    assert "FID to data*" in text
    assert "not comparable" in " ".join(text.split())
    near = recommend.choose(found, recommend.read_choice("fid<=0.1, p99"))[5]
    assert near.best != list(found["competitors"])[2]
    assert recommend.value(found, found["results"][0], "fid") == 0  # The reference is no distance from itself.


def test_nothing_is_shown_unasked(command: Command, artifact: Path) -> None:
    given = ("gan-bench", artifact, "--batch", 1, "--seconds", 0.02, "--iterations", 2, "--processes", 0)
    done = command(*given, "--engine", "onnxruntime")
    assert "FID" not in done.out
    assert json.loads(command(*given, "--engine", "onnxruntime", "--json", "-").out)["distance"] is None
    done = command(*given, "--choose", "fid<=1, p99")
    assert (done.code, "add --fid" in done.err) == (2, True)


def test_a_lacking_package_is_one_line(command: Command, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = engines.installed
    monkeypatch.setattr(engines, "installed", lambda name: name != "torchmetrics" and there(name))
    done = command("gan-bench", artifact, "--fid")
    assert done.code == 1
    assert done.err == (
        "gan-bench: gan-bench --fid needs torchmetrics, which is not installed: pip install 'ganedge[train]'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fid", "--fid-pictures", "3"), "--fid-pictures 3: give 16 to 100000"),
        (("--data", "nowhere/"), "neither a built-in data set nor a folder"),
        (("--fid", "--features", "resnet"), "resnet"),
    ],
)
def test_mistakes_get_one_line(command: Command, artifact: Path, arguments: tuple[str, ...], said: str) -> None:
    done = command("gan-bench", artifact, *arguments)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert said in done.err


def test_points_have_no_fid() -> None:
    variant = find("circles")
    interface = variant(variant.config_class()).generators()["generator"]
    with pytest.raises(UsageError, match="draw grey or colour pictures from latents; this one is latent-to-points"):
        distance.Examiner(distance.Distance(), interface, 4)
