"""A manifest survives the round trip, and one that lies, is damaged or is too new is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from ganedge.runtime import onnx_file
from ganedge.runtime.errors import ArtifactError
from ganedge.runtime.manifest import KEY, Interface, Manifest, Port, read_artifact, seal, write_artifact

LATENT = Port("latent", "latent", "float32", ("batch", 4), "NC")
IMAGE = Port("image", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0), 4)
RESULT = replace(IMAGE, name="result")
POINTS = Port("points", "points", "float32", ("batch", 2), "NC")


@pytest.mark.parametrize(
    "interface",
    [
        Interface("latent-to-points", (LATENT,), (POINTS,), "normal"),
        Interface("image-to-image", (IMAGE,), (RESULT,)),
        Interface(
            "latent-to-image",
            (LATENT, Port("label", "label", "int64", ("batch",), "N")),
            (IMAGE,),
            "uniform",
            ("a", "b"),
        ),
    ],
)
def test_every_kind_survives_the_round_trip(interface: Interface) -> None:
    manifest = Manifest(interface, "fp32", "none")
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_artifact_carries_its_manifest(artifact: Path) -> None:
    manifest, model = read_artifact(artifact)
    assert manifest.interface.kind == "latent-to-image"
    assert manifest.source.variant == "dcgan"
    assert manifest.source.step == 8
    assert manifest.norm_mode == "eval"
    assert manifest.parity
    assert all(proof.passed and proof.samples >= 16 for proof in manifest.parity)
    assert write_artifact(model, manifest) == model


def edited(artifact: Path, path: Path, change: dict[str, Any], *, sealed: bool) -> Path:
    """A copy of an artifact whose manifest says something else."""
    body, metadata = onnx_file.split(artifact.read_bytes())
    said = json.loads(metadata[KEY])
    for dotted, value in change.items():
        *parents, last = dotted.split(".")
        place = said
        for name in parents:
            place = place[int(name)] if name.isdigit() else place[name]
        place[last] = value
    data = onnx_file.join(body, {KEY: json.dumps(said)})
    path.write_bytes(write_artifact(data, Manifest.from_json(json.dumps(said))) if sealed else data)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 3}, "newer ganedge"),
        ({"schema": "1"}, "whole number"),
        ({"precision": "fp12"}, "precision"),
        ({"interface.outputs.0.shape": ["batch", 3, 10**6, 10**6]}, "whole number from 1"),
        ({"interface.inputs.0.shape": [-1, 6]}, "whole number from 1"),
        ({"interface.outputs.0.range": [1, 1]}, "empty"),
        ({"interface.outputs.0.range": ["low", 1]}, "finite number"),
        ({"interface.outputs.0.name": "im\x1b[2Jage"}, "control characters"),
        ({"interface.noise": None}, "noise"),
        ({"interface.inputs": []}, "inputs"),
        ({"interface.inputs.0.name": "image"}, "share a name"),
        ({"interface.outputs.0.layout": "NC"}, "layout NC"),
        ({"interface.outputs.0.layout": "NHWC"}, "16 channels"),
        ({"interface.outputs.0.range": [1e-320, 1e-319]}, "empty"),
        ({"source.config": {"lr": float("nan")}}, "damaged"),
        ({"source.config": {"lr": "\ud800"}}, "damaged"),
        ({"source.data": "a\nb"}, "control characters"),
        ({"parity.0.psnr": "good"}, "finite number"),
        ({"interface": 7}, "damaged"),
        ({"source": []}, "no JSON object"),
    ],
)
def test_an_impossible_manifest_is_refused(artifact: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        read_artifact(edited(artifact, tmp_path / "edited.onnx", change, sealed=False))


@pytest.mark.parametrize("change", [{"interface.outputs.0.range": [0.0, 1.0]}, {"source.step": 9}, {"unknown": 1}])
def test_an_edited_manifest_breaks_the_digest(artifact: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="digest does not match"):
        read_artifact(edited(artifact, tmp_path / "edited.onnx", change, sealed=False))


def test_a_field_of_a_later_release_is_no_reason_to_refuse(artifact: Path, tmp_path: Path) -> None:
    body, metadata = onnx_file.split(artifact.read_bytes())
    said = {**json.loads(metadata[KEY]), "later": [1, 2], "digest": ""}
    import hashlib

    text = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(text.encode())
    for part in body:
        digest.update(part)
    path = tmp_path / "later.onnx"
    path.write_bytes(onnx_file.join(body, {KEY: json.dumps({**said, "digest": f"sha256:{digest.hexdigest()}"})}))
    assert read_artifact(path)[0].source.variant == "dcgan"


def test_a_changed_weight_breaks_the_digest(artifact: Path, tmp_path: Path) -> None:
    model = onnx.load(artifact)
    weights = model.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 1.1, weights.name))
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ArtifactError, match="digest does not match"):
        read_artifact(tmp_path / "changed.onnx")


@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph"])
def test_weights_outside_the_file_are_refused(artifact: Path, tmp_path: Path, place: str) -> None:
    manifest, data = read_artifact(artifact)
    model = onnx.load_from_string(data)
    outside = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="w.bin")
    if place == "initializer":
        model.graph.initializer.append(outside)
    elif place == "constant":
        model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=outside))
    else:
        branch = onnx.helper.make_graph([], "branch", [], [], [outside])
        model.graph.node.append(onnx.helper.make_node("If", ["c"], ["d"], then_branch=branch))
    with pytest.raises(ArtifactError, match="weights in other files"):
        write_artifact(model.SerializeToString(), manifest)
    body, _ = onnx_file.split(model.SerializeToString())
    path = tmp_path / "outside.onnx"
    path.write_bytes(onnx_file.join(body, {KEY: seal(manifest, body).to_json()}))
    with pytest.raises(ArtifactError, match="weights in other files"):
        read_artifact(path)


def test_flipped_bits_never_go_unnoticed(artifact: Path, tmp_path: Path) -> None:
    data = bytearray(artifact.read_bytes())
    path = tmp_path / "flipped.onnx"
    for place in range(3, len(data), len(data) // 150):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(ArtifactError):
            read_artifact(path)


def test_files_that_are_no_artifact(artifact: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.onnx"
    bare.write_bytes(b"".join(onnx_file.split(artifact.read_bytes())[0]))
    with pytest.raises(ArtifactError, match="without a ganedge manifest"):
        read_artifact(bare)
    with pytest.raises(ArtifactError, match="is a folder"):
        read_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="cannot read"):
        read_artifact(tmp_path / "missing.onnx")
