"""A short proof: its inputs, the planted faults that it must find, and the progress that is shown."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import nn

from ganedge.export import export, phases, proof_inputs
from ganedge.export.artifact import make
from ganedge.export.from_torch import of_network
from ganedge.export.parity import Case
from ganedge.export.proof_inputs import proof_cases
from ganedge.export.source_model import SourceModel
from ganedge.export.spec import ExportSpec
from ganedge.runtime.cli.progress import Steps
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.manifest import Interface, Port, Source

pytest.importorskip("onnxruntime", reason="a proof needs an engine")


class Painter(nn.Module):
    """A small fully convolutional generator with what goes wrong in large ones: padding, normalisation, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(2), nn.Conv2d(3, 8, 5), nn.InstanceNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 1, 1), nn.PixelShuffle(2), nn.Tanh(),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute."""
        output: torch.Tensor = self.layers(images)
        return output


@pytest.fixture(scope="module")
def painter() -> SourceModel:
    torch.manual_seed(0)
    shape = ("batch", 3, "height", "width")
    ports = [Port(name, "image", "float32", shape, "NCHW", (-1.0, 1.0)) for name in ("input", "image")]
    return of_network(Painter(), Interface("image-to-image", (ports[0],), (ports[1],)), Source())


def test_small_generators_get_the_usual_inputs(painter: SourceModel) -> None:
    cases = proof_cases(painter, ExportSpec())
    assert [case.inputs[0].shape for case in cases] == [(8, 3, 64, 64), (8, 3, 96, 128)]


def test_long_ones_get_few_and_small_inputs(painter: SourceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_inputs, "WORK", 1e6)
    short = proof_cases(painter, ExportSpec())
    assert [case.inputs[0].shape for case in short] == [(4, 3, 32, 32), (1, 3, 48, 64)]
    known = proof_cases(replace(painter, source=Source(config={"size": 64})), ExportSpec())
    assert [case.inputs[0].shape for case in known] == [(1, 3, 64, 64), (4, 3, 32, 48)]
    full = proof_cases(painter, ExportSpec(proof="full"))
    assert [len(case.inputs[0]) for case in full] == [8, 8]


def test_other_sizes_than_the_usual_one_are_smaller_in_fp32(
    painter: SourceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_inputs, "WORK", 1e6)
    known = replace(painter, source=Source(config={"size": 256}), outputs=None, reference=lambda inputs: inputs[0])

    def sizes(spec: ExportSpec) -> list[tuple[int, ...]]:
        return [inputs[0].shape for inputs in proof_inputs.proof_inputs(known, spec)]

    assert sizes(ExportSpec()) == [(1, 3, 256, 256), (4, 3, 64, 96)]
    assert sizes(ExportSpec(precision="int8")) == [(1, 3, 256, 256), (4, 3, 128, 192)]
    assert sizes(ExportSpec(proof="full"))[1] == (8, 3, 128, 192)


def _scaled_layer(model: onnx.ModelProto, index: int) -> None:
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv"][index]
    tensor = next(value for value in model.graph.initializer if value.name == weights)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), weights))


def _swapped_channels(model: onnx.ModelProto) -> None:
    weights = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    tensor = next(value for value in model.graph.initializer if value.name == weights)
    swapped = numpy_helper.to_array(tensor)[:, ::-1].copy()
    tensor.CopyFrom(numpy_helper.from_array(swapped, weights))


def _wrong_padding(model: onnx.ModelProto) -> None:
    pad = next(node for node in model.graph.node if node.op_type == "Pad")
    mode = next(attribute for attribute in pad.attribute if attribute.name == "mode")
    mode.s = b"edge"


def _other_epsilon(model: onnx.ModelProto) -> None:
    norm = next(node for node in model.graph.node if node.op_type == "InstanceNormalization")
    norm.attribute.append(onnx.helper.make_attribute("epsilon", 1e-2)) if not norm.attribute else None
    next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 1e-2


def _first_of_batch(model: onnx.ModelProto) -> None:
    """The item before in place of the own one: what only a batch of several shows."""
    last = model.graph.node[-1]
    output, last.output[0] = last.output[0], "own"
    one = numpy_helper.from_array(np.array([0], np.int64), "first_index")
    zero = numpy_helper.from_array(np.array(0, np.float32), "nothing")
    model.graph.initializer.extend([one, zero])
    model.graph.node.extend(
        [
            onnx.helper.make_node("Gather", ["own", "first_index"], ["first"], axis=0),
            onnx.helper.make_node("Mul", ["own", "nothing"], ["blank"]),
            onnx.helper.make_node("Add", ["blank", "first"], [output]),
        ]
    )


FAULTS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "a middle layer × 1.1": lambda model: _scaled_layer(model, 1),
    "last layer × 1.1": lambda model: _scaled_layer(model, -1),
    "swapped channels": _swapped_channels,
    "wrong padding": _wrong_padding,
    "another epsilon": _other_epsilon,
    "batches mixed": _first_of_batch,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_short_proof_finds_planted_faults(painter: SourceModel, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof_inputs, "WORK", 1e6)
    model = onnx.ModelProto()
    model.CopyFrom(painter.model)
    FAULTS[fault](model)
    with pytest.raises(GanEdgeError, match="not exported"):
        make(replace(painter, model=model), ExportSpec())


def test_an_unknown_proof_is_refused() -> None:
    with pytest.raises(UsageError, match="--proof quick: choose short or full"):
        ExportSpec(proof="quick")  # type: ignore[arg-type]


def test_an_export_reports_its_phases(tmp_path: Any) -> None:
    network = tmp_path / "nets.py"
    network.write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(3, 3, 3, 1, 1), nn.Tanh())\n"
    )
    reported: list[phases.Phase] = []
    export(f"{network}:Net", output=tmp_path / "net.onnx", phase=reported.append)
    names = list(dict.fromkeys(phase.name for phase in reported))
    assert names[:4] == [
        f"opening {network}:Net",
        "finding the sizes that it takes",
        "exporting the graph",
        "computing the FP32 generator",
    ]
    assert "comparing in onnxruntime" in names
    counted = [phase for phase in reported if phase.name == "comparing in onnxruntime"]
    assert [phase.done for phase in counted] == list(range(counted[0].total))
    phases.report("after the export")
    assert reported[-1].name != "after the export"


def test_steps_show_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    monkeypatch.setattr("sys.stderr", output)
    monkeypatch.setattr("ganedge.runtime.cli.progress.LINE_SECONDS", 0.05)
    with Steps() as steps:
        steps.show(phases.Phase("comparing in openvino", 3, 16), 3, 16)
        for _ in range(100):
            time.sleep(0.02)
            if "comparing" in output.getvalue():
                break
        steps.say("a line that stays")
    lines = output.getvalue().splitlines()
    assert lines[0] == "0 s: comparing in openvino 3/16"
    assert lines[-1] == "a line that stays"


class _Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_steps_move_on_a_terminal_and_leave_only_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    output = _Terminal()
    monkeypatch.setattr("sys.stderr", output)
    monkeypatch.setattr("ganedge.runtime.cli.progress.FIRST_SECONDS", 0.02)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with Steps() as steps:
        for _ in range(200):
            time.sleep(0.02)
            steps.show("comparing in [openvino]", 3, 16)
            if "comparing in [openvino]" in output.getvalue():
                break
        steps.say("a line that stays")
    assert "comparing in [openvino]" in output.getvalue()
    assert "a line that stays" in output.getvalue()
    assert output.getvalue().endswith("\x1b[2K") or "\x1b[2K" in output.getvalue()


def test_nothing_is_shown_of_what_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    output = _Terminal()
    monkeypatch.setattr("sys.stderr", output)
    with Steps() as steps:
        steps.show("opening")
    assert output.getvalue() == ""


def test_cases_hold_inputs_and_reference(painter: SourceModel) -> None:
    assert painter.reference is not None
    case = proof_cases(painter, ExportSpec())[0]
    assert isinstance(case, Case)
    np.testing.assert_array_equal(case.reference, painter.reference(case.inputs))


@pytest.mark.parametrize(("work", "pictures"), [(1e9, 16), (4e10, 10), (1e12, 6)])
def test_calibration_is_bounded_by_work(monkeypatch: pytest.MonkeyPatch, work: float, pictures: int) -> None:
    """And always sees more pictures than a short proof, unless a number was stated."""
    port = Port("x", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0))
    interface = Interface("image-to-image", (port,), (replace(port, name="y"),))
    source = SourceModel(ModelProto(), interface, "none", Source(), None, Path())
    monkeypatch.setattr(proof_inputs, "_item_work", lambda *_: work)
    found = proof_inputs.calibration(source, ExportSpec(precision="int8"))
    assert sum(len(case[0]) for case in found) == pictures
    asked = proof_inputs.calibration(source, ExportSpec(precision="int8", calibrate=2))
    assert sum(len(case[0]) for case in asked) == 2
