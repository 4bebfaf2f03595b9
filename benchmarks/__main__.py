"""gan-bench: what an artifact costs beside PyTorch and in every engine, and whether it still gives the same pictures.

gan-bench generator.onnx generator-fp16.onnx --against runs/digits --batch 1,8 --json out.json --html out.html
gan-bench generator.onnx generator-int8.onnx --against runs/digits --choose "psnr>=35, p99"
gan-bench compare before.json after.json
gan-bench train --seconds 20
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ganedge.runtime import engines
from ganedge.runtime.cli import terminal
from ganedge.runtime.errors import GanEdgeError, MissingExtra, UsageError

COMMANDS = ("latency", "compare", "train")
"""The first is what `gan-bench FILES` means."""
AGAINST = {"--torch", "--kwargs", "--weights", "--output-shape", "--arch", "--norm", "--range", "--trust"}
"""Options that say something of `--against`."""
DISTANCE = {"--fid-pictures", "--features", "--download"}
"""And of FID and KID."""


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app(
        "What artifacts cost beside PyTorch and in every engine; gan-bench FILES is short for gan-bench latency FILES."
    )
    app.command("latency")(_latency)
    app.command("compare")(_compare)
    app.command("train")(_train)
    return app


def _latency(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Artifacts that gan-export wrote.", show_default=False)],
    against: Annotated[
        str | None,
        typer.Option(help="The run, FILE.py:NAME or checkpoint they came from, to compare with.", show_default=False),
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Batch sizes, with commas. [default: 1,8]")] = None,
    engine: Annotated[
        str, typer.Option(help="all, auto, or some of onnxruntime,openvino,ort-tensorrt with commas.")
    ] = "all",
    torch: Annotated[
        str,
        typer.Option(
            help="Ways of running PyTorch: all, or some of eager, channels-last, bf16, fp16, compile, reduce-overhead, "
            "cuda-graph with commas."
        ),
    ] = "eager",
    device: Annotated[str, typer.Option(help="cpu or cuda, the same for every competitor.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads for every competitor; all cores by default.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Time each competitor at least this long. [default: 3, with --strict 600]", show_default=False
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(min=1, help="And at least this often. [default: 50, with --strict 1024]", show_default=False),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=0, max=100, help="Whole processes started of each, for cold start and memory; 0: none.")
    ] = 3,
    size: Annotated[
        str | None,
        typer.Option(
            help="Pictures that go in, where any size will do: 256 or 256x320 (height × width). [default: as trained, "
            "or else 256]",
            show_default=False,
        ),
    ] = None,
    fid: Annotated[
        bool, typer.Option("--fid", help="FID and KID between the pictures of each and the reference's.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="And to real pictures, as gan-train --data takes them; means --fid.", show_default=False),
    ] = None,
    fid_pictures: Annotated[int, typer.Option(help="Pictures that FID and KID are taken over.")] = 2048,
    features: Annotated[
        Literal["small", "inception"],
        typer.Option(help="What FID and KID look at; only Inception's are comparable with published figures."),
    ] = "small",
    download: Annotated[
        bool, typer.Option("--download", help="Let --data and --features inception fetch what is not here.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="MLPerf's single stream: batch 1, one after the other, 600 s and 1024 calls each."
        ),
    ] = False,
    choose: Annotated[
        str | None, typer.Option(help='Say which is best: constraints and one figure, "psnr>=35, p99".')
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write it as Markdown here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as one page with plots and pictures here.")] = None,
    kwargs: Annotated[str | None, typer.Option(help="Arguments that make a module, as JSON.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A module's weights.")] = None,
    output_shape: Annotated[
        str | None, typer.Option(help="One picture, 1x28x28, where it gives a flat vector.")
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="Build --against FILE.pth as resnet_9blocks, resnet_6blocks, unet_256, unet_128, or auto."),
    ] = None,
    norm: Annotated[Literal["instance", "batch"], typer.Option(help="What --arch normalises with.")] = "instance",
    value_range: Annotated[
        str, typer.Option("--range", help="Values of black and white in a module whose artifact has bytes.")
    ] = "-1,1",
    trust: Annotated[bool, typer.Option("--trust", help="Read weights that can execute code.")] = False,
) -> None:
    """Time artifacts and PyTorch in turns, and print a table and then one JSON line."""
    from ganedge.benchmarks import latency, recommend, report

    given = terminal.typed(context)
    _check_options(given, against, fid or data is not None)
    wanted = None if choose is None else recommend.read_choice(choose)
    least, calls = (latency.STRICT_SECONDS, latency.STRICT_QUERIES) if strict else (3.0, 50)
    with_torch = against is not None and engines.installed("torch")
    if wanted is not None:
        recommend.check_figures(
            wanted,
            compared=with_torch or len(files) > 1 or engine == "all" or "," in engine,
            eager=with_torch,
            distance=fid or data is not None,
            data=data is not None,
            processes=processes > 0,
        )
    if html is not None:
        from ganedge.benchmarks import page

        page.require()
    _check_places(json_file, markdown, html)
    settings = latency.Settings(
        batches=_batches(batch or ("1" if strict else "1,8")),
        engine=engine,
        device=device,
        torch=_ways(torch),
        threads=threads,
        seconds=least if seconds is None else seconds,
        iterations=calls if iterations is None else iterations,
        processes=processes,
        size=size,
        distance=_distance(fid, fid_pictures, features, data, download),
        strict=strict,
    )
    from ganedge.export.source import SourceSpec

    spec = SourceSpec(
        kwargs=kwargs,  # type: ignore[arg-type]
        weights=weights,
        output_shape=output_shape,
        arch=arch,
        norm=norm,
        trust=trust,
        range=value_range,  # type: ignore[arg-type]
    )
    pictures: dict[str, Any] = {}
    measured = latency.measure(files, against, settings, spec, pictures=pictures)
    measured["command"] = shlex.join(["gan-bench", *_arguments()])
    unmet: GanEdgeError | None = None
    if wanted is not None and not measured["partial"]:
        try:
            measured["choice"] = recommend.decide(measured, wanted)
            recommend.check(measured["choice"])
        except GanEdgeError as error:
            unmet = error  # What was measured is written all the same.
    try:  # Files before anything is printed: what reads it may have gone. And it is printed whatever files meet.
        _keep(measured, json_file)
        if markdown is not None:
            from ganedge.runtime.files import write_whole

            write_whole(markdown, report.markdown(measured))
        if html is not None:
            from ganedge.benchmarks.competitor import common

            page.write(html, measured, pictures, common(files).interface.output)
    finally:
        typer.echo(report.table(measured))
        typer.echo(_line(measured))
    if measured["partial"]:
        raise KeyboardInterrupt
    if unmet is not None:
        raise unmet
    if measured["failed"]:
        raise GanEdgeError("not all could be measured: " + "; ".join(map(report.failure, measured["failed"])))
    # What PyTorch itself gives in fewer bits is shown, and is no artifact's fault.
    own = {name for name, costs in measured["competitors"].items() if costs["file"] is not None}
    wrong = sorted({row["competitor"] for row in measured["results"] if row["same"] is False} & own)
    if wrong:
        raise GanEdgeError(f"not the same pictures as {measured['reference']}: {'; '.join(wrong)}")


def _compare(
    before: Annotated[Path, typer.Argument(help="A report that gan-bench --json wrote.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="A later one.", show_default=False)],
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share by which latency may change before it counts.")
    ] = 0.04,
) -> None:
    """Show what changed beyond noise; exit code 1 on a regression."""
    from ganedge.benchmarks import compare

    then, now = compare.read(before), compare.read(after)
    found = compare.changes(then, now, tolerance)
    for line in compare.table(found):
        typer.echo(terminal.printable(line))
    for line in compare.differences(then, now):
        terminal.note(line)
    unclear = sum(change.verdict == "unclear" for change in found)
    if unclear:
        terminal.note(f"{unclear} of {len(found)} are too noisy to tell: measure longer, on a quieter machine")
    worse = [change for change in found if change.regression]
    if worse:
        raise GanEdgeError(f"{len(worse)} of {len(found)} are worse than before")


def _train(
    seconds: Annotated[float, typer.Option(min=0.0, help="Train each at least this long, seconds.")] = 20.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of both; all cores by default.")] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="Of our loop; the plain one is FP32.")
    ] = "auto",
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Of both loops.")] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile", help="Ours with gan-train's --compile.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report here.")] = None,
) -> None:
    """Training speed of this project's loop beside a plain one, in turns."""
    from ganedge.benchmarks import training

    measured = training.measure(seconds, threads, precision, typer.echo, device, compiled)
    measured["command"] = shlex.join(["gan-bench", *_arguments()])
    _keep(measured, json_file)
    typer.echo(_line(measured))
    if measured["failed"]:
        raise GanEdgeError("; ".join(f"{one['variant']}: {one['reason']}" for one in measured["failed"]))
    if measured["partial"]:
        raise KeyboardInterrupt


