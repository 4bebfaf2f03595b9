"""INT8, bytes at the boundary, values looked at, and .onnx files as a source."""

from __future__ import annotations

import importlib.abc
import itertools
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ganedge.export import (
    artifact,
    calibration,
    conversion,
    export,
    layers,
    parity,
    phases,
    precision,
    quantize,
    rewrite,
    sensitivity,
    uint8_io,
)
from ganedge.export.conversion import Conversion
from ganedge.export.from_onnx import has_global_ops, of_onnx, with_size
from ganedge.export.sensitivity import Sensitivity
from ganedge.export.source import SourceSpec
from ganedge.export.source_model import SourceModel
from ganedge.runtime import engines, fidelity, inputs, load
from ganedge.runtime.errors import EngineError, GanEdgeError, InputError, UsageError
from ganedge.runtime.inputs import USES, real_cases, real_inputs
from ganedge.runtime.manifest import Interface, Port, Source, read_artifact
from ganedge.runtime.pictures.images import to_pixels

Command = Callable[..., Any]
LATENT = Interface(
    "latent-to-image",
    (Port("z", "latent", "float32", ("batch", 6, 1, 1), "NCHW"),),
    (Port("image", "image", "float32", ("batch", 3, 8, 8), "NCHW", (-1.0, 1.0)),),
    "normal",
)
PICTURE = Interface(
    "image-to-image",
    (Port("x", "image", "float32", ("batch", 3, 8, 8), "NCHW", (-1.0, 1.0)),),
    (Port("image", "image", "float32", ("batch", 3, 16, 16), "NCHW", (-1.0, 1.0)),),
)
PHOTOS = [real_inputs(PICTURE, 8, 3)]
TARGETS: tuple[quantize.Target, ...] = ("openvino", "onnxruntime")


def ports(given: tuple[int | str, ...], made: tuple[int | str, ...]) -> Any:
    """An interface with any number of channels, from `x` to `image`."""
    return SimpleNamespace(
        inputs=[SimpleNamespace(name="x", shape=given)], outputs=[SimpleNamespace(name="image", shape=made)]
    )


