"""Ranges that leave out rare values, biases that make up for rounded weights, and the choice between them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ganedge.export import calibration, fallback, quantize, rewrite, sensitivity
from ganedge.export.calibration import Way
from ganedge.export.conversion import Conversion
from ganedge.export.sensitivity import Sensitivity
from ganedge.export.source_model import SourceModel
from ganedge.export.spec import ExportSpec
from ganedge.runtime import fidelity
from ganedge.runtime.manifest import Interface, Port, Source

INTERFACE = Interface(
    "image-to-image",
    (Port("x", "image", "float32", ("batch", 4, 12, 12), "NCHW", (0.0, 1.0)),),
    (Port("y", "image", "float32", ("batch", 4, 12, 12), "NCHW", (-4.0, 4.0)),),
)
EVERY = frozenset(f"other{index}" for index in range(9))
"""Layers of the generators whose INT8 is described only."""
PICTURES = [[np.random.default_rng(seed).random((4, 4, 12, 12)).astype(np.float32)] for seed in (1, 2)]


def graph(node: Any, weights: dict[str, np.ndarray], rank: int = 4, *more: Any) -> ModelProto:
    shape = ["batch", 4, 12, 12] if rank == 4 else ["batch", 4]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in (("x", shape), ("y", None))
    ]
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    made = helper.make_model(
        helper.make_graph([node, *more], "g", ports[:1], ports[1:], tensors),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    return rewrite.tidy(made, {"batch"})


def run(model: ModelProto, x: np.ndarray) -> np.ndarray:
    """What the graph says, in FP32: INT8 kernels of processors without VNNI clip sums."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0], np.float64)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0.02, 0.1, shape)


def long_tail() -> np.ndarray:
    values = np.random.default_rng(0).normal(0, 1, 50_000).astype(np.float32)
    values[:3] = 60, -80, 100
    return values


@pytest.mark.parametrize("symmetric", [True, False])
def test_ranges_leave_out_what_is_rare(symmetric: bool) -> None:
    values, whole = {"t": long_tail(), "zero": np.zeros(9, np.float32)}, {"t": (-80.0, 100.0), "zero": (0.0, 0.0)}
    ranges = {name: calibration.narrowed(values, whole, name, symmetric=symmetric) for name in calibration.METHODS}
    assert ranges["minmax"] == whole
    for method in ("percentile", "entropy"):
        low, high = ranges[method]["t"]
        assert -60 <= low < -2, method
        assert 2 < high <= 60, method
        assert ranges[method]["zero"] == (0.0, 0.0)
    errors = {name: calibration.rounding_error(values["t"], found["t"], symmetric) for name, found in ranges.items()}
    assert errors["each"] == min(errors.values())


def test_what_has_no_tail_keeps_its_range() -> None:
    """The choice for each tensor does not clip what would lose by it, and no range is wider than the values."""
    even = np.linspace(-1, 1, 20_000).astype(np.float32)
    assert calibration.narrowed({"t": even}, {"t": (-1.0, 1.0)}, "each", symmetric=True)["t"] == pytest.approx(
        (-1.0, 1.0), abs=1e-3
    )
    for method in calibration.METHODS:
        low, high = calibration.narrowed({"t": even}, {"t": (-0.5, 0.5)}, method, symmetric=False)["t"]
        assert -0.5 <= low < high <= 0.5


