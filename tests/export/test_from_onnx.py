"""ONNX files of other programs: several outputs, types and shapes of ports, ranges, labels, random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ganedge.export.from_onnx import of_onnx
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import UsageError

IMAGES = SourceSpec(kind="image")
UNKNOWN: list[object] = [None] * 4


def write(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[object]]],
    outputs: Sequence[tuple[str, int, Sequence[object]]],
    weights: dict[str, np.ndarray],
) -> Path:
    ports = [[helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "g", *ports, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def filters(outputs: int, inputs: int, dtype: type = np.float32) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((outputs, inputs, 3, 3)) * 0.2).astype(dtype)


def two_outputs(path: Path, mask_channels: int = 1) -> Path:
    """A mask, and the image computed beside it."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["mask"], pads=[1] * 4),
        helper.make_node("Conv", ["x", "v"], ["image"], pads=[1] * 4),
    ]
    ports = [(name, TensorProto.FLOAT, ["n", size, 8, 8]) for name, size in (("mask", mask_channels), ("image", 3))]
    inputs = [("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    return write(path, nodes, inputs, ports, {"w": filters(mask_channels, 3), "v": filters(3, 3)})


def test_the_most_likely_of_several_outputs_is_taken(tmp_path: Path) -> None:
    model = of_onnx(two_outputs(tmp_path / "m.onnx"), IMAGES)
    assert (
        "it has 2 outputs (mask, image): image is taken; --result takes another, --keep-outputs keeps more of them"
        in model.notes
    )
    assert [value.name for value in model.model.graph.output] == ["image"]
    same = of_onnx(two_outputs(tmp_path / "s.onnx", 3), IMAGES)
    assert same.interface.output.name == "mask", "the first of those that are as likely"


@pytest.mark.parametrize("result", ["mask", "0", 0])
def test_an_output_is_chosen_by_name_or_index(result: str, tmp_path: Path) -> None:
    model = of_onnx(two_outputs(tmp_path / "m.onnx"), replace(IMAGES, result=result))
    assert (model.interface.output.name, model.interface.output.channels, model.notes) == ("mask", 1, ())
    with pytest.raises(UsageError, match=r"--result alpha: .* has the outputs mask, image"):
        of_onnx(tmp_path / "m.onnx", replace(IMAGES, result="alpha"))


def test_half_precision_ports_become_float32(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)]
    ports = [(name, TensorProto.FLOAT16, ["n", 3, "h", "w"]) for name in ("x", "y")]
    weights = filters(3, 3, np.float16)
    model = of_onnx(write(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], {"w": weights}), IMAGES)
    assert (model.interface.inputs[0].dtype, model.interface.output.dtype, model.precision) == (
        "float32",
        "float32",
        "fp16",
    )
    assert model.reference is not None
    assert model.reference([np.ones((1, 3, 8, 8), np.float32)]).dtype == np.float32


def conditional(path: Path, element: int, sizes: Sequence[object], first: bool = False) -> Path:
    """A latent plus what a class looks up, as a 3×2×2 image; the label of any form, behind the latent or before it."""
    label = [helper.make_node("Cast", ["label"], ["real"], to=TensorProto.FLOAT)]
    if len(sizes) > 1 and sizes[1] == 5:
        label += [
            helper.make_node("Reshape", ["real", "flat"], ["row"]),
            helper.make_node("MatMul", ["row", "table"], ["e"]),
        ]
    else:
        label += [helper.make_node("Reshape", ["label", "line"], ["index"])]
        label += [helper.make_node("Cast", ["index"], ["whole"], to=TensorProto.INT64)]
        label += [helper.make_node("Gather", ["table", "whole"], ["e"])]
    nodes = [*label, helper.make_node("Add", ["z", "e"], ["s"]), helper.make_node("Reshape", ["s", "shape"], ["y"])]
    inputs = [("z", TensorProto.FLOAT, ["n", 12]), ("label", element, ["n", *sizes[1:]])]
    tables = {"table": np.eye(5, 12, dtype=np.float32), "shape": np.array([-1, 3, 2, 2])}
    tables |= {"flat": np.array([-1, 5]), "line": np.array([-1])}
    ordered = inputs[::-1] if first else inputs
    return write(path, nodes, ordered, [("y", TensorProto.FLOAT, ["n", 3, 2, 2])], tables)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(
    ("element", "sizes"),
    [
        (TensorProto.INT32, ["n"]),
        (TensorProto.INT64, ["n", 1]),
        (TensorProto.UINT8, ["n"]),
        (TensorProto.FLOAT, ["n", 5]),
        (TensorProto.FLOAT16, ["n", 5]),
        (TensorProto.INT64, ["n", 5]),
        (TensorProto.FLOAT, ["n", 5, 1, 1]),
    ],
)
def test_labels_of_any_form_are_taken_as_class_numbers(
    element: int, sizes: Sequence[object], first: bool, tmp_path: Path
) -> None:
    path = conditional(tmp_path / "m.onnx", element, sizes, first)
    model = of_onnx(path, SourceSpec(kind="latent", classes=tuple("abcde")))
    assert [(port.role, port.dtype) for port in model.interface.inputs] == [("latent", "float32"), ("label", "int64")]
    assert model.reference is not None
    output = model.reference([np.zeros((2, 12), np.float32), np.array([2, 4], np.int64)])
    assert output.reshape(2, -1).tolist() == np.eye(5, 12)[[2, 4]].tolist()
    assert any("a vector with a one" in note for note in model.notes) == (len(sizes) > 1 and sizes[1] == 5)