def graph(
    interface: Interface, nodes: list[Any], weights: dict[str, np.ndarray], whole: dict[str, np.ndarray] | None = None
) -> ModelProto:
    ports = [
        [helper.make_tensor_value_info(port.name, TensorProto.FLOAT, port.shape) for port in kind]
        for kind in (interface.inputs, interface.outputs)
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    tensors += [numpy_helper.from_array(value, name) for name, value in (whole or {}).items()]
    made = helper.make_model(
        helper.make_graph(nodes, "g", *ports, tensors), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    return rewrite.tidy(made, {"batch"})


def dcgan() -> ModelProto:
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("ConvTranspose", ["z", "w1", "b1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("ConvTranspose", ["b", "w2"], ["c"], "second", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Tanh", ["c"], ["image"], "tanh"),
    ]
    weights = {"w1": random.normal(0, 0.4, (6, 8, 4, 4)), "b1": random.normal(size=8)}
    return graph(LATENT, nodes, {**weights, "w2": random.normal(0, 0.1, (8, 3, 4, 4))})


def run(model: ModelProto, *arrays: np.ndarray) -> np.ndarray:
    """What the graph says, in FP32: INT8 kernels of processors without VNNI clip sums."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feeds = {value.name: array for value, array in zip(session.get_inputs(), arrays, strict=True)}
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "extra"),
    [(4, 2, 1, 0), (3, 2, 1, 1), (2, 2, 0, 0), (5, 2, 2, 1), (6, 2, 2, 0), (3, 3, 0, 0), (3, 1, 1, 0)],
)
@pytest.mark.parametrize(("rows", "channels"), [(False, 3), (True, 3), (True, 50)], ids=["plain", "blocks", "crop"])
def test_transposed_convolutions_as_pixel_shuffles(
    kernel: int, stride: int, pad: int, extra: int, rows: bool, channels: int
) -> None:
    random = np.random.default_rng(0)
    side = 8 * stride
    interface = ports(("batch", 3, 8, 8), ("batch", channels, side, side))
    said = {"strides": [stride] * 2, "pads": [pad] * 4, "output_padding": [extra] * 2}
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], "up", **said),
        helper.make_node("LeakyRelu", ["y"], ["image"], "act", alpha=0.2),
    ]
    weights = {"w": random.normal(size=(3, channels, kernel, kernel)), "b": random.normal(size=channels)}
    full = graph(interface, nodes, weights)
    shuffled = ModelProto()
    shuffled.CopyFrom(full)
    assert rewrite.transposed_to_shuffle(shuffled, channels_last=rows) == 1
    shuffled = rewrite.tidy(shuffled, {"batch"})
    kinds = {node.op_type for node in shuffled.graph.node}
    assert ("Reshape" in kinds) == (rows and (stride > 1 or channels == 3))
    assert ("Slice" in kinds) == (channels == 50 and kernel == 4), "2 × 2 weights instead of 3 × 3, and a crop"
    assert "ConvTranspose" not in kinds
    x = random.normal(size=(3, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(shuffled, x), run(full, x), atol=1e-5)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_doubling_as_a_pixel_shuffle(kernel: int, rows: bool) -> None:
    random = np.random.default_rng(0)
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["y"], "double", **how),
        helper.make_node("Conv", ["y", "w"], ["image"], "conv", pads=[kernel // 2] * 4),
    ]
    weights = {"scales": np.float32([1, 1, 2, 2]), "w": random.normal(size=(3, 3, kernel, kernel))}
    full = graph(PICTURE, nodes, weights)
    shuffled = ModelProto()
    shuffled.CopyFrom(full)
    assert rewrite.upsampled_to_shuffle(shuffled, channels_last=rows) == 1
    shuffled = rewrite.tidy(shuffled, {"batch"})
    assert ("DepthToSpace" in {node.op_type for node in shuffled.graph.node}) != rows
    assert "Resize" not in {node.op_type for node in shuffled.graph.node}
    x = random.normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(shuffled, x), run(full, x), atol=1e-5)


@pytest.mark.parametrize(
    ("before", "side"),
    [
        ([], 8),
        ([helper.make_node("Pad", ["x", "pads"], ["p"], "pad", mode="reflect")], 8),
        ([helper.make_node("DepthToSpace", ["x"], ["p"], "up", blocksize=2)], "height"),
    ],
    ids=["static", "padded", "doubled"],
)
def test_few_channels_in_blocks(before: list[Any], side: int | str) -> None:
    """A convolution with few output channels computes blocks of pixels, where sides are known to be multiples."""
    random = np.random.default_rng(0)
    sizes = (side, side) if side == 8 else ("height", "width")
    interface = ports(("batch", 12, *sizes), ("batch", 3, *(sizes if side == 8 else ("a", "b"))))
    channels, pads = (3, 1) if before and before[0].op_type == "DepthToSpace" else (12, 0 if before else 1)
    conv = helper.make_node("Conv", ["p" if before else "x", "w", "bias"], ["image"], "last", pads=[pads] * 4)
    tensors = {"w": random.normal(size=(3, channels, 3, 3)), "bias": random.normal(size=3)}
    full = graph(interface, [*before, conv], tensors, {"pads": np.array([0, 0, 1, 1] * 2)} if pads == 0 else {})
    blocks = ModelProto()
    blocks.CopyFrom(full)
    assert rewrite.few_channels_to_blocks(blocks) == 1
    assert {tuple(tensor.dims[2:]) for tensor in blocks.graph.initializer if tensor.name.startswith("w_")} == (
        {(6, 6)} if side == 8 else {(4, 4)}
    )
    blocks = rewrite.tidy(blocks, rewrite.symbols(full))
    for height, width in ((8, 8),) if side == 8 else ((8, 8), (5, 7)):
        x = random.normal(size=(2, 12, height, width)).astype(np.float32)
        np.testing.assert_allclose(run(blocks, x), run(full, x), atol=1e-5)


def test_unknown_sides_take_no_blocks() -> None:
    shape = ("batch", 3, "height", "width")
    conv = helper.make_node("Conv", ["x", "w"], ["image"], "last", pads=[1] * 4)
    full = graph(ports(shape, shape), [conv], {"w": np.ones((3, 3, 3, 3))})
    assert rewrite.few_channels_to_blocks(full) == 0


def test_int8_forms() -> None:
    full, inputs = dcgan(), [real_inputs(LATENT, 16, 5)]
    wanted = run(full, *inputs[0])
    for target in ("onnxruntime", "openvino", "tensorrt"):
        low, share, _ = quantize.to_int8(full, inputs, target)
        found = fidelity.difference(run(low, *inputs[0]), wanted, LATENT.output)
        assert share == 1
        assert found.psnr is not None
        assert found.psnr > 30
        kinds = {tensor.data_type for tensor in low.graph.initializer}
        assert (TensorProto.INT32 in kinds) == (target == "onnxruntime"), "TensorRT's parser takes no quantised bias"
        assert (TensorProto.UINT8 in kinds) == (target == "onnxruntime"), "and no unsigned values"
        assert ("ConvTranspose" in {node.op_type for node in low.graph.node}) == (target == "openvino")
    low, share, _ = quantize.to_int8(full, inputs, "openvino", frozenset({"second"}))
    assert 0 < share < 1
    with pytest.raises(GanEdgeError, match="nothing in this generator"):
        quantize.to_int8(full, inputs, "openvino", frozenset({"first", "second"}))


SAME_SIZE = replace(PICTURE, outputs=(replace(PICTURE.output, shape=("batch", 3, 8, 8)),))


def mixed(activation: str = "Relu") -> ModelProto:
    """Layers and what follows them: before the first, between, behind one that is kept, and a tensor that two read."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node(activation, ["x"], ["r"], "before"),
        helper.make_node("Conv", ["r", "w", "bias"], ["a"], "conv", pads=[1] * 4),
        helper.make_node(activation, ["a"], ["b"], "bent"),
        helper.make_node("MatMul", ["b", "m"], ["c"], "product"),
        helper.make_node(activation, ["c"], ["d"], "again"),
        helper.make_node("Conv", ["d", "w2"], ["e"], "kept", pads=[1] * 4),
        helper.make_node(activation, ["e"], ["f"], "of kept"),
        helper.make_node("Add", ["f", "b"], ["image"], "sum"),
    ]
    weights = {name: random.normal(size=(3, 3, 3, 3)) for name in ("w", "w2")}
    return graph(SAME_SIZE, nodes, {**weights, "m": random.normal(size=(8, 8)), "bias": random.normal(size=3)})


def rounded(full: ModelProto, inputs: Any, target: quantize.Target, keep: frozenset[str] = frozenset()) -> ModelProto:
    """A graph in INT8 as the quantiser leaves it, without any rewrite before or behind."""
    quantiser = quantize.Quantiser(full, inputs, target)
    quantiser.prepared = full
    return quantize._quantise(full, quantiser.ranges, target, keep)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_what_is_rounded_for_whom(target: quantize.Target, activation: str) -> None:
    """What goes into a layer alone, and each tensor once; what comes from no INT8 layer stays as it is."""
    full, inputs = mixed(activation), [real_inputs(SAME_SIZE, 8, 3)]
    low = rounded(full, inputs, target, frozenset({"kept"}))
    nodes = {node.name: node for node in low.graph.node}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in low.graph.initializer}
    pairs = [node for node in low.graph.node if node.op_type == "QuantizeLinear"]
    between = target == "onnxruntime" and activation == "LeakyRelu"  # It computes in INT8 there.
    assert [node.input[0] for node in pairs] == (["r", "a", "b", "c", "d"] if between else ["r", "b"])
    fused = target == "onnxruntime" and activation == "Relu"
    assert nodes["conv"].output[0] == ("b" if fused else "a"), "its Relu is within or behind it"
    assert [nodes[name].input[0] for name in ("before", "of kept")] == ["x", "e"]
    assert list(nodes["kept"].input) == ["d_DequantizeLinear_Output" if between else "d", "w2"]
    unsigned = target == "onnxruntime"
    for node in pairs:
        assert constants[node.input[2]].dtype == (np.uint8 if unsigned else np.int8)
        assert between or constants[node.input[2]] == 0
    largest = max(float(batch.max()) for batch in inputs[0])
    assert float(constants["r_scale"]) == pytest.approx(largest / 255 if unsigned else largest / 127, rel=0.02)
    scales = np.abs(numpy_helper.to_array(full.graph.initializer[0])).max((1, 2, 3)) / 127
    np.testing.assert_allclose(constants["w_scale"], scales, rtol=0.02)
    assert constants["w_quantized"].dtype == np.int8
    assert not constants["w_zero_point"].any()
    assert ("bias_quantized" in constants) == unsigned
    assert inputs[0][0].min() < 0, "or else the signs would not show"


def test_values_of_both_signs_for_onnx_runtime_have_a_zero_of_their_own() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["image"], "conv", pads=[1] * 4)]
    full = graph(SAME_SIZE, nodes, {"w": np.random.default_rng(0).normal(size=(3, 3, 3, 3))})
    data = np.random.default_rng(0).uniform(-1, 3, (4, 3, 8, 8)).astype(np.float32)
    for target, low, high in (("onnxruntime", -1, 3), ("openvino", -3, 3)):
        made = rounded(full, [[data]], target)  # type: ignore[arg-type]
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
        assert float(constants["x_scale"]) == pytest.approx((high - low) / (255 if low == -1 else 254), rel=0.02)
        assert int(constants["x_zero_point"]) == (64 if target == "onnxruntime" else 0)
        results = ["image_QuantizeLinear_Input"] if target == "onnxruntime" else []
        assert [node.input[0] for node in made.graph.node if node.op_type == "QuantizeLinear"] == ["x", *results]


