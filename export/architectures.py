"""The generators of pytorch-CycleGAN-and-pix2pix, laid out so that its checkpoints fit by name.

    network = build("resnet_9blocks", state)

Zhu et al. 2017 (arXiv:1703.10593), appendix 7.2: c7s1-64, d128, d256, nine R256, u128, u64, c7s1-3; Isola et al.
2017 (arXiv:1611.07004), appendix 6.1.1: a U-Net of 4×4 convolutions. Filters, channels and dropout are read off the
weights.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ganedge.export.checkpoints import (
    LoadedModule,
    match_weights,
    only_candidate,
    part_note,
    parts_of,
    ranked,
    read_checkpoint,
)
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import ArtifactError, MissingExtra, UsageError, one_line

ARCHITECTURES = ("resnet_9blocks", "resnet_6blocks", "unet_256", "unet_128")
"""As that project names them."""
TRAINED = {"resnet_9blocks": 256, "resnet_6blocks": 128, "unet_256": 256, "unet_128": 128}
"""Sides of the pictures that each was designed for, pixels (Zhu et al. 2017, appendix 7.2)."""
UNET_HALVINGS = {"unet_256": 8, "unet_128": 7}
Norm = Literal["instance", "batch"]
Layer = Callable[[int], nn.Module]
"""Makes a normalisation of so many channels."""


def build(arch: str, state: Mapping[str, Tensor], norm: Norm = "instance") -> nn.Module:
    """The network of an architecture, of the widths its weights have; not yet filled.

    Args:
        arch: One of ARCHITECTURES.
        state: The checkpoint's weights.
        norm: What it normalises with; where the weights say batch (scales with running statistics), they decide.

    Raises:
        UsageError: an unknown architecture.
        ArtifactError: the weights are of another kind of network.
    """
    if arch not in ARCHITECTURES:
        raise UsageError(f"unknown architecture {arch!r}: choose {', '.join(ARCHITECTURES)}")
    state = {re.sub(r"^(module\.)+", "", key): value for key, value in state.items()}
    try:
        layer = _normalisation(state, norm)
        return _resnet(arch, state, layer) if arch.startswith("resnet") else _unet(arch, state, layer)
    except (KeyError, IndexError) as error:
        raise ArtifactError(f"these weights are not of {arch}: they hold no {error.args[0]}") from error
    except ValueError as error:  # A scale where a convolution's weights should be.
        raise ArtifactError(f"these weights are not of {arch}: {error}") from error


def channels_of(state: Mapping[str, Tensor]) -> int:
    """Channels of the pictures that go in: those of the first convolution."""
    return int(next(value for value in state.values() if value.ndim == 4).shape[1])


def _normalisation(state: Mapping[str, Tensor], norm: Norm) -> Layer:
    """BatchNorm has a scale per channel; InstanceNorm there has none, and may carry statistics it never used."""
    scaled = any(key.endswith("running_mean") and key.replace("running_mean", "weight") in state for key in state)
    if scaled or norm == "batch":
        return functools.partial(nn.BatchNorm2d)
    return functools.partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)


class _Residual(nn.Module):
    """x + f(x), two padded 3×3 convolutions."""

    def __init__(self, width: int, norm: Layer, dropout: bool, bias: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), norm(width), nn.ReLU()]
        layers += [nn.Dropout(0.5)] if dropout else []
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias), norm(width)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        changed: Tensor = self.conv_block(x)
        return x + changed


class _Model(nn.Module):
    """Everything under the name `model`, as those checkpoints have it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> Tensor:
        """Translate pictures `[N, C, H, W]`."""
        translated: Tensor = self.model(pictures)
        return translated


