"""The manifest of an artifact: inputs, outputs, origin, and what was proven.

The reader owns the format, so it is defined here; `ganedge.export` writes artifacts through these classes. In an
ONNX file the manifest is one JSON text under the metadata key `ganedge`, sealed by a digest over the manifest and
every byte of graph and weights:

    manifest, model = read_artifact(Path("generator.onnx"))
    print(manifest.interface.kind, manifest.interface.outputs[0].shape)

Nothing in a manifest is trusted for being there: every field is checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

from . import onnx_file
from .errors import ArtifactError
from .files import read_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

SCHEMA = 3
"""The newest version of the format that this program reads. Version 2 has further roles of inputs, version 3
further outputs; a manifest without them is written as the version before, which older programs read."""
CHECKPOINTS = (".pt", ".pth", ".ckpt", ".pkl", ".safetensors", ".tar")
"""Endings of files that hold weights without a network."""
KEY = "ganedge"
"""The key of the manifest in an ONNX file's metadata."""
MAX_SIDE = 65_536
"""The largest fixed dimension that is accepted, in elements."""
MAX_ELEMENTS = 2**31
"""The most elements that one item of a batch may have."""

Kind = Literal["latent-to-image", "image-to-image", "latent-to-points"]
Role = Literal["latent", "label", "image", "points", "mask", "vector", "noise", "values"]
DType = Literal["float32", "uint8", "int64"]
Layout = Literal["NCHW", "NHWC", "NC", "N", "NLC"]
Noise = Literal["normal", "uniform"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
NormMode = Literal["none", "eval", "batch", "instance"]


LAYOUTS: dict[Role, tuple[Layout, ...]] = {
    "latent": ("NC", "NCHW", "NLC"),
    "label": ("N",),
    "image": ("NCHW", "NHWC"),
    "points": ("NC",),
    "mask": ("NCHW", "NHWC"),
    "vector": ("NC", "NLC"),
    "noise": ("NC", "NCHW"),
    "values": ("N", "NC", "NLC", "NCHW"),
}
"""The layouts that each role can have; NLC is one vector for each of L layers."""
EXTRA: tuple[Role, ...] = ("image", "mask", "values")
"""Roles of outputs beside the result."""
MAX_OUTPUTS = 32
"""The most outputs that a generator may have."""
FURTHER: tuple[Role, ...] = ("label", "image", "mask", "vector", "noise")
"""Roles of inputs beside the first."""
MAX_INPUTS = 16
"""The most inputs that a generator may have."""
MAX_DENOMINATOR = 64
"""Of a scale from input to output that is written as a decimal number."""
MAX_CHANNELS = 8
"""The most channels of a picture."""


def program() -> str:
    """What writes a file: `ganedge` and its version, as a manifest's source names it."""
    from importlib.metadata import PackageNotFoundError, version  # Not needed by a device that only reads.

    try:
        return f"ganedge {version('ganedge')}"
    except PackageNotFoundError:
        return "ganedge, run from its sources"


class Relation(NamedTuple):
    """How a dimension of an output follows one of the input."""

    scale: Fraction
    """What the input's is multiplied by."""
    name: str
    """The input's."""
    border: int
    """What is less than that, pixels."""


def relation_of(size: int | str) -> Relation | None:
    """Read a dimension such as `height`, `0.5*height` or `2*width-8`; None where it is of another form.

    >>> relation_of("2*width-8")
    Relation(scale=Fraction(2, 1), name='width', border=8)
    """
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)\*)?([A-Za-z_]\w*)(?:-(\d+))?", str(size), re.ASCII)
    if match is None:
        return None
    factor, name, border = match.groups()
    return Relation(Fraction(factor or 1).limit_denominator(MAX_DENOMINATOR), name, int(border or 0))