def test_matrix_products_of_onnx_runtime_give_floating_point() -> None:
    nodes = [
        helper.make_node("Gemm", ["z", "w1", "b"], ["a"], "gemm", transB=1),
        helper.make_node("Relu", ["a"], ["c"], "bent"),
        helper.make_node("Tanh", ["c"], ["points"], "tanh"),
    ]
    latent = (Port("z", "latent", "float32", ("batch", 6), "NC"),)
    points = (Port("points", "points", "float32", ("batch", 2), "NC"),)
    interface = Interface("latent-to-points", latent, points, "normal")
    full = graph(interface, nodes, {"w1": np.random.default_rng(0).normal(size=(2, 6)), "b": np.ones(2)})
    low, share, _ = quantize.to_int8(full, [real_inputs(interface, 8, 3)], "onnxruntime", frozenset())
    assert share == 1
    assert [node.input[0] for node in low.graph.node if node.op_type == "QuantizeLinear"] == ["z"]


def test_transposed_convolutions_that_tensorrt_has_no_kernel_for_stay_wide() -> None:
    """Those in groups, which are no pixel shuffle."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["y"], "conv", pads=[1] * 4),
        helper.make_node("ConvTranspose", ["y", "w"], ["image"], "up", group=3, strides=[2, 2], pads=[1] * 4),
    ]
    random = np.random.default_rng(0)
    weights = {"w0": random.normal(size=(3, 3, 3, 3)), "w": random.normal(size=(3, 1, 4, 4))}
    full = graph(PICTURE, nodes, weights)
    for target, share in (("tensorrt", False), ("openvino", True)):
        low = quantize.to_int8(full, PHOTOS, target)[0]  # type: ignore[arg-type]
        up = next(node for node in low.graph.node if node.op_type == "ConvTranspose")
        assert ("w" not in up.input) == share
        assert [layer.int8 for layer in quantize.work(low, [(1, 3, 8, 8)])] == [True, share]


def test_the_work_of_each_layer() -> None:
    layers = quantize.work(mixed(), [(2, 3, 8, 8)])
    assert [(layer.name, layer.count, layer.int8) for layer in layers] == [
        ("conv", 2 * 64 * 81, False),
        ("product", 2 * 3 * 8 * 64, False),
        ("kept", 2 * 64 * 81, False),
    ]
    low = quantize.to_int8(mixed(), [real_inputs(SAME_SIZE, 8, 3)], "openvino", frozenset({"kept"}))
    assert [layer.int8 for layer in quantize.work(low[0], [(1, 3, 8, 8)])] == [True, True, False]
    assert low[1:] == (pytest.approx((5184 + 1536) / (2 * 5184 + 1536)), "openvino")
    assert quantize.int8_share(graph(SAME_SIZE, [helper.make_node("Tanh", ["x"], ["image"])], {}), [(1, 3, 8, 8)]) == 0


def test_results_of_layers_as_they_are_and_shuffled() -> None:
    assert quantize.results(mixed()) == {
        "a": "conv",
        "b": "conv",
        "c": "product",
        "d": "product",
        "e": "kept",
        "f": "kept",
    }


@pytest.mark.parametrize(("batch", "size"), [("batch", 1), (2, 2)])
def test_calibration_inputs_batch_by_batch(batch: int | str, size: int) -> None:
    """Whole batches alone, of each group of inputs in turn."""
    port = replace(PICTURE.inputs[0], shape=(batch, 1, 1, 1))
    interface = Interface("image-to-image", (port,), (replace(port, name="image"),))
    full = graph(interface, [helper.make_node("Conv", ["x", "w"], ["image"], "conv")], {"w": np.ones((1, 1, 1, 1))})
    groups = [[np.arange(5.0, dtype=np.float32)], [np.arange(10.0, 12.0, dtype=np.float32)]]
    cases = [[array.reshape(-1, 1, 1, 1) for array in group] for group in groups]
    quantiser = quantize.Quantiser(full, cases, "openvino")
    seen: list[phases.Phase] = []
    with phases.reported_to(seen.append):
        feeds = [{name: array.ravel().tolist() for name, array in feed.items()} for feed in quantiser._feeds()]
    assert seen == [phases.Phase("calibrating", done, len(feeds)) for done in range(len(feeds))]
    expected = [[0], [1], [2], [3], [4], [10], [11]] if size == 1 else [[0, 1], [2, 3], [10, 11]]
    assert feeds == [{"x": values} for values in expected]
    assert quantiser.ranges == {"x": (0, 11)}


def test_a_closer_look_takes_a_few_inputs_of_each_group(monkeypatch: pytest.MonkeyPatch) -> None:
    full = graph(
        SAME_SIZE, [helper.make_node("Conv", ["x", "w"], ["image"], "c", pads=[1] * 4)], {"w": np.ones([3] * 4)}
    )
    group = [np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32)]
    for most, calls in ((191, quantize.FEW_PICTURES), (192, quantize.MOST_CALLS)):
        monkeypatch.setattr(quantize, "LATENT_VALUES", most)
        for groups in (1, 2, 3, calls + 1):
            feeds = quantize.Quantiser(full, [group] * groups, "openvino")._few_feeds()
            assert len(feeds) == groups * max(1, calls // groups)
    ranges = []
    for target, symmetric in (("openvino", True), ("onnxruntime", False)):
        quantiser = quantize.Quantiser(full, [group], target)  # type: ignore[arg-type]
        ranges.append(quantiser._ranges_by("percentile"))
        narrowed = calibration.narrowed(quantiser._samples, quantiser.ranges, "percentile", symmetric=symmetric)
        assert ranges[-1] == narrowed
        assert quantiser._ranges_by("minmax") == quantiser.ranges
    assert ranges[0]["x"] != ranges[1]["x"]


def test_forms_that_an_engine_here_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed in (["onnxruntime", "openvino"], ["onnxruntime"], ["openvino"], []):
        monkeypatch.setattr(quantize.engines, "installed", lambda name, installed=installed: name in installed)
        assert quantize.runnable_targets() == installed


def test_advice_of_the_quantiser_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with quantize.quiet():
        logging.getLogger().warning("run this first")
        logging.getLogger().error("it failed")
    logging.getLogger().warning("behind it")
    with pytest.raises(KeyError), quantize.quiet():
        raise KeyError
    logging.getLogger().warning("again")
    assert caplog.messages == ["it failed", "behind it", "again"]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_how_fast_int8_is_needs_no_calibration(monkeypatch: pytest.MonkeyPatch, target: Any) -> None:
    model, inputs = dcgan(), real_inputs(LATENT, 2)
    calibrated, share, _ = quantize.to_int8(model, [inputs], target)
    assert share > 0
    monkeypatch.setattr(layers, "value_ranges", lambda *_: pytest.fail("it ran the FP32 graph"))
    quick = quantize.as_fast_as_int8(model, inputs, target)
    assert [node.op_type for node in quick.graph.node] == [node.op_type for node in calibrated.graph.node]


@pytest.mark.parametrize(("slower", "first"), [(0.5, "onnxruntime"), (1.05, "onnxruntime"), (2.0, "openvino")])
def test_the_choice_of_engine_has_a_margin(monkeypatch: pytest.MonkeyPatch, slower: float, first: str) -> None:
    """Engines that are about as fast do not take turns from export to export."""
    clock = [0.0]

    def start(_model: bytes, _precision: str, name: str, *_: Any) -> Any:
        cost = slower if name == "onnxruntime" else 1.0
        return SimpleNamespace(run=lambda _: clock.append(clock[-1] + cost), close=lambda: None)

    monkeypatch.setattr(quantize, "runnable_targets", lambda: ["onnxruntime", "openvino"])
    monkeypatch.setattr(quantize, "as_fast_as_int8", lambda model, *_: model)
    monkeypatch.setattr(artifact.engines, "start", start)
    monkeypatch.setattr(artifact.time, "perf_counter", lambda: clock[-1])
    inputs = [real_inputs(LATENT, 2)]
    source = SourceModel(dcgan(), LATENT, "none", Source(), None, Path())
    variants = artifact._targets(source, artifact.ExportSpec(precision="int8"), inputs)
    assert variants[0][0].engine == first
    assert {spec.engine for spec, _ in variants} == {"onnxruntime", "openvino"}
    assert f"made for {first}" in variants[0][1][0]


def test_more_latents_then_the_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the gate is missed INT8 is calibrated with more latents, and the other engine's variant is tried."""
    seen: list[tuple[str | None, int]] = []

    class Noted(Conversion):
        def __init__(self, source: Any, kind: Any, spec: Any, calibrated: Any) -> None:
            seen.append((spec.engine, len(calibrated[0][0])))
            super().__init__(source, kind, spec, calibrated)

    def no_layers(*_: Any) -> Any:
        return SimpleNamespace(kept=lambda _, keep, _missed: keep, worst="the first layer")

    monkeypatch.setattr(artifact, "Conversion", Noted)
    monkeypatch.setattr(artifact, "losses_of", no_layers)
    monkeypatch.setattr(
        artifact, "_targets", lambda _source, spec, *_: [(replace(spec, engine=name), ()) for name in TARGETS]
    )
    source = SourceModel(dcgan(), LATENT, "none", Source(), lambda arrays: run(dcgan(), *arrays), Path())
    with pytest.raises(GanEdgeError, match=r"onnxruntime|openvino"):
        artifact.make(source, artifact.ExportSpec(precision="int8", tolerance="psnr=99"))
    assert seen == [(name, count) for name in TARGETS for count in (artifact.LATENTS, artifact.MORE_LATENTS)]


