"""gan-bench: what an artifact costs beside PyTorch and in every engine, and whether it still gives the same pictures.

gan-bench generator.onnx generator-fp16.onnx --against runs/digits --batch 1,8 --json out.json --html out.html
gan-bench generator.onnx generator-int8.onnx --against runs/digits --choose "psnr>=35, p99"
gan-bench compare before.json after.json
gan-bench train --seconds 20
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ganedge.runtime import terminal
from ganedge.runtime.errors import GanEdgeError, UsageError

COMMANDS = ("latency", "compare", "train")
"""The first is what `gan-bench FILES` means."""


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
    seconds: Annotated[float, typer.Option(min=0.0, help="Time each competitor at least this long, seconds.")] = 3.0,
    iterations: Annotated[int, typer.Option(min=1, help="And at least this often.")] = 50,
    processes: Annotated[
        int, typer.Option(min=0, max=100, help="Whole processes started of each, for cold start and memory; 0: none.")
    ] = 3,
    strict: Annotated[
        bool, typer.Option("--strict", help="MLPerf's single stream: batch 1, at least 60 s and 1024 calls.")
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
        typer.Option(help="Build --against FILE.pth as resnet_9blocks, resnet_6blocks, unet_256 or unet_128."),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Read weights that can execute code.")] = False,
) -> None:
    """Time artifacts and PyTorch in turns, and print a table and then one JSON line."""
    from ganedge.benchmarks import choice, latency, report

    wanted = None if choose is None else choice.read_choice(choose)
    if html is not None:
        from ganedge.benchmarks import page

        page.require()
    settings = latency.Settings(
        batches=_batches(batch or ("1" if strict else "1,8")),
        engine=engine,
        device=device,
        torch=_ways(torch),
        threads=threads,
        seconds=seconds,
        iterations=iterations,
        processes=processes,
        strict=strict,
    )
    said = None
    if against is not None and (kwargs or weights or output_shape or arch or trust):
        from ganedge.benchmarks.reference import Said

        said = Said(kwargs, weights, output_shape, arch, trust)
    pictures: dict[str, Any] = {}
    measured = latency.measure(files, against, settings, said, pictures=pictures)
    typer.echo(report.table(measured))
    unmet: GanEdgeError | None = None
    if wanted is not None and not measured["partial"]:
        try:
            typer.echo(choice.tell(measured, wanted))
        except GanEdgeError as error:
            unmet = error  # What was measured is written all the same.
    _write(measured, json_file)
    if markdown is not None:
        from ganedge.runtime.files import write_whole

        write_whole(markdown, report.markdown(measured))
    if html is not None:
        from ganedge.runtime.manifest import read_artifact

        onnx = next((file for file in files if file.suffix == ".onnx"), None)
        port = None if onnx is None else read_artifact(onnx)[0].interface.output
        page.write(html, measured, pictures, port)
    if measured["partial"]:
        raise KeyboardInterrupt
    if unmet is not None:
        raise unmet
    wrong = sorted({row["competitor"] for row in measured["results"] if row["same"] is False})
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
    typer.echo(terminal.printable(compare.table(found)))
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
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report here.")] = None,
) -> None:
    """Training speed of this project's loop beside a plain one, in turns."""
    from ganedge.benchmarks import training

    measured = training.measure(seconds, threads, precision, typer.echo, device)
    _write(measured, json_file)
    if measured["partial"]:
        raise KeyboardInterrupt


def _write(measured: dict[str, Any], path: Path | None) -> None:
    """One JSON line to standard output, and to a file where asked."""
    import json

    from ganedge.runtime.files import write_whole

    line = json.dumps(measured, allow_nan=False)
    typer.echo(line)
    if path is not None:
        write_whole(path, line + "\n")


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
    terminal.run(build, "gan-bench", "export")


if __name__ == "__main__":
    main()