@dataclass(frozen=True)
class Port:
    """One input or output of a generator."""

    name: str
    """The tensor's name in the graph."""
    role: Role
    """What it carries: a latent vector, a class label, a picture, points, a mask, another vector such as a style,
    noise, or, of an output beside the result, other values such as latents or features."""
    dtype: DType
    """The element type that crosses the boundary, whatever the graph computes in."""
    shape: tuple[int | str, ...]
    """Dimensions; a string is a dynamic one: batch, height or width."""
    layout: Layout
    """What the dimensions mean."""
    range: tuple[float, float] | None = None
    """The values of black and white in a picture; None where there is no such range."""
    multiple: int = 1
    """Height and width, where dynamic, must be multiples of this, in pixels."""
    distribution: Noise | None = None
    """What a vector or noise is drawn from where the caller gives none; None where it has to be given."""

    def __post_init__(self) -> None:
        """Check every field, because a manifest may come from anywhere."""
        _check_text(self.name, "a tensor's name")
        for value, allowed, what in (
            (self.role, Role, "role"),
            (self.dtype, DType, "dtype"),
            (self.layout, Layout, "layout"),
        ):
            _check_choice(value, get_args(allowed), f"{what} of {self.name}")
        fits = self.layout in LAYOUTS[self.role] and len(self.shape) == len(self.layout)
        _check(fits, f"{self.name} is {self.role} of {len(self.shape)} dimensions with the layout {self.layout}")
        for size in self.shape:
            if isinstance(size, str):
                _check_text(size, f"a dimension of {self.name}")
            else:
                _check_count(size, f"a dimension of {self.name}", 1, MAX_SIDE)
        _check(math.prod(self.item_shape) <= MAX_ELEMENTS, f"one item of {self.name} has over {MAX_ELEMENTS} elements")
        if self.range is not None:
            low, high = (_check_number(bound, f"range of {self.name}") for bound in self.range)
            _check(
                high - low > 1e-6 * max(abs(low), abs(high), 1e-6),
                f"the range of {self.name} is empty: {low} to {high}",
            )
        _check(not self.is_picture or self.range is not None, f"the picture {self.name} has no value range")
        most = 1 if self.role == "mask" else MAX_CHANNELS
        _check(not self.is_picture or 1 <= self.channels <= most, f"{self.name} has {self.channels} channels")
        drawn = self.distribution is None or (self.distribution in get_args(Noise) and self.role in ("vector", "noise"))
        _check(drawn, f"{self.name} is drawn from {self.distribution!r}")
        _check(self.role != "points" or self.shape[1] == 2, f"{self.name} are not points of the plane")
        _check_count(self.multiple, f"size multiple of {self.name}", 1, MAX_SIDE)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """The fixed dimensions behind the batch; dynamic ones count as one."""
        return tuple(size if isinstance(size, int) else 1 for size in self.shape[1:])

    @property
    def is_picture(self) -> bool:
        """Whether it is a picture or a mask, which is a picture of one channel."""
        return self.role in ("image", "mask")

    @property
    def sides(self) -> tuple[int | str, int | str]:
        """Height and width of a picture, mask or noise map; a string is dynamic."""
        return (self.shape[2], self.shape[3]) if self.layout == "NCHW" else (self.shape[1], self.shape[2])

    @property
    def channels(self) -> int:
        """Channels of a picture: 1 grey, 3 colour, 4 colour and alpha; others have no usual meaning."""
        size = self.shape[1] if self.layout == "NCHW" else self.shape[-1]
        return size if isinstance(size, int) else 0