def test_inputs_that_are_not_described_are_named(tmp_path: Path) -> None:
    path = conditional(tmp_path / "m.onnx", TensorProto.INT64, ["n"])
    with pytest.raises(UsageError, match=r"2 inputs \(z n×12, label n\): if label is a class, give --classes 5"):
        of_onnx(path, SourceSpec(kind="latent"))
    with pytest.raises(UsageError, match=r"takes one input \(x .*leave it out"):
        of_onnx(two_outputs(tmp_path / "t.onnx"), SourceSpec(kind="image", classes=("a", "b")))
    path = conditional(tmp_path / "m.onnx", TensorProto.FLOAT, ["n", 5])
    with pytest.raises(UsageError, match=r"2 inputs .*--classes 5"):
        of_onnx(path, SourceSpec(kind="latent", classes=()))


def flat(path: Path, values: int, sizes: Sequence[object]) -> Path:
    table = {"w": np.random.default_rng(0).standard_normal((6, values)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["z", "w"], ["y"])]
    return write(path, nodes, [("z", TensorProto.FLOAT, ["n", 6])], [("y", TensorProto.FLOAT, sizes)], table)


def test_flat_outputs_become_images(tmp_path: Path) -> None:
    path = flat(tmp_path / "m.onnx", 784, ["n", 784])
    model = of_onnx(path)
    assert model.interface.output.shape == ("batch", 1, 28, 28)
    assert "input: latent z n×6, by its shape; --kind states another" in model.notes
    assert any("taken for an image of 1x28x28" in note for note in model.notes)
    assert model.reference is not None
    assert model.reference([np.zeros((3, 6), np.float32)]).shape == (3, 1, 28, 28)
    stated = of_onnx(flat(tmp_path / "s.onnx", 24, []), SourceSpec(output_shape="1x4x6"))
    assert stated.interface.output.shape == ("batch", 1, 4, 6)
    with pytest.raises(UsageError, match=r"--output-shape 1x8x8: .*y n×784 = 784 values"):
        of_onnx(path, SourceSpec(output_shape="1x8x8"))
    with pytest.raises(UsageError, match=r"already; leave it out"):
        of_onnx(two_outputs(tmp_path / "t.onnx"), replace(IMAGES, output_shape="3x8x8"))


