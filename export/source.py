"""Settings that describe a source, and which of them apply to which type of source.

    spec = SourceSpec(weights=Path("netG.pth"), input="100x1x1", kind="latent")
    kind_of("runs/digits")                                      # "a run"

`gan-export` and `gan-bench` build their options from the fields of `SourceSpec`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ganedge.export.further import FurtherInput, read_inputs
from ganedge.export.outputs import ALL, read_kept
from ganedge.export.sizes import read_range
from ganedge.runtime import onnx_file
from ganedge.runtime.cli.options import flag, option
from ganedge.runtime.errors import ArtifactError, UsageError
from ganedge.runtime.files import read_file
from ganedge.runtime.manifest import KEY, Noise

PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".safetensors")
"""Endings of files that torch.save and safetensors write."""


DEFAULT_RANGE = (-1.0, 1.0)
"""Values of black and white by default."""


@dataclass(frozen=True)
class SourceSpec:
    """What the user states about a source; each field is an option of its name.

    Values may be given as Python objects or as the text that the command line takes.

    Raises:
        UsageError: a value that cannot be.
    """

    which: str | None = None
    """One of a run's generators: a2b or b2a."""
    checkpoint: str = "last"
    """Of a run: last, best (trained with --features) or a step."""
    arch: str | None = None
    """Architecture of weights without a module: resnet_9blocks, resnet_6blocks, unet_256, unet_128, or auto for any."""
    norm: Literal["instance", "batch"] = "instance"
    """Normalisation layers of --arch."""
    norm_mode: Literal["eval", "batch"] = "eval"
    """BatchNorm with its running statistics (eval), or with those of each image (batch)."""
    size: str | None = None
    """Height and width of input images: 256, 256x320 or dynamic; MIN,OPT,MAX for --format trt."""
    kind: Literal["latent", "image"] | None = None
    """Input of a generator that was not trained here, where the shape of --input does not tell."""
    input: str | None = field(default=None, metadata=option(type=list[str]))
    """Shape of the input without the batch: 100, 100x1x1, 3x256x256, 3xHxW; again for each further one, with its name
    and role (mask, vector, picture, noise): mask=1xHxW:mask, style=16:vector. In Python: a text, or a list of texts."""
    further: tuple[FurtherInput, ...] = field(default=(), metadata=option(hidden=True))
    """The inputs beside the first; made from `input`."""
    output_shape: str | None = None
    """Shape of one image, 1x28x28, where the generator returns a flat vector."""
    result: str | None = None
    """Result to take where it returns several: a name, or an index from 0; by default the largest image."""
    keep_outputs: tuple[str, ...] = ()
    """Outputs to keep beside the result, with commas: names or indices, NAME=INDEX to name one, :mask, :picture or
    :values behind it for what it carries; or all. By default they are dropped, as each one costs time."""
    range: tuple[float, float] | None = field(default=None, metadata=option(default="(its last layers', else -1,1)"))
    """Values of black and white, in the input and in the output."""
    output_range: tuple[float, float] | None = None
    """Values of black and white in the output, where they differ from those of the input: 0,1."""
    mean: tuple[float, ...] = ()
    """Mean of each channel, subtracted from images of 0 to 1 before they go in: 0.485,0.456,0.406."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel, by which images are divided after --mean: 0.229,0.224,0.225."""
    noise: Noise = "normal"
    """Distribution of the latents it was trained on."""
    noise_seed: int = field(default=0, metadata=option(minimum=0))
    """Seed of noise that the generator draws inside at each call: it is drawn once and kept."""
    classes: tuple[str, ...] = ()
    """Classes of its second input: a number, or names with commas."""
    kwargs: Mapping[str, Any] | None = None
    """Arguments of the module's constructor, as JSON; a class is given by name: "nn.InstanceNorm2d"."""
    forward_kwargs: Mapping[str, Any] | None = None
    """Arguments of forward that are no inputs and are kept constant, as JSON: '{"step": 4, "alpha": 1}'."""
    weights: Path | None = None
    """File with the module's weights: a state dict, a training checkpoint or .safetensors."""
    part: str | None = None
    """Generator to take from a checkpoint that holds several: genA2B."""
    trust: bool = False
    """Read weights that can execute code."""

    def __post_init__(self) -> None:
        """Convert what is given as text, and check it."""
        if self.input is not None and (not isinstance(self.input, str) or not self.further):
            texts = [self.input] if isinstance(self.input, str) else list(self.input)
            first, kind, further = read_inputs(texts)
            object.__setattr__(self, "input", first)
            object.__setattr__(self, "kind", self.kind or kind)
            object.__setattr__(self, "further", further or self.further)
        normal = {
            "further": tuple(FurtherInput.of(item) for item in self.further),
            "range": None if self.range is None else _read_bounds(self.range),
            "output_range": None if self.output_range is None else _read_bounds(self.output_range),
            "mean": _read_channels("--mean", self.mean),
            "std": _read_channels("--std", self.std),
            "classes": _read_classes(self.classes),
            "kwargs": _read_kwargs("--kwargs", self.kwargs),
            "forward_kwargs": _read_kwargs("--forward-kwargs", self.forward_kwargs),
            "weights": None if self.weights is None else Path(self.weights),
            "checkpoint": str(self.checkpoint),
            "size": None if self.size is None else str(self.size),
            "result": None if self.result is None else str(self.result),
            "keep_outputs": _read_outputs(self.keep_outputs),
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        if self.std and min(self.std) <= 0:
            raise UsageError(f"--std {','.join(map(str, self.std))}: standard deviations are greater than 0")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise UsageError(f"--mean has {len(self.mean)} channels and --std {len(self.std)}: give one value for each")
        if self.kind not in (None, "latent", "image"):
            raise UsageError(f"--kind {self.kind}: choose latent or image")

    @property
    def input_range(self) -> tuple[float, float]:
        """Values of black and white in the input: 0 and 1 with --mean or --std, else the stated ones, else -1 and 1."""
        return (0.0, 1.0) if self.mean or self.std else self.range or DEFAULT_RANGE

    @property
    def result_range(self) -> tuple[float, float]:
        """Values of black and white in the result: the stated ones, or -1 and 1."""
        return self.output_range or self.range or DEFAULT_RANGE


_VALUES = ("range", "output_range", "mean", "std")
_INPUTS = (
    "input",
    "output_shape",
    "result",
    "keep_outputs",
    "kind",
    *_VALUES,
    "noise",
    "noise_seed",
    "classes",
    "forward_kwargs",
    "norm_mode",
    "size",
    "trust",
)
APPLIES: Mapping[str, tuple[str, ...]] = {
    "a run": ("which", "checkpoint", "norm_mode", "size"),
    "an artifact": ("size",),
    "an .onnx file": ("kind", "input", "output_shape", "result", "keep_outputs", *_VALUES, "noise", "classes", "size"),
    "a module": ("kwargs", "weights", "part", *_INPUTS),
    "a pickled module": ("part", *_INPUTS),
    "weights of a named architecture": ("arch", "part", "norm", "norm_mode", "input", *_VALUES, "size", "trust"),
    "weights to recognise": ("arch", "part", "norm_mode", "input", "noise", "classes", "size", "trust"),
}
"""By kind of source: the fields of `SourceSpec` that have an effect on it."""


def check_applies(source: str, kind: str, spec: SourceSpec, given: Collection[str]) -> None:
    """Refuse what would have no effect on this kind of source.

    Args:
        source: As the user named it.
        kind: One of `APPLIES`.
        spec: All values.
        given: The fields that were given, and not those with their defaults.

    Raises:
        UsageError: a field that has no effect; the message lists those that do.
    """
    known = [item.name for item in fields(SourceSpec)]
    for name in sorted(set(known) & set(given)):
        if name not in APPLIES[kind]:
            accepted = ", ".join(flag(SourceSpec, other) for other in APPLIES[kind])
            raise UsageError(f"{flag(SourceSpec, name)} has no effect on {kind} ({source}), which takes {accepted}")
    if spec.kind == "image" and "noise" in given:
        raise UsageError("--noise is the distribution of latents, and the input of this generator is an image")


def kind_of(source: str, arch: str | None = None) -> str:
    """The kind of a source, one of `APPLIES`: by ending, colon or `arch`; other files are pickles, folders are runs."""
    path = Path(source)
    if path.suffix == ".onnx":
        return "an artifact" if path.is_file() and _has_manifest(path) else "an .onnx file"
    if arch is not None:
        return "weights to recognise" if arch == "auto" else "weights of a named architecture"
    if ":" in source and not path.exists():
        return "a module"
    return "a pickled module" if path.suffix in PICKLES or path.is_file() else "a run"


def _has_manifest(path: Path) -> bool:
    return KEY in metadata(read_file(path), path)


def metadata(data: bytes, path: Path) -> dict[str, str]:
    """Return the manifest of an .onnx file, if it has one. Raises ArtifactError if it is not an .onnx file."""
    try:
        return onnx_file.split(data)[1]
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _read_bounds(value: str | tuple[float, float]) -> tuple[float, float]:
    return read_range(value if isinstance(value, str) else "{},{}".format(*value))


def _read_outputs(value: str | int | Collection[str]) -> tuple[str, ...]:
    texts = str(value).split(",") if isinstance(value, str | int) else tuple(map(str, value))
    if list(texts) != [ALL]:
        for text in texts:
            read_kept(text)
    return tuple(texts)


def _read_channels(flag_name: str, value: str | Sequence[float]) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in (value.split(",") if isinstance(value, str) else value))
    except ValueError as error:
        raise UsageError(f"{flag_name} {value}: give a number for each channel, such as 0.485,0.456,0.406") from error


def _read_classes(value: str | int | Collection[str]) -> tuple[str, ...]:
    if not isinstance(value, str | int):
        return tuple(map(str, value))
    text = str(value)
    names = tuple(map(str, range(int(text)))) if text.isdigit() and len(text) < 6 else tuple(text.split(","))
    if not names or not all(names):
        raise UsageError(f"--classes {text}: give a number, or names with commas")
    return names


def _read_kwargs(name: str, value: str | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not isinstance(value, str):
        return value
    try:
        arguments = json.loads(value)
    except ValueError as error:
        raise UsageError(f'{name} {value}: not JSON ({error}); give {{"name": value}}') from error
    if not isinstance(arguments, dict):
        raise UsageError(f'{name} {value}: give a JSON object, {{"name": value}}')
    return arguments
