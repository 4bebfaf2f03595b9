"""Generators with further inputs: class, mask, style, noise; in sample, translate, tiles, folders and server."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from ganedge.runtime import load
from ganedge.runtime.conditions import Conditions, InputStream, class_number, read_vector
from ganedge.runtime.errors import InputError, UsageError
from ganedge.runtime.inputs import real_cases
from ganedge.runtime.manifest import Interface, Manifest, Port, read_artifact, write_artifact

CLASSES = ("horse", "zebra", "cow")
SPACE = ("batch", 1, "height", "width")


def ports(*names: str) -> tuple[Port, ...]:
    """The further inputs of these names."""
    known = {
        "label": Port("label", "label", "int64", ("batch",), "N"),
        "mask": Port("mask", "mask", "float32", SPACE, "NCHW", (0.0, 1.0)),
        "style": Port("style", "vector", "float32", ("batch", 3), "NC", distribution="normal"),
        "code": Port("code", "vector", "float32", ("batch", 3), "NC"),
        "grain": Port("grain", "noise", "float32", SPACE, "NCHW", distribution="normal"),
    }
    return tuple(known[name] for name in names)


def written(path: Path, interface: Interface, nodes: list[Any], weights: dict[str, np.ndarray]) -> Path:
    """An artifact of these nodes, which end in the output's name."""
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    values = [
        [helper.make_tensor_value_info(port.name, kinds[port.dtype], port.shape) for port in group]
        for group in (interface.inputs, interface.outputs)
    ]
    made = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "further", *values, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(write_artifact(model.SerializeToString(), Manifest(interface, "fp32", "none")))
    return path


@pytest.fixture
def painter(tmp_path: Path) -> Path:
    """Compute picture · (1 - mask) + mask · style + table[label], each term visible by itself."""
    picture = Port("x", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0))
    output = Port("y", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0))
    interface = Interface("image-to-image", (picture, *ports("mask", "style", "label")), (output,), None, CLASSES)
    weights = {
        "one": np.float32([1]),
        "table": np.repeat(np.float32([[0.0], [0.25], [-0.25]]), 3, axis=1).reshape(3, 3, 1, 1),
        "axes": np.int64([2, 3]),
    }
    nodes = [
        helper.make_node("Sub", ["one", "mask"], ["kept"]),
        helper.make_node("Mul", ["x", "kept"], ["outside"]),
        helper.make_node("Unsqueeze", ["style", "axes"], ["colour"]),
        helper.make_node("Mul", ["mask", "colour"], ["inside"]),
        helper.make_node("Gather", ["table", "label"], ["shift"], axis=0),
        helper.make_node("Add", ["outside", "inside"], ["mixed"]),
        helper.make_node("Add", ["mixed", "shift"], ["y"]),
    ]
    return written(tmp_path / "painter.onnx", interface, nodes, weights)


def drawing(tmp_path: Path, *names: str) -> Path:
    """Compute latent [N, 3] + the second input, as an image of 3 × 1 × 1."""
    latent = Port("z", "latent", "float32", ("batch", 3), "NC")
    output = Port("y", "image", "float32", ("batch", 3, 1, 1), "NCHW", (-1.0, 1.0))
    interface = Interface("latent-to-image", (latent, *ports(*names)), (output,), "normal")
    nodes = [
        helper.make_node("Add", ["z", names[0]], ["sum"]),
        helper.make_node("Unsqueeze", ["sum", "axes"], ["y"]),
    ]
    return written(tmp_path / "drawing.onnx", interface, nodes, {"axes": np.int64([2, 3])})


def checker(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2] = 255
    return mask


def test_a_manifest_with_further_inputs_is_version_2_and_others_stay_1(painter: Path, make: Any) -> None:
    manifest, _ = read_artifact(painter)
    assert manifest.schema == 2
    assert [port.role for port in manifest.interface.inputs] == ["image", "mask", "vector", "label"]
    assert Manifest.from_json(manifest.to_json()) == manifest
    plain, _ = read_artifact(make([helper.make_node("Identity", ["x"], ["y"])]))
    assert plain.schema == 1
    assert "distribution" not in plain.to_json()


