"""Read and write `ganedge.json`, which describes a folder that `gan-export --format web` wrote.

    folder = read_web_folder(Path("digits-web"))
    print(folder.runtime, [str(proof) for proof in folder.parity])

The artifact in the folder holds its own manifest; beside it stand the digest that the page expects, the version of
onnxruntime-web, and what was proven in a browser. Every field is checked when the file is read.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import ArtifactError
from .files import write_whole
from .manifest import read_artifact, read_parity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .manifest import Manifest, Parity

SCHEMA = 1
"""The version of the format that this program writes, and the newest that it reads."""
NAME = "ganedge.json"
"""The description's name in its folder."""
ARTIFACT = "generator.onnx"
"""The artifact's name in the folder."""


@dataclass(frozen=True)
class WebFolder:
    """An artifact in a folder that a web server offers."""

    manifest: Manifest
    """The artifact's manifest."""
    runtime: str
    """Version of onnxruntime-web."""
    origin: str = ""
    """Where onnxruntime-web comes from, `https://host`; empty where it lies in the folder."""
    parity: tuple[Parity, ...] = ()
    """What was proven in a browser."""
    unproven: str = ""
    """The reason if there is no proof; empty otherwise."""
    refused: tuple[str, ...] = ()
    """Engines of the browser that did not run it or gave other pictures when it was exported: wasm or webgpu."""
    untested: Mapping[str, str] = field(default_factory=dict)
    """By engine what the browser that proved the folder lacked, so that it could not be tried; others may have it."""
    artifact: str = ARTIFACT
    """Name of the artifact in the folder."""

    def policy(self) -> str:
        """The strictest Content-Security-Policy under which the page works."""
        elsewhere = f" {self.origin}" if self.origin else ""
        blob = " blob:" if self.origin else ""
        return (
            f"default-src 'none'; script-src 'self'{blob} 'wasm-unsafe-eval'; worker-src 'self'{blob}; "
            "style-src 'self'; "
            f"img-src 'self' blob:; media-src blob:; connect-src 'self'{elsewhere}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )


def write_description(path: Path, folder: WebFolder) -> None:
    """Write `ganedge.json` into the folder `path`."""
    description = {
        "schema": SCHEMA,
        "artifact": folder.artifact,
        "digest": folder.manifest.digest,
        "runtime": folder.runtime,
        "origin": folder.origin,
        "parity": [asdict(proof) for proof in folder.parity],
        "unproven": folder.unproven,
        "refused": folder.refused,
        "untested": dict(folder.untested),
    }
    write_whole(path / NAME, json.dumps(description, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_web_folder(path: Path) -> WebFolder:
    """Read a folder's description and the manifest of its artifact.

    Raises:
        ArtifactError: no such folder or description, one that is damaged or from a newer version, or an artifact with
            another digest: it was exchanged.
    """
    file = path / NAME
    try:
        description = json.loads(file.read_text("utf-8"))
        assert isinstance(description, dict)
    except OSError as error:
        raise ArtifactError(f"{path} is no folder that gan-export --format web wrote: cannot read {file}") from error
    except (ValueError, RecursionError, AssertionError) as error:
        raise ArtifactError(f"{file} is damaged: it is no JSON object") from error
    schema = description.get("schema")
    if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        raise ArtifactError(f"{file} is from a newer ganedge (schema {schema}): pip install -U ganedge")
    manifest, _ = read_artifact(path / ARTIFACT)
    if description.get("digest") != manifest.digest:
        raise ArtifactError(
            f"{path / ARTIFACT} is not the artifact that this folder was exported with: export it again"
        )
    try:
        return WebFolder(
            manifest,
            _text(description, "runtime"),
            _text(description, "origin"),
            tuple(map(read_parity, description["parity"])),
            _text(description, "unproven"),
            tuple(str(engine) for engine in description["refused"]),
            {str(engine): str(feature) for engine, feature in description.get("untested", {}).items()},
        )
    except (AttributeError, KeyError, TypeError, ValueError, ArtifactError) as error:
        raise ArtifactError(f"{file} is damaged: {type(error).__name__} {error}") from error


def _text(description: dict[str, Any], name: str) -> str:
    value = description[name]
    if not isinstance(value, str) or len(value) > 4096 or not value.isprintable() or ";" in value:
        raise ValueError(f"{name} is {value!r}")
    return value
