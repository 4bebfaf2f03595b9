"""gan-bench: latency, cost and fidelity of artifacts, in every engine and compared with PyTorch.

gan-bench generator.onnx generator-fp16.onnx --against runs/digits --batch 1,8 --json out.json --html out.html
gan-bench generator.onnx generator-int8.onnx --against runs/digits --choose "psnr>=35, p99"
gan-bench compare before.json after.json
gan-bench train --seconds 20
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import typer

from ganedge.runtime.cli import options, terminal
from ganedge.runtime.cli.options import option
from ganedge.runtime.errors import GanEdgeError, UsageError

COMMANDS = ("latency", "compare", "train")
"""The first is what `gan-bench FILES` means."""


@dataclass(frozen=True)
class Output:
    """Where a report goes."""

    json: Path | None = None
    """Write the whole report as JSON to this file; - writes it to standard output."""
    markdown: Path | None = None
    """Write it as Markdown to this file."""
    html: Path | None = None
    """Write it as one page with plots and images to this file."""
    verbose: bool = False
    """Show method, costs of a whole process and what was not measured."""

    def check(self) -> None:
        """Refuse a file that cannot be written before minutes are spent on its content."""
        if self.html is not None:
            from ganedge.runtime.cli import page

            page.require("gan-bench --html")
        for path in (self.json, self.markdown, self.html):
            if path is None or str(path) == "-":
                continue
            if path.is_dir():
                raise UsageError(f"{path} is a folder: give the name of a file to write")
            near = next(parent for parent in path.absolute().parents if parent.exists())
            if not near.is_dir() or not os.access(near, os.W_OK | os.X_OK):
                raise GanEdgeError(f"cannot write {path}: {near} is no folder that can be written to")

    @property
    def files(self) -> list[Path]:
        """The files that are written."""
        return [path for path in (self.json, self.markdown, self.html) if path is not None and str(path) != "-"]


@dataclass(frozen=True)
class CompareSpec:
    """How two reports are compared."""

    tolerance: float = field(default=0.04, metadata=option(minimum=0, maximum=1))
    """Share by which latency may change before it counts."""


@dataclass(frozen=True)
class TrainSpec:
    """How training speed is measured."""

    cases: str = ""
    """Trainings to measure, separated by commas, such as dcgan,dcgan-modern; all by default."""
    seconds: float = field(default=20.0, metadata=option(minimum=0))
    """Train each at least this long, seconds."""
    threads: int | None = field(default=None, metadata=option(minimum=1, default="all cores"))
    """Threads of both loops."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of this project's loop; the plain one is FP32."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of both loops."""
    compile: bool = False
    """Run this project's loop with gan-train's --compile."""
    json: Path | None = None
    """Write the whole report as JSON to this file; - writes it to standard output."""


def build() -> typer.Typer:
    """Make the command."""
    from ganedge.benchmarks.run import REFERENCE, SOURCE_FIELDS, BenchSpec
    from ganedge.export.source import SourceSpec

    app = terminal.app(
        "What artifacts cost beside PyTorch and in every engine; gan-bench FILES is short for gan-bench latency FILES."
    )
    about = [item for item in options.parameters(SourceSpec, REFERENCE) if item.name in SOURCE_FIELDS]
    files = options.argument("files", list[Path], "Artifacts that gan-export wrote.")
    latency = [files, *options.parameters(BenchSpec), *options.parameters(Output, "Report"), *about]
    app.command("latency")(options.with_signature(_latency, latency))
    before = options.argument("before", Path, "A report that gan-bench --json wrote.")
    after = options.argument("after", Path, "A later one.")
    app.command("compare")(options.with_signature(_compare, [before, after, *options.parameters(CompareSpec)]))
    app.command("train")(options.with_signature(_train, options.parameters(TrainSpec)))
    return app


def _latency(files: list[Path], **settings: Any) -> None:
    """Time artifacts and PyTorch in turns, and print a table and a verdict."""
    from ganedge.benchmarks.run import bench

    output = Output(**{item.name: settings.pop(item.name) for item in fields(Output) if item.name in settings})
    output.check()
    report = bench(files, **settings)
    report.data["command"] = shlex.join(["gan-bench", *_arguments()])
    to_stdout = str(output.json) == "-"
    try:  # Files first, since the reader of a pipe may be gone; the table is printed in any case.
        if output.json is not None and not to_stdout:
            report.to_json(output.json)
        if output.markdown is not None:
            report.to_markdown(output.markdown)
        if output.html is not None:
            report.to_html(output.html)
    finally:
        typer.echo(report.table(output.verbose), err=to_stdout)
        written = ", ".join(map(str, output.files))
        more = f"full report: {written}" if written else "full report: --verbose, --json FILE or --html FILE"
        typer.echo(terminal.printable(more), err=to_stdout)
        if to_stdout:
            typer.echo(report.to_json())
    report.check()


def _compare(before: Path, after: Path, **settings: Any) -> None:
    """Show what changed beyond noise; exit code 1 on a regression."""
    from ganedge.benchmarks import compare

    spec = CompareSpec(**settings)
    earlier, later = compare.read(before), compare.read(after)
    changes = compare.changes(earlier, later, spec.tolerance)
    for line in compare.table(changes):
        typer.echo(terminal.printable(line))
    for line in compare.differences(earlier, later):
        terminal.note(line)
    unclear = sum(change.verdict == "unclear" for change in changes)
    if unclear:
        terminal.note(f"{unclear} of {len(changes)} are too noisy to tell: measure longer, on a quieter machine")
    worse = [change for change in changes if change.regression]
    if worse:
        raise GanEdgeError(f"{len(worse)} of {len(changes)} are worse than before")


def _train(**settings: Any) -> None:
    """Measure the training speed of this project's loop and of a plain one, in turns."""
    import json

    from ganedge.benchmarks import training
    from ganedge.runtime.files import write_whole

    spec = TrainSpec(**settings)
    say = terminal.note if str(spec.json) == "-" else typer.echo
    measured = training.measure(spec.seconds, spec.threads, spec.precision, say, spec.device, spec.compile, spec.cases)
    measured["command"] = shlex.join(["gan-bench", *_arguments()])
    text = json.dumps(measured, allow_nan=False)
    if str(spec.json) == "-":
        typer.echo(text)
    elif spec.json is not None:
        write_whole(spec.json, text + "\n")
    if measured["failed"]:
        raise GanEdgeError("; ".join(f"{case['variant']}: {case['reason']}" for case in measured["failed"]))
    if measured["partial"]:
        raise KeyboardInterrupt


def _arguments() -> list[str]:
    """Return the arguments on the command line, without the name of the default subcommand."""
    return [part for index, part in enumerate(sys.argv[1:]) if index or part != COMMANDS[0]]


def main() -> None:
    """Entry point of the command `gan-bench`."""
    if len(sys.argv) > 1 and sys.argv[1] not in (*COMMANDS, "-h", "--help"):
        sys.argv.insert(1, COMMANDS[0])
    terminal.run(build, "gan-bench", "train" if sys.argv[1:2] == ["train"] else "export")


if __name__ == "__main__":
    main()
