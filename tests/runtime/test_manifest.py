"""A manifest survives the round trip, and one that lies, is damaged or is too new is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from ganedge.runtime import manifest as manifests
from ganedge.runtime import onnx_file
from ganedge.runtime.errors import ArtifactError
from ganedge.runtime.manifest import (
    KEY,
    Interface,
    Manifest,
    Measurement,
    Parity,
    Port,
    Source,
    read_artifact,
    read_bytes,
    read_parity,
    seal,
    write_artifact,
)

LATENT = Port("latent", "latent", "float32", ("batch", 4), "NC")
IMAGE = Port("image", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0), 4)
RESULT = replace(IMAGE, name="result")
POINTS = Port("points", "points", "float32", ("batch", 2), "NC")
LABEL = Port("label", "label", "int64", ("batch",), "N")
STYLE = Port("style", "vector", "float32", ("batch", 8), "NC", distribution="normal")
MASK = Port("mask", "mask", "float32", ("batch", 1, "height", "width"), "NCHW", (0.0, 1.0))
NOISE = Port("noise", "noise", "float32", ("batch", 5, "height", "width"), "NCHW", distribution="uniform")
VALUES = Port("values", "values", "float32", ("batch", 2, 4), "NLC")
DRAWN = Interface("latent-to-image", (LATENT,), (IMAGE,), "normal")
CHOSEN = Interface("latent-to-image", (LATENT, LABEL), (IMAGE,), "normal", ("a", "b"))
TRANSLATED = Interface("image-to-image", (IMAGE,), (RESULT,))
PROOF = Parity("onnxruntime 1.2 (cpu)", "fp32", 16, (1, 4), 2e-6, 1e-7, 120.04, 0.99994, 0.0, "the gate", True)
MEASURED = Measurement("onnxruntime", "1.2", "cpu", "a processor", 4, 2.5)
TEXT = "x" * 4096
NUMBER = "not a finite number"


def counted(low: int, high: int) -> str:
    return f"not a whole number from {low} to {high}"


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
        ({"schema": 4}, "newer ganedge"),
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
        try:
            content = read_artifact(path)
        except ArtifactError:
            continue
        # A digit of a figure behind those that a double keeps: what was read is the same.
        assert content[0] == read_artifact(artifact)[0], f"bit {place % 8} of byte {place}"
        assert onnx_file.split(content[1])[0] == onnx_file.split(bytes(data))[0]


def test_files_that_are_no_artifact(artifact: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.onnx"
    bare.write_bytes(b"".join(onnx_file.split(artifact.read_bytes())[0]))
    with pytest.raises(ArtifactError, match="without a ganedge manifest"):
        read_artifact(bare)
    with pytest.raises(ArtifactError, match="is a folder"):
        read_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="cannot read"):
        read_artifact(tmp_path / "missing.onnx")


LIMITS: list[tuple[Any, str, list[Any], list[Any], str]] = [
    (LATENT, "name", [TEXT], [TEXT + "x"], "a tensor's name is not a short text"),
    (LATENT, "name", ["z"], [""], "a tensor's name is empty"),
    (LATENT, "role", [], ["latents"], "role of latent is 'latents', not one of latent, label, image, points, mask"),
    (LATENT, "role", [], ["points"], "latent are not points of the plane"),
    (LATENT, "dtype", ["uint8", "int64"], ["float16"], "dtype of latent is 'float16', not one of float32, uint8"),
    (LATENT, "layout", [], ["CN"], "layout of latent is 'CN', not one of NCHW, NHWC, NC, N, NLC"),
    (LATENT, "layout", [], ["N", "NHWC", "NLC"], "latent is latent of 2 dimensions with the layout N"),
    (LATENT, "shape", [(1, 4)], [("batch",), ("batch", 4, 4)], "dimensions with the layout NC"),
    (LATENT, "shape", [("batch", "size"), (1, 65536)], [("batch", "")], "a dimension of latent is empty"),
    (LATENT, "shape", [(65536, 1)], [("batch", 0), ("batch", 65537), ("batch", 4.0), ("batch", True)],
     f"a dimension of latent is .*, {counted(1, 65536)}"),
    (IMAGE, "shape", [("batch", 8, 16384, 16384)], [("batch", 8, 16385, 16384)], "of image has over 2147483648"),
    (IMAGE, "shape", [("batch", 8, 9, 9), ("batch", 1, 9, 9)], [("batch", 9, 9, 9)], "image has 9 channels"),
    (IMAGE, "shape", [], [("batch", "channels", 9, 9)], "image has 0 channels"),
    (MASK, "shape", [("batch", 1, 9, 9)], [("batch", 2, 9, 9)], "mask has 2 channels"),
    (POINTS, "shape", [(7, 2)], [("batch", 3), ("batch", 1)], "points are not points of the plane"),
    (IMAGE, "range", [(-3, 7.5), (1.0, 1.0000011), (0.0, 1.01e-12)], [(1.0, -1.0), (1.0, 1.0 + 9e-7), (0.0, 1e-12),
     (-2e6, -2e6 + 1)], "the range of image is empty: "),
    (IMAGE, "range", [], [(0.0, float("inf")), (None, 1.0), (False, True)], f"range of image is .*, {NUMBER}"),
    (IMAGE, "range", [], [None], "the picture image has no value range"),
    (MASK, "range", [], [None], "the picture mask has no value range"),
    (IMAGE, "multiple", [1, 65536], [0, 65537], f"size multiple of image is .*, {counted(1, 65536)}"),
    (STYLE, "distribution", [None, "uniform"], ["cauchy"], "style is drawn from 'cauchy'"),
    (LATENT, "distribution", [None], ["normal"], "latent is drawn from 'normal'"),
    (DRAWN, "kind", [], ["image"], "kind is 'image', not one of latent-to-image, image-to-image, latent-to-points"),
    (DRAWN, "kind", [], ["image-to-image"], "the inputs of image-to-image are "),
    (DRAWN, "inputs", [tuple(replace(STYLE, name=str(i)) if i else LATENT for i in range(16))],
     [(), tuple(replace(STYLE, name=str(i)) if i else LATENT for i in range(17))], "inputs and 1 outputs"),
    (DRAWN, "inputs", [(LATENT, STYLE, MASK, NOISE, replace(IMAGE, name="x"))], [(LATENT, replace(LATENT, name="w")),
     (LATENT, POINTS), (STYLE, LATENT), (LATENT, LABEL, replace(LABEL, name="l"))], "inputs of latent-to-image are"),
    (DRAWN, "inputs", [], [(LATENT, replace(STYLE, name="latent"))], "two tensors share a name: latent, latent, image"),
    (DRAWN, "outputs", [(IMAGE, *(replace(VALUES, name=str(i)) for i in range(31)))],
     [(), (IMAGE, *(replace(VALUES, name=str(i)) for i in range(32)))], r"1 inputs and (0|33) outputs"),
    (DRAWN, "outputs", [(IMAGE, RESULT), (IMAGE, MASK, VALUES)], [(IMAGE, STYLE), (IMAGE, POINTS)],
     "the extra output (style|points) is"),
    (DRAWN, "outputs", [], [(IMAGE, replace(RESULT, shape=(1, 3, 8, 8)))],
     "result has a batch of 1, and the result batch"),
    (DRAWN, "outputs", [], [(IMAGE, replace(VALUES, name="latent"))],
     "two tensors share a name: latent, image, latent"),
    (DRAWN, "outputs", [(RESULT,)], [(MASK,), (POINTS,)], "the output of latent-to-image is (mask|points)"),
    (DRAWN, "noise", ["uniform"], [None, "cauchy"], "noise .* in latent-to-image"),
    (TRANSLATED, "noise", [None], ["normal"], "noise 'normal' in image-to-image"),
    (DRAWN, "classes", [()], [("a",)], "a label input and a list of classes come together"),
    (CHOSEN, "classes", [("a",), ("a",) * 65536], [()], "a label input and a list of classes come together"),
    (CHOSEN, "classes", [], [("a",) * 65537], "65537 classes"),
    (CHOSEN, "classes", [("b", "b")], [("a", "")], "a class name is empty"),
    (DRAWN, "reach", [None, 0, 65536], [-1, 65537, 1.0], f"reach is .*, {counted(0, 65536)}"),
    *((Source(), name, ["", TEXT], [TEXT + "x", None], f"source {name} is not a short text")
      for name in ("variant", "generator", "data", "weights", "program")),
    (Source(), "config", [{"a": 1}], [None, [1]], "the source's config is no table of settings"),
    (Source(), "compressed", [{"a": 1}], [None, [1]], "what it was compressed from is no table"),
    (Source(), "step", [0, 2**53], [-1, 2**53 + 1, 1.0], f"step is .*, {counted(0, 2**53)}"),
    *((PROOF, name, [TEXT], [""], f"parity {name} is empty") for name in ("engine", "precision", "tolerance")),
    (PROOF, "worst", ["", TEXT], [TEXT + "x"], "parity worst is not a short text"),
    (PROOF, "samples", [1, 2**31], [0, 2**31 + 1, 1.0], f"parity samples is .*, {counted(1, 2**31)}"),
    *((PROOF, name, [0, 1e9], [None, "1", float("nan"), True], f"parity {name} is .*, {NUMBER}")
      for name in ("span", "max_abs", "mean_abs", "nonfinite")),
    *((PROOF, name, [None, 1.0], ["1", float("nan"), True], f"parity {name} is .*, {NUMBER}")
      for name in ("psnr", "ssim")),
    (PROOF, "passed", [False], [1, None], "parity passed is neither true nor false"),
    *((MEASURED, name, [TEXT], [""], f"measured {name} is empty") for name in ("engine", "version", "device")),
    *((MEASURED, name, ["", TEXT], [TEXT + "x"], f"measured {name} is not a short text")
      for name in ("processor", "compute")),
    (MEASURED, "threads", [1, 2**20], [0, 2**20 + 1, 2.0], f"measured threads is .*, {counted(1, 2**20)}"),
    (MEASURED, "milliseconds", [0.0, 3], [None, float("inf")], f"measured milliseconds is .*, {NUMBER}"),
    (Manifest(DRAWN, "fp32", "none"), "precision", ["fp16", "bf16", "int8"], ["fp8"],
     "precision is 'fp8', not one of fp32, fp16, bf16, int8"),
    (Manifest(DRAWN, "fp32", "none"), "norm_mode", ["eval", "batch", "instance"], ["group"],
     "norm_mode is 'group', not one of none, eval, batch, instance"),
    *((Manifest(DRAWN, "fp32", "none"), name, ["", TEXT], [TEXT + "x"], f"{name} is not a short text")
      for name in ("unproven", "made_for")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("valid", "name", "accepted", "refused", "message"),
    LIMITS,
    ids=[f"{type(valid).__name__}-{name}" for valid, name, *_ in LIMITS],
)
def test_limits_of_every_field(valid: Any, name: str, accepted: list[Any], refused: list[Any], message: str) -> None:
    for value in accepted:
        assert getattr(replace(valid, **{name: value}), name) == value
    for value in refused:
        with pytest.raises(ArtifactError, match=f"^the manifest cannot be right: .*{message}"):
            replace(valid, **{name: value})


@pytest.mark.parametrize(
    ("port", "item", "sides", "channels"),
    [
        (IMAGE, (3, 1, 1), ("height", "width"), 3),
        (replace(IMAGE, shape=("batch", 4, 6, 9)), (4, 6, 9), (6, 9), 4),
        (replace(IMAGE, shape=("batch", 6, 9, 4), layout="NHWC"), (6, 9, 4), (6, 9), 4),
        (NOISE, (5, 1, 1), ("height", "width"), 5),
    ],
)
def test_what_the_dimensions_of_a_picture_mean(port: Port, item: Any, sides: Any, channels: int) -> None:
    assert (port.item_shape, port.sides, port.channels) == (item, sides, channels)


def test_a_size_is_taken_by_all_that_is_aligned_with_the_picture() -> None:
    last = replace(IMAGE, name="last", shape=("batch", "height", "width", 3), layout="NHWC")
    small = replace(MASK, name="small", shape=("batch", 1, 8, 8))
    narrow = replace(MASK, name="narrow", shape=("batch", 1, "height", 8))
    inputs = (last, MASK, NOISE, STYLE, small, narrow)
    interface = Interface("image-to-image", inputs, (RESULT,))
    assert [interface.is_aligned(port) for port in inputs] == [True, True, True, False, False, False]
    shapes = [port.shape for port in interface.at_size(20, 12).inputs]
    assert shapes[:3] == [("batch", 20, 12, 3), ("batch", 1, 20, 12), ("batch", 5, 20, 12)]
    assert shapes[3:] == [STYLE.shape, small.shape, narrow.shape]
    assert interface.at_size(20, 12).output == RESULT, "only what goes in has a size that the caller chooses"
    maps = replace(DRAWN, inputs=(LATENT, replace(NOISE, shape=("batch", 5, 8, 8))))
    assert maps.at_size(20, 12) == maps, "a latent has no height and width"


@pytest.mark.parametrize(
    ("interface", "schema"),
    [
        (DRAWN, 1),
        (CHOSEN, 1),
        (TRANSLATED, 1),
        (replace(TRANSLATED, inputs=(IMAGE, replace(IMAGE, name="second"))), 2),
        *((replace(TRANSLATED, inputs=(IMAGE, further)), 2) for further in (MASK, NOISE, STYLE)),
        (replace(CHOSEN, inputs=(LATENT, LABEL, STYLE)), 2),
        (replace(DRAWN, inputs=(Port("w", "latent", "float32", ("batch", 2, 4), "NLC"),)), 2),
        *((replace(DRAWN, outputs=(replace(IMAGE, shape=("batch", count, 8, 8)),)), schema)
          for count, schema in ((1, 1), (2, 2), (4, 1), (5, 2))),
        (replace(DRAWN, outputs=(IMAGE, MASK)), 3),
    ],
)  # fmt: skip
def test_the_oldest_format_that_describes_an_interface(interface: Interface, schema: int) -> None:
    written = Manifest(interface, "fp32", "none")
    assert written.schema == interface.schema == schema
    assert Manifest.from_json(written.to_json()) == written
    assert Manifest(interface, "fp32", "none", schema=3).schema == 3, "what was written as newer stays so"


@pytest.mark.parametrize(
    ("config", "size"),
    [({"size": 1}, 1), ({"size": 16384}, 16384)]
    + [({"size": value}, None) for value in (0, 16385, True, "64", 64.0)]
    + [
        ({"size": 64, "load_size": load}, size)
        for load, size in ((143, 128), (286, 256), (64, 64), (None, 64), ("x", 64))
    ]
    + [({}, None), ({"load_size": 64}, None)],
)
def test_the_size_of_the_training_pictures(config: dict[str, Any], size: int | None) -> None:
    assert Source(config=config).size == size


def test_a_proof_in_one_line() -> None:
    assert str(PROOF) == (
        "onnxruntime 1.2, fp32: max error 2e-06, PSNR 120.0 dB, SSIM 0.9999 over 16 inputs, passed the gate"
    )
    failed = replace(PROOF, psnr=None, ssim=0.99995, nonfinite=0.125, sizes=((8, 9), (64, 32)), passed=False)
    assert str(failed) == (
        "onnxruntime 1.2, fp32: max error 2e-06, identical, 12.50% not finite over 16 inputs at 8x9 and 64x32, "
        "FAILED the gate"
    )
    assert "SSIM" not in str(replace(PROOF, ssim=None))
    assert "max error 1e-06, PSNR" in str(replace(PROOF, span=2.0))


def test_engines_by_their_proof() -> None:
    failed = replace(PROOF, engine="openvino 2025.1 (cpu)", passed=False)
    both = Manifest(DRAWN, "fp32", "none", parity=(PROOF, failed))
    assert both.proven == ("onnxruntime",)
    assert both.failed == {"openvino": failed}


def test_everything_a_manifest_holds_is_read_again() -> None:
    """And what only version 2 has is not written where it says nothing."""
    proof = replace(PROOF, sizes=((8, 9), (64, 32)), worst="batch 4", span=2.0)
    source = Source("dcgan", "generator_a", {"size": 64}, "digits", 7, "ab", "ganedge 1", {"teacher": "x"})
    full = Manifest(CHOSEN, "int8", "batch", source, (proof, PROOF), "", "openvino", (MEASURED,), "sha256:0", 1, "fp16")
    again = Manifest.from_json(full.to_json())
    assert again == full
    assert again.parity[0].sizes == ((8, 9), (64, 32))
    assert again.parity[0].batches == (1, 4)
    assert '"distribution"' not in full.to_json()
    assert '"remainder"' not in replace(full, remainder="").to_json(), "the digests of older artifacts stay"
    with pytest.raises(ArtifactError, match="remainder is 'fp8'"):
        replace(full, remainder="fp8")
    drawn = Manifest(replace(DRAWN, inputs=(LATENT, STYLE)), "fp32", "none")
    assert [port.get("distribution") for port in json.loads(drawn.to_json())["interface"]["inputs"]] == [None, "normal"]
    assert drawn.to_json().startswith('{"digest":"","interface":{"classes":[],"inputs":[{"dtype":')
    named = replace(CHOSEN, classes=("ä", "日"))
    assert '["ä","日"]' in Manifest(named, "fp32", "none").to_json()


def test_what_an_older_manifest_lacks_has_its_default() -> None:
    content = json.loads(Manifest(DRAWN, "fp32", "none", parity=(PROOF,)).to_json())
    for name in ("source", "measured", "unproven", "made_for", "digest"):
        del content[name]
    for name in ("classes", "reach", "noise"):
        content["interface"].pop(name)
    content["interface"]["noise"] = "normal"
    del content["interface"]["inputs"][0]["range"]
    del content["parity"][0]["sizes"]
    assert Manifest.from_json(json.dumps(content)) == Manifest(DRAWN, "fp32", "none", parity=(PROOF,))
    del content["parity"]
    assert Manifest.from_json(json.dumps(content)) == Manifest(DRAWN, "fp32", "none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": [[8]]}, "the manifest cannot be right: a proof's size is no height and width"),
        ({"sizes": [[8, 0]]}, f"a proof's size is 0, {counted(1, 65536)}"),
        ({"sizes": [[8, 65537]]}, f"a proof's size is 65537, {counted(1, 65536)}"),
        ({"batches": [0]}, f"batch is 0, {counted(1, 2**31)}"),
        ({"batches": [2**31 + 1]}, f"batch is 2147483649, {counted(1, 2**31)}"),
    ],
)
def test_a_proof_that_cannot_be(change: dict[str, Any], message: str) -> None:
    content = json.loads(Manifest(DRAWN, "fp32", "none", parity=(PROOF,)).to_json())["parity"][0]
    assert read_parity({**content, "sizes": [[1, 65536]], "batches": [1, 2**31]}).sizes == ((1, 65536),)
    with pytest.raises(ArtifactError, match=message):
        read_parity({**content, **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the manifest is damaged: it is not JSON"),
        ("[" * 100_000, "the manifest is damaged: it is not JSON"),
        ("[]", "the manifest cannot be right: it is no JSON object"),
        ("{}", f"schema is None, {counted(1, 2**31)}"),
        ('{"schema": 0}', f"schema is 0, {counted(1, 2**31)}"),
        ('{"schema": 2147483648}', r"from a newer ganedge \(schema 2147483648; this one reads up to 3\): upgrade"),
        ('{"schema": 2147483649}', f"schema is 2147483649, {counted(1, 2**31)}"),
        ('{"schema": 1}', "the manifest is damaged: KeyError 'interface'"),
        ('{"schema": 2, "interface": 7}', "the manifest is damaged: TypeError "),
        ('{"schema": 1, "interface": {"inputs": [], "outputs": [], "kind": "x"}}', "kind is 'x', not one of"),
    ],
)
def test_texts_that_are_no_manifest(text: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Manifest.from_json(text)


def test_errors_name_the_file(artifact: Path, tmp_path: Path) -> None:
    data = artifact.read_bytes()
    body, metadata = onnx_file.split(data)
    assert read_bytes(data, "g.onnx") == (Manifest.from_json(metadata[KEY]), data)
    for damaged, message in (
        (b"no model", "g.onnx: this is not an ONNX model"),
        (b"".join(body), "g.onnx: it is an ONNX model without a ganedge manifest: export it with gan-export"),
        (onnx_file.join(body, {KEY: "{"}), "g.onnx: the manifest is damaged: it is not JSON"),
        (data.replace(b'"step":8', b'"step":9'), "g.onnx: the digest does not match, .*: export it again"),
    ):
        with pytest.raises(ArtifactError, match=f"^{message}"):
            read_bytes(damaged, "g.onnx")
    for suffix in (".pt", ".pth", ".ckpt", ".pkl", ".safetensors", ".tar"):
        checkpoint = tmp_path / f"g{suffix}"
        checkpoint.write_bytes(data)
        with pytest.raises(ArtifactError, match=f"is a checkpoint, .* with gan-export {re.escape(str(checkpoint))}$"):
            read_artifact(checkpoint)


def test_other_metadata_of_a_model_is_kept(artifact: Path) -> None:
    manifest, data = read_artifact(artifact)
    body, metadata = onnx_file.split(data)
    again = write_artifact(onnx_file.join(body, {**metadata, "author": "me"}), replace(manifest, made_for="openvino"))
    written, entries = read_bytes(again, "g.onnx")[0], onnx_file.split(again)[1]
    assert entries["author"] == "me"
    assert written.made_for == "openvino"
    assert written.digest != manifest.digest


def test_the_program_that_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    assert re.fullmatch(r"ganedge \d+\.\d+.*", manifests.program())
    missing = importlib.metadata.PackageNotFoundError
    monkeypatch.setattr(importlib.metadata, "version", lambda _: (_ for _ in ()).throw(missing))
    assert manifests.program() == "ganedge, run from its sources"
