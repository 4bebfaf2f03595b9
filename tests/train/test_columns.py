"""Weight gradients through columns: exact, of first and second order, and only where they are asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ganedge.train import im2col
from ganedge.train.im2col import ColumnConv2d, ColumnConvTranspose2d, use_columns

LAYERS = {
    ColumnConv2d: lambda: nn.Conv2d(128, 16, 4, 2, 1, bias=False),
    ColumnConvTranspose2d: lambda: nn.ConvTranspose2d(16, 128, 4, 2, 1, bias=False),
}


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_are_those_of_double_precision(kind: type[nn.Module], memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]()  # type: ignore[index]
    exact = copy.deepcopy(layer).double()
    network = nn.Sequential(layer).to(memory_format=memory)  # type: ignore[call-overload]
    use_columns(network)
    assert type(network[0]) is kind
    x = torch.randn(3, layer.in_channels, 8, 12).to(memory_format=memory).requires_grad_()
    precise = x.detach().double().requires_grad_()
    pairs: list[tuple[Tensor, Tensor]] = []
    for module, given in ((network[0], x), (exact, precise)):
        output = module(given)
        weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(output.dtype)
        first = torch.autograd.grad((output * weights).sum(), (given, module.weight), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), module.weight)  # As R1 and WGAN-GP need it.
        pairs.append((torch.cat([g.detach().reshape(-1) for g in first]), second[0]))
    for ours, reference in zip(*pairs, strict=True):
        torch.testing.assert_close(ours.double(), reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


def test_no_weight_gradient_is_computed_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    real = im2col._weight_gradient
    monkeypatch.setattr(im2col, "_weight_gradient", lambda *given: (counted.append(1), real(*given))[1])
    network = nn.Sequential(LAYERS[ColumnConv2d]())
    use_columns(network)
    x = torch.randn(1, 128, 8, 8, requires_grad=True)
    loss = network(x).sum()
    loss.backward(inputs=[x], retain_graph=True)
    assert not counted
    loss.backward(inputs=[network[0].weight])
    assert len(counted) == 1


def test_other_layers_and_sizes_stay_as_they_are() -> None:
    others = nn.Sequential(
        nn.Conv2d(128, 8, 3, 2, 1, bias=False),
        nn.Conv2d(128, 8, 4, 2, 1),
        nn.Conv2d(64, 8, 4, 2, 1, bias=False),
        nn.Conv2d(256, 8, 4, 2, 1, groups=2, bias=False),
        nn.ConvTranspose2d(8, 128, 4, 2, 1, output_padding=1, bias=False),
    )
    before = [type(layer) for layer in others]
    use_columns(others)
    assert [type(layer) for layer in others] == before
    odd = nn.Sequential(LAYERS[ColumnConv2d]())
    reference = copy.deepcopy(odd)
    use_columns(odd)
    x = torch.randn(1, 128, 9, 7)
    for network in (odd, reference):
        network(x).square().sum().backward()
    torch.testing.assert_close(odd[0].weight.grad, reference[0].weight.grad)