def test_where_its_own_engine_fails_to_the_end_all_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="the engine that fails is not installed")
    tried: list[str] = []
    real = parity._prove_in

    def prove_in(*arguments: Any) -> Any:
        tried.append(arguments[4])
        return replace(real(*arguments), passed=arguments[4] != "openvino")

    monkeypatch.setattr(parity, "_prove_in", prove_in)
    monkeypatch.setattr(
        artifact,
        "losses_of",
        lambda *_: SimpleNamespace(kept=lambda _, keep, _missed: keep, worst="the first layer"),
    )
    monkeypatch.setattr(artifact, "_targets", lambda _source, spec, *_: [(replace(spec, engine="openvino"), ())])
    source = SourceModel(dcgan(), LATENT, "none", Source(), lambda arrays: run(dcgan(), *arrays), Path())
    made = artifact.make(source, artifact.ExportSpec(precision="int8"))
    assert (list(made.manifest.proven), list(made.manifest.failed)) == (["onnxruntime"], ["openvino"])
    assert tried[:2] == ["openvino"] * 2, "while attempts go on, in that engine alone"
    assert tried[2:] == [*engines.readers("int8")] * 2


def lopsided() -> ModelProto:
    """Three convolutions; one of the second's input channels is a thousand times as large as the others.

    Its weights make up for that, so that the function is harmless, and rounding by a scale for all channels is not.
    """
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.normal(size=(8, 8 if i else 3, 3, 3)) / 8 for i in range(2)}
    weights |= {"w2": random.normal(size=(3, 8, 3, 3)) / 8, "scales": np.float32([1, 1, 2, 2])}
    weights["w0"][0] *= 1000
    weights["w1"][:, 0] /= 1000
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "bent"),
        helper.make_node("Conv", ["b", "w1"], ["c"], "second", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"], "bent_again"),
        helper.make_node("Resize", ["d", "", "scales"], ["e"], "larger", mode="nearest"),
        helper.make_node("Conv", ["e", "w2"], ["f"], "third", pads=[1] * 4),
        helper.make_node("Tanh", ["f"], ["image"], "tanh"),
    ]
    return graph(PICTURE, nodes, weights)


@pytest.mark.parametrize("target", TARGETS)
def test_few_layers_are_left_out(target: quantize.Target) -> None:
    full = lopsided()
    prepared = quantize.prepared(full, target)
    low, share, _ = quantize.to_int8(full, PHOTOS, target)
    assert share == 1
    effect = Sensitivity(prepared, low, target, PHOTOS, PICTURE)
    assert [group.nodes for group in effect.groups] == [("first",), ("second",), ("third",)]
    gate = fidelity.Gate(psnr=38)
    keep = effect.kept(gate)
    # For ONNX Runtime what the first gives is rounded with it, so that leaving out the second alone would not help.
    assert keep == ({"second"} if target == "openvino" else {"first", "second"})
    low, share, _ = quantize.to_int8(full, PHOTOS, target, keep)
    assert 0 < share < 1
    inputs = real_inputs(PICTURE, 4, 5)
    found = fidelity.difference(run(low, *inputs), run(full, *inputs), PICTURE.output)
    assert gate.holds(found, 1.2)
    assert effect.kept(fidelity.Gate(psnr=5)) == frozenset()
    assert len(effect.kept(fidelity.Gate(psnr=200))) == 2, "never all of them"


