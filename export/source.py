"""What gan-export was given, told by how it looks, and which options make sense with it. Torch only where it is needed.

    original = open_source("runs/digits", Said(which="a2b"), typed={"--which"})

An option that would have no effect is refused: who types it believes that it does something.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import Noise

if TYPE_CHECKING:
    from ganedge.export.foreign import Foreign
    from ganedge.export.source_model import SourceModel

PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".safetensors")
"""Endings of what torch.save and its kin write."""
_SHAPED = ("--input", "--output-shape", "--kind", "--range", "--noise", "--classes", "--norm-mode", "--size", "--trust")
APPLIES: Mapping[str, tuple[str, ...]] = {
    "a run": ("--which", "--checkpoint", "--norm-mode", "--size"),
    "an artifact": ("--size",),
    "an .onnx file": ("--kind", "--range", "--noise", "--classes", "--size"),
    "a module": ("--kwargs", "--weights", "--part", *_SHAPED),
    "a pickled module": ("--part", *_SHAPED),
    "weights of a named architecture": (
        "--arch",
        "--part",
        "--norm",
        "--norm-mode",
        "--input",
        "--range",
        "--size",
        "--trust",
    ),
    "weights to recognise": ("--arch", "--part", "--norm-mode", "--input", "--size", "--trust"),
}
"""Options that say something of each kind of source."""
ABOUT_SOURCES = frozenset(option for options in APPLIES.values() for option in options)
"""All of them."""


@dataclass(frozen=True)
class Said:
    """What the command line says of a source; each field is the option of its name."""

    which: str | None = None
    """One of a run's generators."""
    checkpoint: str = "last"
    """Of a run: last, best or a step."""
    arch: str | None = None
    """The architecture that weights are of, or auto."""
    norm: Literal["instance", "batch"] = "instance"
    """What that architecture normalises with."""
    norm_mode: Literal["eval", "batch"] = "eval"
    """BatchNorm with the statistics kept, or each picture's own."""
    size: str | None = None
    """Height and width of the pictures that go in."""
    kind: Literal["latent", "image"] | None = None
    """What goes in."""
    input: str | None = None
    """The shape of one input."""
    output_shape: str | None = None
    """The shape of one output."""
    range: tuple[float, float] = (-1.0, 1.0)
    """Values of black and white."""
    noise: Noise = "normal"
    """The distribution of the latents."""
    classes: tuple[str, ...] = ()
    """Names of the classes."""
    kwargs: str | None = None
    """Arguments that make a module, as JSON."""
    weights: Path | None = None
    """A module's weights."""
    part: str | None = None
    """Which of the generators in a checkpoint."""
    trust: bool = False
    """Whether to read what can execute code."""


def open_source(source: str, said: Said, typed: Collection[str] = ()) -> SourceModel:
    """Open whatever it is.

    Args:
        source: A run, an .onnx file, FILE.py:NAME or module:NAME, a pickled module, or a checkpoint with `said.arch`.
        said: What is known of it.
        typed: Options that were given, as they are typed, so that those without effect are refused.

    Raises:
        UsageError: an option that says nothing of such a source, or one whose value cannot be.
        ArtifactError: it is not there, damaged, or what it holds does not fit.
        GanEdgeError: it cannot be exported.
    """
    kind = kind_of(source, said.arch)
    for option in sorted(ABOUT_SOURCES & set(typed)):
        if option not in APPLIES[kind]:
            raise UsageError(f"{option} says nothing of {kind} ({source}), which takes {', '.join(APPLIES[kind])}")
    if said.kind == "image" and "--noise" in typed:
        raise UsageError("--noise is the distribution of latents: this generator takes pictures")
    path = Path(source)
    if kind in ("an artifact", "an .onnx file"):
        from ganedge.export.from_onnx import of_onnx, with_size
        from ganedge.export.sizes import read_size

        size = said.size
        several = size is None or "," in size or size == "dynamic"
        original = of_onnx(path, said.kind, said.range, said.noise, said.classes, tried=several)
        if size is not None and ("," in size or size == "dynamic"):
            port = original.interface.inputs[0]
            if port.role != "image" or all(isinstance(side, int) for side in port.shape[1:]):
                raise UsageError(f"--size {size}: what goes into {path} has one size; export it again from its source")
            return original
        return original if size is None else with_size(original, *read_size(size))
    if kind == "a run":
        from ganedge.export.from_torch import of_run

        return of_run(path, said.which, said.norm_mode, said.size, said.checkpoint)
    from ganedge.export.foreign import of_source

    return of_source(source, said.arch, _foreign(said))


def kind_of(source: str, arch: str | None = None) -> str:
    """What a source is, one of `APPLIES`: by its ending, by a colon, or by --arch; anything else is taken for a run."""
    path = Path(source)
    if path.suffix == ".onnx":
        return "an artifact" if path.is_file() and _has_manifest(path) else "an .onnx file"
    if arch is not None:
        return "weights to recognise" if arch == "auto" else "weights of a named architecture"
    if ":" in source and not path.exists():
        return "a module"
    return "a pickled module" if path.suffix in PICKLES else "a run"


def _has_manifest(path: Path) -> bool:
    from ganedge.export.from_onnx import metadata
    from ganedge.runtime.files import read_file
    from ganedge.runtime.manifest import KEY

    return KEY in metadata(read_file(path), path)


def _foreign(said: Said) -> Foreign:
    from ganedge.export.foreign import Foreign, read_kwargs

    return Foreign(
        kwargs=read_kwargs(said.kwargs),
        weights=said.weights,
        input=said.input,
        output=said.output_shape,
        kind=said.kind,
        range=said.range,
        noise=said.noise,
        classes=said.classes,
        norm=said.norm_mode,
        size=said.size,
        trust=said.trust,
        arch_norm=said.norm,
        part=said.part,
    )