@dataclass(frozen=True)
class Interface:
    """What a generator takes and gives: all that a caller must know to use it."""

    kind: Kind
    """What it turns into what."""
    inputs: tuple[Port, ...]
    """In the graph's order."""
    outputs: tuple[Port, ...]
    """In the graph's order; the first is the result, and the others are extra outputs, kept by name."""
    noise: Noise | None = None
    """The distribution its latents were trained on: standard normal, or uniform over -1 to 1."""
    classes: tuple[str, ...] = ()
    """Names of the classes a label chooses from; empty where it is unconditional."""
    reach: int | None = None
    """Input pixels on each side on which an output pixel depends, so that tiles which overlap by it give the whole
    picture's result; None where that is not known."""

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        _check_choice(self.kind, get_args(Kind), "kind")
        counts = f"a generator has {len(self.inputs)} inputs and {len(self.outputs)} outputs"
        _check(1 <= len(self.inputs) <= MAX_INPUTS and 1 <= len(self.outputs) <= MAX_OUTPUTS, counts)
        source, _, target = self.kind.partition("-to-")
        roles = [port.role for port in self.inputs]
        fits = roles[0] == source and set(roles[1:]) <= set(FURTHER) and roles.count("label") <= 1
        _check(fits, f"the inputs of {self.kind} are {roles}")
        _check(self.outputs[0].role == target, f"the output of {self.kind} is {self.outputs[0].role}")
        for port in self.outputs[1:]:
            _check(port.role in EXTRA, f"the extra output {port.name} is {port.role}")
            same = port.shape[0] == self.outputs[0].shape[0]
            _check(same, f"{port.name} has a batch of {port.shape[0]}, and the result {self.outputs[0].shape[0]}")
        _check(
            (self.noise in get_args(Noise)) == (source == "latent"),
            f"noise {self.noise!r} in {self.kind}",
        )
        names = [port.name for port in (*self.inputs, *self.outputs)]
        _check(len(set(names)) == len(names), f"two tensors share a name: {', '.join(names)}")
        _check(("label" in roles) == bool(self.classes), "a label input and a list of classes come together")
        _check(len(self.classes) <= MAX_SIDE, f"{len(self.classes)} classes")
        for name in self.classes:
            _check_text(name, "a class name")
        if self.reach is not None:
            _check_count(self.reach, "reach", 0, MAX_SIDE)

    @property
    def output(self) -> Port:
        """The result."""
        return self.outputs[0]

    @property
    def extras(self) -> tuple[Port, ...]:
        """The outputs beside the result."""
        return self.outputs[1:]

    def is_aligned(self, port: Port) -> bool:
        """Whether a further picture, mask or noise map has the height and width of the first input, pixel for pixel."""
        first = self.inputs[0]
        return port.layout in ("NCHW", "NHWC") and first.is_picture and port.sides == first.sides

    def at_size(self, height: int, width: int) -> Interface:
        """The same with one height and width of its picture, and of what is aligned with it."""
        ports = []
        for port in self.inputs:
            batch, *rest = port.shape
            shape = (batch, rest[0], height, width) if port.layout == "NCHW" else (batch, height, width, rest[-1])
            ports.append(replace(port, shape=shape) if self.is_aligned(port) else port)
        return replace(self, inputs=tuple(ports))

    @property
    def schema(self) -> int:
        """The version of the format that describes it."""
        if self.extras:
            return SCHEMA
        plain = all(
            port.role not in ("mask", "vector", "noise")
            and port.layout != "NLC"
            and (port.role != "image" or port.channels in (1, 3, 4))
            for port in (*self.inputs, *self.outputs)
        )
        further = [port.role for port in self.inputs[1:]]
        return 1 if plain and further in ([], ["label"]) else 2


