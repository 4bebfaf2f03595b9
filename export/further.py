"""Inputs of a generator beside its first: classes, masks, vectors, further pictures and noise. No torch here.

item = read_input("mask=1xHxW:mask")
item.port().shape                                   # ("batch", 1, "height", "width")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from ganedge.export.sizes import dimensions
from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import Noise, Port, Role

ROLES: dict[str, Role] = {
    "image": "image",
    "picture": "image",
    "mask": "mask",
    "vector": "vector",
    "style": "vector",
    "noise": "noise",
    "label": "label",
}
"""Words for the roles of further inputs."""
REQUIRED = "required"
"""What stands for the distribution of a vector that callers always have to give."""
NAMES: dict[Role, tuple[str, ...]] = {
    "mask": ("mask", "masks", "matte", "trimap", "m"),
    "noise": ("noise", "noises", "eps", "epsilon"),
    "label": ("label", "labels", "y", "cls", "class_idx", "class_id", "class_label", "domain", "target", "c"),
    "vector": ("style", "s", "style_code", "code", "z", "latent", "w", "attr", "attributes", "cond", "condition"),
    "image": ("reference", "ref", "image", "img", "image2", "x2", "background", "bg"),
}
"""Usual names of parameters, and what they stand for."""
EXAMPLE = "--input mask=1xHxW:mask or --input style=16:vector"


@dataclass(frozen=True)
class FurtherInput:
    """One input beside the first."""

    name: str
    """As the network's forward names it, and as the artifact will."""
    shape: tuple[int | str, ...]
    """Without the batch; empty for a label."""
    role: Role
    """What it carries."""
    distribution: Noise | None = None
    """What a vector or noise is drawn from where a caller gives none; None where it has to be given."""

    @classmethod
    def of(cls, item: FurtherInput | Mapping[str, Any]) -> FurtherInput:
        """An input itself, or its fields as JSON gives them."""
        return item if isinstance(item, FurtherInput) else cls(**{**item, "shape": tuple(item["shape"])})

    @classmethod
    def of_port(cls, port: Port) -> FurtherInput:
        """The input that a manifest describes."""
        shape = () if port.role == "label" else (port.channels, *port.sides) if port.is_picture else port.shape[1:]
        return cls(port.name, shape, port.role, port.distribution)

    def port(self, value_range: tuple[float, float], batch: int | str = "batch") -> Port:
        """What the manifest says of it; `value_range` is black and white of pictures."""
        shape = (batch, *self.shape)
        if self.role == "label":
            return Port(self.name, "label", "int64", (batch,), "N")
        if self.role == "mask":
            return Port(self.name, "mask", "float32", shape, "NCHW", (0.0, 1.0))
        if self.role == "image":
            return Port(self.name, "image", "float32", shape, "NCHW", value_range)
        layout = {1: "NC", 2: "NLC", 3: "NCHW"}[len(self.shape)]
        return Port(self.name, self.role, "float32", shape, layout, distribution=self.distribution)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """As --input takes it."""
        shape = "x".join({"height": "H", "width": "W"}.get(str(size), str(size)) for size in self.shape)
        drawn = "" if self.role != "vector" else f":{self.distribution or REQUIRED}"
        return f"{self.name}={shape}:{self.role}{drawn}"


def read_input(text: str) -> FurtherInput:
    """Read NAME=SHAPE[:ROLE[:DISTRIBUTION]].

    Raises:
        UsageError: not of this form, or a role or distribution that does not exist.

    >>> read_input("style=16")
    FurtherInput(name='style', shape=(16,), role='vector', distribution='normal')
    """
    name, _, rest = text.partition("=")
    shape_text, *words = rest.split(":")
    if not name or not shape_text or len(words) > 2:
        raise UsageError(f"--input {text}: give further inputs as NAME=SHAPE:ROLE, such as {EXAMPLE}")
    shape = dimensions(shape_text, f"--input {name}:")
    if words and words[0] not in ROLES:
        raise UsageError(f"--input {text}: {words[0]!r} is no role; choose {', '.join(ROLES)}")
    role = ROLES[words[0]] if words else _role_of(name, shape)
    if role == "label":
        raise UsageError(f"--input {text}: give the classes with --classes instead, a number or names with commas")
    known = (*get_args(Noise), REQUIRED)
    if len(words) == 2 and (role not in ("vector", "noise") or words[1] not in known):
        raise UsageError(f"--input {text}: {words[1]!r} is not what a {role} is drawn from; choose {', '.join(known)}")
    ranks = {"mask": (3,), "image": (3,), "vector": (1, 2), "noise": (1, 3)}[role]
    if len(shape) not in ranks or (role == "mask" and shape[0] != 1):
        example = {"mask": "1xHxW", "image": "3xHxW", "vector": "16", "noise": "1x64x64"}[role]
        raise UsageError(f"--input {text}: a {role} has a shape such as {example}")
    drawn: Noise | None = "normal" if role in ("vector", "noise") else None
    if len(words) == 2:
        drawn = None if words[1] == REQUIRED else words[1]  # type: ignore[assignment]
    return FurtherInput(name, shape, role, drawn)


