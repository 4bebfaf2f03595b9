"""The edge student: what its networks are made of, that counts are those of its graph, and what a pixel depends on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ganedge.export.graph import total_multiply_accumulates
from ganedge.export.student_size import student_weights
from ganedge.export.to_onnx import to_onnx
from ganedge.models import VARIANTS, find
from ganedge.models.student import LatentConfig, LatentStudent, PictureConfig, PictureStudent, space_to_depth
from ganedge.runtime.errors import UsageError

SIMPLE = {"Conv", "Gemm", "Relu", "Add", "Concat", "Tanh", "SpaceToDepth", "DepthToSpace", "Reshape", "Gather", "Mul"}
SIMPLE |= {"Sub", "Div", "Flatten", "Identity"}
"""Operators that every engine is fast at, or that cost nothing."""


@pytest.mark.parametrize(
    "config",
    [
        PictureConfig(width=8, blocks=1, size=32, crop=32),
        PictureConfig(width=4, blocks=0, size=32, crop=16, inputs=1, channels=4, scale=2, stride=2),
        PictureConfig(width=4, blocks=1, size=16, crop=16, scale=8, stride=1, low=0, high=255, input_low=0),
        LatentConfig(width=8, blocks=1, height=28, wide=28, channels=1, latent=6, class_names="a,b"),
        LatentConfig(width=8, blocks=0, height=12, wide=20, latent=6, maps=True, low=0),
        LatentConfig(width=8, height=0, wide=0, channels=2, latent=6, output_name="points"),
    ],
    ids=["same size", "twice, one to four channels", "eight times, 0 to 255", "by class", "not square", "points"],
)
def test_its_graph_is_simple_and_counted_rightly(config: PictureConfig | LatentConfig) -> None:
    pytest.importorskip("onnxscript", reason="exports to ONNX")
    student = PictureStudent(config) if isinstance(config, PictureConfig) else LatentStudent(config)
    interface = student.generators()["generator"]
    for module in student.generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)  # As after training: a bias of zeros is left out of the graph.
    model = to_onnx(student.generator.eval(), interface)
    assert {node.op_type for node in model.graph.node} <= SIMPLE
    kernels = [list(a.ints) for node in model.graph.node for a in node.attribute if a.name == "kernel_shape"]
    assert all(kernel == [3, 3] for kernel in kernels)
    if isinstance(config, PictureConfig):
        shapes, macs = {"input": (1, config.inputs, 32, 64)}, config.count_macs(32, 64)
    else:
        shapes = {port.name: (1, *port.item_shape) for port in interface.inputs}
        macs = config.count_macs()
    assert total_multiply_accumulates(model, shapes) == macs
    layers = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    biases = {node.input[2] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    held = {tensor.name: int(torch.tensor(tensor.dims).prod()) for tensor in model.graph.initializer}
    assert student_weights(config) == sum(held[name] for name in layers | biases | tables)


def test_outputs_are_in_the_range_and_shape_that_the_interface_says() -> None:
    torch.manual_seed(0)
    config = PictureConfig(width=4, blocks=1, size=16, crop=16, inputs=1, scale=4, stride=2, low=0, high=255)
    made = PictureStudent(config).generator.eval()(100 * torch.randn(2, 1, 8, 12))
    assert made.shape == (2, 3, 32, 48)
    assert 0 <= made.min() < 100
    assert 150 < made.max() <= 255


def test_space_to_depth_puts_the_row_first_as_onnx_does() -> None:
    picture = torch.arange(2 * 4 * 4).reshape(1, 2, 4, 4)
    made = space_to_depth(picture, 2)
    assert made.shape == (1, 8, 2, 2)
    assert made[0, :, 0, 0].tolist() == [0, 16, 1, 17, 4, 20, 5, 21]


def test_gan_train_does_not_offer_it_and_its_runs_open() -> None:
    assert "student" not in {variant.name for variant in VARIANTS}
    student = find("student")(PictureConfig(width=4, blocks=0, size=16, crop=16))
    assert find("latent-student") is LatentStudent
    with pytest.raises(UsageError, match="gan-compress"):
        student.step({}, 0, lambda *_: None)
    assert not any(isinstance(each, nn.InstanceNorm2d) for each in student.networks["generator"].modules())
