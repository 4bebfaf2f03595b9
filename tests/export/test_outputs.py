"""Outputs kept beside the result: from networks and .onnx files of odd forms, through proof, INT8, bytes and ncnn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from ganedge.export import export, modules, parity
from ganedge.export.artifact import ExportSpec, VerifiedArtifact, make
from ganedge.export.checkpoints import LoadedModule
from ganedge.export.from_onnx import of_onnx
from ganedge.export.outputs import choose, describe, read_kept
from ganedge.export.sizes import follow
from ganedge.export.source import SourceSpec
from ganedge.export.source_model import SourceModel
from ganedge.runtime import load
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.fidelity import Gate
from ganedge.runtime.manifest import Port, read_artifact
from ganedge.runtime.verify import verify

PICTURES = SourceSpec(kind="image", input="3xHxW")
RESULT = Port("image", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0))


class Result(NamedTuple):
    """What a network of several outputs returns."""

    loss: Tensor
    image: Tensor
    aux: dict[str, Any]


@dataclass
class Pair:
    """A dataclass, as some libraries return it."""

    image: Tensor
    mask: Tensor


class Painter(nn.Module):
    """A picture and an attention mask, as GANimation, and what only its training needs."""

    def __init__(self, returns: str = "named") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.returns = returns
        self.features, self.low = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3, 2, 1)
        self.image, self.mask = nn.Conv2d(8, 3, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        """Return everything in the form of this network."""
        features = torch.relu(self.features(x))
        image, mask = torch.tanh(self.image(features)), torch.sigmoid(self.mask(features))
        if self.returns == "pair":
            return Pair(image, mask)
        if self.returns == "list":
            return [mask, [image, None]]
        aux = {
            "mask": mask,
            "nothing": None,
            "low": self.low(features),
            "class": mask.gt(0.5).long().squeeze(1),
            "same": image,
            "x": x,
            "bank": self.mask.weight,
            "spectrum": torch.fft.rfft2(mask),
            "frames": torch.stack([image, image], 1),
        }
        return Result(image.mean(), image, aux)


def opened(spec: SourceSpec, returns: str = "named") -> SourceModel:
    """A painter as a source."""
    return modules.finish(LoadedModule(Painter(returns), spec, "nets.py:Painter", ""))


@pytest.fixture(scope="module")
def kept() -> SourceModel:
    """A painter with a mask, features of half the size and a class of each pixel beside its picture."""
    return opened(
        replace(PICTURES, keep_outputs=("attention=aux.mask", "aux.low", "aux.class:values", "same=5:picture"))
    )


@pytest.fixture(scope="module")
def artifact(kept: SourceModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a proven artifact, with its stored proof."""
    from ganedge.export.artifact import write_artifact_file

    path = tmp_path_factory.mktemp("several") / "g.onnx"
    write_artifact_file(path, make(kept, ExportSpec()))
    return path


def test_by_default_the_result_alone_is_kept() -> None:
    model = opened(PICTURES)
    assert [value.name for value in model.model.graph.output] == ["image"]
    assert model.interface.extras == ()
    assert any("--keep-outputs keeps more of them" in note for note in model.notes)
    assert len(model.all_outputs([np.zeros((1, 3, 8, 8), np.float32)])) == 1


def test_what_is_kept_is_described(kept: SourceModel) -> None:
    shapes = {port.name: (port.role, port.shape[1:]) for port in kept.interface.extras}
    assert shapes == {
        "attention": ("mask", (1, "height", "width")),
        "aux_low": ("values", (2, "0.5*height", "0.5*width")),
        "aux_class": ("values", ("height", "width")),
        "same": ("image", (3, "height", "width")),
    }
    assert kept.interface.inputs[0].multiple == 2, "the features of half the size need it"
    assert any(note.startswith("kept: attention (aux.mask) as mask, 1×height×width") for note in kept.notes)


def test_every_output_is_proven_and_verified(artifact: Path) -> None:
    manifest, _ = read_artifact(artifact)
    for proof in manifest.parity:
        assert [extra.output for extra in proof.extras] == [port.name for port in manifest.interface.extras]
        assert all(extra.passed for extra in proof.extras)
    checks = verify(artifact)
    assert checks
    assert all(check.passed and len(check.extras) == len(manifest.interface.extras) for check in checks)
    assert "attention: " in str(checks[0])