@pytest.mark.parametrize("rounded", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("target", TARGETS)
def test_the_foresight_is_what_an_engine_gives(target: quantize.Target, rounded: tuple[int, ...]) -> None:
    full, names = lopsided(), ("first", "second", "third")
    low, _, _ = quantize.to_int8(full, PHOTOS, target)
    effect = Sensitivity(quantize.prepared(full, target), low, target, PHOTOS, PICTURE)
    foreseen = effect.difference(rounded).psnr
    keep = frozenset(name for place, name in enumerate(names) if place not in rounded)
    low, _, _ = quantize.to_int8(full, PHOTOS, target, keep)
    items = [array[::2] for array in PHOTOS[0]]
    found = fidelity.difference(run(low, *items), run(full, *items), PICTURE.output).psnr
    assert foreseen is not None
    assert found is not None
    assert foreseen == pytest.approx(found, abs=2.0) or min(foreseen, found) > 60


def test_the_foresight_of_latents_is_of_the_worst_of_many() -> None:
    full = dcgan()
    latents = real_inputs(LATENT, 64, 5)
    low, _, _ = quantize.to_int8(full, [real_inputs(LATENT, 16, 6)], "openvino")
    effect = Sensitivity(full, low, "openvino", [latents], LATENT)
    found = fidelity.difference(run(low, *latents), run(full, *latents), LATENT.output).psnr
    assert effect.difference((0, 1)).psnr == pytest.approx(found, abs=0.5)


def test_weights_that_others_read_too() -> None:
    """Two layers share weights, and a node that is no layer reads them: all of them get the rounded ones."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Conv", ["a", "w"], ["b"], "second", pads=[1] * 4),
        helper.make_node("ReduceMax", ["w"], ["top"], "read", keepdims=0),
        helper.make_node("Mul", ["b", "top"], ["c"], "scaled"),
        helper.make_node("Resize", ["c", "", "scales"], ["image"], "larger", mode="nearest"),
    ]
    full = graph(PICTURE, nodes, {"w": random.normal(size=(3, 3, 3, 3)) / 8, "scales": np.float32([1, 1, 2, 2])})
    low, _, _ = quantize.to_int8(full, PHOTOS, "openvino")
    effect = Sensitivity(full, low, "openvino", PHOTOS, PICTURE)
    items = [array[::2] for array in PHOTOS[0]]
    wanted = fidelity.difference(run(low, *items), run(full, *items), PICTURE.output).psnr
    assert effect.difference((0, 1)).psnr == pytest.approx(wanted, abs=1.0)


def test_what_overflows_stays_wide() -> None:
    full = dcgan()
    next(t for t in full.graph.initializer if t.name == "w1").CopyFrom(
        numpy_helper.from_array(np.full((6, 8, 4, 4), 3e4, np.float32), "w1")
    )
    small = next(t for t in full.graph.initializer if t.name == "w2")
    small.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(small) * np.float32(1e-3), "w2"))
    inputs = [real_inputs(LATENT, 4, 5)]
    wide = precision.overflowing(full, layers.largest_values(full, inputs))
    assert {"first", "relu", "second"} <= wide
    assert "tanh" not in wide


@pytest.mark.skipif(not engines.installed("openvino"), reason="needs OpenVINO, the one engine here that reads bf16")
def test_bf16_keeps_first_layers_where_it_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SourceModel(lopsided(), PICTURE, "none", Source(), lambda arrays: run(lopsided(), *arrays), Path())
    tried: list[frozenset[str]] = []
    convert = precision.to_half

    def watched(model: ModelProto, kind: precision.Half, keep: frozenset[str]) -> ModelProto:
        tried.append(keep)
        return convert(model, kind, keep)

    monkeypatch.setattr(conversion, "to_half", watched)
    with pytest.raises(GanEdgeError, match="lost in the first layers"):
        artifact.make(original, artifact.ExportSpec(precision="bf16", tolerance=fidelity.Gate(psnr=120)))
    assert tried == [frozenset(), {"first"}, {"first", "second"}], "and never all of them"


def test_nodes_without_names_can_be_left_out(tmp_path: Path) -> None:
    full = lopsided()
    for node in full.graph.node:
        node.name = "same" if node.op_type == "Relu" else ""
    onnx.save(full, tmp_path / "g.onnx")
    original = of_onnx(tmp_path / "g.onnx", SourceSpec(kind="image"))
    assert len({node.name for node in original.model.graph.node}) == len(full.graph.node)
    wanted = artifact.ExportSpec(precision="int8", engine="openvino", tolerance=fidelity.Gate(psnr=38))
    proven = artifact.make(original, wanted)
    assert all(proof.passed for proof in proven.manifest.parity)
    assert "0%" not in proven.notes[-1]
    assert "100%" not in proven.notes[-1], "some layers stay as they were"


def types_of(model: ModelProto) -> dict[str, int]:
    """The type of what each node gives, by the node's name or else its operator."""
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    return {node.name or node.op_type: types[node.output[0]] for node in model.graph.node}


@pytest.mark.parametrize("remainder", [None, "fp16", "fp32"])
def test_what_is_not_int8_is_fp16_for_tensorrt(remainder: Any, tmp_path: Path) -> None:
    onnx.save(dcgan(), tmp_path / "theirs.onnx")
    made = export(
        tmp_path / "theirs.onnx",
        kind="latent",
        precision="int8",
        engine="tensorrt",
        remainder=remainder,
        output=tmp_path / "g.onnx",
    )
    manifest, data = read_artifact(tmp_path / "g.onnx")
    assert (manifest.precision, manifest.remainder) == ("int8", "" if remainder == "fp32" else "fp16")
    assert made.parity[0].passed
    model = onnx.load_model_from_string(data)
    element = TensorProto.FLOAT if remainder == "fp32" else TensorProto.FLOAT16
    types = types_of(model)
    assert {types[name] for name in ("first", "second", "relu", "tanh")} == {element}
    makers = {name: node for node in model.graph.node for name in node.output}
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for layer in (node for node in model.graph.node if node.op_type == "Conv"):
        read = [makers[name] for name in layer.input[:2]]
        assert [node.op_type for node in read] == ["DequantizeLinear"] * 2, "and no cast between"
        assert {weights[node.input[1]] for node in read} == {element}, "scales are of the layer's type"
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {1}
    again = of_onnx(tmp_path / "g.onnx", SourceSpec())
    assert artifact.make(again, artifact.ExportSpec()).manifest.remainder == manifest.remainder


def test_normalisation_and_coarse_scales_stay_fp32_beside_int8() -> None:
    full = lopsided()
    for tensor in full.graph.initializer:
        if tensor.name == "w2":  # Its scales are below what FP16 keeps.
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e-6), "w2"))
    node = helper.make_node("InstanceNormalization", ["d", "scale", "shift"], ["n"], "norm")
    full.graph.node.insert(4, node)
    next(node for node in full.graph.node if node.name == "larger").input[0] = "n"
    full.graph.initializer.extend(numpy_helper.from_array(np.ones(8, np.float32), name) for name in ("scale", "shift"))
    full = precision.in_opset(rewrite.tidy(full, {"batch"}), 19)
    low, _, _ = quantize.to_int8(full, PHOTOS, "tensorrt")
    half = precision.to_half(low, "fp16")
    types = types_of(half)
    found = [types[name] for name in ("first", "second", "norm", "third")]
    assert found == [TensorProto.FLOAT16, TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.FLOAT]
    makers = {name: node for node in half.graph.node for name in node.output}
    third = next(node for node in half.graph.node if node.name == "third")
    assert [makers[name].op_type for name in third.input[:2]] == ["DequantizeLinear"] * 2, "of its own type"


