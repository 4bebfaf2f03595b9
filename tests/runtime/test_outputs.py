"""Artifacts with outputs beside the result: in Python, in files, on the server, and in a proof on the device."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from ganedge.runtime import load
from ganedge.runtime.errors import ArtifactError, EngineError, InputError, UsageError
from ganedge.runtime.fidelity import Gate, gates_of, miss
from ganedge.runtime.manifest import (
    Interface,
    Manifest,
    NormMode,
    OutputParity,
    Parity,
    Port,
    read_artifact,
    read_parity,
    write_artifact,
)
from ganedge.runtime.pictures.folder import Job, beside, plan, translate_files

SPACE = ("batch", 3, "height", "width")
X = Port("x", "image", "float32", SPACE, "NCHW", (-1.0, 1.0), 4)
Y = Port("y", "image", "float32", SPACE, "NCHW", (-1.0, 1.0))
MASK = Port("mask", "mask", "float32", ("batch", 1, "height", "width"), "NCHW", (0.0, 1.0))
LOW = Port("low", "image", "float32", ("batch", 3, "0.25*height", "0.25*width"), "NCHW", (-1.0, 1.0))
MEANS = Port("means", "values", "float32", ("batch", 3), "NC")


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A picture as its negative, and beside it the mask of what is bright, a picture of a quarter, and means."""
    return written(tmp_path / "several.onnx", (Y, MASK, LOW, MEANS))