def one_convolution(path: Path, sizes: Sequence[object], element: int = TensorProto.FLOAT) -> Path:
    """A convolution of one pixel; in NHWC where the last dimension is 3 or unknown."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    if sizes[-1] == 3:
        nodes = [helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2])]
        nodes += [helper.make_node("Conv", ["a", "w"], ["b"])]
        nodes += [helper.make_node("Transpose", ["b"], ["y"], perm=[0, 2, 3, 1])]
    dtype = helper.tensor_dtype_to_np_dtype(element)
    weights = {"w": filters(3, 3, dtype)[:, :, :1, :1]}
    return write(path, nodes, [("x", element, sizes)], [("y", element, sizes)], weights)


@pytest.mark.parametrize("sizes", [["n", 3, "h", "w"], ["n", "h", "w", 3]])
def test_images_are_normalised_inside_the_graph(sizes: Sequence[object], tmp_path: Path) -> None:
    path = one_convolution(tmp_path / "m.onnx", sizes)
    spec = SourceSpec(mean="0.5,0.4,0.3", std="0.2,0.3,0.4", range="0,1")
    plain, model = of_onnx(path), of_onnx(path, spec)
    assert model.interface.inputs[0].range == (0.0, 1.0)
    last = sizes[-1] == 3
    image = np.random.default_rng(0).random((2, 4, 5, 3) if last else (2, 3, 4, 5)).astype(np.float32)
    shape = (1, 1, 1, 3) if last else (1, 3, 1, 1)
    mean, std = (np.array(values, np.float32).reshape(shape) for values in (spec.mean, spec.std))
    assert model.reference is not None
    assert plain.reference is not None
    np.testing.assert_allclose(model.reference([image]), plain.reference([(image - mean) / std]), atol=1e-5)
    other = of_onnx(path, SourceSpec(range="0,255", output_range="-1,1"))
    assert (other.interface.inputs[0].range, other.interface.output.range) == ((0.0, 255.0), (-1.0, 1.0))
    with pytest.raises(UsageError, match="images of 3 channels go in"):
        of_onnx(path, SourceSpec(mean="0.5,0.4"))
    with pytest.raises(UsageError, match="--mean: z n×6 is no image"):
        of_onnx(flat(tmp_path / "f.onnx", 784, ["n", 784]), SourceSpec(mean="0.5"))


def test_double_precision_ports_become_float32(tmp_path: Path) -> None:
    model = of_onnx(one_convolution(tmp_path / "m.onnx", ["n", 3, 8, 8], TensorProto.DOUBLE))
    assert (model.interface.inputs[0].dtype, model.interface.output.dtype) == ("float32", "float32")


def test_an_input_shape_can_be_stated(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    ports = [(name, TensorProto.FLOAT, UNKNOWN) for name in ("x", "y")]
    path = write(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], {})
    with pytest.raises(UsageError, match=r"does not say what goes into x .*--kind"):
        of_onnx(path)
    with pytest.raises(UsageError, match=r"no 1, 3 or 4 channels; give --input 3xHxW \(HxWx3"):
        of_onnx(path, IMAGES)
    assert of_onnx(path, replace(IMAGES, input="HxWx3")).interface.inputs[0].layout == "NHWC"
    assert of_onnx(path, replace(IMAGES, input="3xHxW")).interface.output.shape == ("batch", 3, "height", "width")
    with pytest.raises(UsageError, match=r"--input 1x8x8: .*x n×3×8×8"):
        of_onnx(one_convolution(tmp_path / "c.onnx", ["n", 3, 8, 8]), SourceSpec(input="1x8x8"))


def test_random_numbers_are_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], "blocks.0/noise"),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    ports = [(name, TensorProto.FLOAT, ["n", 3, 8, 8]) for name in ("x", "y")]
    path = write(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], {})
    with pytest.raises(UsageError, match=r"draws random numbers .*\(RandomNormalLike blocks.0/noise\)"):
        of_onnx(path)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_unknown_dimensions_are_read_from_the_first_convolution(
    channels_last: bool, groups: int, tmp_path: Path
) -> None:
    conv = helper.make_node("Conv", ["b", "w"], ["c"], pads=[1] * 4, group=groups)
    half = numpy_helper.from_array(np.float32(0.5), "half")
    nodes = [helper.make_node("Mul", ["x", "half"], ["a"])]
    if channels_last:
        nodes += [helper.make_node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]), conv]
        nodes += [helper.make_node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1])]
    else:
        nodes += [helper.make_node("Identity", ["a"], ["b"]), conv, helper.make_node("Tanh", ["c"], ["y"])]
    ports = [(name, TensorProto.FLOAT, UNKNOWN) for name in ("x", "y")]
    weights = {"w": filters(3, 3 // groups), "half": numpy_helper.to_array(half)}
    model = of_onnx(write(tmp_path / "m.onnx", nodes, ports[:1], ports[1:], weights), IMAGES)
    layout = "NHWC" if channels_last else "NCHW"
    shape = ("batch", "height", "width", 3) if channels_last else ("batch", 3, "height", "width")
    for port in (model.interface.inputs[0], model.interface.output):
        assert (port.layout, port.shape) == (layout, shape)