def test_a_fault_in_an_output_beside_the_result_fails_the_proof(kept: SourceModel) -> None:
    good = make(kept, ExportSpec())
    cases = [replace(case, extras=[case.extras[0] + 0.01, *case.extras[1:]]) for case in good.cases]
    proofs, _ = parity.prove(kept.model.SerializeToString(), good.manifest, cases, Gate(max_abs=1e-4))
    assert not any(proof.passed for proof in proofs)
    assert "in its output attention off by" in parity.explain(proofs, "fp32")


@pytest.mark.parametrize(("precision", "io"), [("fp16", "float"), ("fp32", "uint8")])
def test_other_precisions_and_bytes(kept: SourceModel, precision: Any, io: Any) -> None:
    made: VerifiedArtifact = make(kept, ExportSpec(precision=precision, io=io))
    assert all(extra.passed for proof in made.parity for extra in proof.extras)
    ports = {port.name: (port.dtype, port.layout) for port in made.manifest.interface.outputs}
    assert ports["attention"] == (("uint8", "NHWC") if io == "uint8" else ("float32", "NCHW"))
    assert ports["aux_low"] == ("float32", "NCHW")


def test_int8_has_to_pass_its_gate_at_every_output(kept: SourceModel) -> None:
    spec = ExportSpec(precision="int8", engine="onnxruntime")
    made = make(opened(replace(PICTURES, keep_outputs=("aux.mask", "aux.low"))), spec)
    (own,) = (proof for proof in made.parity if proof.engine_name == "onnxruntime")  # Others may err by the processor.
    assert own.extras
    assert all(extra.passed and extra.tolerance == "psnr=30" for extra in own.extras)
    with pytest.raises(GanEdgeError, match=r"in its output aux_class off by .* or keep fewer outputs, .*psnr=[12]\d$"):
        make(kept, spec)  # Classes flip at pixels near their border.


def test_an_artifact_keeps_its_outputs_in_another_precision(artifact: Path, tmp_path: Path) -> None:
    half = export(artifact, precision="fp16", output=tmp_path / "half.onnx")
    assert len(half.manifest.interface.extras) == 4
    with load(half.path) as generator:
        assert len(generator.run_all(np.zeros((1, 3, 8, 8), np.float32))) == 5


def test_all_keeps_what_can_be_kept() -> None:
    model = opened(replace(PICTURES, keep_outputs=("all",)))
    names = [port.name for port in model.interface.extras]
    assert names == ["aux_mask", "aux_low", "aux_class", "aux_same", "aux_x"]
    reasons = " ".join(note for note in model.notes if "is not kept" in note)
    for part in ("loss", "a single number", "bank", "no value for each item", "complex", "5 dimensions"):
        assert part in reasons
    inputs = [np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)]
    result, *extras = model.all_outputs(inputs)
    np.testing.assert_array_equal(extras[3], result)
    np.testing.assert_array_equal(extras[4], inputs[0])