def _line(measured: dict[str, Any]) -> str:
    """The report as one line of JSON."""
    import json

    return json.dumps(measured, allow_nan=False)


def _keep(measured: dict[str, Any], path: Path | None) -> None:
    """The report to a file, where asked."""
    from ganedge.runtime.files import write_whole

    if path is not None:
        write_whole(path, _line(measured) + "\n")


def _check_options(given: frozenset[str], against: str | None, distance: bool) -> None:
    """Refuse what would be without effect."""
    for option in sorted(given & AGAINST):
        if against is None:
            raise UsageError(f"{option} says something of the generator to compare with: give --against too")
    for option in sorted(given & DISTANCE):
        if not distance:
            raise UsageError(f"{option} says how FID and KID are found: give --fid or --data too")


def _arguments() -> list[str]:
    """What was typed behind the command's name; the name of its first subcommand goes without saying."""
    return [part for place, part in enumerate(sys.argv[1:]) if place or part != COMMANDS[0]]


def _check_places(*paths: Path | None) -> None:
    """Refuse a file that cannot be written before minutes are spent on what goes into it."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{path} is a folder: give the name of a file to write")
        near = next(place for place in path.absolute().parents if place.exists())
        if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK):
            raise GanEdgeError(f"cannot write {path}: {near} is no folder that can be written to")


def _distance(fid: bool, count: int, features: Literal["small", "inception"], data: str | None, download: bool) -> Any:
    """What FID and KID are asked for; None where they are not."""
    if not fid and data is None:
        return None
    if not engines.installed("torch"):
        raise MissingExtra("torch", "train", "gan-bench --fid")
    from ganedge.benchmarks.distance import Distance

    return Distance(count, features, data, download)


def _batches(text: str) -> tuple[int, ...]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or max(sizes) > 65_536:
        raise UsageError(f"--batch is {text!r}: give whole numbers of 1 to 65536, separated by commas")
    return tuple(dict.fromkeys(sizes))


def _ways(text: str) -> tuple[str, ...]:
    from ganedge.benchmarks.competitor import TORCH

    return tuple(TORCH) if text == "all" else tuple(dict.fromkeys(("eager", *text.split(","))))


def main() -> None:
    """Entry point of the command `gan-bench`."""
    if len(sys.argv) > 1 and sys.argv[1] not in (*COMMANDS, "-h", "--help"):
        sys.argv.insert(1, COMMANDS[0])
    terminal.run(build, "gan-bench", "train" if sys.argv[1:2] == ["train"] else "export")


if __name__ == "__main__":
    main()
