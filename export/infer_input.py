"""Infer what a network takes: from its layers, the arguments that it was made with, and trial runs.

spec, reason = infer_input(network, SourceSpec(), {"latent_dim": 100})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ganedge.export.arrange import arrange, examples, failure, required_inputs, tensors_in
from ganedge.export.compiled import PerItem, program_input
from ganedge.export.on_cpu import OnCpu, is_about_cuda, on_cpu
from ganedge.export.sizes import CHANNELS, dimensions, flat_image, main_result, read_size
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import UsageError, one_line

LATENTS = ("z_dim", "latent_dim", "nz", "dim_z", "noise_dim", "latent_size", "z_size", "style_dim")
"""Arguments and attributes that hold the length of a latent."""
SIDES = (32, 64, 128, 512, 256)
"""Heights and widths to try a network with, pixels: small ones first, as large ones take long; last the usual one."""


def infer_input(network: nn.Module, spec: SourceSpec, arguments: Mapping[str, Any]) -> tuple[SourceSpec, str]:
    """Complete a specification by the input with which a network returns an image.

    Args:
        network: In evaluation mode.
        spec: Without `input` and `kind`.
        arguments: What the network was made with, its constructor's defaults included.

    Returns:
        The specification with kind and input; or as it was, and why the likeliest guess fails.
    """
    program = program_input(network)
    if program is not None:
        return replace(spec, kind=program[0], input=program[1]), ""
    reason = ""
    for guess in _guesses(network, spec, arguments):
        completed, refusal = _tried(network, guess)
        if completed is not None:
            return completed, ""
        reason = reason or f"tried {guess.kind} {guess.input}: {refusal}"
    return spec, reason


def runnable(network: nn.Module, first: Tensor) -> tuple[nn.Module, tuple[str, ...]]:
    """Let a network run that asks for a missing GPU, takes one item at a time, or a list; notes say so."""
    notes: tuple[str, ...] = ()
    reasons = [failure(network, first)]
    if reasons[0] is not None:
        reasons.append(failure(network, first[:1]))
    if any(is_about_cuda(reason) for reason in reasons if reason):
        network = OnCpu(network)
        notes = ("it asks for a GPU, which is not here: computed on the CPU",)
        reasons[0] = failure(network, first)
    if reasons[0] is None:
        return network, notes
    if isinstance(run(network, first[:1]), Tensor):
        return PerItem(network), (*notes, "it takes one input at a time")
    listed = InList(network)
    if failure(listed, first) is None:
        return listed, (*notes, "it takes a list: the latent is passed as its only item")
    return network, notes


class InList(nn.Module):
    """A network whose first input is a list with one tensor, as the styles of StyleGAN2."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, first: Tensor, *others: Tensor) -> Any:
        """Pass the first as a list."""
        return self.network([first], *others)


def run(network: nn.Module, *inputs: Tensor) -> Any:
    """Run a network; None where it does not take such inputs, which is reported where it matters."""
    try:
        with torch.no_grad(), on_cpu():
            return network(*inputs)
    except Exception:  # noqa: BLE001 - a foreign module may raise anything
        return None


def tried_shapes(spec: SourceSpec) -> list[tuple[int, ...]]:
    """Return the shapes of one input to try a network with: one for each of `SIDES` where height and width are open."""
    return list(dict.fromkeys(_tried_shape(spec, side) for side in SIDES))


def _tried_shape(spec: SourceSpec, side: int) -> tuple[int, ...]:
    assert spec.input is not None
    sizes = tuple(side if isinstance(size, str) else size for size in dimensions(spec.input, "--input"))
    if spec.kind == "image" and spec.size is not None and spec.size != "dynamic" and "," not in spec.size:
        return (sizes[0], *read_size(spec.size))
    return sizes