def read_inputs(texts: Sequence[str]) -> tuple[str | None, str | None, tuple[FurtherInput, ...]]:
    """Read all values of --input.

    Returns:
        The shape of the first input, its kind where its role or shape says it, and the further inputs.

    >>> read_inputs(["photo=3xHxW:picture", "mask=1xHxW"])[:2]
    ('3xHxW', 'image')
    """
    first, kind = None, None
    further: list[FurtherInput] = []
    for index, text in enumerate(texts):
        name, is_named, rest = text.partition("=")
        role = rest.partition(":")[2] if is_named else name.partition(":")[2]
        if not is_named or role == "latent" or (index == 0 and role in ("image", "picture")):
            if first is not None:
                raise UsageError(f"--input {text}: {first} is the first input already; give others as NAME=SHAPE:ROLE")
            first = (rest if is_named else name).partition(":")[0]
            kind = {"latent": "latent", "image": "image", "picture": "image"}.get(role) or _kind_of(first)
        else:
            further.append(read_input(text))
    names = [item.name for item in further]
    if len(set(names)) < len(names):
        raise UsageError(f"--input: two inputs are called {next(name for name in names if names.count(name) > 1)}")
    return first, kind, tuple(further)


def _kind_of(shape: str) -> str | None:
    """Return what a first input of this shape is, where only a latent or only an image has such a shape.

    >>> [_kind_of(shape) for shape in ("100", "100x1x1", "3xHxW", "3x256x256", "4x4x4")]
    ['latent', 'latent', 'image', 'image', None]
    """
    sizes = dimensions(shape, "--input")
    if len(sizes) == 1 or sizes[1:] == (1, 1):
        return "latent"
    is_dynamic = any(isinstance(size, str) for size in sizes)
    is_picture = len(sizes) == 3 and sizes[0] in (1, 3, 4) and all(isinstance(n, str) or n >= 32 for n in sizes[1:])
    return "image" if is_dynamic or is_picture else None


def role_by_name(name: str) -> Role | None:
    """What an input of this name usually carries; None where the name says nothing."""
    return next((role for role, names in NAMES.items() if name.lower() in names), None)


def _role_of(name: str, shape: tuple[int | str, ...]) -> Role:
    """What an input of this name and shape most likely carries."""
    by_name = role_by_name(name)
    if len(shape) in (1, 2):
        return "noise" if by_name == "noise" else "vector"
    if by_name == "noise" or (by_name == "mask" and shape[0] == 1):
        return by_name
    return "image" if any(isinstance(size, str) for size in shape) else "noise"


def candidates(
    name: str, kind: str, first: Sequence[int | str], widths: Sequence[int], extra: Sequence[int]
) -> Iterator[FurtherInput]:
    """What a parameter of forward may be, the likeliest first.

    Args:
        name: Of the parameter.
        kind: latent or image: what the first input is.
        first: The first input's shape.
        widths: Values that the network's linear layers take.
        extra: Channels that its convolutions take beyond those of the first input.
    """
    role = role_by_name(name)
    sides = tuple(first[1:]) if kind == "image" and len(first) == 3 else ("height", "width")
    vectors = [FurtherInput(name, (width,), "vector", "normal") for width in dict.fromkeys((*widths, *extra))]
    masks = [FurtherInput(name, (1, *sides), "mask")] if kind == "image" else []
    pictures = [FurtherInput(name, (c, *sides), "image") for c in dict.fromkeys((first[0], *extra)) if kind == "image"]
    noise = [FurtherInput(name, (1, 2**power, 2**power), "noise", "normal") for power in range(2, 11)]
    if kind == "image":
        noise = [FurtherInput(name, (1, *sides), "noise", "normal"), *noise]
    order = {"mask": [*masks, *vectors], "noise": [*noise, *vectors], "image": [*pictures, *vectors]}
    yield from order.get(str(role), [*vectors, *pictures, *masks])
