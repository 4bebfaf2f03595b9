"""gan-run: use an exported generator.

gan-run sample generator.onnx -n 64 --seed 0 -o grid.png
gan-run interpolate generator.onnx 3 8 -o path.png
gan-run translate monet2photo.onnx paintings/ -o photos/
gan-run info generator.onnx
gan-run tune generator.onnx
gan-run verify generator.onnx
gan-run rebuild generator.engine
gan-run serve generator.onnx --port 8000
gan-run doctor --selftest
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer

from .cli import terminal
from .errors import UsageError
from .generator import load
from .manifest import read_artifact

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .engine_file import EngineIdentity
    from .generator import Generator
    from .manifest import Manifest, Port

app = terminal.app("Use an exported generator: sample from it, translate pictures with it, or see what it is.")

File = Annotated[Path, typer.Argument(help="An artifact that gan-export wrote.", show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Picture to write; its ending names the format.")]
Label = Annotated[int | None, typer.Option(help="Class to draw, where the generator is conditional.")]
Truncation = Annotated[float | None, typer.Option(help="Keep latents within ± this: less variety, more typical.")]
Columns = Annotated[int | None, typer.Option(min=1, help="Pictures in a row; as square as it goes by default.")]
EngineName = Annotated[str, typer.Option("--engine", help="auto, onnxruntime or openvino.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or tensorrt (ONNX Runtime's provider).")]
Threads = Annotated[int | None, typer.Option(help="Threads of the engine; its own choice by default.")]


@app.command()
def sample(
    file: File,
    output: Output,
    n: Annotated[int, typer.Option("-n", help="How many to draw.")] = 64,
    seed: Annotated[int | None, typer.Option(help="0 to 4294967295; the same seed draws the same.")] = None,
    label: Label = None,
    truncation: Truncation = None,
    columns: Columns = None,
    engine: EngineName = "auto",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Draw new pictures and lay them out in one grid."""
    from .pictures import images

    images.check_format(output)
    with load(file, engine, device, threads) as generator:
        items = generator.sample(n, seed, label, truncation)
        images.save(_sheet(generator, items, columns), output)
        terminal.note(f"{output}: {n} drawn with {generator.engine}")


