"""What the tests share: one tiny run and its artifacts, and a way to run the real commands."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _keep_to_own_cores() -> None:
    """Let one of several workers take its share of the cores, before PyTorch counts them.

    Threads that wait for each other on cores that other workers keep busy take ten times as long.
    """
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[int(worker.removeprefix("gw")) :: count] or cores)


_keep_to_own_cores()

import numpy as np  # noqa: E402 - behind what has to come first
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from ganedge.runtime import engines  # noqa: E402

TINY = {"size": 16, "width": 8, "latent": 6, "batch": 16, "sample_every": 4}
"""A DCGAN of a few thousand weights."""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(min(2, engines.cores()))


def _no_gpu() -> str:
    return "" if torch.cuda.is_available() else "needs a CUDA device, and this machine has none"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = _no_gpu()
    for item in items:
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("matrix") and "GANEDGE_MATRIX" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="systems of default size take minutes each: make matrix"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run one of the four commands in this process: `command("gan-run", "info", path)`."""
    modules = {"gan-train": "train", "gan-export": "export", "gan-run": "runtime", "gan-bench": "benchmarks"}

    def run(name: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        main = importlib.import_module(f"ganedge.{modules[name]}.__main__").main
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capfd.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DCGAN trained for a few steps on the digits."""
    from ganedge.models import find
    from ganedge.train.loop import Settings, train

    out = tmp_path_factory.mktemp("tiny") / "run"
    return train(find("dcgan"), TINY, Settings(data="digits", out=out, steps=8, device="cpu"))


@pytest.fixture(scope="session")
def artifact(tiny_run: Path) -> Path:
    """Its generator as an FP32 artifact."""
    from ganedge.export.artifact import export_run

    return export_run(tiny_run)[0]


@pytest.fixture(scope="session")
def half_artifact(tiny_run: Path) -> Path:
    """Its generator as an FP16 artifact."""
    from ganedge.export.artifact import export_run

    return export_run(tiny_run, kind="fp16")[0]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 24 small colour pictures with a subfolder."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for index in range(24):
        pixels = random.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if index % 2 else ".") / f"{index:02d}.png")
    return folder
