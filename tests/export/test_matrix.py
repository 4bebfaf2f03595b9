"""Every system × every precision passes its gates: tiny ones in the suite, those of default size with `make matrix`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ganedge.export import export
from ganedge.export.artifact import ExportSpec, make
from ganedge.export.from_onnx import of_onnx, with_size
from ganedge.export.from_torch import of_run
from ganedge.export.source_model import SourceModel
from ganedge.export.to_tensorrt import Settings, write_engine
from ganedge.models import find
from ganedge.runtime import inputs
from ganedge.runtime.engine_file import check_engine, read_sidecar
from ganedge.runtime.engines import installed
from ganedge.train.loop import train
from ganedge.train.settings import Settings as Training

SYSTEMS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "circles": ("circles", None, {}),
    "mlp-dropout": ("mlp", "dropout", {"size": 8, "batch": 16}),
    "mlp-batchnorm": ("mlp", "batchnorm", {"size": 8, "batch": 16}),
    "digit": ("digit", None, {"batch": 4}),
    "dcgan": ("dcgan", None, {"size": 16, "width": 8, "batch": 8}),
    "dcgan-modern": ("dcgan", "modern", {"size": 16, "width": 8, "batch": 8}),
    "wgan": ("wgan", None, {"size": 16, "width": 8, "batch": 8, "d_steps": 1}),
    "pix2pix": ("pix2pix", None, {"size": 32, "width": 8}),
    "pix2pix-shuffle": ("pix2pix", None, {"size": 32, "width": 8, "upsample": "shuffle"}),
    "cyclegan-conv": ("cyclegan", "conv", {"size": 32, "width": 8, "blocks": 1}),
    "cyclegan-resnet": ("cyclegan", "resnet", {"size": 32, "width": 8, "blocks": 1}),
    "stargan": ("stargan", None, {"size": 32, "width": 8, "blocks": 1, "batch": 4, "d_steps": 1}),
    "augmented-cyclegan": ("augmented-cyclegan", None, {"size": 32, "width": 8, "blocks": 1, "batch": 2}),
}
"""Variant, preset and the settings that make it tiny."""
WAYS = {"cyclegan-conv": ("a2b", "b2a"), "cyclegan-resnet": ("a2b", "b2a"), "augmented-cyclegan": ("a2b",)}
"""Generators of systems that have several; those of augmented-cyclegan are the same network."""
BOTH_WAYS = [(name, which) for name in SYSTEMS for which in WAYS.get(name, (None,))]
PRECISIONS = [("fp32", None), ("fp16", None), ("bf16", None), ("int8", "onnxruntime"), ("int8", "openvino")]
ENGINES = [(name, kind) for name in SYSTEMS for kind in ("fp32", "fp16")]
ENGINES += [
    (name, kind)
    for name in ("dcgan", "dcgan-modern", "cyclegan-resnet", "cyclegan-conv", "stargan", "augmented-cyclegan")
    for kind in ("bf16", "int8")
]
Trained = Callable[[str, bool], Path]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of each system after a few steps, made when it is first asked for."""
    pytest.importorskip("lightning_fabric", reason="it trains each system: the extra train is not installed")
    folder = tmp_path_factory.mktemp("matrix")
    for kind, shape in {"pairs": (96, 192), "sets/trainA": (96, 96), "sets/trainB": (96, 96)}.items():
        (folder / kind).mkdir(parents=True)
        for index, pixels in enumerate(inputs.natural(4, *shape, 3, len(kind))):
            Image.fromarray(pixels).save(folder / kind / f"{index}.png")
    places = {
        "images": "digits",
        "points": "circles",
        "pairs": str(folder / "pairs"),
        "unpaired": str(folder / "sets"),
    }

    def run(name: str, full: bool) -> Path:
        out = folder / f"{name}-{'full' if full else 'tiny'}"
        if not out.is_dir():
            variant_name, preset, tiny = SYSTEMS[name]
            variant = find(variant_name)
            config = tiny
            if full:
                few = {"batch": 4} if variant_name in ("wgan", "dcgan") else {}
                config = {**few, **{key: value for key, value in tiny.items() if key == "upsample"}}
            wants = variant.wants(variant.config_class(**{**variant.presets.get(preset or "", {}), **config}))
            settings = Training(data=places[wants.kind], out=out, steps=3, device="cpu", preset=preset)
            train(variant, config, settings)
        return out

    return run


def prove(original: SourceModel, precision: Any, target: Any) -> None:
    """`make` raises where a gate is missed."""
    proven = make(original, ExportSpec(precision=precision, engine=target))
    assert proven.manifest.precision == precision
    able = ["openvino"] if precision == "bf16" else ["onnxruntime", "openvino"]
    assert [proof.engine.split()[0] for proof in proven.manifest.parity] == able
    assert all(proof.passed for proof in proven.manifest.parity)
    if precision == "int8":
        assert any(node.op_type == "QuantizeLinear" for node in _nodes(proven.data))


@pytest.mark.skipif(not installed("tensorrt_rtx"), reason="needs tensorrt-rtx-cu13: ganedge[rtx]")
@pytest.mark.parametrize(("name", "precision"), ENGINES)
def test_engines(trained: Trained, tmp_path: Path, name: str, precision: Any) -> None:
    """Every system becomes an engine; what the network computes in is checked on the way, or `write_engine` raises."""
    proven = make(
        of_run(trained(name, False)), ExportSpec(precision=precision, engine="trt" if precision == "int8" else None)
    )
    if precision == "int8":  # The same file that OpenVINO runs, where it was proven.
        assert "openvino" in {proof.engine.split()[0] for proof in proven.manifest.parity if proof.passed}
    (tmp_path / "g.onnx").write_bytes(proven.data)
    settings = Settings.read(batch="1,1,2", targets="sm86")
    write_engine(tmp_path / "g.onnx", tmp_path / "g.engine", proven, settings, lambda _: None)
    manifest, identity = read_sidecar(tmp_path / "g.engine")
    assert identity.precision == manifest.precision == precision
    assert len(check_engine(tmp_path / "g.engine", identity)) > 10_000


def _nodes(data: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(data).graph.node


@pytest.mark.parametrize(("precision", "target"), PRECISIONS)
@pytest.mark.parametrize(("name", "which"), BOTH_WAYS)
def test_tiny(trained: Trained, name: str, which: str | None, precision: str, target: str | None) -> None:
    prove(of_run(trained(name, False), which), precision, target)


def test_an_int8_artifact_takes_a_size(trained: Trained, tmp_path: Path) -> None:
    path = export(trained("pix2pix", False), precision="int8", engine="onnxruntime", output=tmp_path / "g.onnx").path
    fixed = make(with_size(of_onnx(path), 64, 32), ExportSpec())
    assert fixed.manifest.interface.inputs[0].shape == ("batch", 3, 64, 32)
    assert fixed.manifest.precision == "int8"
    counts = [
        sum(node.op_type == "QuantizeLinear" for node in _nodes(data)) for data in (path.read_bytes(), fixed.data)
    ]
    assert counts[0] == counts[1] > 0, "it is not quantised a second time"


@pytest.mark.matrix
@pytest.mark.parametrize(("precision", "target"), PRECISIONS)
@pytest.mark.parametrize(("name", "which"), BOTH_WAYS)
def test_of_default_size(trained: Trained, name: str, which: str | None, precision: str, target: str | None) -> None:
    prove(of_run(trained(name, True), which), precision, target)
