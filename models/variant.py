"""What train and export rely on: the shape of a GAN variant.

A variant is one file with four parts, read from top to bottom: its config, its networks, its losses, and one training
step. Whoever writes such a file and adds its class to `ganedge.models.VARIANTS` has added a GAN to all four commands.

What a step draws at random for each item, dropout too, comes through `ganedge.models.noise`, so that several processes
train what one would.
"""

from __future__ import annotations

import math
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

from torch import Tensor, nn
from torch.optim import Optimizer

from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import Interface

Batch = Mapping[str, Tensor]
"""One batch on the training device. The kind of data that `wants` asked for decides its keys:

- images: `images`, and `labels` (int64 `[N]`) where they were asked for
- points: `points`, float `[N, 2]`
- pairs: `input` and `target`
- unpaired: `a` and `b`, which have nothing to do with each other
- latents: `latents`, `[N, 1]` of zeros: as many items as the step is to draw

Pictures are float `[N, C, H, W]` in the wanted range."""


class Update(Protocol):
    """What a variant's step calls once for each optimizer."""

    def __call__(self, name: str, loss: Tensor, keep_graph: bool = False) -> None:
        """Take one step of the optimizer `name`: gradients of its own parameters and no others, of all processes.

        Args:
            name: One of the variant's optimizers.
            loss: What it minimises.
            keep_graph: Keep what the loss was computed from, for a second loss.
        """
        ...


DataKind = Literal["images", "points", "pairs", "unpaired", "latents"]
"""Kinds of training data: single pictures, points of the plane, pictures in pairs, two sets of pictures; or none, where
latents alone are drawn."""


@dataclass(frozen=True, kw_only=True)
class VariantConfig:
    """The settings that every variant has. A field's docstring is its help text on the command line."""

    epochs: int = 25
    """Passes over the data."""
    batch: int = 64
    """Items in one step, over all devices."""
    sample_every: int = 500
    """Steps, or epochs where --sample-unit says so, between two pictures of the same noise in the run folder."""
    sample_unit: Literal["steps", "epochs"] = "steps"
    """What --sample-every counts."""
    ema: float = 0.999
    """Decay per step of the averaged generator that is saved and exported, 0 to below 1; 0 keeps no average."""
    decay: float = 1.0
    """Share of the epochs after which the learning rates fall linearly, to reach 0 after the last; 1 keeps them."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work. Subclasses call this and add their own."""
        check_types(self)
        require(self.epochs >= 1, "epochs", self.epochs, "1 or more")
        require(self.batch >= 1, "batch", self.batch, "1 or more")
        require(self.sample_every >= 1, "sample_every", self.sample_every, "1 or more")
        require(0 <= self.ema < 1, "ema", self.ema, "0 or more and below 1")
        require(0 <= self.decay <= 1, "decay", self.decay, "0 to 1")

    @property
    def trains_in_bf16(self) -> bool:
        """Whether bf16 was measured to keep FP32's quality at equal steps: then `--precision auto` may take it."""
        return False

    def doubts(self, steps: int) -> list[str]:
        """What to warn of in a training of so many steps."""
        return []

    def for_items(self, count: int) -> VariantConfig:
        """This config with what depends on the number of items in the data set: the same by default."""
        return self


JOIN = "+"
"""Separator of the attributes in the name of a class that is a combination of them."""
NONE = "none"
"""Name of the class without any of the attributes."""


@dataclass(frozen=True)
class Wants:
    """The data a variant trains on."""

    kind: DataKind
    """What one item is."""
    size: int = 0
    """Height and width of a picture, pixels; 0 where there are no pictures."""
    channels: int | None = None
    """1 grey, 3 colour; None takes what the data has."""
    range: tuple[float, float] = (-1.0, 1.0)
    """The values of black and white that the networks see."""
    labels: bool = False
    """Whether a batch holds the class of each picture."""
    classes: tuple[str, ...] = ()
    """Train on these classes only; all of them where it is empty."""
    option: str = ""
    """The variant's option that names those classes, for messages; empty where it has none."""
    load_size: int = 0
    """Height and width that pictures are scaled to before a random square of `size` is cut out, pixels; 0: no cut."""
    flip: bool = False
    """Whether pictures are mirrored left to right at random."""
    reverse: bool = False
    """Whether the second picture of a pair is the input and the first the target."""
    examples: bool = False
    """Whether previews need a few single pictures; of pairs and of two sets they always have some."""
    attributes: tuple[str, ...] | None = None
    """Attributes that a table gives each picture, whose combinations are the classes; empty: all of the table; None
    where a variant does not learn from such a table."""


