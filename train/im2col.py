"""Strided convolutions whose weight gradient is one matrix product: faster on a CPU than the library's own.

    use_columns(network)          # state dict, outputs and what is exported stay as they are
    use_library(network)          # as before

The gradient of a convolution's weights is GᵀC, where the rows of C (called "columns" since im2col; Chellapilla et al.
2006) are the input patches of each output, and G contains the outputs' gradients. In channels-last memory C is a
strided view of the padded input, so one copy makes it, and the product runs at the machine's full speed. Measured for
4 × 4 kernels of stride 2 in FP32 on AVX-512 (benchmarks/LOG.md): 2.2 times oneDNN's speed for 256 channels, 1.6 times
for 128, and slower for 64, which are therefore not replaced. On a processor with fast bf16 the library was faster, so
`train/arithmetic.py` measures which to use. For a transposed convolution input and output are exchanged.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

CHANNELS = 128
"""Channels on the larger pictures' side from which the product is faster."""


class _Convolution(torch.autograd.Function):
    """A convolution without bias, `[N, C, H, W]` → `[N, D, H', W']`, or its transpose; weights are `[D, C, k, k]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, transposed: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.transposed = stride, padding, transposed
        convolve = F.conv_transpose2d if transposed else F.conv2d
        output: Tensor = convolve(x, weight, stride=stride, padding=padding)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        needs_x, needs_weight = _needed(ctx)
        if needs_x and ctx.transposed:
            of_x = F.conv2d(gradient, weight, stride=ctx.stride, padding=ctx.padding)
        elif needs_x:
            of_x = conv2d_input(x.shape, weight, gradient, ctx.stride, ctx.padding)  # type: ignore[no-untyped-call]
        if needs_weight:
            small, large = (x, gradient) if ctx.transposed else (gradient, x)
            of_weight = _weight_gradient(small, large, weight, ctx.stride, ctx.padding)
        return of_x, of_weight, None, None, None


class ColumnConv2d(nn.Conv2d):
    """A `Conv2d` whose weight gradient is computed through columns."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name is the library's
        """Convolve `[N, C, H, W]`."""
        if not _pays(input, self.weight):
            return super().forward(input)
        output: Tensor = _Convolution.apply(input, self.weight, self.stride[0], self.padding[0], False)
        return output


class ColumnConvTranspose2d(nn.ConvTranspose2d):
    """A `ConvTranspose2d` whose weight gradient is computed through columns."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        """Convolve `[N, D, H, W]`."""
        if output_size is not None or not _pays(input, self.weight):
            return super().forward(input, output_size)
        output: Tensor = _Convolution.apply(input, self.weight, self.stride[0], int(self.padding[0]), True)
        return output


def use_columns(network: nn.Module) -> None:
    """Replace the convolutions that `_fits` accepts, so that they compute their weight gradients through columns."""
    for module in network.modules():
        module.__class__ = _replacement(module) or module.__class__


def use_library(network: nn.Module) -> None:
    """Undo `use_columns`."""
    originals: dict[type[nn.Module], type[nn.Module]] = {
        ColumnConv2d: nn.Conv2d,
        ColumnConvTranspose2d: nn.ConvTranspose2d,
    }
    for module in network.modules():
        module.__class__ = originals.get(type(module), type(module))


def applies_to(network: nn.Module) -> bool:
    """Whether `use_columns` would change any layer."""
    return any(_replacement(module) is not None for module in network.modules())


def _replacement(module: nn.Module) -> type[nn.Module] | None:
    """Return the class that replaces a layer's; None if it is not replaced."""
    if type(module) is nn.Conv2d and _fits(module):
        return ColumnConv2d
    if type(module) is nn.ConvTranspose2d and _fits(module) and module.output_padding == (0, 0):
        return ColumnConvTranspose2d
    return None


def _fits(module: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether this is a convolution for which columns were measured to be faster."""
    plain = module.bias is None and module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    square = module.kernel_size == (4, 4) and module.stride == (2, 2) and module.padding == (1, 1)
    return plain and square and module.weight.shape[1] >= CHANNELS


def _pays(x: Tensor, weight: Tensor) -> bool:
    """Whether gradients are needed, in FP32 on a CPU, for a picture of even height and width."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and torch.is_grad_enabled() and weight.requires_grad and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0


def _needed(ctx: Any) -> list[bool]:
    """Whether this backward pass needs the gradient of the input, and of the weight.

    `needs_input_grad` is true for the discriminator's weights in the generator's step too, which does not need them.
    """
    return [
        needed and _will_run(node) for needed, (node, _) in zip(ctx.needs_input_grad, ctx.next_functions, strict=False)
    ][:2]


def _will_run(node: Any) -> bool:
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # Not known for leaves in torch.autograd.grad: compute it.
        return True


def _weight_gradient(small: Tensor, large: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient of `[D, C, k, k]` from `small` `[N, D, H', W']` and `large` `[N, C, H, W]`."""
    rows, channels, kernel, _ = weight.shape
    padded = F.pad(large, (padding,) * 4).permute(0, 2, 3, 1).contiguous()  # [N, H + 2p, W + 2p, C]
    count, height, width = small.shape[0], *small.shape[2:]
    n, h, w, _ = padded.stride()
    shape = (count, height, width, kernel, kernel * channels)
    columns = padded.as_strided(shape, (n, stride * h, stride * w, h, 1)).reshape(count * height * width, -1)
    product = small.permute(1, 0, 2, 3).reshape(rows, -1) @ columns  # [D, k · k · C]
    return product.view(rows, kernel, kernel, channels).permute(0, 3, 1, 2)