@dataclass(frozen=True)
class Source:
    """Where an artifact comes from."""

    variant: str = ""
    """The GAN it is the generator of, as `gan-train` names it; empty where it is not ours."""
    generator: str = "generator"
    """Which of the variant's generators."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The variant's resolved config."""
    data: str = ""
    """What it was trained on: the name of a set or of a folder, without its place."""
    step: int = 0
    """Training steps done."""
    weights: str = ""
    """sha256 of the file that the weights were read from."""
    program: str = ""
    """Program and version that wrote the artifact."""
    compressed: Mapping[str, Any] = field(default_factory=dict)
    """What `gan-compress` wrote of it: the teacher and its digest, multiply-accumulates and weights before and after,
    and the distance to the teacher on inputs that it did not learn from; empty where it was not compressed."""

    def __post_init__(self) -> None:
        """Check the fields that are shown to people."""
        for name in ("variant", "generator", "data", "weights", "program"):
            _check_text(getattr(self, name), f"source {name}", empty=True)
        _check(isinstance(self.config, dict), "the source's config is no table of settings")
        _check(isinstance(self.compressed, dict), "what it was compressed from is no table")
        _check_count(self.step, "step", 0, 2**53)

    @property
    def size(self) -> int | None:
        """Height and width of the pictures that it is for, pixels: those of the training; None where nothing says.

        Where that saw parts of larger pictures, they are those of whole pictures at about the same scale: 256 for 286,
        as in pix2pix and CycleGAN.
        """
        size, load_size = (self._pixels(name) for name in ("size", "load_size"))
        return size if size is None or load_size is None else max(size, round(load_size * 256 / 286))

    def _pixels(self, name: str) -> int | None:
        value = self.config.get(name)
        whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 16384
        return value if whole else None


@dataclass(frozen=True)
class Figures:
    """How far two batches of an output are apart; the worst item decides."""

    span: float
    """The range of the output: what the errors are measured against."""
    max_abs: float
    """Largest absolute difference of one value."""
    mean_abs: float
    """Mean absolute difference."""
    psnr: float | None
    """Peak signal-to-noise ratio of the worst item, dB, peak = span; None: identical."""
    ssim: float | None
    """Structural similarity of the worst picture, at most 1; None where the output is no picture."""
    nonfinite: float
    """Share of values that are NaN or infinite, 0 to 1; they count as zero in the other figures."""


@dataclass(frozen=True)
class OutputParity(Figures):
    """The figures of one extra output in a proof, as `Parity` has those of the result."""

    output: str
    """Its name."""
    tolerance: str
    """The gate it had to pass."""
    passed: bool
    """Whether it did."""

    def __post_init__(self) -> None:
        """Check the figures."""
        _check_text(self.output, "the output of a proof")
        _check_figures(self, ("span", "max_abs", "mean_abs", "nonfinite"))

    def __str__(self) -> str:
        """The output and its signal-to-noise ratio, in one line."""
        psnr = "identical" if self.psnr is None else f"PSNR {self.psnr:.1f} dB"
        return f"{self.output} {psnr}{'' if self.passed else f', FAILED {self.tolerance}'}"


@dataclass(frozen=True)
class Parity:
    """One proof: the artifact beside the eager FP32 generator on real inputs. The worst case over all of them."""

    engine: str
    """Engine, version and device that ran the artifact."""
    precision: str
    """What the engine computed in."""
    samples: int
    """Inputs compared."""
    batches: tuple[int, ...]
    """Batch sizes tried."""
    max_abs: float
    """Largest absolute difference of one value, in units of the output."""
    mean_abs: float
    """Mean absolute difference, in units of the output."""
    psnr: float | None
    """Peak signal-to-noise ratio of the worst item, dB, peak = the output's range; None: identical."""
    ssim: float | None
    """Structural similarity of the worst picture, at most 1; None where the output is no picture."""
    nonfinite: float
    """Share of values that are NaN or infinite, 0 to 1."""
    tolerance: str
    """The gate it had to pass."""
    passed: bool
    """Whether it did, and all extra outputs too."""
    span: float = 0.0
    """The range of the output that errors are measured against; 0 where an earlier version wrote the proof."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths of the pictures that went in, pixels."""
    worst: str = ""
    """The input at which the error was largest: its batch and size."""
    extras: tuple[OutputParity, ...] = ()
    """The figures of the outputs beside the result; those above are the result's."""

    def __post_init__(self) -> None:
        """Check the figures."""
        for name in ("engine", "precision"):
            _check_text(getattr(self, name), f"parity {name}")
        _check_text(self.worst, "parity worst", empty=True)
        _check_count(self.samples, "parity samples", 1, 2**31)
        _check_figures(self, ("span", "max_abs", "mean_abs", "nonfinite"))

    @property
    def engine_name(self) -> str:
        """The engine without its version."""
        return self.engine.split()[0]

    def __str__(self) -> str:
        """One line for people."""
        psnr = "identical" if self.psnr is None else f"PSNR {self.psnr:.1f} dB"
        alike = self.ssim is None or self.ssim >= 0.99995
        ssim = "" if alike else f", SSIM {self.ssim:.4f}"
        bad = "" if self.nonfinite == 0 else f", {self.nonfinite:.2%} not finite"
        sizes = " and ".join(f"{height}x{width}" for height, width in self.sizes)
        verdict = "passed" if self.passed else "FAILED"
        engine = self.engine.partition(" (")[0]
        error = f"{self.max_abs / (self.span or 1):.2g}"  # A share of the output's range, as the gate.
        return (
            f"{engine}, {self.precision}: max error {error}, {psnr}{ssim}{bad} "
            f"over {self.samples} inputs{sizes and f' at {sizes}'}, {verdict} {self.tolerance}"
            + "".join(f"; {extra}" for extra in self.extras)
        )


