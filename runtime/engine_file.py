"""What a TensorRT engine says of itself: `generator.engine.json` beside `generator.engine`.

The engine stays a plain engine; the file beside it holds the same manifest as the ONNX it was built from, and what
the engine is tied to:

    manifest, identity = read_sidecar(Path("generator.engine"))
    print(identity.flavour, identity.version, identity.compute_capability)

Nothing in it is trusted for being there: every field is checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

from .errors import ArtifactError
from .files import read_file, write_whole
from .manifest import Manifest, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from _typeshed import DataclassInstance

Identity = TypeVar("Identity")

SCHEMA = 1
"""The version of the format that this program writes, and the newest that it reads."""
Flavour = Literal["tensorrt", "tensorrt_rtx"]
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, most usual and largest shape of one input."""


@dataclass(frozen=True)
class EngineIdentity:
    """What an engine is tied to."""

    flavour: Flavour
    """The library that built it and can run it."""
    version: str
    """Of that library."""
    compute_capability: str
    """The GPU it was built on, sm87; empty where it was built without one."""
    targets: tuple[str, ...]
    """GPUs it was built for, sm86; empty: the one it was built on."""
    profiles: Mapping[str, Shapes] = field(default_factory=dict)
    """For each input the shapes it was optimised for."""
    precision: Precision = "fp32"
    """What it computes in."""
    portable: bool = False
    """Whether newer versions and related GPUs run it too."""
    onnx: str = ""
    """Name of the ONNX file it was built from, beside it."""
    onnx_digest: str = ""
    """sha256 of that file."""
    engine_digest: str = ""
    """sha256 of the engine."""
    tolerance: str = ""
    """What its proof must reach, as `--tolerance` has it; empty: the precision's own gate."""
    layers: Mapping[str, int] = field(default_factory=dict)
    """Its layers by the precision that they run in, as the engine itself says; empty where it was not loaded."""

    def __post_init__(self) -> None:
        """Check every field, because the file may come from anywhere."""
        _check(self.flavour in get_args(Flavour), f"flavour {self.flavour!r}")
        _check(self.precision in get_args(Precision), f"precision {self.precision!r}")
        for name in ("version", "compute_capability", "onnx", "onnx_digest", "engine_digest", "tolerance"):
            text = getattr(self, name)
            _check(isinstance(text, str) and len(text) <= 255 and text.isprintable(), f"{name} {text!r}")
        _check(self.onnx not in (".", ".."), f"onnx {self.onnx!r}")
        _check("/" not in self.onnx and "\\" not in self.onnx, f"onnx {self.onnx!r} is no plain file name")
        _check(isinstance(self.portable, bool), f"portable {self.portable!r}")
        _check(all(isinstance(one, str) and one.isalnum() for one in self.targets), f"targets {self.targets!r}")
        for name, number in self.layers.items():
            known = isinstance(name, str) and name.isalnum() and isinstance(number, int) and number > 0
            _check(known, f"layers {name!r}: {number!r}")
        for name, shapes in self.profiles.items():
            _check(len(shapes) == 3 and len({len(shape) for shape in shapes}) == 1, f"profile of {name!r}")
            sizes = [size for shape in shapes for size in shape]
            _check(all(isinstance(size, int) and 0 < size <= 65_536 for size in sizes), f"profile of {name!r}")
            grows = all(a <= b <= c for a, b, c in zip(*shapes, strict=True))
            _check(grows, f"profile of {name!r} grows smaller")


def sidecar_path(engine: Path) -> Path:
    """Where an engine's description lies: `generator.engine.json`."""
    return engine.with_name(f"{engine.name}.json")


def write_sidecar(engine_path: Path, manifest: Manifest, identity: EngineIdentity) -> Path:
    """Describe an engine that was written, in the file beside it. Returns that file's path."""
    return write_description(sidecar_path(engine_path), manifest, "engine", identity)


def read_sidecar(engine_path: Path) -> tuple[Manifest, EngineIdentity]:
    """Read what an engine says of itself.

    Raises:
        ArtifactError: no such file, not JSON, from a newer version, or something in it cannot be.
    """
    return read_description(sidecar_path(engine_path), "the engine", "engine", _identity)


def write_description(path: Path, manifest: Manifest, section: str, identity: DataclassInstance) -> Path:
    """Write a manifest and the identity of what it describes, which goes under the key `section`."""
    description = {"schema": SCHEMA, "manifest": json.loads(manifest.to_json()), section: asdict(identity)}
    write_whole(path, json.dumps(description, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")
    return path


def read_description(
    path: Path, subject: str, section: str, parse: Callable[[dict[str, Any]], Identity]
) -> tuple[Manifest, Identity]:
    """Read what `write_description` wrote; `subject` is what the file must lie beside.

    Raises:
        ArtifactError: no such file, not JSON, from a newer version, or something in it cannot be.
    """
    try:
        description = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}, which must lie beside {subject}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: it is not JSON") from error
    try:
        if description["schema"] > SCHEMA:
            raise ArtifactError(
                f"{path} is from a newer ganedge (schema {description['schema']}): pip install -U ganedge"
            )
        manifest = Manifest.from_json(json.dumps(description["manifest"]))
        return manifest, parse(description[section])
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is damaged: {type(error).__name__} {error}") from error


def check_engine(engine_path: Path, identity: EngineIdentity) -> bytes:
    """Read an engine and check that it is the one described.

    Raises:
        ArtifactError: it cannot be read, or its digest is another: it was cut off, damaged or replaced.
    """
    data = read_file(engine_path, "the engine")
    if hashlib.sha256(data).hexdigest() != identity.engine_digest:
        raise ArtifactError(f"{engine_path} is cut off, damaged or replaced: build it again from {identity.onnx}")
    return data


def _identity(data: dict[str, Any]) -> EngineIdentity:
    known = {name: data[name] for name in EngineIdentity.__dataclass_fields__ if name in data}
    profiles = {str(name): tuple(tuple(shape) for shape in shapes) for name, shapes in data["profiles"].items()}
    return EngineIdentity(
        **{**known, "targets": tuple(data["targets"]), "profiles": cast("Mapping[str, Shapes]", profiles)}
    )


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ArtifactError(f"the engine's description cannot be right: {what}")
