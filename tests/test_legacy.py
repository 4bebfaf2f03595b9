"""What earlier versions wrote keeps loading: a run, artifacts with their proofs, and a report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganedge.runtime import load
from ganedge.runtime.verify import verify

LEGACY = Path(__file__).parent / "legacy"
ARTIFACTS = ("dcgan.onnx", "dcgan-int8.onnx", "latent.onnx")
Command = Callable[..., Any]


@pytest.mark.parametrize("name", ARTIFACTS)
def test_an_artifact_runs_and_its_proof_holds(name: str) -> None:
    with load(LEGACY / name, engine="onnxruntime", device="cpu") as generator:
        pictures = generator.sample(4, seed=0)
        assert pictures.shape == (4, 16, 16, 1)
        assert generator.manifest.parity
    checks = verify(LEGACY / name)
    assert checks
    assert all(check.passed and check.against == f"{name}.proof.npz" for check in checks)


def test_an_artifact_is_exported_again(tmp_path: Path) -> None:
    from ganedge.export import export

    artifact = export(LEGACY / "dcgan.onnx", precision="fp16", output=tmp_path / "half.onnx")
    assert artifact.path == tmp_path / "half.onnx"
    assert all(proof.passed for proof in artifact.parity)


def test_a_run_gives_the_artifact_that_it_gave(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="reading a run needs PyTorch")
    from ganedge.export import export

    artifact = export(LEGACY / "run", output=tmp_path / "again.onnx")
    with (
        load(artifact.path, engine="onnxruntime") as again,
        load(LEGACY / "dcgan.onnx", engine="onnxruntime") as before,
    ):
        assert again.manifest.source.weights == before.manifest.source.weights
        difference = np.abs(again.sample(8, seed=1).astype(int) - before.sample(8, seed=1).astype(int))
    assert difference.max() <= 1


def test_a_run_is_resumed(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs PyTorch")
    run = Path(shutil.copytree(LEGACY / "run", tmp_path / "run"))
    done = command("gan-train", "dcgan", "--data", "digits", "--out", run, "--resume", "--steps", 9)
    assert done.code == 0, done.err
    assert (run / "checkpoints" / "00000009").is_dir()


def test_a_report_is_compared(command: Command, tmp_path: Path) -> None:
    report = json.loads((LEGACY / "report.json").read_text())
    for row in report["results"]:
        if row["competitor"] == "dcgan.onnx, onnxruntime":
            row["rounds"] = [2 * value for value in row["rounds"]]
    (tmp_path / "slower.json").write_text(json.dumps(report))
    assert command("gan-bench", "compare", LEGACY / "report.json", LEGACY / "report.json").code == 0
    assert command("gan-bench", "compare", LEGACY / "report.json", tmp_path / "slower.json").code == 1
