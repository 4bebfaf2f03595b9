"""What the tests share: one tiny run and its artifacts, and a way to run the real commands."""

from __future__ import annotations

import ast
import importlib
import os
import runpy
import shutil
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
sys.path.insert(0, str(Path(__file__).parents[1]))  # Child processes get it, and unpickle functions of tests/.
os.environ["GANEDGE_TUNE"] = "0"  # Which engine is faster must not decide what a test sees; some turn it on again.

import numpy as np  # noqa: E402 - behind what has to come first
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

from ganedge.runtime import engines  # noqa: E402
from ganedge.runtime.manifest import read_artifact, write_artifact  # noqa: E402

STATION = os.environ.get("GANEDGE_STATION", "")
"""The one station whose extras are installed (make stations); empty where all are, and nothing may be missing."""
QUICK = bool(os.environ.get("GANEDGE_TEST_QUICK"))
"""Whether the shared artifact is one that lies in this repository, made by no training (make mutants)."""
LEGACY = Path(__file__).parent / "legacy"
"""What earlier versions wrote."""

TINY = {"size": 16, "width": 8, "latent": 6, "batch": 16, "sample_every": 4}
"""A DCGAN of a few thousand weights."""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


class _Skipped(pytest.Module):
    """A test file that imports what this station does not install."""

    missing = ""

    def collect(self) -> list[pytest.Item]:
        pytest.skip(f"needs {self.missing}, which the station {STATION} does not install", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    missing = _missing_import(module_path) if STATION else ""
    if not missing:
        return None
    module = _Skipped.from_parent(parent, path=module_path)
    module.missing = missing
    return module


def _missing_import(file: Path) -> str:
    """The package that an import at the top of a test file lacks."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            try:
                exec(compile(ast.Module([node], []), str(file), "exec"), {})  # noqa: S102 - a line of our own tests
            except ModuleNotFoundError as error:
                if not str(error.name).startswith("ganedge"):
                    return str(error.name)
    return ""


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    if engines.installed("torch") and (not QUICK or "torch" in sys.modules):
        import torch

        torch.set_num_threads(min(2, engines.cores()))


def _no_gpu() -> str:
    if not engines.installed("torch"):
        return "needs PyTorch with CUDA, which is not installed"
    import torch

    return "" if torch.cuda.is_available() else "needs a CUDA device, and this machine has none"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = "" if QUICK else _no_gpu()
    for item in items:
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))
        if item.get_closest_marker("matrix") and "GANEDGE_MATRIX" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="systems of default size take minutes each: make matrix"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run one of the commands in this process: `command("gan-run", "info", path)`."""
    stations = {"gan-train": "train", "gan-export": "export", "gan-run": "runtime", "gan-bench": "benchmarks"}
    modules = {name: f"{station}.__main__" for name, station in stations.items()}
    modules["gan-compress"] = "export.gan_compress"

    def run(name: str, *arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        main = importlib.import_module(f"ganedge.{modules[name]}").main
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capfd.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DCGAN trained for a few steps on the digits."""
    if not (engines.installed("torch") and engines.installed("lightning_fabric")):
        pytest.skip("needs a training, and the extra train is not installed")
    from ganedge.models import find
    from ganedge.train.loop import train
    from ganedge.train.settings import Settings

    out = tmp_path_factory.mktemp("tiny") / "run"
    return train(find("dcgan"), TINY, Settings(data="digits", out=out, steps=8, device="cpu"))


@pytest.fixture(scope="session")
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its generator as an FP32 artifact; where nothing can be trained, the one in tests/legacy, written anew."""
    if QUICK or not (engines.installed("torch") and engines.installed("lightning_fabric")):
        folder = tmp_path_factory.mktemp("artifact")
        shutil.copy(LEGACY / "latent.onnx.proof.npz", folder)
        manifest, model = read_artifact(LEGACY / "latent.onnx")
        path = folder / "latent.onnx"
        path.write_bytes(write_artifact(model, manifest))
        return path
    from ganedge.export import export

    return export(request.getfixturevalue("tiny_run")).path


@pytest.fixture(scope="session")
def half_artifact(tiny_run: Path) -> Path:
    """Its generator as an FP16 artifact."""
    from ganedge.export import export

    return export(tiny_run, precision="fp16").path


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


@pytest.fixture(scope="session")
def vendor() -> Path:
    """An unpacked onnxruntime-web, for tests that need it and a Chromium."""
    from ganedge.runtime.engines import browser

    reason = browser.missing()
    if not reason:
        package = runpy.run_path(str(Path(__file__).with_name("onnxruntime_web.py")))
        reason = package["missing"]()
    if reason:
        pytest.skip(f"needs a browser: {reason}")
    return Path(package["FOLDER"])
