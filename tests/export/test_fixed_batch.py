"""Models that take a fixed number of items at a time, as others export them, through the whole road."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ganedge.export import export
from ganedge.export.artifact import write_artifact_file
from ganedge.export.source import SourceSpec
from ganedge.runtime import load
from ganedge.runtime import verify as verifying
from ganedge.runtime.errors import ArtifactError, EngineError, InputError
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.latents import LatentStream
from ganedge.runtime.manifest import Interface, Port
from ganedge.runtime.verify import verify

LATENT = SourceSpec(kind="latent")


def fixed(path: Path, batch: int) -> Path:
    """Six latents to pictures of 3 × 4 × 4, `batch` at a time and no other number."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal((6, 48)).astype(np.float32) / 4, "w"),
        numpy_helper.from_array(np.array([batch, 3, 4, 4]), "shape"),
    ]
    nodes = [
        helper.make_node("MatMul", ["z", "w"], ["x"], "product"),
        helper.make_node("Reshape", ["x", "shape"], ["y"], "shaped"),
        helper.make_node("Tanh", ["y"], ["image"], "squashed"),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
        for name, shape in (("z", (6,)), ("image", (3, 4, 4)))
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("batch", [7, 40])
def test_export_and_run(tmp_path: Path, batch: int, precision: Any) -> None:
    """Batches that divide neither the number of a proof's inputs nor what is asked for later."""
    theirs = fixed(tmp_path / "theirs.onnx", batch)
    artifact = export(theirs, kind="latent", precision=precision, output=tmp_path / "g.onnx")
    path = artifact.path
    assert all(proof.samples % batch == 0 for proof in artifact.parity)
    assert all(check.passed for check in verify(path))
    with load(path) as generator:
        pictures = generator.sample(batch + 3, seed=1)
        assert np.array_equal(pictures[:3], generator.sample(3, seed=1))
        latents = LatentStream("normal", (6,), seed=1).take(3)
        padded = np.concatenate([latents, np.repeat(latents[-1:], batch - 3, axis=0)])
        assert np.array_equal(generator.compute(latents), generator.run(padded)[:3])
        assert len(generator.interpolate(1, 2, 5)) == 5
        for wrong in ((), (5,), (latents, 5), (np.array(0),)):
            with pytest.raises(InputError):
                generator.compute(*wrong)  # type: ignore[arg-type]


def test_many_classes_are_spread(tmp_path: Path) -> None:
    latent, label = Port("z", "latent", "float32", ("batch", 4), "NC"), Port("y", "label", "int64", ("batch",), "N")
    image = Port("image", "image", "float32", ("batch", 1, 4, 4), "NCHW", (-1.0, 1.0))
    names = tuple(map(str, range(1000)))
    labels = real_inputs(Interface("latent-to-image", (latent, label), (image,), "normal", names))[1]
    assert (labels[0], labels[-1], len(set(labels.tolist()))) == (0, 999, len(labels))


def test_a_proof_is_kept_for_later_and_belongs_to_its_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with one engine verifies, and an older artifact's proof is not taken for a newer one's."""
    theirs = fixed(tmp_path / "theirs.onnx", 7)
    artifact = export(theirs, kind="latent", output=tmp_path / "g.onnx")
    proof = tmp_path / "g.onnx.proof.npz"
    with np.load(proof) as stored:
        assert len(stored["input0"]) == len(stored["output"]) == 21
    with monkeypatch.context() as patch:
        patch.setattr(verifying, "installed", lambda name: name == "onnxruntime")
        assert [check.against for check in verify(tmp_path / "g.onnx")] == [proof.name]
    assert [check.against for check in verify(tmp_path / "g.onnx")] == [proof.name] * len(artifact.parity)
    kept = proof.read_bytes()
    write_artifact_file(tmp_path / "g.onnx", replace(artifact, cases=()))
    assert not proof.exists()
    monkeypatch.setattr(verifying, "installed", lambda name: name == "onnxruntime")
    with pytest.raises(EngineError, match="nothing to compare with"):
        verify(tmp_path / "g.onnx")

    others = fixed(tmp_path / "others.onnx", 8)
    path = export(others, kind="latent", output=tmp_path / "other.onnx").path
    path.with_name("other.onnx.proof.npz").write_bytes(kept)
    with pytest.raises(ArtifactError, match="other weights"):
        verify(path)
    path = export(theirs, kind="latent", io="uint8", output=tmp_path / "bytes.onnx").path
    path.with_name("bytes.onnx.proof.npz").write_bytes(kept)
    with pytest.raises(ArtifactError, match="another form"):
        verify(path)
