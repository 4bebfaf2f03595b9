"""Every system × every precision passes its gates: tiny ones in the suite, those of default size with `make matrix`."""

from __future__ import annotations

import functools
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganedge.export import compress, export
from ganedge.export.artifact import ExportSpec, make
from ganedge.export.from_onnx import of_onnx, with_size
from ganedge.export.from_torch import of_run
from ganedge.export.source_model import SourceModel
from ganedge.export.to_tensorrt import Settings, write_engine
from ganedge.runtime.engine_file import check_engine, read_sidecar
from ganedge.runtime.engines import installed
from ganedge.runtime.manifest import read_artifact

HELPER = runpy.run_path(str(Path(__file__).parents[1] / "systems.py"))
SYSTEMS: dict[str, Any] = HELPER["SYSTEMS"]
WAYS = {
    "cyclegan-conv": ("a2b", "b2a"),
    "cyclegan-resnet": ("a2b", "b2a"),
    "cyclegan-modern": ("a2b",),
    "augmented-cyclegan": ("a2b",),
}
"""Generators of systems that have several; those of augmented-cyclegan and of cyclegan-modern are the same network."""
BOTH_WAYS = [(name, which) for name in SYSTEMS for which in WAYS.get(name, (None,))]
PRECISIONS = [("fp32", None), ("fp16", None), ("bf16", None), ("int8", "onnxruntime"), ("int8", "openvino")]
ENGINES = [(name, kind) for name in SYSTEMS for kind in ("fp32", "fp16")]
ENGINES += [
    (name, kind) for name in ("dcgan", "dcgan-modern", "pix2pix-modern", "stargan", *WAYS) for kind in ("bf16", "int8")
]
Trained = Callable[[str, bool], Path]
SourceOf = Callable[[str, "str | None"], SourceModel]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of each system after a few steps, made when it is first asked for."""
    pytest.importorskip("lightning_fabric", reason="it trains each system: the extra train is not installed")
    folder = tmp_path_factory.mktemp("matrix")
    return lambda name, full: HELPER["train_system"](name, folder, full)


@pytest.fixture(scope="session")
def source_of(trained: Trained) -> SourceOf:
    """The generator of a system's tiny run with its graph, made when it is first asked for: precisions share it."""
    return functools.cache(lambda name, which: of_run(trained(name, False), which))


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
def test_engines(source_of: SourceOf, tmp_path: Path, name: str, precision: Any) -> None:
    """Every system becomes an engine; what the network computes in is checked on the way, or `write_engine` raises."""
    which = WAYS.get(name, (None,))[0]
    spec = ExportSpec(precision=precision, engine="trt" if precision == "int8" else None)
    proven = make(source_of(name, which), spec)
    if precision == "int8":  # Which engine here computes it right depends on the processor.
        assert proven.manifest.proven
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
def test_tiny(source_of: SourceOf, name: str, which: str | None, precision: str, target: str | None) -> None:
    prove(source_of(name, which), precision, target)


@pytest.mark.parametrize("name", ["dcgan-modern", "pix2pix-modern", "cyclegan-modern"])
def test_modern_generators_run_on_a_dla(source_of: SourceOf, name: str) -> None:
    """All arithmetic that is in convolutions; of latents, the projection and its reshape remain on the GPU."""
    import onnx

    from ganedge.export import dla

    proven = make(source_of(name, WAYS.get(name, (None,))[0]), ExportSpec(precision="fp16"))
    model = onnx.load_model_from_string(proven.data)
    first = proven.manifest.interface.inputs[0]
    shape = [1, *(32 if isinstance(side, str) else side for side in first.shape[1:])]
    found, _, total = dla.fallbacks(model, {first.name: shape})
    assert {layer.reason for layer in found} <= {"Gemm", "MatMul", "Reshape"}, found
    assert sum(layer.work for layer in found) < 0.05 * total or name == "dcgan-modern"


@pytest.mark.parametrize("name", ["dcgan-modern", "pix2pix-modern", "cyclegan-modern"])
def test_modern_generators_teach(trained: Trained, tmp_path: Path, name: str) -> None:
    """With the rest of their way through this project: test_variants.py resumes them, the tests above export them."""
    teacher = trained(name, False)
    data = {"dcgan-modern": "digits", "pix2pix-modern": "pairs", "cyclegan-modern": "sets/trainA"}[name]
    compress(
        teacher,
        which=WAYS.get(name, (None,))[0],
        data=data if data == "digits" else str(teacher.parent / data),
        out=tmp_path / "student",
        steps=2,
        batch=2,
        width=4,
        device="cpu",
        precision="fp32",
    )
    manifest, _ = read_artifact(tmp_path / "student" / "generator.onnx")
    assert manifest.source.compressed["teacher"] == teacher.name
    assert manifest.proven


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
