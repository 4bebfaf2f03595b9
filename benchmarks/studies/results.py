"""Write the tables of docs/results.md from the committed reports.

    make results                              # measure this machine, then the line below
    python -m ganedge.benchmarks.studies.results      # docs/results.md between its markers, from benchmarks/results/

The folder contains reports of latencies (`gan-bench --json`); `training/` those of `gan-bench train --json`, and
`honesty/` those of `make honesty`. The command also plots the latencies of each report into an SVG beside it, one for
each batch size.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ganedge.benchmarks import compare, page, training
from ganedge.benchmarks import report as words
from ganedge.benchmarks.report import escaped
from ganedge.benchmarks.studies import honesty
from ganedge.runtime.cli import terminal
from ganedge.runtime.cli.page import require
from ganedge.runtime.errors import InputError
from ganedge.runtime.files import write_whole

BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
Reports = Mapping[str, Mapping[str, Any]]
"""Reports by file name."""


@dataclass(frozen=True)
class Committed:
    """Every report of a folder, by kind."""

    latencies: Reports
    training: Reports
    honesty: Reports


def tables(reports: Committed) -> str:
    """Return Markdown: a table for each report of latencies, one for all of training, one for all of `make honesty`."""
    parts = [_latencies(name, report) for name, report in reports.latencies.items()]
    parts += [_trained(reports.training)] if reports.training else []
    parts += [_honest(reports.honesty)] if reports.honesty else []
    return "\n".join(parts)


def _trained(reports: Reports) -> str:
    """Return a table with a row for each machine and variant that `gan-bench train` trained."""
    rows = []
    for name, report in reports.items():
        for result in report["results"]:
            size, batch = result["config"]["size"], result["config"]["batch"]
            how = f"{result['computes']['ganedge']}{', compiled' if result['compiled'] else ''}"
            plain, ours = (f"{result['images_per_s'][key]:.0f}" for key in ("plain", "ganedge"))
            what = f"{result['variant']}, {size} × {size}, batch {batch}, {how}"
            rows.append([f"`{name}`: {_where(report, result['device'])}", what, plain, ours, _ratio(result)])
    title = "This project's training loop and a tutorial's, on the same networks (`gan-bench train`):"
    heads = ["machine", "variant", "plain: images/s", "ganedge: images/s", "times as fast (95 %)"]
    return _table(
        title, heads, 2, rows, [f"`{name}`: {text}" for name, result in reports.items() for text in _notes(result)]
    )


def _honest(reports: Reports) -> str:
    """Return a table with a row for each bar of each machine's `make honesty`."""
    rows = [
        [f"`{name}`: {_where(report, 'cpu')}", bar["what"], f"{bar['count']} of {bar['of']}", str(bar["wanted"])]
        for name, report in reports.items()
        for bar in report["bars"]
    ]
    notes = [
        f"`{name}`: interrupted before all runs were done" for name, report in reports.items() if report["partial"]
    ]
    title = "gan-bench where the answer is known (`make honesty`):"
    return _table(title, ["machine", "bar", "runs", "required"], 2, rows, notes)


def _latencies(name: str, report: Mapping[str, Any]) -> str:
    """Return one machine's table: a row for each competitor, with median and ratio for each batch size."""
    batches = sorted({row["batch"] for row in report["results"]})
    heads = [part for batch in batches for part in (f"batch {batch}: ms", "× eager (95 %)")]
    title = (
        f"`{name}`: "
        + (f"{escaped(words.subject(report))}; " if words.subject(report) else "")
        + f"{_where(report, report['method']['device'])}, {_versions(report['machine']['versions'])}"
    )
    lines = []
    for competitor, costs in report["competitors"].items():
        rows = {row["batch"]: row for row in report["results"] if row["competitor"] == competitor}
        if rows:
            lines.append(_cells(competitor, costs, [rows.get(batch) for batch in batches]))
    failed = [f"failed: {escaped(words.failure(failed))}" for failed in report["failed"]]
    return _table(title, ["competitor", *heads, "PSNR", "MB"], 1, lines, [*_notes(report), *failed])


