"""Open checkpoints without code: of pytorch-CycleGAN-and-pix2pix by name, and of known networks by their weights.

network = build("resnet_9blocks", state)
loaded = open_checkpoint(Path("netG.pth"), SourceSpec(arch="auto"))
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from ganedge.export.checkpoints import (
    LoadedModule,
    Part,
    match_weights,
    only_candidate,
    part_note,
    parts_of,
    ranked,
    read_checkpoint,
)
from ganedge.export.published import Model, Norm, resnet, unet
from ganedge.export.recognise import recognised
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import ArtifactError, MissingExtra, UsageError, one_line

ARCHITECTURES = ("resnet_9blocks", "resnet_6blocks", "unet_256", "unet_128")
"""As that project names them."""
TRAINED = {"resnet_9blocks": 256, "resnet_6blocks": 128, "unet_256": 256, "unet_128": 128}
"""Sides of the pictures that each was designed for, pixels (Zhu et al. 2017, appendix 7.2)."""
UNET_HALVINGS = {"unet_256": 8, "unet_128": 7}


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
        raise UsageError(f"unknown architecture {arch!r}: choose {', '.join(ARCHITECTURES)} or auto")
    state = {re.sub(r"^(module\.)+", "", key): value for key, value in state.items()}
    try:
        if arch in UNET_HALVINGS:
            return unet(UNET_HALVINGS[arch], state, norm)
        inner = {key.removeprefix("model."): value for key, value in state.items()}
        return Model(resnet(inner, "conv_block", norm, 9 if arch == "resnet_9blocks" else 6))
    except (KeyError, IndexError, ValueError) as error:  # ValueError: a scale where a convolution's weights should be.
        reason = error if isinstance(error, ValueError) else f"they hold no {error.args[0]}"
        raise ArtifactError(f"these weights are not of {arch}: {reason}; try --arch auto") from error


def channels_of(state: Mapping[str, Tensor]) -> int:
    """Channels of the pictures that go in: those of the first convolution."""
    return int(next(value for value in state.values() if value.ndim == 4).shape[1])


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
        return recognised(path, parts, digest, spec) or _super_resolution(path, parts, digest, spec)
    match = match_weights(parts, path, lambda state: build(arch, state, spec.norm))
    # Its generators work at any size that halves evenly; the U-Nets' multiple is found by trying.
    size = spec.size or ("dynamic" if spec.input is None else None)
    channels = channels_of(match.state)
    filled = {**vars(spec), "kind": "image", "input": spec.input or f"{channels}xHxW", "size": size}
    notes, trained = match.notes(path), TRAINED[arch]
    return LoadedModule(match.network, SourceSpec(**filled), arch, digest, notes, path.stem, trained)


def _super_resolution(path: Path, parts: Sequence[Part], digest: str, spec: SourceSpec) -> LoadedModule:
    """A super-resolution or restoration network that spandrel knows by its weights; pictures of 0 to 1 go in.

    Raises:
        MissingExtra: spandrel is not installed.
        ArtifactError: it knows no such weights, or they need more inputs than a picture.
    """
    name, state = only_candidate(parts, path)
    notes = part_note(path, name)
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
