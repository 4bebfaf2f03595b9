"""Recognise a generator by the names and shapes of its weights: ours, and those of public repositories.

    loaded = recognised(Path("netG.pth"), parts, digest, spec)        # None where no network is known

Each candidate is built with the widths that the weights have, and taken only where all names and shapes agree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ganedge.export import published
from ganedge.export.checkpoints import LoadedModule, Part, match_weights
from ganedge.export.further import FurtherInput
from ganedge.export.sizes import flat_image
from ganedge.export.source import SourceSpec
from ganedge.models import augmented_cyclegan, cyclegan, dcgan, digit, mlp, pix2pix, stargan, weights, wgan
from ganedge.models.upsample import Upsampling
from ganedge.runtime.errors import ArtifactError, UsageError
from ganedge.runtime.manifest import Noise

PUBLISHED_MLP = "128,256,512,1024"
"""Hidden features of the fully connected GAN of PyTorch-GAN."""
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Candidate:
    """A network that weights may belong to, and what is known of it."""

    network: nn.Module
    name: str
    """What the user reads."""
    kind: Literal["latent", "image"]
    input: str
    """Shape of one input."""
    range: tuple[float, float] = (-1.0, 1.0)
    noise: Noise = "normal"
    classes: int = 0
    """Number of classes that a label chooses from."""
    further: tuple[FurtherInput, ...] = ()
    """What it takes beside its image; a label comes with `classes`."""
    trained: int | None = None
    """Side of the images that it was designed for, pixels, where any can go in."""


def recognised(path: Path, parts: Sequence[Part], digest: str, spec: SourceSpec) -> LoadedModule | None:
    """Open a checkpoint whose generator is known by its weights.

    Args:
        path: The checkpoint.
        parts: Its parts, the best name first.
        digest: Its sha256.
        spec: What the user states; it wins over what is known.

    Returns:
        The generator with its weights, or None where no part is of a known network.

    Raises:
        UsageError: several parts fit equally well, or a statement has no effect on the network.
    """
    known: dict[int, Candidate] = {}

    def make(state: State) -> nn.Module:
        candidate = recognise(state)
        if candidate is None:
            raise ArtifactError(f"{path}: no known network has these weights")
        known[id(candidate.network)] = candidate
        return candidate.network

    try:
        match = match_weights([(name, _renamed(state)) for name, state in parts], path, make)
    except ArtifactError:
        return None
    candidate = known[id(match.network)]
    note = f"recognised: {candidate.name}, {candidate.kind} {candidate.input}"
    completed = _completed(spec, candidate)
    return LoadedModule(
        match.network, completed, candidate.name, digest, (*match.notes(path), note), path.stem, candidate.trained
    )


def recognise(state: State) -> Candidate | None:
    """Return the first known network that has exactly these names and shapes; None where there is none."""
    for attempt in ATTEMPTS:
        try:
            with torch.random.fork_rng(devices=[]):
                candidate = attempt(state)
        except (LookupError, ValueError, TypeError, ArithmeticError, RuntimeError, UsageError):
            continue  # The weights are of another kind of network.
        own = {key: value.shape for key, value in candidate.network.state_dict().items()}
        counters = {key for key in own.keys() ^ state.keys() if key.endswith("num_batches_tracked")}
        unused = {key for key in state.keys() - own.keys() if _is_unused(key, state, candidate.network)}
        if own.keys() - counters == state.keys() - counters - unused and all(
            state[key].shape == shape for key, shape in own.items() if key in state
        ):
            return candidate
    return None


def _is_unused(key: str, state: State, network: nn.Module) -> bool:
    """Whether a weight is a statistic of InstanceNorm, which old PyTorch saved and never used."""
    name, _, last = key.rpartition(".")
    if last not in ("running_mean", "running_var", "num_batches_tracked") or f"{name}.weight" in state:
        return False
    try:
        return isinstance(network.get_submodule(name), nn.InstanceNorm2d)
    except AttributeError:
        return False


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give parts of our networks their present names."""
    names = [key.partition(".") for key in state]
    return {
        f"{weights.OLD_NAMES.get(first, first)}{dot}{rest}": value
        for (first, dot, rest), value in zip(names, state.values(), strict=True)
    }


