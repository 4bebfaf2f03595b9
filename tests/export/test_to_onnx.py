"""Networks that PyTorch's exporter does not take as they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from ganedge.export.from_torch import of_network
from ganedge.export.to_onnx import to_onnx
from ganedge.runtime.manifest import Interface, Port, Source


class Attention(nn.Module):
    """Attention of three dimensions, with and without a mask."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.masked = masked

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the pixels."""
        y = x.flatten(2).transpose(1, 2)
        mask = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).tril() if self.masked else None
        return F.scaled_dot_product_attention(y, y, value=y, attn_mask=mask).transpose(1, 2).reshape(x.shape)


class Deformable(nn.Module):
    """A deformable convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.conv = nn.Conv2d(3, 18, 3, padding=1), DeformConv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve at learnt offsets."""
        output: Tensor = self.conv(x, self.offset(x))
        return output


class Grouped(nn.Module):
    """Convolves a batch as so many groups, as StyleGAN2 does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Modulate each item's own weights by its mean."""
        n = x.shape[0]
        weights = (self.weight[None] * x.mean((1, 2, 3)).reshape(n, 1, 1, 1, 1)).reshape(n * 3, 3, 3, 3)
        return F.conv2d(x.reshape(1, n * 3, *x.shape[2:]), weights, padding=1, groups=n).reshape(x.shape)


def interface(batch: int | str = "batch") -> Interface:
    ports = [Port(name, "image", "float32", (batch, 3, 8, 8), "NCHW", (-1.0, 1.0)) for name in ("x", "y")]
    return Interface("image-to-image", (ports[0],), (ports[1],))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_three_dimensions(masked: bool) -> None:
    assert to_onnx(Attention(masked).eval(), interface()).graph.output[0].name == "y"


def test_the_operator_set_is_the_first_that_has_all_operators() -> None:
    assert to_onnx(Deformable().eval(), interface()).opset_import[0].version == 19
    assert to_onnx(nn.Conv2d(3, 3, 1).eval(), interface()).opset_import[0].version == 18


def test_a_batch_that_cannot_be_dynamic_becomes_one() -> None:
    model = of_network(Grouped(), interface(), Source(variant="nets.py:G"))
    assert model.interface.inputs[0].shape == (1, 3, 8, 8)
    assert model.interface.output.shape == (1, 3, 8, 8)
    assert model.notes == ("it computes with its batch: exported for one input at a time",)
