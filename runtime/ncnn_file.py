"""What an ncnn artifact says of itself: `generator.param.json` beside `generator.param` and `generator.bin`.

The network stays a plain ncnn network, for any program that links ncnn; the file beside it holds the manifest of the
ONNX it was converted from, and the digests of both files, which are checked before ncnn reads them:

    path = param_path(Path("generator.ncnn"))
    manifest, identity = read_sidecar(path)
    param, weights = read_network(path, identity)

The digests find damage, which ncnn itself does not survive. They do not make a file from a stranger safe.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .engine_file import read_description, sidecar_path, write_description
from .errors import ArtifactError
from .files import read_file

if TYPE_CHECKING:
    from pathlib import Path

    from .manifest import Manifest, Precision

PARAM = "generator.param"
"""The network in the folder that `gan-export --format ncnn` writes; its weights are `generator.bin`."""
PRECISIONS = ("fp32", "fp16")
"""What an ncnn artifact can compute in."""
MAX_CLASSES = 65_536
"""The longest vector that a label becomes."""


@dataclass(frozen=True)
class NcnnIdentity:
    """What an ncnn network is tied to, and how it is called."""

    precision: Precision
    """What it computes in where the processor can."""
    inputs: tuple[str, ...]
    """Names of its inputs, in the order of the manifest's."""
    output: str
    """Name of its output."""
    onnx_digest: str
    """sha256 of graph and weights of the FP32 .onnx it was converted from, without that file's metadata."""
    param_digest: str
    """sha256 of the .param file."""
    bin_digest: str
    """sha256 of the .bin file."""
    classes: int = 0
    """Length of the vector that stands for a class label, 1 at the class and 0 elsewhere; 0 without one."""
    converter: str = ""
    """Program and version that converted it."""
    version: str = ""
    """The ncnn that it was proven in; empty where it was not."""
    tolerance: str = ""
    """What its proof must reach, as `--tolerance` has it; empty: the precision's own gate."""
    extras: tuple[str, ...] = ()
    """Names of its outputs beside the result, in the order of the manifest's."""

    def __post_init__(self) -> None:
        """Check every field, because the file may come from anywhere."""
        _check(self.precision in PRECISIONS, f"precision {self.precision!r}")
        _check(len(self.inputs) in (1, 2), f"{len(self.inputs)} inputs")
        texts = ("output", "onnx_digest", "param_digest", "bin_digest", "converter", "version", "tolerance")
        for text in (*self.inputs, *self.extras, *(getattr(self, name) for name in texts)):
            _check(isinstance(text, str) and len(text) <= 255 and text.isprintable(), repr(text))
        whole = isinstance(self.classes, int) and not isinstance(self.classes, bool)
        _check(whole and 0 <= self.classes <= MAX_CLASSES, f"classes {self.classes!r}")


def param_path(path: Path) -> Path | None:
    """The .param file that a path means: itself, or the one in the folder; None where it is no ncnn artifact."""
    if path.suffix == ".param":
        return path
    return path / PARAM if (path / PARAM).is_file() else None


def weights_path(param: Path) -> Path:
    """Where the weights of a network lie: `generator.bin`."""
    return param.with_suffix(".bin")


def network_size(param: Path) -> int:
    """Bytes of a network and its weights."""
    return param.stat().st_size + weights_path(param).stat().st_size


def write_sidecar(param: Path, manifest: Manifest, identity: NcnnIdentity) -> Path:
    """Describe a network that was written, in the file beside it. Returns that file's path."""
    return write_description(sidecar_path(param), manifest, "ncnn", identity)


def read_sidecar(param: Path) -> tuple[Manifest, NcnnIdentity]:
    """Read what an ncnn network says of itself.

    Raises:
        ArtifactError: no such file, not JSON, from a newer version, or something in it cannot be.
    """
    manifest, identity = read_description(sidecar_path(param), "the .param file", "ncnn", _identity)
    _check(len(identity.inputs) == len(manifest.interface.inputs), f"inputs {identity.inputs!r}")
    _check(len(identity.extras) == len(manifest.interface.extras), f"extras {identity.extras!r}")
    _check(identity.precision == manifest.precision, f"precision {identity.precision!r}")
    _check(len(manifest.interface.classes) <= identity.classes, f"classes {identity.classes}")
    return manifest, identity


def read_network(param: Path, identity: NcnnIdentity) -> tuple[str, bytes]:
    """Read a network and check that it is the one described, before ncnn sees it.

    Returns:
        The text of the .param file, and the weights.

    Raises:
        ArtifactError: a file cannot be read, or its digest is another: it was cut off, damaged or replaced.
    """
    contents = []
    for path, digest in ((param, identity.param_digest), (weights_path(param), identity.bin_digest)):
        data = read_file(path, "the ncnn network")
        if hashlib.sha256(data).hexdigest() != digest:
            raise ArtifactError(f"{path} is cut off, damaged or replaced: copy it again, or export it again")
        contents.append(data)
    try:
        return contents[0].decode("ascii"), contents[1]
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{param} is damaged: it is not text") from error


def _identity(data: dict[str, Any]) -> NcnnIdentity:
    known = {name: data[name] for name in NcnnIdentity.__dataclass_fields__ if name in data}
    return NcnnIdentity(**{**known, "inputs": tuple(data["inputs"]), "extras": tuple(data.get("extras", ()))})


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ArtifactError(f"the description of the ncnn network cannot be right: {what}")
