"""FP16: half the weights, FP32 at both ends, normalisation untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import nn

from ganedge.export.precision import to_half
from ganedge.export.to_onnx import to_onnx
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.manifest import Interface, Port

IMAGE = Port("image", "image", "float32", ("batch", 3, 8, 8), "NCHW", (-1.0, 1.0))
RESULT = replace(IMAGE, name="result")


class Mixed(nn.Module):
    """Everything at once: normalisation in the middle, a skip around it, resizing, padding, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.InstanceNorm2d(8)
        self.pad = nn.ReflectionPad2d(1)
        self.last = nn.Conv2d(8, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute."""
        y = self.first(x)
        y = torch.relu(self.norm(y)) + y * 0.5
        y = nn.functional.interpolate(y, scale_factor=2.0)[:, :, ::2, ::2]
        return torch.tanh(self.last(self.pad(y)))


def mixed() -> onnx.ModelProto:
    torch.manual_seed(0)
    return to_onnx(Mixed().eval(), Interface("image-to-image", (IMAGE,), (RESULT,)))


def test_types() -> None:
    half = to_half(mixed(), "fp16")
    kinds = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    for node in half.graph.node:
        if node.op_type in ("Conv", "Relu", "Tanh", "Add", "Mul", "Pad"):
            assert all(kinds.get(name, TensorProto.FLOAT16) == TensorProto.FLOAT16 for name in node.output), (
                node.op_type
            )
        if node.op_type == "InstanceNormalization":
            assert kinds[node.output[0]] == TensorProto.FLOAT
    ports = (*half.graph.input, *half.graph.output)
    assert all(port.type.tensor_type.elem_type == TensorProto.FLOAT for port in ports)


def test_close_to_full_precision() -> None:
    full = mixed()
    x = np.random.default_rng(0).uniform(-1, 1, (3, 3, 8, 8)).astype(np.float32)
    wanted, found = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {m.graph.input[0].name: x})[0]
        for m in (full, to_half(full, "fp16"))
    )
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 1e-2


def test_named_nodes_stay_wide() -> None:
    full = mixed()
    conv = next(node for node in full.graph.node if node.op_type == "Conv")
    half = to_half(full, "fp16", frozenset({conv.name}))
    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    kept = next(node for node in half.graph.node if node.name == conv.name)
    assert kinds[kept.input[1]] == TensorProto.FLOAT


def test_half_the_size(artifact: Path, half_artifact: Path) -> None:
    assert half_artifact.stat().st_size < 0.75 * artifact.stat().st_size  # The manifest weighs in a model this small.


def test_a_weight_beyond_half_precision_is_refused() -> None:
    network = nn.Conv2d(3, 3, 1).eval()
    with torch.no_grad():
        network.weight.fill_(1e6)
    with pytest.raises(GanEdgeError, match="beyond FP16's 65504"):
        to_half(to_onnx(network, Interface("image-to-image", (IMAGE,), (RESULT,))), "fp16")


def test_bf16_keeps_what_fp16_cannot() -> None:
    """bf16 reaches as far as FP32; its boundary stays FP32, and normalisation as well."""
    network = nn.Sequential(nn.ConvTranspose2d(3, 3, 4, 2, 1), nn.InstanceNorm2d(3), nn.Tanh())
    with torch.no_grad():
        network[0].weight.mul_(1e6)  # type: ignore[operator]
    full = to_onnx(
        network.eval(), Interface("image-to-image", (IMAGE,), (replace(RESULT, shape=("batch", 3, 16, 16)),))
    )
    with pytest.raises(GanEdgeError, match="beyond FP16"):
        to_half(full, "fp16")
    half = to_half(full, "bf16")
    assert {tensor.data_type for tensor in half.graph.initializer} >= {TensorProto.BFLOAT16}
    assert not [node for node in half.graph.node if node.op_type == "ConvTranspose"]
    ports = (*half.graph.input, *half.graph.output)
    assert all(port.type.tensor_type.elem_type == TensorProto.FLOAT for port in ports)
    kinds = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    norm = next(node for node in half.graph.node if node.op_type == "InstanceNormalization")
    assert kinds[norm.output[0]] == TensorProto.FLOAT


def test_what_bf16_is_not_defined_for_stays_wide() -> None:
    class Attending(nn.Module):
        """An operator without bf16 between two convolutions."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Compute."""
            y = self.first(x)
            return torch.tanh(self.last(torch.einsum("nchw,ncwv->nchv", y, y)))

    full = to_onnx(Attending().eval(), Interface("image-to-image", (IMAGE,), (RESULT,)))
    half = to_half(full, "bf16")
    kinds = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    found = {node.op_type: kinds[node.output[0]] for node in half.graph.node if node.output[0] in kinds}
    assert found["Conv"] == TensorProto.BFLOAT16
    assert found.get("Einsum", TensorProto.FLOAT) == TensorProto.FLOAT
