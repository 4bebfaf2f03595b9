"""From a proven artifact to a folder for the browser: page, module, artifact, and its proof. No torch.

write_web(Path("digits-web"), artifact, gate, vendor=Path("node_modules/onnxruntime-web"), say=print)
python3 -m http.server --directory digits-web

digits-web/index.html, page.js, page.css, icon.svg   a page to try the generator
digits-web/ganedge.js                        the module that a web developer imports
digits-web/generator.onnx                    the artifact, and what proves it: generator.onnx.proof.npz
digits-web/ganedge.json                      its digest, and what was proven in which engine of which browser
digits-web/onnxruntime/                      onnxruntime-web, with --vendor only
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ganedge.export import parity
from ganedge.export.artifact import VerifiedArtifact, write_artifact_file
from ganedge.export.minify import minify
from ganedge.runtime import fidelity, serving
from ganedge.runtime.engines import browser
from ganedge.runtime.errors import EngineError, GanEdgeError, UsageError
from ganedge.runtime.files import write_whole
from ganedge.runtime.manifest import Parity, read_bytes
from ganedge.runtime.web_folder import ARTIFACT, NAME, WebFolder, read_web_folder, write_description

SOURCES = Path(__file__).with_name("web")
"""The page and the module."""
STYLE = Path(serving.__file__).with_name("page.css")
"""The style that the page shares with that of gan-run serve."""
SCRIPT = "ganedge.js"
VENDORED = "onnxruntime"
"""Folder of onnxruntime-web's files beside the page."""
RUNTIME = re.compile(r"^const RUNTIME = (\{.*?^\});$", re.MULTILINE | re.DOTALL)
"""Where `ganedge.js` says which onnxruntime-web it takes, as JSON."""
HEADER = (
    "// ganedge.js: run an artifact that gan-export wrote, in a browser. Its functions are described in docs/web.md.\n"
)


@cache
def runtime() -> dict[str, Any]:
    """The onnxruntime-web that the module takes: `version`, `base` address, and for each engine files and hashes."""
    match = RUNTIME.search((SOURCES / SCRIPT).read_text("utf-8"))
    assert match is not None, "ganedge.js names its runtime"
    return dict(json.loads(match[1]))


def runtime_files() -> dict[str, str]:
    """Names of the files of onnxruntime-web that a page loads, with the hash of each."""
    return {name: digest for engine in browser.PROVIDERS for name, digest in runtime()[engine].items()}


def integrity(content: bytes) -> str:
    """The hash of a file as browsers check it (Subresource Integrity)."""
    return f"sha384-{base64.b64encode(hashlib.sha384(content).digest()).decode()}"


def check_web(formats: tuple[str, ...], precision: str, vendor: Path | None) -> None:
    """Refuse what no browser runs, and a runtime of another version, before anything is computed.

    Raises:
        UsageError: bf16, or a folder that is no onnxruntime-web of the version that the module takes.
    """
    if "web" not in formats:
        return
    if precision == "bf16":
        raise UsageError("--bf16: no browser computes it; take --fp16 or --int8 for --format web")
    if vendor is not None:
        vendored(vendor)


def vendored(vendor: Path) -> dict[str, Path]:
    """The files of an unpacked onnxruntime-web that a page loads.

    Raises:
        UsageError: one is missing, or is of another version.
    """
    version = runtime()["version"]
    get = f"unpack version {version} of the npm package onnxruntime-web (npm pack onnxruntime-web@{version})"
    folder = next((path for path in (vendor / "package" / "dist", vendor / "dist", vendor) if path.is_dir()), vendor)
    files = {name: folder / name for name in runtime_files()}
    for name, path in files.items():
        if not path.is_file():
            raise UsageError(f"--vendor {vendor}: there is no {name} in {folder}: {get}")
        if runtime_files()[name] != integrity(path.read_bytes()):
            raise UsageError(f"--vendor {vendor}: {name} is damaged, or not of version {version}: {get}")
    return files


def write_web(
    folder: Path,
    artifact: VerifiedArtifact,
    gate: fidelity.Gate | None,
    vendor: Path | None,
    say: Callable[[str], None],
) -> Path:
    """Write a folder for the browser, and prove it there where a browser is installed.

    Args:
        folder: Where to; files of an earlier export are replaced.
        artifact: What to put in.
        gate: What the proof must reach; None for the precision's own gate.
        vendor: An unpacked onnxruntime-web to put in; None leaves it to a CDN.
        say: Takes lines for the user.

    Returns:
        The folder.

    Raises:
        UsageError: the folder is a file, or holds files that no export wrote.
        GanEdgeError: the browser gives other images than the generator; nothing is written then.
    """
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as scratch:
        part = Path(scratch)
        description = _assemble(part, artifact, vendor)
        description = _proven(part, description, artifact, gate, say)
        write_description(part, description)
        _move(part, folder, vendor is not None)
    for proof in description.parity:
        say(str(proof))
    if description.unproven:
        say(f"not proven in a browser ({description.unproven}); later: gan-run verify {folder} --browser")
    return folder


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else. Raises UsageError."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder} is a file: --format web writes a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / NAME).is_file():
        raise UsageError(f"-o {folder} holds files that --format web did not write: name an empty or a new folder")


