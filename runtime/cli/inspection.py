"""gan-run info, tune, verify, rebuild and doctor: what an artifact and a machine are good for."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ganedge.runtime.engines import EngineOptions
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.ncnn_file import NcnnIdentity, param_path, read_network
from ganedge.runtime.ncnn_file import read_sidecar as read_ncnn
from ganedge.runtime.web_folder import NAME as WEB
from ganedge.runtime.web_folder import WebFolder, read_web_folder

from . import terminal
from .options import argument, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ganedge.runtime.engine_file import EngineIdentity
    from ganedge.runtime.manifest import Manifest, Measurement, Port
    from ganedge.runtime.tuning import Trial
    from ganedge.runtime.verify import Check


@dataclass(frozen=True)
class InfoOptions:
    """How to show an artifact."""

    json: bool = False
    """The whole manifest as JSON on standard output, with an engine's identity."""


@dataclass(frozen=True)
class TuneOptions:
    """How to measure."""

    batch: int = field(default=1, metadata=option(minimum=1))
    """Items in one call."""
    seconds: float = field(default=2.0, metadata=option(minimum=0.0))
    """Seconds to measure each engine."""
    threads: int | None = None
    """Threads of the engine; the engine chooses by default."""

    def __post_init__(self) -> None:
        """Check the threads."""
        EngineOptions(threads=self.threads)


@dataclass(frozen=True)
class VerifyOptions:
    """Where to repeat the proof."""

    browser: bool = False
    """In a headless Chromium, WASM and WebGPU, for a folder that gan-export --format web wrote."""


@dataclass(frozen=True)
class DoctorOptions:
    """What to examine."""

    selftest: bool = False
    """Draw a picture with every engine."""
    output: Path = field(default=Path("selftest.png"), metadata=option(short="-o"))
    """Picture that the self-test writes."""
    json: bool = False
    """Everything as JSON on standard output, for a bug report."""


def info(file: Path, options: InfoOptions) -> None:
    """Show what an artifact is, where it comes from and what was proven of it."""
    identity: EngineIdentity | NcnnIdentity | None = None
    in_browsers: list[tuple[str, str]] = []
    param = param_path(file)
    if param is not None:
        manifest, identity = read_ncnn(param)
        size = sum(map(len, read_network(param, identity)))
    elif file.suffix == ".engine":
        from ganedge.runtime.engine_file import check_engine, read_sidecar

        manifest, identity = read_sidecar(file)
        size = len(check_engine(file, identity))
    elif (file / WEB).is_file():
        folder = read_web_folder(file)
        manifest = replace(folder.manifest, parity=folder.manifest.parity + folder.parity)
        in_browsers = _describe_browsers(folder)
        size = (file / folder.artifact).stat().st_size
    else:
        manifest, model = read_artifact(file)
        size = len(model)
    if options.json:
        section = "engine" if param is None else "ncnn"
        engine = {} if identity is None else {section: asdict(identity)}
        typer.echo(json.dumps(json.loads(manifest.to_json()) | engine, indent=2))
        return
    _print(describe(manifest, size) + _describe_identity(identity) + in_browsers)
    terminal.note(f"next: {_next_command(file, manifest)}")


def tune(file: Path, options: TuneOptions) -> None:
    """Measure the installed engines with this artifact, and let `auto` take the fastest from now on."""
    from ganedge.runtime import tuning

    manifest, model = read_artifact(file)
    trials = tuning.tune(model, manifest, options.batch, options.seconds, options.threads)
    for trial in trials:
        terminal.note(_trial_line(trial, tuning.PSNR))
    best = tuning.best(trials)
    choice = best.choice
    gain = ""
    if len(trials) > 1:
        slowest = max(trials, key=lambda trial: trial.milliseconds)
        gain = f", {slowest.milliseconds / best.milliseconds:.1f} × as fast as the slowest"
    try:
        path = tuning.remember(manifest.digest, choice, options.threads)
        note = f"remembered in {path}: gan-run and load() use it from now on"
    except GanEdgeError as error:
        note = f"not remembered: {error}; say --engine {choice.engine} instead"
    terminal.note(f"fastest: {choice.engine}{f' in {choice.compute}' if choice.compute else ''}{gain}; {note}")