def _resnet(arch: str, state: Mapping[str, Tensor], norm: Layer) -> nn.Module:
    blocks = 9 if arch == "resnet_9blocks" else 6
    first = state["model.1.weight"]
    width, taken = first.shape[:2]
    bias = "model.1.bias" in state
    dropout = "model.10.conv_block.6.weight" in state
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(taken, width, 7, bias=bias), norm(width), nn.ReLU()]
    for times in (1, 2):
        layers += [nn.Conv2d(width * times, width * times * 2, 3, 2, 1, bias=bias), norm(width * times * 2), nn.ReLU()]
    layers += [_Residual(width * 4, norm, dropout, bias) for _ in range(blocks)]
    for times in (4, 2):
        up = nn.ConvTranspose2d(width * times, width * times // 2, 3, 2, 1, output_padding=1, bias=bias)
        layers += [up, norm(width * times // 2), nn.ReLU()]
    key = f"model.{len(layers) + 1}.weight"
    layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, state[key].shape[0], 7), nn.Tanh()]
    return _Model(nn.Sequential(*layers))


class _Level(nn.Module):
    """One level of a U-Net: down, the level below, up again, and the input beside the result."""

    def __init__(self, layers: list[nn.Module], outermost: bool) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.outermost = outermost

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        deep: Tensor = self.model(x)
        return deep if self.outermost else torch.cat([x, deep], 1)


def _unet(arch: str, state: Mapping[str, Tensor], norm: Layer) -> nn.Module:
    first = state["model.model.0.weight"]
    width, taken = first.shape[:2]
    given = state["model.model.3.weight"].shape[1]
    depth = UNET_HALVINGS[arch]
    widths = [width * min(2**level, 8) for level in range(depth)]
    bias = "model.model.1.model.1.bias" in state
    # The activations work in place there, so that what is passed beside is activated too; here as well.
    below: nn.Module | None = None
    for level in reversed(range(1, depth)):
        outer, inner = widths[level - 1], widths[level]
        down: list[nn.Module] = [nn.LeakyReLU(0.2, True), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        if below is None:
            up: list[nn.Module] = [nn.ReLU(True), nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=bias), norm(outer)]
            below = _Level([*down, *up], outermost=False)
            continue
        up = [nn.ReLU(True), nn.ConvTranspose2d(inner * 2, outer, 4, 2, 1, bias=bias), norm(outer)]
        below = _Level([*down, norm(inner), below, *up], outermost=False)
    assert below is not None
    last: list[nn.Module] = [nn.ReLU(True), nn.ConvTranspose2d(width * 2, given, 4, 2, 1), nn.Tanh()]
    return _Model(_Level([nn.Conv2d(taken, width, 4, 2, 1, bias=bias), below, *last], outermost=True))


def open_checkpoint(path: Path, spec: SourceSpec) -> LoadedModule:
    """The generator of pytorch-CycleGAN-and-pix2pix, or with `auto` one of super-resolution, from its weights alone.

    Args:
        path: The checkpoint.
        spec: Its `arch` names the architecture; `part`, `norm`, `size` and `trust` apply.

    Raises:
        UsageError: an unknown architecture.
        ArtifactError: weights that cannot be read or do not fit.
    """
    arch = spec.arch
    assert arch is not None
    content, digest = read_checkpoint(path, spec.trust)
    parts = ranked(list(parts_of(content)), path, spec.part)
    if arch == "auto":
        name, state = only_candidate(parts, path)
        return _recognised(path, state, digest, spec, part_note(path, name))
    match = match_weights(parts, path, lambda state: build(arch, state, spec.norm))
    # Its generators work at any size that halves evenly; the U-Nets' multiple is found by trying.
    size = spec.size or ("dynamic" if spec.input is None else None)
    channels = channels_of(match.state)
    filled = {**vars(spec), "kind": "image", "input": spec.input or f"{channels}xHxW", "size": size}
    return LoadedModule(match.network, SourceSpec(**filled), arch, digest, match.notes(path), path.stem)


def _recognised(
    path: Path, state: dict[str, Tensor], digest: str, spec: SourceSpec, notes: tuple[str, ...]
) -> LoadedModule:
    """A super-resolution or restoration network that spandrel knows by its weights; pictures of 0 to 1 go in.

    Raises:
        MissingExtra: spandrel is not installed.
        ArtifactError: it knows no such weights, or they need more inputs than a picture.
    """
    try:
        import spandrel
    except ImportError as error:
        raise MissingExtra("spandrel", "sr", "--arch auto") from error
    try:
        descriptor = spandrel.ModelLoader(torch.device("cpu")).load_from_state_dict(state)
    except spandrel.UnsupportedModelError as error:
        raise ArtifactError(
            f"{path}: spandrel {version('spandrel')} recognises no network by these weights; give its module, "
            f"FILE.py:NAME --weights {path}"
        ) from error
    except Exception as error:
        reason = one_line(error)
        raise ArtifactError(f"{path}: these weights do not fit what they look like ({reason})") from error
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise ArtifactError(f"{path} is a {descriptor.architecture.name} network, which takes more than a picture")
    filled = {
        **vars(spec),
        "kind": "image",
        "input": spec.input or f"{descriptor.input_channels}xHxW",
        "range": (0.0, 1.0),
        "size": spec.size or ("dynamic" if spec.input is None else None),
    }
    tags = ", ".join(descriptor.tags)
    note = f"recognised: {descriptor.architecture.name}{f' ({tags})' if tags else ''}, {descriptor.scale} × the size"
    return LoadedModule(
        descriptor.model, SourceSpec(**filled), descriptor.architecture.id, digest, (*notes, note), path.stem
    )