def _completed(spec: SourceSpec, candidate: Candidate) -> SourceSpec:
    """Complete the specification by what is known of the network."""
    if candidate.kind == "image" and spec.classes and not candidate.classes:
        raise UsageError(f"--classes: {candidate.name} takes no class; leave it out")
    classes = spec.classes or tuple(map(str, range(candidate.classes)))
    if len(classes) != candidate.classes:
        raise UsageError(f"--classes: these weights have {candidate.classes} classes, not {len(classes)}")
    if candidate.kind == "image":
        size = spec.size or ("dynamic" if spec.input is None else None)
        known = replace(spec, kind="image", input=spec.input or candidate.input, size=size, range=candidate.range)
        return replace(known, classes=classes, further=spec.further or candidate.further)
    if spec.size is not None:
        raise UsageError(f"--size {spec.size}: the size of the images of {candidate.name} is part of its weights")
    noise = candidate.noise if spec.noise == "normal" else spec.noise
    shape = spec.input or candidate.input
    return replace(spec, kind="latent", input=shape, range=candidate.range, noise=noise, classes=classes)


def _dcgan(state: State) -> Candidate:
    classes = len(state["embed.weight"]) if "embed.weight" in state else 0
    values, latent = state["project.weight"].shape
    convolutions = [value for value in state.values() if value.ndim == 4]
    doublings, features = len(convolutions), convolutions[0].shape[0]
    size = round((values / features) ** 0.5) << doublings
    config = dcgan.Config(
        size=size,
        width=features >> (doublings - 1),
        latent=latent - classes,
        channels=convolutions[-1].shape[1],
        **_conditional(classes),
    )
    return Candidate(dcgan.Generator(config), "dcgan of ganedge", "latent", str(config.latent), classes=classes)


def _wgan(state: State) -> Candidate:
    convolutions = [value for key, value in sorted(state.items(), key=_layer) if value.ndim == 4]
    doublings = [value for value in convolutions if value.shape[2] == 4]
    latent, features = doublings[0].shape[:2]
    size = 2 << len(doublings)
    config = wgan.Config(
        size=size,
        width=features // (size // 8),
        latent=latent,
        channels=doublings[-1].shape[1],
        extra_layers=len(convolutions) - len(doublings),
    )
    return Candidate(wgan.Generator(config), "wgan of ganedge", "latent", str(latent))


def _mlp(state: State) -> Candidate:
    """Recognise a variant of fully connected layers; what decides between mlp and wgan is the normalisation."""
    linear = [value for key, value in sorted(state.items(), key=_layer) if value.ndim == 2 and "embed" not in key]
    classes = len(state["embed.weight"]) if "embed.weight" in state else 0
    hidden, latent = [len(value) for value in linear[:-1]], linear[0].shape[1] - classes
    channels, size = _square(len(linear[-1]))
    normalised = any(key.endswith("running_mean") for key in state)
    alike = len(hidden) == 3 and len(set(hidden)) == 1 and not classes
    if alike and not normalised and "layers.6.weight" in state:
        return Candidate(
            wgan.MLPGenerator(wgan.Config(nets="mlp", size=size, channels=channels, hidden=hidden[0], latent=latent)),
            "wgan --nets mlp of ganedge (ReLU)",
            "latent",
            str(latent),
        )
    step = sorted(int(key.split(".")[1]) for key, value in state.items() if value.ndim == 2 and "embed" not in key)
    dropped = not normalised and step[1] - step[0] == 3
    config = mlp.Config(
        size=size,
        channels=channels,
        latent=latent,
        hidden_g=",".join(map(str, hidden)),
        batchnorm=normalised,
        dropout=0.3 if dropped else 0.0,
        **_conditional(classes),
    )
    noise: Noise = "uniform" if dropped else "normal"
    name = "mlp of ganedge" + (f" (BatchNorm epsilon {mlp.EPS})" if normalised else "")
    return Candidate(mlp.Generator(config), name, "latent", str(latent), noise=noise, classes=classes)


def _digit(state: State) -> Candidate:
    latent = state["layers.0.weight"].shape[1]
    return Candidate(
        digit.Generator(digit.Config(latent=latent)), "digit of ganedge", "latent", str(latent), (0.0, 1.0)
    )


def _pix2pix(state: State) -> Candidate:
    levels = len({key.split(".")[1] for key in state if key.startswith("down.")})
    width, channels = state["down.0.0.weight"].shape[:2]
    batch = any(key.endswith("running_mean") for key in state)
    config = pix2pix.Config(
        size=max(32, 2**levels), levels=levels, width=width, channels=channels, norm="batch" if batch else "instance"
    )
    return Candidate(pix2pix.Generator(config), "pix2pix of ganedge", "image", f"{channels}xHxW", trained=256)


def _cyclegan_conv(state: State) -> Candidate:
    width, channels = state["0.weight"].shape[:2]
    blocks = len({key.split(".")[0] for key in state if ".change." in key})
    config = cyclegan.Config(nets="conv", width=width, channels=channels, blocks=blocks)
    return Candidate(cyclegan.ConvGenerator(config), "cyclegan --nets conv of ganedge", "image", f"{channels}xHxW")