def _guesses(network: nn.Module, spec: SourceSpec, arguments: Mapping[str, Any]) -> Iterator[SourceSpec]:
    """Yield inputs that the network may take, the likeliest first."""
    several = len(required_inputs(network)) > 1 or bool(spec.classes)
    for layer in network.modules():
        if (channels := _channels(layer, nn.Conv2d)) is not None:
            counts = [channels] if channels in CHANNELS else [3, 1] if several else [channels]
            yield from (replace(spec, kind="image", input=f"{count}xHxW") for count in counts)
            lengths = () if channels in CHANNELS else _lengths(network, channels)
            yield from (replace(spec, kind="latent", input=f"{n}{tail}") for n in lengths for tail in ("x1x1", ""))
        elif (channels := _channels(layer, nn.ConvTranspose2d)) is not None:
            yield from (replace(spec, kind="latent", input=f"{count}x1x1") for count in _lengths(network, channels))
        elif (features := _channels(layer, nn.Linear)) is not None:
            yield from (replace(spec, kind="latent", input=str(count)) for count in _lengths(network, features))
        elif (
            isinstance(layer, nn.Embedding)
            or any(True for _ in layer.children())
            or not any(True for _ in layer.parameters())
        ):
            continue
        break
    first = next((layer for layer in network.modules() if _channels(layer, nn.Conv2d) in CHANNELS), None)
    if first is not None:  # Registered behind layers that come later in forward.
        yield replace(spec, kind="image", input=f"{_channels(first, nn.Conv2d)}xHxW")
    outermost = list(network.modules())[:2]  # The network, which may be in a wrapper of ours.
    stated = {name: next((getattr(m, name) for m in outermost if hasattr(m, name)), None) for name in LATENTS}
    stated |= {name: arguments[name] for name in LATENTS if name in arguments}
    for length in dict.fromkeys(value for value in stated.values() if type(value) is int):
        yield replace(spec, kind="latent", input=str(length))
        yield replace(spec, kind="latent", input=f"{length}x1x1")


def _lengths(network: nn.Module, features: int) -> tuple[int, ...]:
    """Return lengths of a latent: what the first layer takes, or that less the class embedding joined to it."""
    embedded = sum(layer.embedding_dim for layer in network.modules() if isinstance(layer, nn.Embedding))
    return (features, features - embedded) if 0 < embedded < features else (features,)


def _channels(layer: nn.Module, kind: type[nn.Conv2d | nn.ConvTranspose2d | nn.Linear]) -> int | None:
    """Return the channels or features that a layer of a class takes; None where it is of another class."""
    if isinstance(layer, kind):
        return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    if getattr(layer, "original_name", "") != kind.__name__:  # TorchScript keeps the name of the class.
        return None
    weight = next((tensor for key, tensor in layer.named_parameters(recurse=False) if key == "weight"), None)
    return None if weight is None else int(weight.shape[0 if kind is nn.ConvTranspose2d else 1])


def _tried(network: nn.Module, guess: SourceSpec) -> tuple[SourceSpec | None, str]:
    """Try a guess; where an image of one size only can go in, that size becomes part of it."""
    shapes, refusal = tried_shapes(guess), ""
    for shape in shapes:
        reason = _refusal(network, guess, shape)
        if reason is not None:
            refusal = reason
            continue
        if len(shapes) == 1 or guess.size is not None:
            return guess, ""
        channels, height, width = shape
        larger = (channels, 2 * height, 2 * width)  # One call with one item where that is enough: it takes long.
        if isinstance(run(network, torch.zeros(1, *larger)), Tensor) or _refusal(network, guess, larger) is None:
            return guess, ""
        return replace(guess, input=f"{channels}x{height}x{width}"), ""
    return None, refusal


def _refusal(network: nn.Module, spec: SourceSpec, shape: tuple[int, ...]) -> str | None:
    """Say why a network gives no image for an input; None where it does."""
    first = torch.zeros(2, *shape)
    network, _ = runnable(network, first)
    try:
        network, spec, _ = arrange(network, spec, first)
    except UsageError as error:
        return one_line(error)
    further = examples(spec.further, first, len(spec.classes))
    results = [tensor for _, tensor in tensors_in(run(network, first, *further))]
    if not results:
        return failure(network, first, *further) or "it returns no tensor"
    shape = tuple(results[main_result([tuple(tensor.shape) for tensor in results])].shape)
    is_image = (len(shape) == 4 and shape[1] in CHANNELS) or shape[1:] == (2,) or flat_image(shape) is not None
    return None if is_image else f"it returns {'×'.join(map(str, shape[1:]))}"