def test_values_are_taken_evenly_and_of_inputs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SAMPLES", 50)
    model = graph(helper.make_node("Conv", ["x", "w"], ["y"], "n", pads=[1] * 4), {"w": weight(4, 4, 3, 3)})
    pictures = [array[:1] for array in PICTURES[0]]
    found = calibration.samples(model, ["x", "y"], [{"x": pictures[0]}] * 2)
    few, computed = (array[:, :, ::3, ::3].ravel() for array in (pictures[0], run(model, pictures[0])))
    np.testing.assert_array_equal(found["x"], np.tile(few[:: len(few) // 50], 2))
    np.testing.assert_allclose(found["y"][: len(found["y"]) // 2], computed[:: len(few) // 50], rtol=1e-5)


@pytest.mark.parametrize(
    ("node", "weights", "rank"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], "n"), {"w": weight(6, 4, 3, 3)}, 4),
        (helper.make_node("Conv", ["x", "w"], ["y"], "n", group=2), {"w": weight(6, 2, 3, 3)}, 4),
        (
            helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], "n", strides=[2, 2], group=2),
            {"w": weight(4, 3, 2, 2), "b": weight(6)},
            4,
        ),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"], "n", transB=1), {"w": weight(5, 4), "b": weight(5)}, 2),
        (helper.make_node("Gemm", ["x", "w"], ["y"], "n", alpha=0.5), {"w": weight(4, 5)}, 2),
    ],
    ids=["conv", "groups", "transposed", "gemm", "gemm without a bias"],
)
def test_the_mean_error_of_rounded_weights_is_foreseen_and_corrected(
    node: Any, weights: dict[str, np.ndarray], rank: int
) -> None:
    full = graph(node, weights, rank)
    x = PICTURES[0][0] if rank == 4 else PICTURES[0][0][:, :, 0, 0]
    means = calibration.channel_means(full, ["x"], [{"x": x}])
    np.testing.assert_allclose(means["x"], x.mean((0, 2, 3) if rank == 4 else 0), rtol=1e-5)
    low, _, _ = quantize.to_int8(full, [[x]], "openvino")
    errors = calibration.mean_errors(full, low, means)["n"]
    coarse = ModelProto()
    coarse.CopyFrom(full)
    changed = calibration._rounded_weights(low)["n"].astype(np.float32)
    next(tensor for tensor in coarse.graph.initializer if tensor.name == "w").CopyFrom(
        numpy_helper.from_array(changed, "w")
    )
    axes = (0, 2, 3) if rank == 4 else 0
    # Without padding only the border, which the kernel reaches less often, keeps the two apart.
    np.testing.assert_allclose((run(coarse, x) - run(full, x)).mean(axes), errors, atol=3e-4)
    corrected = calibration.with_corrected_biases(coarse, {"n": errors})
    assert np.abs((run(corrected, x) - run(full, x)).mean(axes)).max() < 3e-4


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("keep", [frozenset(), frozenset({"n"})])
def test_the_foresight_knows_corrected_biases(target: quantize.Target, keep: frozenset[str]) -> None:
    """What is foreseen for a rounded layer with its corrected bias is what the corrected graph gives."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "n", pads=[1] * 4),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "v"], ["y"], "m", pads=[1] * 4),
    ]
    full = graph(nodes[0], {"w": weight(4, 4, 3, 3), "v": weight(4, 4, 3, 3)}, 4, *nodes[1:])
    quantiser = quantize.Quantiser(full, PICTURES[:1], target)
    low, _ = quantiser.graph(keep, Way("minmax", corrected=True))
    errors = quantiser.errors(Way())
    assert set(errors) == {"n", "m"}
    effect = Sensitivity(quantiser.prepared, quantiser.whole[0], target, PICTURES[1:], INTERFACE, errors)
    foreseen = effect.difference([0, 1] if not keep else [1]).psnr
    x = PICTURES[1][0]
    found = fidelity.difference(run(low, x), run(full, x), INTERFACE.output).psnr
    assert foreseen == pytest.approx(found, abs=1.0)
    again = Sensitivity(quantiser.prepared, quantiser.whole[0], target, PICTURES[1:], INTERFACE, noise=effect.noise)
    assert again.noise == effect.noise


def one_layer() -> tuple[ModelProto, Conversion, Any]:
    """A generator of one convolution, its conversion to INT8, and what ranks its layers."""
    model = graph(helper.make_node("Conv", ["x", "w"], ["y"], "n"), {"w": weight(4, 4, 3, 3)})
    source = SourceModel(model, INTERFACE, "none", Source(), None, Path())
    spec = ExportSpec(precision="int8", engine="openvino")
    conversion = Conversion(source, "int8", spec, PICTURES)
    losses = fallback.losses_of("int8", source, conversion, spec, PICTURES, lambda: PICTURES)
    return model, conversion, losses


@pytest.mark.parametrize(
    ("counts", "tried", "taken"),
    [
        ({"minmax": 3, "percentile": 0}, ["minmax", "percentile"], Way("percentile")),
        (
            {"minmax": 3, "percentile": 3, "entropy": 2, "each": 2, "entropy with bias correction": 1},
            ["minmax", "percentile", "entropy", "each", "entropy with bias correction"],
            Way("entropy", corrected=True),
        ),
        (
            {"minmax": 1, "percentile": 2, "entropy": 1, "each": 1, "minmax with bias correction": 1},
            ["minmax", "percentile", "entropy", "each", "minmax with bias correction"],
            Way(),
        ),
    ],
)
def test_ways_are_tried_in_the_order_of_cost(
    monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], tried: list[str], taken: Way
) -> None:
    """Until one leaves no layer out; how many each leaves out is told, and the best is used from then on."""
    seen: list[str] = []

    def effect(_losses: Any, way: Way, noise: Any = ()) -> Any:
        seen.append(str(way))
        assert bool(noise) == (len(seen) > 1), "layers are ranked once"
        names = frozenset(f"layer{index}" for index in range(counts[str(way)]))
        return SimpleNamespace(
            kept=lambda *_: names, noise=[1.0], worst=lambda: "layer0", work=0, note="", predicted=lambda _: 30.0,
            every=EVERY,
        )  # fmt: skip

    monkeypatch.setattr(fallback._LossesOfInt8, "_sensitivity", effect)
    model, conversion, losses = one_layer()
    kept = losses.kept(model, frozenset(), {0: 29.5})
    assert len(kept) == counts[str(taken)]
    assert seen == tried
    assert conversion.way == taken
    shown = ", ".join(f"{way} {counts[way]}" for way in tried)
    assert conversion.note == f"layers that INT8 leaves out by the calibration: {shown}; taken: {taken}"
    assert conversion.note in conversion.graph(frozenset())[1]


@pytest.mark.parametrize(("batch", "calls"), [("batch", 32), (3, 32)])
def test_calls_to_look_at_fill_a_fixed_batch(batch: Any, calls: int) -> None:
    """Samples and means are found on whole calls, of latents on more of them than of pictures."""
    model = graph(helper.make_node("Conv", ["x", "w"], ["y"], "n"), {"w": weight(4, 4, 3, 3)})
    if batch != "batch":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        model = rewrite.tidy(model, set())
    inputs = [[np.zeros((120, 4, 12, 12), np.float32)]]
    feeds = quantize.Quantiser(model, inputs, "openvino")._few_feeds()
    assert [len(feed["x"]) for feed in feeds] == [1 if batch == "batch" else batch] * calls
    large = [[np.zeros((120, 4, 65, 65), np.float32)]]
    assert len(quantize.Quantiser(model, large, "openvino")._few_feeds()) == quantize.FEW_PICTURES


@pytest.mark.parametrize(("work", "share", "tries"), [(1e12, 0.05, 1), (1e12, 0.2, 2), (1e9, 0.05, 2)])
def test_a_slow_generator_is_calibrated_again_where_it_is_worth_it(
    monkeypatch: pytest.MonkeyPatch, work: float, share: float, tries: int
) -> None:
    seen: list[Way] = []

    def effect(_losses: Any, way: Way, noise: Any = ()) -> Any:
        seen.append(way)
        names = frozenset({"layer"} if way == Way() else ())
        described = SimpleNamespace(
            kept=lambda *_: names, noise=[1.0], worst=lambda: "layer", note="", predicted=lambda _: 30.0, every=EVERY
        )
        described.work, described.share = work, lambda _: share
        return described

    monkeypatch.setattr(fallback._LossesOfInt8, "_sensitivity", effect)
    model, conversion, losses = one_layer()
    assert losses.kept(model, frozenset(), {0: 29.5}) == (frozenset({"layer"}) if tries == 1 else frozenset())
    assert len(seen) == tries
    assert bool(conversion.note) == (tries > 1)


@pytest.mark.parametrize(
    ("then", "predicted", "bits"),
    [(36.5, 40.0, 7), (28.0, 40.0, 8), (28.0, 34.0, 8), (29.0, 31.0, 7)],
    ids=["nearer", "no better", "no better, but less was predicted", "as predicted"],
)
def test_an_engine_that_clips_sums_gets_weights_of_7_bits(
    monkeypatch: pytest.MonkeyPatch, then: float, predicted: float, bits: int
) -> None:
    """Once, before any layer is left out; they stay where the engine is better with them, `then` dB here."""
    seen: list[Way] = []

    def effect(_losses: Any, way: Way, noise: Any = ()) -> Any:
        seen.append(way)
        kept = frozenset({"n"})
        return SimpleNamespace(
            kept=lambda *_: kept, noise=[1.0], worst=lambda: "n", work=1e12, share=lambda _: 0.0, note="",
            predicted=lambda _: predicted if way.bits == 7 else 40.0, every=EVERY,
        )  # fmt: skip

    monkeypatch.setattr(fallback._LossesOfInt8, "_sensitivity", effect)
    model, conversion, losses = one_layer()
    assert losses.kept(model, frozenset(), {0: 28.0}) == frozenset(), "all layers again"
    assert conversion.way == Way(bits=7)
    low, notes = conversion.graph(frozenset())
    assert "weights of 7 bits: with 8 an engine lost 12 dB more here than rounding does" in notes[0]
    (weights,) = (numpy_helper.to_array(each) for each in low.graph.initializer if len(each.dims) == 4)
    assert weights.dtype == np.int8
    assert 60 < np.abs(weights.astype(int)).max() <= 64
    monkeypatch.setattr(fallback._LossesOfInt8, "_miscomputed", lambda _: frozenset())
    assert losses.kept(model, frozenset(), {0: then}) == frozenset({"n"})
    assert seen == [Way(), Way(bits=7)]
    assert conversion.way == Way(bits=bits)  # type: ignore[arg-type]
    assert ("7 bits" in conversion.note) == (bits == 7)
    assert losses.kept(model, frozenset({"n"}), {0: 20.0}) == frozenset({"n"}), "8 bits are not tried a third time"
    assert conversion.way == Way(bits=bits)  # type: ignore[arg-type]


def three_layers() -> tuple[ModelProto, Conversion, Any]:
    """A generator of three convolutions, its conversion to INT8 for OpenVINO, and what ranks its layers."""
    nodes = [
        helper.make_node("Conv", [source, "w"], [result], name, pads=[1] * 4)
        for source, result, name in (("x", "a", "first"), ("a", "b", "second"), ("b", "y", "third"))
    ]
    model = graph(nodes[0], {"w": weight(4, 4, 3, 3)}, 4, *nodes[1:])
    source = SourceModel(model, INTERFACE, "none", Source(), None, Path())
    spec = ExportSpec(precision="int8", engine="openvino")
    conversion = Conversion(source, "int8", spec, PICTURES)
    conversion.way = Way(bits=7)
    return model, conversion, fallback.losses_of("int8", source, conversion, spec, PICTURES, lambda: PICTURES)


class Wrong:
    """An engine that computes some layers wrongly in INT8, as OpenVINO 2026.4 does on processors without VNNI."""

    def __init__(self, model: bytes, wrong: frozenset[str]) -> None:
        self._model = ModelProto.FromString(model)
        names = {node.name for node in self._model.graph.node if node.input[0].endswith("DequantizeLinear_Output")}
        self._error = 0.5 * bool(names & wrong)

    def run(self, feeds: Any) -> list[np.ndarray]:
        """What the graph says, and an error where a wrong layer is INT8."""
        return [run(self._model, feeds["x"]) + self._error]

    def close(self) -> None:
        """Nothing to free."""


@pytest.mark.parametrize(
    ("wrong", "left_out"),
    [
        (frozenset({"second"}), frozenset({"second"})),
        (frozenset({"first", "third"}), frozenset({"first", "third"})),
        (frozenset({"first", "second", "third"}), frozenset()),
    ],
)
def test_layers_that_an_engine_computes_wrongly_are_left_out(
    monkeypatch: pytest.MonkeyPatch, wrong: frozenset[str], left_out: frozenset[str]
) -> None:
    """Each is tried alone; where all are wrong there is nothing to gain."""
    _, conversion, losses = three_layers()
    monkeypatch.setattr(quantize, "runnable_targets", lambda: ["openvino"])
    monkeypatch.setattr(fallback.engines, "start", lambda model, *_: Wrong(model, wrong))
    assert losses._miscomputed() == left_out
    assert ("not INT8, as openvino computes them wrongly" in conversion.note) == bool(left_out)
    model = conversion.graph(frozenset())[0]
    losses._wrong = None
    if left_out:
        assert losses.kept(model, frozenset(), {0: 5.0}) == left_out
        assert losses.kept(model, left_out, {0: 29.0}) >= left_out, "they stay out"


def test_wrong_layers_that_are_out_already_do_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on with what rounding costs."""
    model, _, losses = three_layers()
    monkeypatch.setattr(losses, "_miscomputed", lambda: frozenset({"second"}))
    monkeypatch.setattr(losses._effect, "kept", lambda *_: frozenset({"first"}))
    losses._compared = True
    assert losses.kept(model, frozenset({"second"}), {0: 5.0}) == frozenset({"first", "second"})


def test_it_gives_up_where_the_layers_that_cost_least_are_computed_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph without any INT8 is none: the engine's next variant is tried."""
    model, _, losses = three_layers()
    monkeypatch.setattr(losses._effect, "kept", lambda *_: frozenset({"first", "second"}))
    losses._wrong, losses._compared = frozenset({"third"}), True
    assert losses.kept(model, frozenset({"third"}), {0: 25.0}) == frozenset({"third"})


@pytest.mark.parametrize("fails", [False, True])
def test_layers_are_tried_alone_on_parts_of_pictures(monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> None:
    """In the real engine, which would refuse them if the graph kept its fixed size; and where it refuses any."""
    monkeypatch.setattr(sensitivity, "WORK", 0)
    monkeypatch.setattr(sensitivity, "SIDES", (8, 4))
    _, conversion, losses = three_layers()
    assert losses._effect._items[0]["x"].shape[2:] == (8, 8)
    if fails:
        monkeypatch.setattr(fallback, "open_sides", lambda _: None)
    assert losses._miscomputed() <= {"first", "second", "third"}
    assert ("layers could not be tried alone: openvino could not run this model" in conversion.note) == fails