@dataclass(frozen=True)
class Measurement:
    """How fast one engine ran the artifact, on the machine that exported it."""

    engine: str
    """Name of the engine."""
    version: str
    """Of its package."""
    device: str
    """cpu or cuda."""
    processor: str
    """The processor's own name."""
    threads: int
    """Cores that the engine could use."""
    milliseconds: float
    """Median of one call with a batch of one, or of the artifact's fixed batch."""
    compute: str = ""
    """A precision other than the artifact's that it computed in; empty where it was the artifact's."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("engine", "version", "device"):
            _check_text(getattr(self, name), f"measured {name}")
        for name in ("processor", "compute"):
            _check_text(getattr(self, name), f"measured {name}", empty=True)
        _check_count(self.threads, "measured threads", 1, 2**20)
        _check_number(self.milliseconds, "measured milliseconds")


@dataclass(frozen=True)
class Manifest:
    """Description of an artifact."""

    interface: Interface
    """What it takes and gives."""
    precision: Precision
    """What its weights and arithmetic are."""
    norm_mode: NormMode
    """Statistics its normalisation uses: those kept from training (eval), each picture's own (instance), the batch's
    (batch), or none at all."""
    source: Source = field(default_factory=Source)
    """Where it comes from."""
    parity: tuple[Parity, ...] = ()
    """What was proven, per engine and precision."""
    unproven: str = ""
    """Why there is no proof yet, where there is none; empty otherwise."""
    made_for: str = ""
    """The engine that the graph variant was made for; empty where there is one graph for all."""
    measured: tuple[Measurement, ...] = ()
    """How fast the engines of the exporting machine ran it."""
    digest: str = ""
    """`sha256:` and the hash over graph, weights and this manifest with an empty digest."""
    schema: int = 1
    """Version of this format; the least that describes the interface."""
    remainder: str = ""
    """What an INT8 graph computes in where it is not INT8: fp16; empty for fp32, and in other precisions."""

    def __post_init__(self) -> None:
        """Check the choices."""
        object.__setattr__(self, "schema", max(self.schema, self.interface.schema))
        _check_choice(self.precision, get_args(Precision), "precision")
        _check_choice(self.norm_mode, get_args(NormMode), "norm_mode")
        _check_text(self.unproven, "unproven", empty=True)
        _check_text(self.made_for, "made_for", empty=True)
        _check_choice(self.remainder, ("", "fp16"), "remainder")

    @property
    def proven(self) -> tuple[str, ...]:
        """The engines that passed the proof."""
        return tuple(proof.engine_name for proof in self.parity if proof.passed)

    @property
    def failed(self) -> Mapping[str, Parity]:
        """The proofs of the engines that give other outputs than the generator, by engine: `auto` never takes them."""
        return {proof.engine_name: proof for proof in self.parity if not proof.passed}

    def to_json(self) -> str:
        """The manifest as JSON: keys sorted, so that equal manifests are equal texts."""
        return _canonical(self._content())

    def _content(self) -> dict[str, Any]:
        """What is written: fields that version 1 does not have are left out where they say nothing."""
        content = asdict(self)
        for proof in content["parity"]:
            if not proof["extras"]:
                del proof["extras"]
        for port in (*content["interface"]["inputs"], *content["interface"]["outputs"]):
            if port["distribution"] is None:
                del port["distribution"]
        if not self.remainder:
            del content["remainder"]
        return content

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises:
            ArtifactError: the text is no manifest, is from a newer schema, or says something impossible.
        """
        return cls._from_table(_table(text))

    @classmethod
    def _from_table(cls, data: dict[str, Any]) -> Manifest:
        schema = _check_count(data.get("schema"), "schema", 1, 2**31)
        if schema > SCHEMA:
            raise ArtifactError(
                f"the artifact is from a newer ganedge (schema {schema}; this one reads up to {SCHEMA}): "
                "upgrade with pip install -U ganedge"
            )
        try:
            return cls(
                **{
                    **_known(cls, data),
                    "interface": _interface(data["interface"]),
                    "source": Source(**_known(Source, data.get("source", {}))),
                    "parity": tuple(read_parity(item) for item in data.get("parity", ())),
                    "measured": tuple(Measurement(**_known(Measurement, item)) for item in data.get("measured", ())),
                }
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ArtifactError(f"the manifest is damaged: {type(error).__name__} {error}") from error


def seal(manifest: Manifest, body: Iterable[memoryview | bytes]) -> Manifest:
    """Give the manifest the digest that belongs to it and to this graph with its weights."""
    return replace(manifest, digest=_digest(manifest._content(), body))


def write_artifact(model: bytes, manifest: Manifest) -> bytes:
    """Put a sealed manifest into an ONNX model; any manifest it had is replaced.

    Args:
        model: A serialised ONNX model.
        manifest: What to say of it; its digest is made anew.

    Returns:
        The artifact's bytes.
    """
    body, metadata = onnx_file.split(model)
    _check_whole(body)
    return onnx_file.join(body, {**metadata, KEY: seal(manifest, body).to_json()})


def read_artifact(path: Path) -> tuple[Manifest, bytes]:
    """Read an ONNX artifact and check its digest.

    Returns:
        The manifest, and the whole file as an engine takes it.

    Raises:
        ArtifactError: no such file, not ONNX, no manifest in it, a manifest that cannot be, or a digest that does not
            match: the file was changed or damaged after its export.
    """
    if path.is_dir():
        raise ArtifactError(f"{path} is a folder, not an artifact: give the .onnx file that gan-export wrote")
    data = read_file(path)
    if path.suffix in CHECKPOINTS:
        raise ArtifactError(f"{path} is a checkpoint, not an artifact: make one of it with gan-export {path}")
    return read_bytes(data, str(path))


def read_bytes(model: bytes, name: str) -> tuple[Manifest, bytes]:
    """Read an artifact that is in memory already; `name` is what errors call it. See `read_artifact`."""
    try:
        body, metadata = onnx_file.split(model)
        if KEY not in metadata:
            raise ArtifactError("it is an ONNX model without a ganedge manifest: export it with gan-export")
        content = _table(metadata[KEY])
        manifest = Manifest._from_table(content)
        _check_whole(body)
        digest = _digest(content, body)
    except ArtifactError as error:
        raise ArtifactError(f"{name}: {error}") from error.__cause__
    if digest != manifest.digest:
        raise ArtifactError(f"{name}: the digest does not match, the file is damaged or was edited: export it again")
    return manifest, model


def _table(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
        _canonical(data).encode()  # Refuses what JSON allows and a manifest cannot hold: infinity, lone surrogates.
    except (ValueError, RecursionError) as error:
        raise ArtifactError("the manifest is damaged: it is not JSON") from error
    _check(isinstance(data, dict), "it is no JSON object")
    return cast("dict[str, Any]", data)


def _check_whole(body: Iterable[memoryview | bytes]) -> None:
    """Refuse weights outside the file: the digest would not cover them, and an engine would read any file named."""
    if onnx_file.refers_outside(body):
        raise ArtifactError("it keeps weights in other files: an artifact is one file, export it again")


def _canonical(data: Any[str, Any]) -> str:
    """One text for equal contents: keys sorted, no spaces, no NaN."""
    return json.dumps(data, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _digest(content: Mapping[str, Any], body: Iterable[memoryview | bytes]) -> str:
    """Hash the manifest's text, including keys that this program does not know, and then the body."""
    digest = hashlib.sha256(_canonical({**content, "digest": ""}).encode())
    for part in body:
        digest.update(part)
    return f"sha256:{digest.hexdigest()}"


def _interface(data: Any) -> Interface:
    ports = {name: tuple(_port(port) for port in data[name]) for name in ("inputs", "outputs")}
    return Interface(**{**_known(Interface, data), **ports, "classes": tuple(data.get("classes", ()))})


def _port(data: Any) -> Port:
    bounds = data.get("range")
    return Port(
        **{
            **_known(Port, data),
            "shape": tuple(data["shape"]),
            "range": None if bounds is None else cast("tuple[float, float]", tuple(bounds)),
        }
    )


def read_parity(data: Any) -> Parity:
    """A proof as JSON has it."""
    sizes = tuple(tuple(_check_count(side, "a proof's size", 1, MAX_SIDE) for side in pair) for pair in _sizes(data))
    batches = tuple(_check_count(size, "batch", 1, 2**31) for size in data["batches"])
    extras = tuple(OutputParity(**_known(OutputParity, item)) for item in data.get("extras", ()))
    return Parity(**{**_known(Parity, data), "batches": batches, "sizes": sizes, "extras": extras})


def _sizes(data: Any) -> list[Any]:
    sizes = data.get("sizes", [])
    _check(all(len(pair) == 2 for pair in sizes), "a proof's size is no height and width")
    return list(sizes)


def _known(cls: type, data: Any) -> dict[str, Any]:
    """The entries that `cls` has a field for: a later minor release may add some that this one does not know."""
    _check(isinstance(data, dict), f"{cls.__name__} is no JSON object")
    return {name: data[name] for name in cls.__dataclass_fields__ if name in data}  # type: ignore[attr-defined]


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ArtifactError(f"the manifest cannot be right: {what}")


def _check_text(value: object, what: str, *, empty: bool = False) -> None:
    _check(isinstance(value, str) and len(value) <= 4096, f"{what} is not a short text")
    _check(cast("str", value).isprintable(), f"{what} holds control characters")
    _check(empty or bool(value), f"{what} is empty")


def _check_figures(proof: Parity | OutputParity, names: tuple[str, ...]) -> None:
    """Check the figures that a proof has of each output."""
    _check_text(proof.tolerance, "parity tolerance")
    for name in names:
        _check_number(getattr(proof, name), f"parity {name}")
    for name in ("psnr", "ssim"):
        if getattr(proof, name) is not None:
            _check_number(getattr(proof, name), f"parity {name}")
    _check(isinstance(proof.passed, bool), "parity passed is neither true nor false")


def _check_choice(value: object, allowed: tuple[str, ...], what: str) -> None:
    _check(isinstance(value, str) and value in allowed, f"{what} is {value!r}, not one of {', '.join(allowed)}")


def _check_number(value: object, what: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    _check(number, f"{what} is {value!r}, not a finite number")
    return cast("float", value)


def _check_count(value: object, what: str, low: int, high: int) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _check(whole, f"{what} is {value!r}, not a whole number from {low} to {high}")
    return cast("int", value)
