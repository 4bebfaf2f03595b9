"""Opening a TensorRT engine: its description is checked, and what cannot run here says so in one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganedge.runtime import ArtifactError, EngineError, GanEdgeError, UsageError, load
from ganedge.runtime.engine_file import EngineIdentity, read_sidecar, sidecar_path, write_sidecar
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.verify import verify


@pytest.fixture
def engine(artifact: Path, tmp_path: Path) -> Path:
    """A file that is described as an engine."""
    path = tmp_path / "g.engine"
    path.write_bytes(b"no real engine")
    identity = EngineIdentity(
        flavour="tensorrt_rtx",
        version="1.7.1",
        compute_capability="",
        targets=("sm86",),
        profiles={"latent": ((1, 6), (4, 6), (8, 6))},
        onnx="g.onnx",
        engine_digest=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    write_sidecar(path, read_artifact(artifact)[0], identity)
    return path


def test_the_description_survives_the_round_trip(engine: Path, artifact: Path) -> None:
    manifest, identity = read_sidecar(engine)
    assert manifest == read_artifact(artifact)[0]
    assert identity.profiles["latent"][2] == (8, 6)
    assert identity.targets == ("sm86",)


def test_info_reads_the_description(command: Callable[..., Any], engine: Path) -> None:
    shown = command("gan-run", "info", engine)
    assert shown.code == 0, shown.err
    assert "latent to image" in shown.out
    for said in ("tensorrt_rtx 1.7.1, for sm86", "g.onnx", "latent: 1 × 6, 4 × 6, 8 × 6 (min, opt, max)"):
        assert said in shown.out
    said = json.loads(command("gan-run", "info", engine, "--json").out)
    assert said["interface"]
    assert said["engine"]["targets"] == ["sm86"]


@pytest.mark.parametrize("asked", [{"engine": "openvino"}, {"device": "cpu"}, {"batch": 9}])
def test_what_an_engine_cannot_do_is_refused(engine: Path, asked: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        load(engine, **asked)  # type: ignore[arg-type]


def test_a_replaced_engine_is_refused(engine: Path) -> None:
    engine.write_bytes(b"another engine")
    with pytest.raises(ArtifactError, match="cut off, damaged or replaced"):
        load(engine)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx-cu13 to get as far as the device")
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA, so that is not what is refused")
def test_without_a_device_it_says_so(engine: Path) -> None:
    with pytest.raises(EngineError, match="no CUDA device") as missing:
        load(engine)
    assert isinstance(missing.value, GanEdgeError)


@pytest.mark.parametrize(
    ("field", "value"),
    [("flavour", "magic"), ("version", "1\n2"), ("onnx", "../g.onnx"), ("profiles", {"latent": [[1], [0], [2]]})],
)
def test_a_description_that_cannot_be(engine: Path, field: str, value: object) -> None:
    said = json.loads(sidecar_path(engine).read_text())
    said["engine"][field] = value
    sidecar_path(engine).write_text(json.dumps(said))
    with pytest.raises(ArtifactError, match="cannot be right"):
        load(engine)


def test_an_engine_without_its_description(tmp_path: Path) -> None:
    (tmp_path / "alone.engine").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="must lie beside the engine"):
        load(tmp_path / "alone.engine")


def test_an_engine_is_verified_with_its_stored_proof(
    engine: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match=r"take g.engine.proof.npz along"):
        verify(engine)
    latents = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    monkeypatch.setattr("ganedge.runtime.generator.load", lambda path: load(artifact, "onnxruntime"))  # It stands in.
    with load(artifact, "onnxruntime") as generator:
        output = generator.run(latents)
    for off, passed in ((0.0, True), (0.01, False)):
        np.savez(engine.with_name("g.engine.proof.npz"), input0=latents, output=output + np.float32(off))
        (check,) = verify(engine)
        assert check.passed is passed, check


@pytest.mark.parametrize(
    ("onnx", "precision", "said"),
    [
        ("", "fp32", "does not say which ONNX"),
        ("gone.onnx", "fp32", "No such file"),
        ("g.onnx", "fp16", "is said to be"),
    ],
)
def test_what_cannot_be_built_again(
    command: Callable[..., Any], engine: Path, onnx: str, precision: str, said: str
) -> None:
    path = sidecar_path(engine)
    described = json.loads(path.read_text())
    described["engine"].update(onnx=onnx, precision=precision)
    path.write_text(json.dumps(described))
    done = command("gan-run", "rebuild", engine)
    assert done.code == 1
    assert said in done.err
    assert done.err.count("\n") == 1
    assert engine.read_bytes() == b"no real engine"