def verify(file: Path, options: VerifyOptions) -> None:
    """Repeat the export's proof on this machine. Exit code 1: an engine gives other pictures."""
    from ganedge.runtime import verify as proof

    if options.browser and not file.is_dir():
        raise UsageError(f"--browser is for a folder that gan-export --format web wrote, and {file} is none")
    if options.browser:
        checks, notes = proof.verify_in_browser(file)
        for note in notes:
            terminal.note(note)
    else:
        checks = proof.verify(file)
    for check in checks:
        terminal.note(str(check))
    failed = read_artifact(file)[0].failed if file.suffix == ".onnx" else {}
    for name in failed:
        terminal.note(f"{name}: not compared, it failed the export's proof (gan-run info {file}) and nothing uses it")
    terminal.note(_verdict(checks))
    if (file / WEB).is_file() and not options.browser:
        terminal.note(f"next: gan-run verify {file} --browser, which runs it in Chromium")
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


def rebuild(file: Path) -> None:
    """Build a TensorRT engine again for this machine, from the ONNX file beside it, and replace it."""
    from ganedge.runtime.engine_file import read_sidecar
    from ganedge.runtime.engines import trt_builder

    if file.suffix != ".engine":
        raise UsageError(f"{file} is no TensorRT engine: give a .engine with its .engine.json and .onnx beside it")
    identity, data = trt_builder.rebuild(file, *read_sidecar(file), terminal.note)
    target = ", ".join(identity.targets) or identity.compute_capability
    terminal.note(f"{file}: {len(data) / 1e6:.1f} MB, {identity.flavour} {identity.version}, for {target}")
    terminal.note(f"next: gan-run verify {file}")


def doctor(options: DoctorOptions) -> None:
    """Show what this machine has for running artifacts, and what prevents it (exit code 1)."""
    from ganedge.runtime import doctor as diagnosis
    from ganedge.runtime.pictures import images

    if options.selftest:
        images.check_format(options.output)
    report = diagnosis.examine()
    if options.json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(diagnosis.rows(report))
    if options.selftest:
        sheets = diagnosis.selftest()
        images.save(next(iter(sheets.values())), options.output)
        terminal.note(f"self-test: {options.output} drawn with {', '.join(sheets)}")
    if report["problems"]:
        raise typer.Exit(1)
    if not options.json:
        usable = [engine["name"] for engine in report["engines"] if not engine["problem"]]
        terminal.note(f"ready to run artifacts with {', '.join(usable)}; next: gan-run info FILE")


def describe(manifest: Manifest, size: int) -> list[tuple[str, str]]:
    """Return the manifest as rows of text; `size` is the file's, in bytes."""
    interface, source = manifest.interface, manifest.source
    trained = f", step {source.step}, data {source.data or 'unknown'}" if source.step else ", not trained by gan-train"
    rows = [
        ("kind", interface.kind.replace("-", " ")),
        *[("input", _port(port)) for port in interface.inputs],
        *[("output", _port(port)) for port in interface.outputs],
        ("noise", interface.noise or "none"),
        ("classes", ", ".join(interface.classes) or "none"),
        ("precision", f"{manifest.precision}{_remainder(manifest)}, {size / 1e6:.1f} MB"),
        ("norm", manifest.norm_mode),
        ("source", (source.variant or "unnamed network") + trained),
        ("written by", source.program),
    ]
    if manifest.digest:
        rows.append(("digest", manifest.digest))
    rows += [("proof", str(proof)) for proof in manifest.parity]
    rows += [("measured", _measured(item)) for item in manifest.measured]
    if manifest.made_for:
        rows.append(("made for", manifest.made_for))
    if manifest.unproven:
        rows.append(("proof", f"not run ({manifest.unproven})"))
    return rows


def _remainder(manifest: Manifest) -> str:
    return f" with {manifest.remainder} outside INT8" if manifest.remainder else ""


def _measured(item: Measurement) -> str:
    compute = f" in {item.compute}" if item.compute else ""
    cores = f"{item.threads} core{'s' if item.threads > 1 else ''}"
    return f"{item.engine} {item.version}{compute}: {item.milliseconds:.2f} ms a call on {item.processor}, {cores}"