def _stargan(state: State) -> Candidate:
    """Recognise a generator of several domains; its weights do not say whether a plane is a class or an attribute."""
    width, planes = state["layers.0.weight"].shape[:2]
    (*_, last) = (value for _, value in sorted(state.items(), key=_layer) if value.ndim == 4)
    channels = len(last)
    blocks = len({key.split(".")[1] for key in state if ".change." in key})
    names = ",".join(map(str, range(planes - channels)))
    config = stargan.Config(width=width, channels=channels, blocks=blocks, class_names=names)
    domains = len(config.domains)
    return Candidate(stargan.Generator(config), "stargan of ganedge", "image", f"{channels}xHxW", classes=domains)


def _augmented_cyclegan(state: State) -> Candidate:
    width, channels = state["layers.0.layers.1.weight"].shape[:2]
    affine = state.get("layers.0.norm.affine.weight")
    latent = 0 if affine is None else affine.shape[1]
    blocks = len({key.split(".")[1] for key in state if ".first." in key})
    config = augmented_cyclegan.Config(width=width, channels=channels, blocks=blocks)
    configs = (replace(config, upsample=way) for way in get_args(Upsampling))
    networks = (augmented_cyclegan.Generator(each, latent) for each in configs)
    key = f"layers.{3 + blocks}.layers"
    shapes = {name: value.shape for name, value in state.items() if name.startswith(key)}
    fits = (
        each for each in networks if shapes == {k: v.shape for k, v in each.state_dict().items() if k.startswith(key)}
    )
    further = (FurtherInput("latent", (latent,), "vector", "normal"),) if latent else ()
    name = "augmented-cyclegan of ganedge"
    return Candidate(next(fits), name, "image", f"{channels}xHxW", further=further)


def _resnet(state: State) -> Candidate:
    residual = min(key.split(".")[1] for key in state if key.endswith(".1.weight") and key.count(".") == 3)
    network = published.resnet(state, residual)
    blocks = sum(key.endswith(f".{residual}.1.weight") for key in state)
    channels, trained = state["1.weight"].shape[1], 256 if blocks >= 9 else 128
    norms = {
        "BatchNorm" for key in state if key.endswith("running_mean") and key.replace("running_mean", "weight") in state
    }
    name = f"resnet_{blocks}blocks, {''.join(norms) or 'InstanceNorm'}"
    return Candidate(network, name, "image", f"{channels}xHxW", trained=trained)


def _unet(state: State) -> Candidate:
    depth = sum(value.ndim == 4 for value in state.values()) // 2
    channels = state["model.model.0.weight"].shape[1]
    network = published.unet(depth, state)
    norm = "BatchNorm" if any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) else "InstanceNorm"
    return Candidate(network, f"unet_{2**depth} ({norm})", "image", f"{channels}xHxW", trained=min(2**depth, 256))


def _transposed(state: State) -> Candidate:
    latent = state["main.0.weight"].shape[0]
    return Candidate(published.transposed(state), "DCGAN of the PyTorch example (ReLU)", "latent", f"{latent}x1x1")


def _upsampling(state: State) -> Candidate:
    latent = state["l1.0.weight"].shape[1]
    return Candidate(published.Upsampling(state), "DCGAN of PyTorch-GAN", "latent", str(latent))


def _published_mlp(state: State) -> Candidate:
    latent = state["model.0.weight"].shape[1]
    channels, size = _square(len(state["model.11.weight"]))
    config = mlp.Config(size=size, channels=channels, latent=latent, hidden_g=PUBLISHED_MLP)
    network = nn.Sequential(OrderedDict(model=mlp.Generator(config).layers))
    return Candidate(network, "GAN of PyTorch-GAN (BatchNorm epsilon 0.8)", "latent", str(latent))


def _conditional(classes: int) -> dict[str, Any]:
    return {"conditional": True, "class_names": ",".join(map(str, range(classes)))} if classes else {}


def _square(values: int) -> tuple[int, int]:
    """Return channels and side of the square image that so many values are."""
    channels, side, _ = map(int, (flat_image((1, values)) or "").split("x"))
    return channels, side


def _layer(item: tuple[str, Tensor]) -> tuple[int, ...]:
    """Order weights by the numbers in their names."""
    return tuple(int(part) for part in item[0].split(".") if part.isdigit())


ATTEMPTS: tuple[Callable[[State], Candidate], ...] = (
    _dcgan,
    _wgan,
    _mlp,
    _digit,
    _pix2pix,
    _cyclegan_conv,
    _stargan,
    _augmented_cyclegan,
    _resnet,
    _unet,
    _transposed,
    _upsampling,
    _published_mlp,
)
"""Each builds the network that weights have if they are of its kind, or raises an error."""