def test_the_layer_that_loses_is_named() -> None:
    full = dcgan()
    low = ModelProto()
    low.CopyFrom(full)
    weight = next(t for t in low.graph.initializer if t.name == "w2")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.2), "w2"))
    assert layers.losses(full, low, [real_inputs(LATENT, 4, 5)])[0].node == "second"


def test_bytes_at_the_boundary() -> None:
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["image"], "r", mode="nearest")]
    full = graph(PICTURE, nodes, {"scales": np.float32([1, 1, 2, 2])})
    model, interface = uint8_io.to_bytes(full, PICTURE)
    assert interface.inputs[0].shape == ("batch", 8, 8, 3)
    assert interface.output.dtype == "uint8"
    levels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    found = run(model, levels)
    np.testing.assert_array_equal(found, levels.repeat(2, 1).repeat(2, 2), "every level comes back as itself")
    floats = run(full, inputs.to_range(levels, PICTURE.inputs[0]))
    np.testing.assert_array_equal(found, to_pixels(floats, (-1.0, 1.0), "NCHW"))


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_the_boundary_stays_fp32_in_any_precision(kind: Any, tmp_path: Path) -> None:
    """255 levels need more than half precision keeps, also where the bytes were there before it."""
    node = helper.make_node("Conv", ["x", "w"], ["image"], "conv")
    output = (Port("image", "image", "float32", ("batch", 3, 8, 8), "NCHW", (-1.0, 1.0)),)
    interface = Interface("image-to-image", PICTURE.inputs, output)
    model, interface = uint8_io.to_bytes(graph(interface, [node], {"w": np.eye(3)[..., None, None]}), interface)
    original = SourceModel(model, interface, "none", Source(), None, tmp_path)
    changed, _ = Conversion(original, kind, artifact.ExportSpec(precision=kind), []).graph(frozenset())
    types = {value.name: value.type.tensor_type.elem_type for value in changed.graph.value_info}
    found = {node.name: types.get(node.output[0]) for node in changed.graph.node}
    assert found["conv"] == (TensorProto.FLOAT16 if kind == "fp16" else TensorProto.BFLOAT16)
    assert {found[f"io_{step}"] for step in ("scale_x", "shift_x", "scale_image", "clip_image")} == {TensorProto.FLOAT}