def _assemble(part: Path, artifact: VerifiedArtifact, vendor: Path | None) -> WebFolder:
    """Write all files except the proof."""
    about = runtime()
    write_artifact_file(part / ARTIFACT, artifact)
    for source in SOURCES.iterdir():
        if source.suffix in (".html", ".js", ".svg") and source.name != SCRIPT:
            shutil.copyfile(source, part / source.name)
    shutil.copyfile(STYLE, part / STYLE.name)
    base = f"./{VENDORED}/" if vendor is not None else about["base"]
    constant = json.dumps({**about, "base": base}, indent=1)
    write_whole(part / SCRIPT, HEADER + minify(RUNTIME.sub(lambda _: f"const RUNTIME = {constant};", _source())))
    if vendor is not None:
        (part / VENDORED).mkdir()
        for name, path in vendored(vendor).items():
            shutil.copyfile(path, part / VENDORED / name)
    manifest, _ = read_bytes(artifact.data, ARTIFACT)
    origin = "" if vendor is not None else "/".join(about["base"].split("/")[:3])
    folder = WebFolder(manifest, about["version"], origin, unproven="the proof has not run yet")
    write_description(part, folder)
    return folder


def _source() -> str:
    return (SOURCES / SCRIPT).read_text("utf-8")


def _proven(
    part: Path,
    folder: WebFolder,
    artifact: VerifiedArtifact,
    gate: fidelity.Gate | None,
    say: Callable[[str], None],
) -> WebFolder:
    """The folder's description with what was proven in a browser, or why nothing was.

    WASM has to pass, because every browser has it. If WebGPU does not, the page uses it on request only. What this
    machine's browser lacks says nothing about others: the page takes WebGPU where a visitor's GPU can, and says so.
    """
    reason = browser.missing() or ("" if artifact.cases else "there is no reference to compare with")
    if reason:
        return replace(folder, unproven=reason)
    proofs, refusals, untested = _prove_engines(part, folder, artifact, gate)
    failed = {provider for provider, proof in proofs.items() if not proof.passed}
    if failed and ("wasm" in failed or len(failed) == len(proofs)):
        raise GanEdgeError(f"not exported, the browser gives other pictures than the generator: {proofs[min(failed)]}")
    for name, refusal in refusals.items():
        say(f"{name} does not run it: {refusal}")
    if not proofs:
        return replace(folder, unproven=(untested | refusals)["wasm"].replace(";", ","))
    if failed | refusals.keys() == {"webgpu"}:
        say("the page takes WASM in every browser, because of WebGPU's proof")
    for name, lack in untested.items():
        say(f"{name} cannot be proven here ({lack}): the page takes it where a visitor's browser can, and says so")
    refused = tuple(sorted(failed | refusals.keys()))
    return replace(folder, parity=tuple(proofs.values()), refused=refused, untested=untested, unproven="")


def _prove_engines(
    part: Path, folder: WebFolder, artifact: VerifiedArtifact, gate: fidelity.Gate | None
) -> tuple[dict[str, Parity], dict[str, str], dict[str, str]]:
    """By engine of the browser: the proof, why it does not run the artifact, or what this browser lacks for a proof."""
    gate = gate or fidelity.gate_of(folder.manifest.precision, folder.manifest.interface)
    proofs: dict[str, Parity] = {}
    refusals: dict[str, str] = {}
    untested: dict[str, str] = {}
    with browser.Browser(part) as chromium:
        for provider in browser.PROVIDERS:
            try:
                engine = chromium.start(provider)
                proof = parity.prove_in(engine, folder.manifest, artifact.cases, gate)
                proofs[provider] = replace(proof, passed=True) if str(gate) == "none" else proof
                engine.close()
            except browser.MissingFeature as error:  # noqa: PERF203 - two engines
                untested[provider] = error.feature
            except EngineError as error:
                refusals[provider] = str(error)
    return proofs, refusals, untested


def _move(part: Path, folder: Path, with_runtime: bool) -> None:
    """Put the files in place, the description last: a page without it says that the export did not end."""
    (folder / NAME).unlink(missing_ok=True)
    if not with_runtime:
        shutil.rmtree(folder / VENDORED, ignore_errors=True)
    files = sorted((path for path in part.rglob("*") if path.is_file()), key=lambda path: path.name == NAME)
    for path in files:
        target = folder / path.relative_to(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    read_web_folder(folder)