def test_label_mask_and_style_reach_the_generator(painter: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)
    mask = checker(21, 34)
    with load(painter) as generator:
        result = generator.translate(picture, label="horse", mask=mask, style=[1.0, -1.0, 0.0])
        np.testing.assert_array_equal(result[10:], picture[10:])
        assert (result[:10] == [255, 0, 128]).all()
        lighter = generator.translate(picture, label=1, mask=mask, style="1,-1,0")
        assert (lighter[:10] == [255, 32, 159]).all()
        first, again, other = (generator.translate(picture, label=0, mask=mask, seed=seed) for seed in (3, 3, 4))
        np.testing.assert_array_equal(first, again)
        assert (first[:10] != other[:10]).any()


def test_what_is_missing_or_has_no_input_is_said(painter: Path, make: Any, tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    with load(painter) as generator:
        with pytest.raises(UsageError, match=r"needs a class: give label \(--label\), one of horse, zebra, cow"):
            generator.translate(picture, mask=checker(8, 8))
        with pytest.raises(UsageError, match=r"needs a mask: give mask \(--mask\)"):
            generator.translate(picture, label=0)
        with pytest.raises(UsageError, match=r"label donkey is out of range.*zebra"):
            generator.translate(picture, label="donkey", mask=checker(8, 8))
        with pytest.raises(InputError, match=r"mask mask has 9 × 8 pixels and the picture 8 × 8"):
            generator.translate(picture, label=0, mask=checker(8, 9))
        with pytest.raises(InputError, match="2 numbers, and style takes 3"):
            generator.translate(picture, label=0, mask=checker(8, 8), style=[1, 2])
        assert generator.translate(picture, label=0, mask=checker(16, 16), resize=True).shape == (8, 8, 3)
    with load(make([helper.make_node("Identity", ["x"], ["y"])])) as generator:
        for given in ({"label": 1}, {"mask": picture}, {"style": [1.0]}):
            with pytest.raises(UsageError, match=r"label|mask|style"):
                generator.translate(picture, **given)
    with load(drawing(tmp_path, "code")) as generator:
        with pytest.raises(UsageError, match=r"needs code, 3 numbers: give style \(--style\)"):
            generator.sample(1)
        assert generator.sample(2, seed=0, style=[0, 0, 0]).shape == (2, 1, 1, 3)


def test_tiles_cut_picture_and_mask_alike(painter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ganedge.runtime.pictures import tiles

    picture = np.random.default_rng(1).integers(0, 256, (700, 600, 3), np.uint8)
    mask = np.random.default_rng(2).integers(0, 2, (700, 600), np.uint8) * 255
    cut = []
    blend = tiles.blend
    monkeypatch.setattr(tiles, "blend", lambda *a: cut.append(a[0].shape) or blend(*a))
    with load(painter, engine="onnxruntime", threads=1) as generator:
        given = {"label": "cow", "mask": mask, "style": [0.5, 0.0, -0.5]}
        whole = generator.translate(picture, **given)
        parts = generator.translate(picture, memory=12_000_000, **given)
    assert cut == [(700, 600, 4)]
    assert np.abs(parts.astype(int) - whole).max() <= 1


def test_noise_as_large_as_the_picture_is_drawn_from_the_seed(tmp_path: Path) -> None:
    picture = Port("x", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0))
    output = Port("y", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0))
    interface = Interface("image-to-image", (picture, *ports("grain")), (output,))
    path = written(tmp_path / "grain.onnx", interface, [helper.make_node("Add", ["x", "grain"], ["y"])], {})
    grey = np.full((600, 500, 3), 128, np.uint8)
    with load(path, engine="onnxruntime") as generator:
        one, two, other = (generator.translate(grey[:40, :50], seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one, two)
        assert (one != other).mean() > 0.5
        with pytest.raises(InputError, match="noise as large as the picture"):
            generator.translate(grey, memory=4_000_000)


def test_samples_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    path = drawing(tmp_path, "style")
    with load(path, batch=2) as small, load(path, batch=64) as large:
        np.testing.assert_array_equal(small.sample(7, seed=5), large.sample(7, seed=5))
        latents, style = large.sample_inputs(7, seed=5)
        assert not np.array_equal(latents, style), "each input has a stream of its own"
        steps = large.interpolation_inputs(1, 2, 5)[1]
        assert (steps == steps[0]).all(), "only the latent changes along a path"


def test_proof_inputs_vary_every_input(painter: Path) -> None:
    interface = read_artifact(painter)[0].interface
    for case in real_cases(interface):
        picture, mask, style, label = case
        assert mask.shape == (len(picture), 1, *picture.shape[2:])
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert len(np.unique(style, axis=0)) == len(style)
        assert set(label.tolist()) == {0, 1, 2}


def test_classes_by_number_and_name() -> None:
    latent = Port("z", "latent", "float32", ("batch", 3), "NC")
    output = Port("y", "points", "float32", ("batch", 2), "NC")
    interface = Interface("latent-to-points", (latent, *ports("label")), (output,), "normal", ("7", "8"))
    assert class_number(interface, "8") == 1, "a name goes before a number"
    assert class_number(interface, 1) == 1
    assert class_number(interface, "1") == 1
    with pytest.raises(UsageError, match="0 to 1"):
        class_number(interface, -1)
    assert InputStream(interface, Conditions(), 0, None).take(3)[1].tolist() == [0, 1, 0]


@pytest.mark.parametrize("value", ["a,b", "missing.npy", [1.0, float("nan"), 2.0], "1,2"])
def test_a_wrong_vector_is_one_line(value: Any) -> None:
    with pytest.raises(InputError, match="style"):
        read_vector(ports("style")[0], value)


def test_masks_by_name_and_the_command(painter: Path, tmp_path: Path) -> None:
    def run(*given: str) -> int:
        command = [sys.executable, "-m", "ganedge.runtime", "translate", str(painter), str(tmp_path / "in")]
        return subprocess.run(
            [*command, "-o", str(tmp_path / "out"), "--label", "horse", *given], check=False
        ).returncode

    (tmp_path / "in").mkdir()
    (tmp_path / "masks").mkdir()
    for index, name in enumerate(("a", "b")):
        Image.new("RGB", (12, 10), (100, 100, 100)).save(tmp_path / "in" / f"{name}.png")
        Image.fromarray(np.full((10, 12), 255 * index, np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    np.save(tmp_path / "style.npy", np.float32([1, 1, 1]))
    masks, style = ["--mask", str(tmp_path / "masks")], ["--style", str(tmp_path / "style.npy")]
    assert run(*masks, *style) == 0
    assert np.asarray(Image.open(tmp_path / "out" / "a.png")).mean() == 100
    assert np.asarray(Image.open(tmp_path / "out" / "b.png")).mean() == 255
    (tmp_path / "masks" / "b.png").unlink()
    assert run(*masks, *style) == 3, "the picture without a mask is named, the other is done"


def test_the_server_takes_label_mask_and_style(painter: Path) -> None:
    pytest.importorskip("starlette", reason="needs the extra serve")
    testclient = pytest.importorskip("starlette.testclient", reason="needs the extra serve")
    from ganedge.runtime.serving.server import Server

    def png(array: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "PNG")
        return stream.getvalue()

    picture, mask = np.full((10, 12, 3), 90, np.uint8), checker(10, 12)
    with load(painter) as generator, testclient.TestClient(Server(generator).application()) as client:
        files = {"picture": ("p.png", png(picture)), "mask": ("m.png", png(mask))}
        answer = client.post("/translate?label=horse&style=1,-1,0", files=files)
        assert answer.status_code == 200, answer.text
        result = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert (result[:5] == [255, 0, 128]).all()
        assert (result[5:] == 90).all()
        for query, reason in (
            ("label=horse", "needs a mask"),
            ("label=9", "out of range"),
            ("style=/etc/passwd", "numbers"),
            ("x=1", "unknown"),
        ):
            refused = client.post(f"/translate?{query}", content=png(picture))
            assert refused.status_code == 400
            assert reason in refused.json()["error"]