def written(path: Path, outputs: tuple[Port, ...], norm: NormMode = "none") -> Path:
    """An artifact with some of these outputs, whose result is normalised if that is asked for."""
    normalised = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"])
    nodes = [
        helper.make_node("Neg", ["x"], ["y"]) if norm == "none" else normalised,
        helper.make_node("ReduceMean", ["x", "one"], ["grey"], keepdims=1),
        helper.make_node("Clip", ["grey", "zero", "most"], ["mask"]),
        helper.make_node("AveragePool", ["x"], ["low"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("ReduceMean", ["x", "pixels"], ["means"], keepdims=0),
    ]
    weights = {"one": np.int64([1]), "pixels": np.int64([2, 3]), "zero": np.float32(0), "most": np.float32(1)}
    weights |= {"scale": np.float32([0.5, 0.4, 0.3]), "bias": np.float32([0.1, 0.0, -0.1])}
    ports = [
        [helper.make_tensor_value_info(port.name, TensorProto.FLOAT, port.shape) for port in group]
        for group in ((X,), outputs)
    ]
    made = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", *ports, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    interface = Interface("image-to-image", (X,), outputs, reach=0)
    path.write_bytes(write_artifact(model.SerializeToString(), Manifest(interface, "fp32", norm)))
    return path


def picture(height: int = 21, width: int = 34) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_every_output_by_its_name_at_the_pictures_size(several: Path) -> None:
    pixels = picture()
    with load(several) as generator:
        outputs = generator.translate_outputs(pixels)
        assert {name: values.shape for name, values in outputs.items()} == {
            "y": (21, 34, 3),
            "mask": (21, 34, 1),
            "low": (5, 8, 3),
            "means": (3,),
        }
        np.testing.assert_array_equal(outputs["y"], generator.translate(pixels))
        bright = pixels.astype(np.float32).mean(-1) / 127.5 - 1
        assert np.abs(outputs["mask"][..., 0] / 255 - bright.clip(0)).max() < 0.01
        many = list(generator.translate_many_outputs([pixels, "missing.png"], errors="yield"))
        assert isinstance(many[0], dict)
        np.testing.assert_array_equal(many[0]["low"], outputs["low"])
        assert isinstance(many[1], InputError)
        bare = generator.run_all(np.zeros((2, 3, 8, 8), np.float32))
        assert [array.shape for array in bare] == [(2, 3, 8, 8), (2, 1, 8, 8), (2, 3, 2, 2), (2, 3)]
        assert "means" in generator._repr_html_()
        with pytest.raises(InputError, match="made of whole pictures: allow more memory"):
            generator.translate_outputs(picture(3000, 3000), memory=60_000_000)


def test_one_size_and_alpha(tmp_path: Path, several: Path) -> None:
    alpha = np.dstack([picture(), np.full((21, 34), 7, np.uint8)])
    with load(several) as generator:
        outputs = generator.translate_outputs(alpha)
        assert outputs["y"].shape == (21, 34, 4)
        assert (outputs["y"][..., 3] == 7).all()
        assert outputs["mask"].shape == (21, 34, 1)


@pytest.mark.parametrize("outputs", [(Y, LOW, MASK, MEANS), (Y, MASK, LOW, MEANS, replace(MEANS, name="more"))])
def test_outputs_that_the_manifest_does_not_name_in_order(
    several: Path, tmp_path: Path, outputs: tuple[Port, ...]
) -> None:
    manifest, model = read_artifact(several)
    wrong = replace(manifest, interface=replace(manifest.interface, outputs=outputs))
    (tmp_path / "wrong.onnx").write_bytes(write_artifact(model, wrong))
    with load(tmp_path / "wrong.onnx") as generator, pytest.raises(EngineError, match="and the manifest names y batch"):
        generator.translate_outputs(picture())


def test_shared_statistics_are_those_of_the_result(tmp_path: Path) -> None:
    results = []
    for name, outputs in (("plain.onnx", (Y,)), ("several.onnx", (Y, LOW, MEANS))):
        with load(written(tmp_path / name, outputs, "instance"), engine="onnxruntime") as generator:
            results.append(generator.translate(picture(300, 300), tiles="shared", memory=60_000_000))
    np.testing.assert_array_equal(*results)


def test_files_beside_the_results(several: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    (tmp_path / "in").mkdir()
    for index in range(2):
        Image.fromarray(picture()).save(tmp_path / "in" / f"p{index}.jpg")
    done = command("gan-run", "translate", several, tmp_path / "in", "-o", tmp_path / "out", "--save-outputs")
    assert done.code == 0, done.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"p{i}{end}" for i in range(2) for end in (".jpg", ".mask.png", ".low.jpg", ".means.npy")}
    assert np.load(tmp_path / "out" / "p0.means.npy").shape == (3,)
    with Image.open(tmp_path / "out" / "p1.mask.png") as mask:
        assert mask.mode == "L"
    plain = written(tmp_path / "plain.onnx", (Y,))
    done = command("gan-run", "translate", plain, tmp_path / "in", "-o", tmp_path / "o", "--save-outputs")
    assert done.code == 2
    assert "export it again with --keep-outputs" in done.err
    done = command("gan-run", "info", several)
    assert "mask: mask float32" in done.out
    assert "means: values float32 [batch × 3]" in done.out


def test_no_file_goes_elsewhere_or_over_another(several: Path, tmp_path: Path) -> None:
    hostile = replace(MEANS, name="../../etc/x y")
    assert beside(Path("a/b.png"), (hostile,)) == {hostile.name: Path("a/b..._.._etc_x_y.npy")}
    assert beside(Path("b.webp"), (replace(LOW, shape=("batch", 5, 8, 8)),))["low"] == Path("b.low.npy")
    for name in ("a.png", "a.mask.png"):
        Image.fromarray(picture()).save(tmp_path / name)
    jobs = plan([tmp_path / "a.png", tmp_path / "a.mask.png"], tmp_path / "out")
    with load(several) as generator, pytest.raises(UsageError, match=r"would both become .*a\.mask\.png"):
        translate_files(generator, jobs, save_outputs=True)
    assert Job(Path("a"), Path("b")).extras == {}


def test_the_server_gives_the_output_that_is_named(several: Path) -> None:
    pytest.importorskip("httpx")
    testclient = pytest.importorskip("starlette.testclient")
    from ganedge.runtime.serving.server import Server

    stream = io.BytesIO()
    Image.fromarray(picture()).save(stream, "PNG")
    with load(several) as generator:
        expected = generator.translate_outputs(picture())
        with testclient.TestClient(Server(generator).application()) as client:
            shown = {item["name"]: item["picture"] for item in client.get("/about").json()["outputs"]}
            assert shown == {"y": True, "mask": True, "low": True, "means": False}
            for name in ("y", "mask", "low"):
                answer = client.post(f"/translate?output={name}", content=stream.getvalue())
                made = np.asarray(Image.open(io.BytesIO(answer.content)))
                np.testing.assert_array_equal(made, expected[name].squeeze(-1) if name == "mask" else expected[name])
            refused = client.post("/translate?output=means", content=stream.getvalue())
            assert (refused.status_code, "is no picture" in refused.json()["error"]) == (400, True)
            array = client.post(
                "/translate?output=means", content=stream.getvalue(), headers={"Accept": "application/x-npy"}
            )
            np.testing.assert_array_equal(np.load(io.BytesIO(array.content)), expected["means"])
            unknown = client.post("/translate?output=other", content=stream.getvalue())
            assert "this generator gives y, mask, low, means" in unknown.json()["error"]


def test_a_proof_tells_which_output_is_off() -> None:
    figures = {"span": 2.0, "max_abs": 0.5, "mean_abs": 0.1, "psnr": 20.0, "ssim": None, "nonfinite": 0.0}
    extra = OutputParity(output="mask", **figures, tolerance="psnr=30", passed=False)  # type: ignore[arg-type]
    good = Parity("x 1", "int8", 4, (1,), 0.01, 0.001, 50.0, 0.99, 0.0, "psnr=30", False, 2.0, (), "", (extra,))
    assert miss(good) == "in its output mask off by 25 % of the output's range (20.0 dB) where the gate is 30 dB"
    assert str(good).endswith("FAILED psnr=30; mask PSNR 20.0 dB, FAILED psnr=30")
    both = replace(good, max_abs=1.0, psnr=9.0)
    assert miss(both).startswith("off by 50 % of the output's range (9.0 dB)")
    assert " and in its output mask off by" in miss(both)
    manifest = Manifest(Interface("image-to-image", (X,), (Y, MASK)), "int8", "none", parity=(good,))
    assert Manifest.from_json(manifest.to_json()) == manifest
    content = {**vars(good), "extras": [{**vars(extra), "psnr": "much"}], "batches": [1], "sizes": []}
    with pytest.raises(ArtifactError, match="parity psnr is 'much'"):
        read_parity(content)


def test_floats_beside_bytes_keep_the_gate_of_floats() -> None:
    port = replace(Y, dtype="uint8", layout="NHWC", shape=("batch", 8, 8, 3), range=(0.0, 255.0))
    interface = Interface("image-to-image", (X,), (port, MEANS, replace(port, name="other")))
    gates = gates_of(Gate(max_abs=0.5 / 255 + 1e-4), interface)
    assert gates[0] == gates[2]
    assert gates[1].max_abs == pytest.approx(1e-4)
    assert gates_of(Gate(psnr=30.0), interface) == (Gate(psnr=30.0),) * 3


def test_the_format_of_several_outputs_is_version_3(several: Path) -> None:
    manifest, _ = read_artifact(several)
    assert manifest.schema == 3
    assert [port.name for port in manifest.interface.extras] == ["mask", "low", "means"]