@pytest.mark.parametrize(("returns", "text", "name"), [("pair", "mask", "mask"), ("list", "0", "output0")])
def test_dataclasses_and_lists(returns: str, text: str, name: str) -> None:
    model = opened(replace(PICTURES, keep_outputs=(text,)), returns)
    assert [(port.name, port.role) for port in model.interface.outputs] == [("image", "image"), (name, "mask")]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("loss",), "--keep-outputs loss: it has no value for each item"),
        (("aux.spectrum",), "it holds complex numbers"),
        (("image",), "image is the result, which is kept; --result takes another"),
        (("alpha",), "--keep-outputs alpha: this generator returns loss, image, aux.mask"),
        (("aux.mask", "m=2"), "aux.mask is named twice"),
        (("a=aux.mask", "a=aux.low"), "a is the name of an input or of another output"),
        (("aux.low:mask",), "the role mask needs one channel, height and width"),
    ],
)
def test_what_cannot_be_kept_is_refused(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened(replace(PICTURES, keep_outputs=texts))


def test_a_network_with_one_output_has_none_to_keep() -> None:
    spec = replace(PICTURES, keep_outputs=("1",))
    with pytest.raises(UsageError, match="this generator returns one tensor, its result"):
        modules.finish(LoadedModule(nn.Conv2d(3, 3, 1), spec, "nets.py:G", ""))


def test_texts_and_sizes() -> None:
    assert read_kept("output:0").source == "output:0", "TensorFlow's names have colons"
    for text in ("", "=1", "1a=2", "a b=2"):
        with pytest.raises(UsageError, match="--keep-outputs"):
            read_kept(text)
    names = [choice.output.name for choice in choose(("all",), ["495", "image", "a.b", "x"], 1, {"x"})]
    assert names == ["output495", "a_b", "x_output"]
    assert follow("height", {(48, 12), (96, 12)}) == 12
    assert follow("height", {(48, 12), (96, 24)}) == "0.25*height"
    assert follow("height", {(48, 12), (49, 12), (96, 24)}) is None
    assert follow("height", {(128, 16384), (256, 98304)}) is None, "a line goes through any two points"
    drawn = describe(read_kept("m=0"), np.float32([[[[0.0, 1.0]]]]), ("batch", 1, 1, 2), RESULT)
    assert (drawn.role, drawn.range) == ("mask", (0.0, 1.0))
    assert SourceSpec(keep_outputs="mask,1").keep_outputs == ("mask", "1")


def foreign(path: Path) -> Path:
    """An .onnx file with outputs of several types and forms."""
    nodes = [
        helper.make_node("Tanh", ["x"], ["495"]),
        helper.make_node("ReduceMean", ["495"], ["loss"], keepdims=0),
        helper.make_node("AveragePool", ["x"], ["low"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("ArgMax", ["x"], ["class"], axis=1, keepdims=0),
        helper.make_node("Greater", ["x", "495"], ["hard"]),
        helper.make_node("Cast", ["low"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Shape", ["x"], ["shape"]),
    ]
    sizes = ["n", 3, "h", "w"]
    outputs = [
        ("495", TensorProto.FLOAT, sizes),
        ("loss", TensorProto.FLOAT, []),
        ("low", TensorProto.FLOAT, ["n", 3, "a", "b"]),
    ]
    outputs += [("class", TensorProto.INT64, ["n", "h", "w"]), ("hard", TensorProto.BOOL, sizes)]
    outputs += [("double", TensorProto.DOUBLE, ["n", 3, "a", "b"]), ("shape", TensorProto.INT64, [4])]
    ports = [helper.make_tensor_value_info(*value) for value in outputs]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)], ports)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_outputs_of_a_foreign_file(tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.onnx")
    model = of_onnx(path, SourceSpec(kind="image", result="0", keep_outputs="all"))
    described = {port.name: (port.role, port.dtype, port.shape[1:]) for port in model.interface.extras}
    small = (3, "0.25*height", "0.25*width")
    assert described == {
        "low": ("image", "float32", small),
        "class": ("values", "float32", ("height", "width")),
        "hard": ("image", "float32", (3, "height", "width")),
        "double": ("image", "float32", small),
    }
    assert model.interface.inputs[0].multiple == 4, "a size that stays the same over a few pixels follows all the same"
    proven = make(model, ExportSpec())
    assert all(extra.passed for proof in proven.parity for extra in proof.extras)
    fixed = of_onnx(
        path, SourceSpec(kind="image", result="495", keep_outputs="tiny=low:values", size="8x12"), tried=False
    )
    assert fixed.interface.extras[0].shape == ("batch", 3, 2, 3)
    with pytest.raises(GanEdgeError, match="--keep-outputs shape: it has no value for each item"):
        of_onnx(path, SourceSpec(kind="image", result="495", keep_outputs="shape"))


def test_ncnn_gives_every_output(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("pnnx", reason="needs pnnx: ganedge[ncnn]")
    pytest.importorskip("ncnn", reason="needs ncnn: ganedge[ncnn]")

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 1, 3, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tanh(self.first(x)), torch.sigmoid(self.second(x))

    spec = replace(PICTURES, keep_outputs=("mask=1",))
    model = modules.finish(LoadedModule(Two(), spec, "nets.py:Two", ""))
    from ganedge.export.to_ncnn import write_ncnn

    folder = write_ncnn(tmp_path / "two.ncnn", model, make(model, ExportSpec()), lambda _: None)
    with load(folder) as generator:
        outputs = generator.translate_outputs(np.zeros((9, 12, 3), np.uint8))
        assert {name: values.shape for name, values in outputs.items()} == {"image": (9, 12, 3), "mask": (9, 12, 1)}
    assert all(check.passed and check.extras for check in verify(folder))