@pytest.mark.parametrize(("declared", "doubted"), [((-1.0, 1.0), True), ((0.0, 1.0), False), ((0.4, 0.5), True)])
@pytest.mark.parametrize("io", ["float", "uint8"])
def test_a_range_that_cannot_be_is_doubted(declared: tuple[float, float], doubted: bool, io: Any) -> None:
    """Values of 0 to 1 that are called -1 to 1 look pale, and every gate would hold."""
    port = replace(LATENT.output, range=declared)
    values = np.linspace(0, 1, 2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    interface = replace(LATENT, outputs=(port,))
    original = SourceModel(dcgan(), interface, "none", Source(), lambda _: values, Path())
    wanted = artifact.ExportSpec(io=io)
    cases = artifact.proof_cases(original, wanted)
    found = artifact._doubtful_range(original, wanted, cases)
    if io == "float" or declared[0] != 0.4:  # Bytes are clipped, so that going too far does not show.
        assert bool(found) == doubted
    if declared[0] == -1.0:
        assert found == ("its values lie in 0.00 to 1.00, and black and white are -1 and 1: is that --range right?",)
    ours = replace(original, source=Source(data="digits"))
    assert not artifact._doubtful_range(ours, wanted, cases)


def test_pictures(tmp_path: Path) -> None:
    made = inputs.natural(4, 32, 48, 3, 0)
    assert made.shape == (4, 32, 48, 3)
    np.testing.assert_array_equal(made, inputs.natural(4, 32, 48, 3, 0))
    close = np.corrcoef(made[:, :, :-1, 0].ravel(), made[:, :, 1:, 0].ravel())[0, 1]
    assert close > 0.8, "neighbours are alike, as in photographs"
    assert made.std() > 20
    with pytest.raises(InputError, match="holds no pictures"):
        inputs.from_folder(tmp_path, 4, 8, 8, 3)


def test_gates_as_people_write_them() -> None:
    assert fidelity.read_gate("psnr=40,maxabs=1e-3") == fidelity.Gate(1e-3, 40)
    assert fidelity.read_gate("none") == fidelity.Gate()
    for text in ("psnr", "psnr=x", "ssim=1", "psnr=-1", "psnr=nan"):
        with pytest.raises(UsageError, match="tolerance"):
            fidelity.read_gate(text)


def test_onnx_to_int8_without_torch(artifact: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[1:] = sys.argv[1:];"
        "from ganedge.export.__main__ import main; main()"
    )
    out = tmp_path / "g.onnx"
    arguments = [sys.executable, "-c", code, artifact, "--int8", "--for", "ort", "--tolerance", "psnr=25", "-o", out]
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    manifest, _ = read_artifact(out)
    assert manifest.precision == "int8"
    assert manifest.parity[0].tolerance == "psnr=25"
    assert "of the multiply-accumulates" in done.stderr


def test_a_foreign_onnx(command: Command, tmp_path: Path) -> None:
    onnx.save(dcgan(), tmp_path / "theirs.onnx")
    done = command("gan-export", tmp_path / "theirs.onnx", "-o", tmp_path / "ours.onnx")
    assert done.code == 0, done.err
    assert "input: latent z batch×6×1×1, by its shape; --kind states another" in done.err
    done = command("gan-export", tmp_path / "theirs.onnx", "--kind", "latent", "--fp16", "-o", tmp_path / "ours.onnx")
    assert done.code == 0, done.err
    assert read_artifact(tmp_path / "ours.onnx")[0].interface.output.shape == ("batch", 3, 8, 8)
    done = command("gan-export", tmp_path / "ours.onnx", "--int8", "-o", tmp_path / "again.onnx")
    assert done.code == 2
    assert "make int8 from the FP32 one" in done.err


def test_a_size_that_is_not_known_keeps_its_shuffle() -> None:
    random = np.random.default_rng(0)
    ports = [
        Port(name, "image", "float32", ("batch", 3, high, wide), "NCHW", (-1.0, 1.0))
        for name, high, wide in (("x", "height", "width"), ("image", "2*height", "2*width"))
    ]
    node = helper.make_node("ConvTranspose", ["x", "w"], ["image"], "up", strides=[2, 2], pads=[1] * 4)
    full = graph(Interface("image-to-image", (ports[0],), (ports[1],)), [node], {"w": random.normal(size=(3, 3, 4, 4))})
    shuffled = ModelProto()
    shuffled.CopyFrom(full)
    assert rewrite.transposed_to_shuffle(shuffled, channels_last=True) == 1
    assert "DepthToSpace" in {node.op_type for node in shuffled.graph.node}
    shuffled = rewrite.tidy(shuffled, {"batch", "height", "width"})
    x = random.normal(size=(2, 3, 6, 9)).astype(np.float32)
    np.testing.assert_allclose(run(shuffled, x), run(full, x), atol=1e-5)


def test_a_folder_is_shared_between_calibration_and_proof(
    command: Command, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What INT8 is proven on is nothing that its scales, or the layers that it leaves out, were found on."""
    uses = {
        use: {item.tobytes() for inputs in real_cases(PICTURE, pictures, use=use) for item in inputs[0]} for use in USES
    }
    assert [len(found) for found in uses.values()] == [8, 8, 8]
    assert not any(uses[one] & uses[other] for one, other in itertools.combinations(uses, 2))

    seen: list[Any] = []

    class Spied(quantize.Quantiser):
        def __init__(self, model: ModelProto, inputs: Any, *more: Any) -> None:
            seen.append(inputs)
            super().__init__(model, inputs, *more)

    monkeypatch.setattr(conversion, "Quantiser", Spied)
    full = graph(
        PICTURE,
        [
            helper.make_node("Resize", ["x", "", "s"], ["y"], "up", mode="nearest"),
            helper.make_node("Conv", ["y", "w"], ["image"], "conv", pads=[1] * 4),
        ],
        {"s": np.float32([1, 1, 2, 2]), "w": np.random.default_rng(0).normal(0, 0.1, (3, 3, 3, 3))},
    )
    onnx.save(full, tmp_path / "theirs.onnx")
    asked = [tmp_path / "theirs.onnx", "--kind", "image", "--int8", "--for", "ort", "--calibrate", pictures]
    done = command("gan-export", *asked, "-o", tmp_path / "g.onnx")
    assert done.code == 0, done.err
    with np.load(tmp_path / "g.onnx.proof.npz") as stored:
        proven = {item.tobytes() for item in stored["input0"]}
    assert proven <= uses["proof"]
    assert {item.tobytes() for item in seen[0][0][0]} == uses["calibration"]
    assert "calibrated with" not in done.err
    for path in sorted(pictures.rglob("*.png"))[2:]:
        path.unlink()
    done = command("gan-export", *asked, "-o", tmp_path / "g.onnx")
    assert done.code == 0, done.err
    assert "holds 2 picture(s), so the proof, or the choice of layers, sees what it was calibrated with" in done.err


@pytest.mark.parametrize("how", ["phases", "folded"])
def test_layers_that_share_a_weight(how: str) -> None:
    """Each gets one of its own: two tensors of one name are no valid graph."""
    random = np.random.default_rng(0)
    up = {"strides": [2, 2], "pads": [1] * 4}
    weights = {"w": random.normal(0, 0.3, (3, 3, 4, 4)), "b": random.normal(size=3)}
    if how == "phases":
        output = Port("image", "image", "float32", ("batch", 3, 32, 32), "NCHW", (-1.0, 1.0))
        nodes = [
            helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], "first", **up),
            helper.make_node("ConvTranspose", ["y", "w", "b"], ["image"], "second", **up),
        ]
    else:
        output = Port("image", "image", "float32", ("batch", 3, 8, 8), "NCHW", (-1.0, 1.0))
        norm = {name: random.uniform(0.5, 2, 3) for name in ("gamma", "beta", "mean", "variance")}
        weights = {"w": random.normal(0, 0.3, (3, 3, 1, 1)), **norm}
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["a"], "first"),
            helper.make_node("BatchNormalization", ["a", *norm], ["y"], "norm"),
            helper.make_node("Conv", ["y", "w"], ["b"], "second"),
            helper.make_node("BatchNormalization", ["b", *norm], ["image"], "norm2"),
        ]
    full = graph(Interface("image-to-image", PICTURE.inputs, (output,)), nodes, weights)
    changed = ModelProto()
    changed.CopyFrom(full)
    assert (rewrite.transposed_to_shuffle(changed) if how == "phases" else rewrite.fold_batch_norm(changed)) == 2
    changed = rewrite.tidy(changed, {"batch"})
    x = random.normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(changed, x), run(full, x), atol=1e-4)


def dynamic(path: Path, nodes: list[Any], weights: dict[str, np.ndarray], version: int = 10, opset: int = 18) -> Path:
    """Someone's model of pictures of any size, with names of its own for them."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, *sides])
        for name, sides in (("x", ("rows", "columns")), ("image", (None, None)))
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    both = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors] if version < 4 else []
    made = helper.make_graph(nodes, "g", [ports[0], *both], ports[1:], tensors)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=version), path)
    return path


