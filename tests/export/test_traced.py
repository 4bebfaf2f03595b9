"""The trace is taken where it holds for every input, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganedge.export import to_onnx as exporter
from ganedge.export.to_onnx import example_inputs, to_onnx
from ganedge.export.traced import PLAIN, traced
from ganedge.models.optimizers import Optimizers
from ganedge.runtime.manifest import Interface, Port

PICTURES = Interface(
    "image-to-image",
    (Port("input", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0)),),
    (Port("output", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0)),),
)
VECTORS = Interface(
    "latent-to-image",
    (Port("latent", "latent", "float32", ("batch", 8), "NC"),),
    (Port("output", "image", "float32", ("batch", 2, 4, 4), "NCHW", (-1.0, 1.0)),),
    "normal",
)


class Written(nn.Module):
    """A network of one expression."""

    def __init__(self, compute: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        """Compute it."""
        return self.compute(self.layer, x)


def result(network: nn.Module, interface: Interface = PICTURES) -> Any:
    torch.manual_seed(0)
    for parameter in network.eval().parameters():
        parameter.requires_grad_(False)
    example = example_inputs(interface, 2, (16, 16) if interface is PICTURES else None)
    with exporter._quiet():  # The exporter warns of its own steps.
        return traced(network, interface, example, 18)


PLAIN_ONES: dict[str, tuple[nn.Module, Interface]] = {
    "pads and norms": (
        nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(3, 8, 3),
            nn.InstanceNorm2d(8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 12, 3, 2, 1),
            nn.BatchNorm2d(12),
            nn.PReLU(12),
            nn.PixelShuffle(2),
            nn.Tanh(),
        ),
        PICTURES,
    ),
    "upsampling": (
        nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 3, 1, 1)),
        PICTURES,
    ),
    "vectors": (
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 2, 4, 2, 1)),
        VECTORS,
    ),
}


@pytest.mark.parametrize("name", PLAIN_ONES)
def test_a_plain_network_is_the_same_at_other_sizes_and_batches(name: str) -> None:
    network, interface = PLAIN_ONES[name]
    model = result(network, interface)
    assert model is not None
    assert {node.op_type for node in model.graph.node} <= PLAIN
    run = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, size in ((1, (16, 16)), (3, (24, 40))):
        inputs = example_inputs(interface, batch, size if interface is PICTURES else None)
        (output,) = run.run(None, {interface.inputs[0].name: inputs[0].numpy()})
        np.testing.assert_allclose(output, network(*inputs).numpy(), atol=1e-5)


LEAVING: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "a branch on a value": lambda layer, x: layer(x) if x.sum() > 0 else x,
    "a branch on a size": lambda layer, x: layer(x) if x.shape[2] > 20 else x,
    "a number of a value": lambda layer, x: layer(x) * float(x.max()),
    "an item": lambda layer, x: layer(x) * x.max().item(),
    "an array": lambda layer, x: layer(x) + float(x.detach().numpy().mean()),
    "a list": lambda layer, x: layer(x) + x[0, 0, 0].tolist()[0],
    "the length of a batch": lambda layer, x: layer(x) * len(x),
    "a size as a number": lambda layer, x: layer(x) / int(x.shape[3]),
    "a size in the graph": lambda layer, x: layer(x) / x.shape[3],
    "one item after the other": lambda layer, x: torch.stack([layer(item) for item in x]),
    "a resize to a size": lambda layer, x: F.interpolate(layer(x), (16, 16)),
    "a reshape to a size": lambda layer, x: layer(x).reshape(-1, 3, 16, 16),
    "a mean over the picture": lambda layer, x: layer(x) - x.mean((2, 3), keepdim=True),
    "a crop": lambda layer, x: F.pad(layer(x)[:, :, 1:15], (0, 0, 1, 1)),
    "a shuffled batch": lambda layer, x: layer(x) + x.flip(0),
    "nothing read": lambda layer, x: layer(torch.ones(2, 3, 16, 16)),
    "random numbers": lambda layer, x: layer(x) + torch.randn(2, 3, 16, 16),
    "no graph at all": lambda layer, x: torch.special.i1(layer(x)),
}


@pytest.mark.parametrize("name", LEAVING)
def test_what_depends_on_the_input_is_not_traced(name: str) -> None:
    assert result(Written(LEAVING[name])) is None


def test_statistics_of_the_batch_are_not_traced() -> None:
    assert result(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))) is None


def test_the_code_is_followed_where_a_trace_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Written(LEAVING["a mean over the picture"]).eval()
    followed: list[str] = []
    usual = exporter._export

    def export(*arguments: Any) -> Any:
        followed.append("")
        return usual(*arguments)

    monkeypatch.setattr(exporter, "_export", export)
    assert "ReduceMean" in {node.op_type for node in to_onnx(network, PICTURES).graph.node}
    assert len(followed) == 1
    to_onnx(nn.Conv2d(3, 3, 3, 1, 1).eval(), PICTURES)
    assert len(followed) == 1


def test_optimizers_are_made_when_the_first_is_needed() -> None:
    made: list[str] = []
    layer = nn.Linear(1, 1)

    def make(name: str, network: nn.Module) -> torch.optim.Optimizer:
        made.append(name)
        return torch.optim.SGD(network.parameters(), 0.1)

    optimizers = Optimizers(make, {"generator": layer, "discriminator": layer})
    assert list(optimizers) == ["generator", "discriminator"]
    assert len(optimizers) == 2
    assert made == []
    assert optimizers["generator"] is optimizers["generator"]
    assert made == ["generator", "discriminator"]
