"""ncnn artifacts: every tiny system in FP32 and FP16 through its gate in ncnn, what is refused, and damaged files."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganedge.export import export, to_ncnn
from ganedge.runtime import inputs, load
from ganedge.runtime.engines import installed, ncnn
from ganedge.runtime.errors import ArtifactError, EngineError, UsageError
from ganedge.runtime.ncnn_file import PARAM, read_sidecar
from ganedge.runtime.verify import verify

pytestmark = pytest.mark.skipif(
    not (installed("ncnn") and installed("pnnx")), reason="needs ncnn and pnnx: ganedge[ncnn,pnnx]"
)
HELPER = runpy.run_path(str(Path(__file__).parents[1] / "systems.py"))
QUICK = ("mlp-batchnorm", "dcgan", "dcgan-modern", "pix2pix-modern", "wgan", "cyclegan-resnet", "stargan")
"""Those in the suite; `make matrix` goes through all."""
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of each system after a few steps, made when it is first asked for; that of dcgan has classes."""
    folder = tmp_path_factory.mktemp("ncnn")
    options = {"dcgan": {"conditional": True}}
    return lambda name: HELPER["train_system"](name, folder, **options.get(name, {}))


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.matrix) for name in HELPER["SYSTEMS"]]
)
def test_every_system_passes_its_gate_in_ncnn(made: Made, tmp_path: Path, name: str) -> None:
    artifact = export(made(name), format="ncnn", output=tmp_path / "n")
    manifest, identity = read_sidecar(artifact.path / PARAM)
    assert [proof.passed for proof in manifest.parity] == [True]
    assert manifest.parity[0].engine.startswith("ncnn") and manifest.parity[0].precision == "fp32"
    assert identity.version and len(identity.onnx_digest) == 64
    layers = (artifact.path / PARAM).read_text().splitlines()[2:]
    assert all(line.endswith("31=7") for line in layers if not line.startswith("Input")), "any program computes in FP32"


@pytest.fixture(scope="module")
def network(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional DCGAN in FP16."""
    return export(made("dcgan"), precision="fp16", format="ncnn", output=tmp_path_factory.mktemp("half") / "n").path


def test_classes_and_seeds_are_those_of_the_onnx(made: Made, network: Path) -> None:
    onnx_path = export(made("dcgan"), output=network.parent / "g.onnx").path
    with load(network) as ours, load(network / PARAM, "ncnn", threads=1) as again, load(onnx_path) as theirs:
        assert ours.engine.name == "ncnn"
        pictures = ours.sample(5, seed=3, label=7)
        assert np.abs(pictures.astype(int) - theirs.sample(5, seed=3, label=7)).max() <= 2
        assert np.array_equal(again.sample(5, seed=3, label=7), pictures)
        assert not np.array_equal(pictures, ours.sample(5, seed=3, label=1))


def test_fp16_halves_the_weights_and_is_verified_again(network: Path, made: Made, tmp_path: Path) -> None:
    whole = export(made("dcgan"), format="ncnn", output=tmp_path / "n").path
    assert (network / "generator.bin").stat().st_size < 0.6 * (whole / "generator.bin").stat().st_size
    (check,) = verify(network)
    assert check.passed and check.gate == "psnr=45"


def test_pictures_of_any_size(made: Made, tmp_path: Path) -> None:
    path = export(made("cyclegan-resnet"), which="a2b", format="ncnn", output=tmp_path / "n").path
    reference = export(made("cyclegan-resnet"), which="a2b", output=tmp_path / "g.onnx").path
    picture = inputs.natural(1, 36, 52, 3, 1)[0]
    with load(path) as ours, load(reference, "onnxruntime") as theirs:
        assert np.abs(ours.translate(picture).astype(int) - theirs.translate(picture)).max() <= 1


@pytest.mark.parametrize("name", [PARAM, "generator.bin", f"{PARAM}.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damage_is_one_line_before_ncnn_reads_it(network: Path, tmp_path: Path, name: str, damage: str) -> None:
    copy = shutil.copytree(network, tmp_path / "n")
    data = (copy / name).read_bytes()
    if damage == "gone":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(data[: len(data) // 2] if damage == "cut" else b"\xff" + data[1:])
    with pytest.raises(ArtifactError) as caught:
        load(copy / PARAM)
    assert "\n" not in str(caught.value)


def test_a_description_that_cannot_be(network: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(network, tmp_path / "n")
    sidecar = copy / f"{PARAM}.json"
    description = json.loads(sidecar.read_text())
    for field, value in {"classes": -1, "inputs": ["in0"], "precision": "int8", "output": "a\nb"}.items():
        sidecar.write_text(json.dumps({**description, "ncnn": {**description["ncnn"], field: value}}))
        with pytest.raises(ArtifactError, match="cannot be right"):
            load(copy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "int8"}, "ncnn2int8"),
        ({"precision": "bf16"}, "choose fp32 or fp16"),
        ({"io": "uint8"}, "takes and gives floats"),
    ],
)
def test_what_ncnn_does_not_have_is_refused(made: Made, tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        export(made("dcgan"), format="ncnn", output=tmp_path / "n", **settings)
    assert not (tmp_path / "n").exists()


def test_a_missing_vulkan_driver_is_one_line(network: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names, _ = ncnn.devices()
    assert names[0] == "cpu"
    if len(names) == 1:
        with pytest.raises(EngineError, match="no Vulkan device: install its driver"):
            load(network, device="vulkan")
    assert capfd.readouterr().err == ""


def test_other_engines_and_devices_are_refused(network: Path) -> None:
    with pytest.raises(UsageError, match="runs in ncnn only"):
        load(network, "onnxruntime")
    with pytest.raises(UsageError, match="ncnn has auto, cpu, vulkan"):
        load(network, device="cuda")


def test_a_layer_that_ncnn_lacks_is_named() -> None:
    text = "7767517\n2 2\nInput in0 0 1 in0\naten::gather_nd g_0 1 1 in0 out0\n"
    with pytest.raises(EngineError, match=r"ncnn has no layer for .*gather_nd \(g_0\)"):
        to_ncnn._checked(text, b"", _interface(), [])


def _interface() -> Any:
    from ganedge.runtime.manifest import Interface, Port

    points = Port("y", "points", "float32", ("batch", 2), "NC")
    return Interface("latent-to-points", (Port("x", "latent", "float32", ("batch", 4), "NC"),), (points,), "normal")