class Variant(Protocol):
    """One GAN: constructed from its config, it holds networks and optimizers and knows one training step."""

    name: ClassVar[str]
    """As the command line names it."""
    summary: ClassVar[str]
    """One line for `gan-train --list`."""
    config_class: ClassVar[type[VariantConfig]]
    """Its settings: fields, defaults and help texts."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Named sets of config values, for `--preset`; options that are given win over them."""

    networks: Mapping[str, nn.Module]
    """Every network by name, generators included: what a checkpoint holds."""
    optimizers: Mapping[str, Optimizer]
    """Every optimizer by the name that the step hands to `update`."""

    def __init__(self, config: Any) -> None: ...

    @staticmethod
    def wants(config: Any) -> Wants:
        """The data to train on. Config fields that are None are filled from the data's facts of the same name."""
        ...

    def generators(self) -> dict[str, Interface]:
        """The networks that are generators, by name, and what each takes and gives; their forward takes its inputs."""
        ...

    def step(self, batch: Batch, step: int, update: Update) -> dict[str, Tensor]:
        """Train on one batch; give the losses as scalars that were not waited for."""
        ...


@runtime_checkable
class Gridded(Protocol):
    """A config that says how many of the pictures that a generator draws are shown."""

    grid: int
    """Pictures in a row of a sample, and rows."""


@runtime_checkable
class Arranged(Protocol):
    """A translator whose strips are not laid side by side in the order in which it gives them."""

    strip_order: tuple[int, ...]
    """Indices into what `strips` gives, from left to right."""


@runtime_checkable
class Translator(Protocol):
    """A variant that turns pictures into pictures, and can show what it does with some.

    Its generators take a picture and perhaps more, as their interfaces say: a class, or a vector to be drawn. What
    measures them gives each picture the next class, and new values of what is drawn.
    """

    sources: Mapping[str, str]
    """For each generator, where a batch holds its inputs."""
    targets: Mapping[str, str]
    """For each generator, where a batch holds the pictures that its outputs should look like."""

    def strips(self, name: str, networks: Mapping[str, nn.Module], batch: Batch) -> tuple[Tensor, ...]:
        """What to lay side by side for the generator `name`: its inputs, its outputs and what to hold against them.

        Args:
            name: One of `generators()`.
            networks: The generators to use, by name, in evaluation mode.
            batch: What a step takes.

        Returns:
            Float `[N, C, H, W]` each, in the wanted range: the inputs, then outputs (one for each class or drawn
            vector, where a generator takes these), then what they are compared with.
        """
        ...


def check_types(config: object) -> None:
    """Refuse values of the wrong type, of no listed choice, or infinite: a config may come from a file.

    Raises:
        UsageError: naming the field, the value and what is accepted.
    """
    hints = get_type_hints(type(config))
    for item in fields(config):  # type: ignore[arg-type]
        value, hint = getattr(config, item.name), hints[item.name]
        options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        fits = any(_fits(value, option) for option in options)
        named = [str(choice) for option in options for choice in get_args(option)]
        wanted = ", ".join(named) or " or ".join(getattr(option, "__name__", "none") for option in options)
        require(fits, item.name, value, wanted)


ON = object()
"""For `only_with`: whatever is not the field's default."""


def only_with(others: str | tuple[str, ...], value: object, default: Any) -> Any:
    """A config field that has an effect only where one of the fields `others` is `value`."""
    return field(default=default, metadata={"with": ((others,) if isinstance(others, str) else others, value)})


def usual(config: type, names: Collection[str]) -> dict[str, Any]:
    """The defaults of some fields of a dataclass: as a preset, it undoes what another one or `--config` sets."""
    return {item.name: item.default for item in fields(config) if item.name in names}


def check_given(config: VariantConfig, given: Collection[str]) -> None:
    """Refuse fields that somebody asked for and that would have no effect, as `only_with` says.

    Raises:
        UsageError: naming the field and what it needs.
    """
    defaults = usual(type(config), {item.name for item in fields(config)})
    for item in fields(config):
        others, value = item.metadata.get("with", ((), None))
        is_met = any(
            getattr(config, other) != defaults[other] if value is ON else getattr(config, other) == value
            for other in others
        )
        if item.name in given and others and not is_met:
            name = item.name.replace("_", "-")
            shown = "" if value is ON or value is True else f" {value}"
            needed = " or ".join(f"--{other.replace('_', '-')}{shown}" for other in others)
            message = f"{name} is {getattr(config, item.name)}, but has an effect with {needed} only"
            raise UsageError(f"{message}: leave it out, or add that")


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def require(holds: bool, name: str, value: object, accepted: str) -> None:
    """Refuse a config value, naming the option, the value and what is accepted."""
    if not holds:
        raise UsageError(f"{name.replace('_', '-')} is {value}: give {accepted}")