def _next_command(file: Path, manifest: Manifest) -> str:
    """Return the commands that can be used next with an artifact."""
    if (file / WEB).is_file():
        return f"python3 -m http.server --directory {file}"
    if manifest.unproven:
        return f"gan-run verify {file}, on the device that will run it"
    roles = {port.role for port in manifest.interface.inputs[1:]}
    needed = {"mask": " --mask MASK", "image": " --style PICTURE2"}
    more = "".join(option for role, option in needed.items() if role in roles)
    if manifest.interface.kind == "image-to-image":
        label = f" --label {shlex.quote(manifest.interface.classes[0])}" if "label" in roles else ""
        return f"gan-run translate {file} PICTURE{label}{more} -o result.png"
    return f"gan-run sample {file} -o grid.png"


def _trial_line(trial: Trial, gate: float) -> str:
    choice = trial.choice
    name = " ".join(filter(None, (choice.engine, choice.version, choice.device, choice.compute)))
    quality = "the same pictures" if trial.psnr is None else f"PSNR {trial.psnr:.1f} dB"
    refused = "" if trial.holds else f", not chosen below {gate:g} dB"
    return f"{name}: {trial.milliseconds:.2f} ms, {quality}{refused}"


def _verdict(checks: Sequence[Check]) -> str:
    failed = [check.engine for check in checks if not check.passed]
    if not failed:
        return "verified: this machine gives the pictures of the export"
    passed = [check.engine.split()[0] for check in checks if check.passed]
    remedy = f"use --engine {passed[0]}" if passed else "update the engine or its driver, or export again in fp32"
    return f"other pictures than at the export with {', '.join(failed)}: {remedy}"


def _describe_identity(identity: EngineIdentity | NcnnIdentity | None) -> list[tuple[str, str]]:
    """Return what a TensorRT engine was built for, or what converted an ncnn network, as rows of text."""
    if identity is None:
        return []
    if isinstance(identity, NcnnIdentity):
        proven = f"proven in ncnn {identity.version}" if identity.version else "not proven in ncnn yet"
        rows = [("network", f"by {identity.converter}, {proven}"), ("from ONNX", f"sha256:{identity.onnx_digest}")]
        blobs = f"{', '.join(identity.inputs)} to {', '.join((identity.output, *identity.extras))}"
        label = f"; the class is a vector of {identity.classes}" if identity.classes else ""
        return [*rows, ("blobs", blobs + label)]
    targets = ", ".join(identity.targets) or identity.compute_capability or "unknown"
    reach = ", and for newer versions and GPUs" if identity.portable else ""
    rows = [("engine", f"{identity.flavour} {identity.version}, for {targets}{reach}"), ("built from", identity.onnx)]
    if identity.layers:
        rows.append(("layers", ", ".join(f"{number} in {name}" for name, number in identity.layers.items())))
    for name, shapes in identity.profiles.items():
        rows.append(("shapes", f"{name}: {', '.join(' × '.join(map(str, shape)) for shape in shapes)} (min, opt, max)"))
    return rows


def _describe_browsers(folder: WebFolder) -> list[tuple[str, str]]:
    """What was not proven of a folder for browsers, as rows for people; its proofs stand among the others."""
    rows = [("browser", f"{engine} is not used, it did not pass at the export") for engine in folder.refused]
    rows += [("browser", f"{engine} was not proven at the export: {lack}") for engine, lack in folder.untested.items()]
    return rows + ([("browser", f"not proven at the export ({folder.unproven})")] if folder.unproven else [])


def _port(port: Port) -> str:
    shape = " × ".join(str(size) for size in port.shape)
    values = "" if port.range is None else f", {port.range[0]:g} to {port.range[1]:g}"
    return f"{port.name}: {port.role} {port.dtype} [{shape}]{values}"


def _print(rows: Sequence[tuple[str, str]]) -> None:
    for name, value in rows:
        typer.echo(terminal.printable(f"{name:<10} {value}"))


FILE = argument("file", Path, "An artifact that gan-export wrote.")
COMMANDS = {
    "info": (info, (FILE,)),
    "tune": (tune, (FILE,)),
    "verify": (verify, (FILE,)),
    "rebuild": (rebuild, (FILE,)),
    "doctor": (doctor, ()),
}