def test_sizes_of_a_foreign_onnx_are_tried(command: Command, tmp_path: Path) -> None:
    """One that halves and doubles takes even sizes alone, and one that doubles gives twice the size."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(0, 0.2, (3, 3, 4, 4)).astype(np.float32) for name in ("w1", "w2")}
    how = {"strides": [2, 2], "pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["y"], "down", **how),
        helper.make_node("ConvTranspose", ["y", "w2"], ["image"], "up", **how),
    ]
    out = tmp_path / "ours.onnx"
    theirs = dynamic(tmp_path / "theirs.onnx", nodes, weights)
    done = command("gan-export", theirs, "--kind", "image", "-o", out)
    assert done.code == 0, done.err
    interface = read_artifact(out)[0].interface
    assert interface.inputs[0].shape == ("batch", 3, "height", "width")
    assert interface.inputs[0].multiple == 2
    with load(out) as generator:
        assert generator.translate(np.zeros((33, 50, 3), np.uint8)).shape == (33, 50, 3)
    nodes = [helper.make_node("ConvTranspose", ["x", "w2"], ["image"], "up", **how)]
    original = of_onnx(dynamic(tmp_path / "double.onnx", nodes, weights), SourceSpec(kind="image"))
    assert original.interface.output.shape == ("batch", 3, "2*height", "2*width")
    fixed = with_size(original, 8, 12)
    assert fixed.interface.output.shape == ("batch", 3, 16, 24)
    assert [size.dim_value for size in fixed.model.graph.output[0].type.tensor_type.shape.dim[2:]] == [16, 24]


def test_a_foreign_onnx_that_works_at_one_size_takes_it(command: Command, tmp_path: Path) -> None:
    """It names its sides, but a number inside is of one size: none is tried where that size is said."""
    weights = {"flat": np.array([-1, 3, 1024], np.int64), "full": np.array([-1, 3, 32, 32], np.int64)}
    nodes = [helper.make_node("Reshape", ["x", "flat"], ["y"]), helper.make_node("Reshape", ["y", "full"], ["image"])]
    theirs = dynamic(tmp_path / "theirs.onnx", nodes, weights)
    out = tmp_path / "ours.onnx"
    done = command("gan-export", theirs, "--kind", "image", "--size", 32, "-o", out)
    assert done.code == 0, done.err
    assert read_artifact(out)[0].interface.inputs[0].shape == ("batch", 3, 32, 32)
    done = command("gan-export", theirs, "--kind", "image", "-o", out)
    assert (done.code, "Traceback" in done.err) != (0, True), "no size fits, and that is said"


def test_a_foreign_onnx_of_the_first_format(tmp_path: Path) -> None:
    """Which lists its weights as inputs too, as the converter demands of it."""
    weights = {"w": np.random.default_rng(0).normal(0, 0.2, (3, 3, 1, 1)).astype(np.float32)}
    path = dynamic(tmp_path / "old.onnx", [helper.make_node("Conv", ["x", "w"], ["image"])], weights, 3, 8)
    assert [value.name for value in of_onnx(path, SourceSpec(kind="image")).model.graph.input] == ["x"]


def test_a_foreign_onnx_that_is_narrow_already(tmp_path: Path) -> None:
    weights = {"w": np.random.default_rng(0).normal(0, 0.2, (3, 3, 1, 1)).astype(np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["image"], "c")]
    wide = of_onnx(dynamic(tmp_path / "a.onnx", nodes, weights), SourceSpec(kind="image"))
    assert wide.precision == "fp32"
    half = precision.to_half(wide.model, "fp16")
    int8 = quantize.to_int8(wide.model, real_cases(wide.interface), "onnxruntime")[0]
    for kind, model in (("fp16", half), ("int8", int8)):
        onnx.save(model, tmp_path / f"{kind}.onnx")
        original = of_onnx(tmp_path / f"{kind}.onnx", SourceSpec(kind="image"))
        assert original.precision == kind
        made = artifact.make(original, artifact.ExportSpec())
        assert made.manifest.precision == kind
        assert any(f"{kind} inside" in note for note in made.notes)
        with pytest.raises(UsageError, match=f"{kind} already"):
            artifact.make(original, artifact.ExportSpec(precision="bf16"))


@pytest.mark.parametrize(
    ("shape", "axes", "whole"),
    [([0, 3, -1], [2], True), ([0, -1], [1], True), ([0, 3, -1], [1], False), (None, [1], False), (None, [2, 3], True)],
)
def test_means_over_flat_maps_look_at_the_whole_picture(
    tmp_path: Path, shape: list[int] | None, axes: list[int], whole: bool
) -> None:
    """AdaIN and LayerNorm written by hand; a tile of a picture has other statistics."""
    weights = {"axes": np.array(axes), **({} if shape is None else {"shape": np.array(shape)})}
    nodes = [] if shape is None else [helper.make_node("Reshape", ["x", "shape"], ["flat"], "flatten")]
    nodes += [
        helper.make_node("ReduceMean", ["x" if shape is None else "flat", "axes"], ["mean"], "reduce", keepdims=1),
        helper.make_node("ReduceMean", ["mean"], ["number"], "last", keepdims=0),
        helper.make_node("Sub", ["x", "number"], ["image"], "centre"),
    ]
    model = onnx.load(dynamic(tmp_path / "a.onnx", nodes, weights))
    model = rewrite.tidy(model, {"n", "rows", "columns"})
    model.graph.node.remove(next(node for node in model.graph.node if node.name == "last"))
    assert has_global_ops(model) == whole


def test_a_damaged_onnx_is_named(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"nothing of the kind")
    done = command("gan-export", path, "-o", tmp_path / "g.onnx")
    assert done.code == 1
    assert f"{path} is a text file that begins with 'nothing of the kind', not weights or a network" in done.err


def test_a_dependency_of_the_quantiser_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: Any, target: Any = None) -> None:
            if name == "onnxruntime.quantization":
                raise ModuleNotFoundError("No module named 'packaging'", name="packaging")

    for name in [name for name in sys.modules if name.startswith("onnxruntime.quantization")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(EngineError, match=r"No module named 'packaging'\): install the module packaging"):
        quantize._quantise(onnx.ModelProto(), {}, "onnxruntime", frozenset())


@pytest.mark.parametrize("shape", [(8, 8), ("height", "width")])
def test_a_search_that_is_much_work_looks_at_parts_of_few_pictures(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[Any, Any]
) -> None:
    """Layers are ranked alike on parts, also where the graph is of one size, and the gate is held on whole pictures."""
    port = replace(PICTURE.inputs[0], shape=("batch", 3, *shape))
    interface = replace(PICTURE, inputs=(port,))
    full = lopsided()
    low, _, _ = quantize.to_int8(full, PHOTOS, "openvino")
    whole = Sensitivity(full, low, "openvino", PHOTOS, interface)
    monkeypatch.setattr(sensitivity, "WORK", 0)
    monkeypatch.setattr(sensitivity, "SIDES", (6, 4))
    parts = Sensitivity(full, low, "openvino", PHOTOS, interface)
    assert [len(items) for items in (whole._items, parts._items)] == [layers.ITEMS, sensitivity.FEWEST]
    assert {item["x"].shape for item in parts._items} == {(1, 3, 6, 6)}
    assert np.argsort(parts.noise).tolist() == np.argsort(whole.noise).tolist()
    assert parts.kept(fidelity.Gate(psnr=38)) == whole.kept(fidelity.Gate(psnr=38)) == {"second"}


def test_where_parts_cannot_be_computed_whole_pictures_are_looked_at_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full = lopsided()
    low, _, _ = quantize.to_int8(full, PHOTOS, "openvino")
    monkeypatch.setattr(sensitivity, "WORK", 0)
    monkeypatch.setattr(sensitivity, "_cropped", lambda item, *_: {"x": item["x"][:, :2]})
    effect = Sensitivity(full, low, "openvino", PHOTOS, PICTURE)
    assert {item["x"].shape[1] for item in effect._items} == {3}
    assert effect.note.startswith("layers were tried on whole pictures, as it does not run on parts: ")
    monkeypatch.setattr(sensitivity, "_cropped", lambda *_: {}["x"])
    with pytest.raises(KeyError):  # Our own mistakes are not taken for the graph's.
        Sensitivity(full, low, "openvino", PHOTOS, PICTURE)