def _table(
    title: str, heads: Sequence[str], text_columns: int, rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> str:
    """Return a Markdown table with notes below it; columns after the first `text_columns` are numbers."""
    lines = [
        f"{title}\n",
        f"| {' | '.join(heads)} |",
        "|" + "---|" * text_columns + "---:|" * (len(heads) - text_columns),
        *(f"| {' | '.join(cells)} |" for cells in rows),
        *(f"\n{text}" for text in notes),
    ]
    return "\n".join(lines) + "\n"


def _notes(report: Mapping[str, Any]) -> list[str]:
    """Return the command and the warnings of a report."""
    notes = [f"`{escaped(report['command'])}`"] if report["command"] else []
    notes += [f"warning: {escaped(text)}" for text in report["warnings"]]
    return notes + (["interrupted before everything was measured"] if report["partial"] else [])


def _where(report: Mapping[str, Any], device: str) -> str:
    """Return the processor or GPU of a report."""
    machine = report["machine"]
    if device == "cuda" and machine["gpu"]:
        return escaped(str(machine["gpu"]))
    return f"{machine['processor']}, {machine['threads']} thread" + ("s" if machine["threads"] != 1 else "")


def _cells(name: str, costs: Mapping[str, Any], rows: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """Return the cells of one competitor's row."""
    cells = [escaped(name)]
    for row in rows:
        cells += ["", ""] if row is None else [f"{row['figures']['p50'] * 1000:.2f}", _ratio(row)]
    psnr = [row["psnr"] for row in rows if row is not None and row["psnr"] is not None]
    wrong = any(row is not None and row["same"] is False for row in rows)
    same = any(row is not None and row["same"] for row in rows)
    cells.append("WRONG" if wrong else f"{min(psnr):.0f} dB" if psnr else "identical" if same else "")
    cells.append(f"{costs['bytes'] / 1e6:.1f}" if costs["bytes"] else "")
    return cells


def _ratio(row: Mapping[str, Any]) -> str:
    if row["speedup"] is None:
        return ""
    if row["speedup_low"] is None:
        return f"{row['speedup']:.2f} (too few rounds)"
    return f"{row['speedup']:.2f} ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def updated(text: str, reports: Committed) -> str:
    """Return a page with the reports' tables between its markers.

    Raises:
        InputError: the page has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"the page has no markers {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{tables(reports)}{END}{after}"


def read(folder: Path) -> Committed:
    """Read the reports of a folder.

    Raises:
        InputError: there are none, or one is damaged.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"{folder} holds no report: make results")
    return Committed(
        {file.stem: compare.read(file) for file in files},
        {file.stem: _read(file, training.SCHEMA) for file in sorted((folder / "training").glob("*.json"))},
        {file.stem: _read(file, honesty.SCHEMA) for file in sorted((folder / "honesty").glob("*.json"))},
    )


def _read(path: Path, schema: int) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): measure again") from error
    if not isinstance(report, dict) or report.get("schema") != schema:
        raise InputError(f"{path} is no report of schema {schema}: measure again")
    return report


def unpaired(folder: Path, count: int = 4, side: int = 256) -> None:
    """Generate pictures in the folder layout of CycleGAN's data, enough to train it for a few steps.

    Args:
        folder: Folder in which `trainA` and `trainB` are made.
        count: Pictures in each.
        side: Height and width of the pictures, pixels.
    """
    from PIL import Image

    from ganedge.runtime.inputs import natural

    for seed, name in enumerate(("trainA", "trainB")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, pixels in enumerate(natural(count, side, side, 3, seed)):
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Write the tables of docs/results.md from the committed reports.")

    @app.command("write")
    def write(
        folder: Annotated[Path, typer.Option(help="Folder of the reports.")] = Path("benchmarks/results"),
        document: Annotated[Path, typer.Option(help="Page to write the tables into.")] = Path("docs/results.md"),
    ) -> None:
        """Write the tables between the page's markers."""
        try:
            text = document.read_text("utf-8")
        except OSError as error:
            raise InputError(f"cannot read {document}: {error.strerror}") from error
        reports = read(folder)
        require("the plots")
        for name, report in reports.latencies.items():
            batches = sorted({row["batch"] for row in report["results"]})
            for batch in batches:
                rows = [row for row in report["results"] if row["batch"] == batch]
                plot = f"{name}-batch{batch}" if len(batches) > 1 else name
                write_whole(folder / f"{plot}.svg", page.distribution(rows))
        write_whole(document, updated(text, reports))

    @app.command("pictures")
    def pictures(folder: Annotated[Path, typer.Argument(help="Folder in which trainA and trainB are made.")]) -> None:
        """Generate pictures in the folder layout of CycleGAN's data."""
        unpaired(folder)

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.studies.results`; without a command it writes the tables."""
    if len(sys.argv) == 1 or sys.argv[1] not in ("write", "pictures", "-h", "--help"):
        sys.argv.insert(1, "write")
    terminal.run(build, "results", "train")


if __name__ == "__main__":
    main()