@app.command()
def interpolate(
    file: File,
    seed_a: Annotated[int, typer.Argument(help="Seed of the first picture.", show_default=False)],
    seed_b: Annotated[int, typer.Argument(help="Seed of the last picture.", show_default=False)],
    output: Output,
    steps: Annotated[int, typer.Option(help="Pictures in all, both ends included.")] = 8,
    label: Label = None,
    truncation: Truncation = None,
    columns: Columns = None,
    engine: EngineName = "auto",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Go from one picture to another through latent space, in one row unless --columns says otherwise."""
    from .pictures import images

    images.check_format(output)
    with load(file, engine, device, threads) as generator:
        items = generator.interpolate(seed_a, seed_b, steps, label, truncation)
        images.save(_sheet(generator, items, columns or steps), output)
        terminal.note(f"{output}: {steps} steps from seed {seed_a} to {seed_b} with {generator.engine}")


@app.command()
def translate(
    file: File,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A file for one picture; otherwise a folder, structure kept.")
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT...", help="Pictures, folders, quoted patterns, or one video.", show_default=False
        ),
    ] = None,
    camera: Annotated[
        int | None, typer.Option(min=0, help="Record this camera, 0 for the first, until Ctrl-C.", show_default=False)
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="Ending of the results, such as png; the pictures' own by default.")
    ] = None,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Go on with an interrupted folder.")] = False,
    resize: Annotated[
        bool, typer.Option("--resize", help="Scale to the one size the generator takes, and back.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(help="What the work may take beside the pictures, such as 500M; uses tiles.")
    ] = None,
    tiles: Annotated[
        Literal["auto", "shared", "always", "never"],
        typer.Option(help="Tiles where memory is short: if exact; with one normalisation for all; always; never."),
    ] = "auto",
    overlap: Annotated[int, typer.Option(help="Pixels a tile sees beyond its own part.")] = 64,
    max_pixels: Annotated[float, typer.Option(help="Refuse larger pictures, in millions of pixels.")] = 268.4,
    engine: EngineName = "auto",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Turn pictures into others, at their own size. Exit code 3: some could not be done, and were named."""
    from .memory import parse
    from .pictures.folder import plan, translate_files
    from .pictures.video import is_video, translate_camera, translate_video

    pixels = _pixels(max_pixels)
    budget = None if memory is None else parse(memory)
    how: dict[str, Any] = {
        "resize": resize,
        "memory": budget,
        "tiles": tiles,
        "overlap": overlap,
        "max_pixels": pixels,
    }
    given = inputs or []
    if bool(given) == (camera is not None):
        raise UsageError("give pictures, folders, a pattern or a video, or else --camera with its number")
    film = len(given) == 1 and is_video(given[0]) and not given[0].is_dir()
    if film or camera is not None:
        if form is not None or skip_existing:
            raise UsageError("--format and --skip-existing are for pictures, not for videos and cameras")
        with load(file, engine, device, threads) as generator:
            if camera is not None:
                made = translate_camera(generator, camera, output, **how)
            else:
                made = translate_video(
                    generator, given[0], output / given[0].name if output.is_dir() else output, **how
                )
            terminal.note(
                f"{output}: {made.frames} frames, {made.sound}, {made.rate:.1f} frames/s with {generator.engine}"
            )
        return
    jobs = plan(given, output, form)
    with load(file, engine, device, threads) as generator:
        done = translate_files(
            generator,
            jobs,
            skip_existing=skip_existing,
            **how,
        )
        skipped = f", {done.skipped} there already" if done.skipped else ""
        failed = f", {done.failed} could not be done" if done.failed else ""
        terminal.note(
            f"{output}: {done.written} written{skipped}{failed}, {done.rate:.1f} pictures/s with {generator.engine}"
        )
    if done.failed:
        raise typer.Exit(3)


@app.command()
def tune(
    file: File,
    batch: Annotated[int, typer.Option(min=1, help="Items in one call.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.0, help="Time for each engine.")] = 2.0,
    threads: Threads = None,
) -> None:
    """Measure the installed engines with this artifact, and let `auto` take the fastest from now on."""
    from . import tuning
    from .errors import GanEdgeError

    manifest, model = read_artifact(file)
    trials = tuning.tune(model, manifest, batch, seconds, threads)
    for trial in trials:
        psnr = "the same" if trial.psnr is None else f"PSNR {trial.psnr:.1f} dB"
        kept = "" if trial.holds else f", not chosen below {tuning.PSNR:g} dB"
        name = f"{trial.choice.engine} {trial.choice.version} {trial.choice.device} {trial.choice.compute or ''}"
        terminal.note(f"{name.strip()}: {trial.milliseconds:.2f} ms, {psnr}{kept}")
    best = tuning.best(trials).choice
    try:
        note = f"remembered in {tuning.remember(manifest.digest, best)}"
    except GanEdgeError as error:
        note = f"not remembered: {error}; say --engine {best.engine} instead"
    terminal.note(f"fastest: {best.engine}{f' in {best.compute}' if best.compute else ''}, {note}")


@app.command()
def verify(file: File) -> None:
    """Make the export's proof again on this machine. Exit code 1: an engine gives other pictures."""
    from .verify import verify as checks

    found = checks(file)
    for check in found:
        terminal.note(str(check))
    if not all(check.passed for check in found):
        raise typer.Exit(1)


@app.command()
def rebuild(file: File) -> None:
    """Build a TensorRT engine again for this machine, from the ONNX file beside it, and replace it."""
    from .engine_file import read_sidecar
    from .engines import trt_builder

    if file.suffix != ".engine":
        raise UsageError(f"{file} is no TensorRT engine: give a .engine with its .engine.json and .onnx beside it")
    identity, data = trt_builder.rebuild(file, *read_sidecar(file), terminal.note)
    where = ", ".join(identity.targets) or identity.compute_capability
    terminal.note(f"{file}: {len(data) / 1e6:.1f} MB, {identity.flavour} {identity.version}, for {where}")


@app.command()
def serve(
    file: File,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all, without authentication.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    batch: Annotated[int | None, typer.Option(min=1, help="Items in one engine call at most.")] = None,
    wait: Annotated[float, typer.Option(help="Milliseconds a batch waits for company.")] = 0.0,
    queue: Annotated[int, typer.Option(help="Requests in work at once; more are told to come again.")] = 32,
    max_items: Annotated[int, typer.Option(help="Items that one request may ask for.")] = 64,
    max_body: Annotated[str, typer.Option(help="Bytes of one request, such as 16M.")] = "16M",
    max_pixels: Annotated[float, typer.Option(help="Refuse larger pictures, in millions of pixels.")] = 4.2,
    memory: Annotated[str | None, typer.Option(help="What one picture may take, such as 500M; uses tiles.")] = None,
    resize: Annotated[
        bool, typer.Option("--resize", help="Scale pictures to the one size the generator takes, and back.")
    ] = False,
    engine: EngineName = "auto",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Answer requests over HTTP, with a page to try it on, until Ctrl-C or SIGTERM."""
    from .memory import parse
    from .serving.server_socket import listen

    pixels = _pixels(max_pixels)
    budget = None if memory is None else parse(memory)
    with load(file, engine, device, threads, batch) as generator:
        answered = listen(
            generator,
            host,
            port,
            lambda address: terminal.note(f"{address} answers with {generator.engine}; Ctrl-C stops it"),
            wait=wait / 1000,
            queue=queue,
            items=max_items,
            body=parse(max_body),
            pixels=pixels,
            memory=budget,
            resize=resize,
        )
    terminal.note(f"stopped after {answered} requests")


@app.command()
def doctor(
    selftest: Annotated[bool, typer.Option("--selftest", help="Make a first picture with every engine.")] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the self-test puts it.")] = Path("selftest.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON, for a bug report.")] = False,
) -> None:
    """Say what this machine has for running artifacts, and what stands in the way (exit code 1)."""
    from . import doctor as doctors
    from .pictures import images

    if selftest:
        images.check_format(output)
    report = doctors.examine()
    if as_json:
        import json

        typer.echo(json.dumps(report, indent=2))
    else:
        for name, value in doctors.rows(report):
            typer.echo(terminal.printable(f"{name:<10} {value}"))
    if selftest:
        made = doctors.selftest()
        images.save(next(iter(made.values())), output)
        terminal.note(f"self-test: {output} made with {', '.join(made)}")
    if report["problems"]:
        raise typer.Exit(1)


def _sheet(generator: Generator, items: NDArray[np.generic], columns: int | None) -> NDArray[np.uint8]:
    """One picture of many items, or of many points."""
    from .pictures import images

    if generator.manifest.interface.output.role != "image":
        return images.scatter(items)
    return images.grid(items.astype(np.uint8, copy=False), columns)


@app.command()
def info(
    file: File,
    as_json: Annotated[
        bool, typer.Option("--json", help="The whole manifest as JSON, and an engine's identity.")
    ] = False,
) -> None:
    """Show what an artifact is, where it comes from and what was proven of it."""
    identity = None
    if file.suffix == ".engine":
        from .engine_file import check_engine, read_sidecar

        manifest, identity = read_sidecar(file)
        size = len(check_engine(file, identity))
    else:
        manifest, model = read_artifact(file)
        size = len(model)
    if as_json:
        import json
        from dataclasses import asdict

        tied = {} if identity is None else {"engine": asdict(identity)}
        typer.echo(json.dumps(json.loads(manifest.to_json()) | tied, indent=2))
        return
    for name, value in describe(manifest, size) + ([] if identity is None else _tied(identity)):
        typer.echo(terminal.printable(f"{name:<10} {value}"))


def describe(manifest: Manifest, size: int) -> list[tuple[str, str]]:
    """The manifest as rows for people."""
    interface, source = manifest.interface, manifest.source
    made = f"{source.variant or 'not one of ours'}, step {source.step}, data {source.data or 'unknown'}"
    rows = [
        ("kind", interface.kind.replace("-", " ")),
        *[("input", _port(port)) for port in interface.inputs],
        *[("output", _port(port)) for port in interface.outputs],
        ("noise", interface.noise or "none"),
        ("classes", ", ".join(interface.classes) or "none"),
        ("precision", f"{manifest.precision}, {size / 1e6:.1f} MB"),
        ("norm", manifest.norm_mode),
        ("source", made),
        ("written by", source.program),
        ("digest", manifest.digest),
    ]
    rows += [("proof", str(proof)) for proof in manifest.parity]
    if manifest.unproven:
        rows.append(("proof", f"not run ({manifest.unproven})"))
    return rows


def _tied(identity: EngineIdentity) -> list[tuple[str, str]]:
    """What a TensorRT engine is tied to, as rows for people."""
    where = ", ".join(identity.targets) or identity.compute_capability or "unknown"
    reach = ", and for newer versions and GPUs" if identity.portable else ""
    rows = [("engine", f"{identity.flavour} {identity.version}, for {where}{reach}"), ("built from", identity.onnx)]
    for name, shapes in identity.profiles.items():
        rows.append(("shapes", f"{name}: {', '.join(' × '.join(map(str, shape)) for shape in shapes)} (min, opt, max)"))
    return rows


def _port(port: Port) -> str:
    shape = " × ".join(str(size) for size in port.shape)
    span = "" if port.range is None else f", {port.range[0]:g} to {port.range[1]:g}"
    return f"{port.name}: {port.role} {port.dtype} [{shape}]{span}"


def _pixels(millions: float) -> int:
    """What `--max-pixels` says, in pixels."""
    if not 0 < millions < 1e6:
        raise UsageError(f"max-pixels is {millions:g}: give millions of pixels, above 0 and below a million")
    return int(millions * 1e6)


def main() -> None:
    """Entry point of the command `gan-run`."""
    terminal.run(lambda: app, "gan-run", "cpu")


if __name__ == "__main__":
    main()
