"""The tables of docs/results.md, made from the committed reports and never typed.

    make results                              # measure this machine, then the line below
    python -m ganedge.benchmarks.studies.results      # docs/results.md between its markers, from benchmarks/results/

Reports of latencies (`gan-bench --json`) lie in the folder itself, those of `gan-bench train --json` in `training/`,
and those of `make honesty` in `honesty/`. The line above also draws the latencies of each report into an SVG beside
it, one for each batch size.
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
from ganedge.runtime.errors import InputError
from ganedge.runtime.files import write_whole

BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"
Reports = Mapping[str, Mapping[str, Any]]
"""By the names of their files."""


@dataclass(frozen=True)
class Committed:
    """Every report of a folder, by kind."""

    latencies: Reports
    training: Reports
    honesty: Reports


def tables(found: Committed) -> str:
    """The reports as Markdown: a table for each of latencies, one for all trainings, one for all of `make honesty`."""
    parts = [_one(name, report) for name, report in found.latencies.items()]
    parts += [_trained(found.training)] if found.training else []
    parts += [_honest(found.honesty)] if found.honesty else []
    return "\n".join(parts)


def _trained(reports: Reports) -> str:
    """A line for each machine and variant that `gan-bench train` trained."""
    rows = []
    for name, report in reports.items():
        for one in report["results"]:
            size, batch = one["config"]["size"], one["config"]["batch"]
            how = f"{one['computes']['ganedge']}{', compiled' if one['compiled'] else ''}"
            plain, ours = (f"{one['images_per_s'][key]:.0f}" for key in ("plain", "ganedge"))
            what = f"{one['variant']}, {size} × {size}, batch {batch}, {how}"
            rows.append([f"`{name}`: {_where(report, one['device'])}", what, plain, ours, _ratio(one)])
    title = "Our training loop beside a tutorial's on the same networks (`gan-bench train`):"
    heads = ["machine", "variant", "plain: images/s", "ganedge: images/s", "times as fast (95 %)"]
    return _table(title, heads, 2, rows, [f"`{name}`: {text}" for name, one in reports.items() for text in _told(one)])


def _honest(reports: Reports) -> str:
    """A line for each bar of each machine's `make honesty`."""
    rows = [
        [f"`{name}`: {_where(report, 'cpu')}", bar["what"], f"{bar['count']} of {bar['of']}", str(bar["wanted"])]
        for name, report in reports.items()
        for bar in report["bars"]
    ]
    told = [f"`{name}`: interrupted before all runs were done" for name, one in reports.items() if one["partial"]]
    title = "gan-bench where the answer is known (`make honesty`):"
    return _table(title, ["machine", "bar", "runs", "wanted"], 2, rows, told)


def _one(name: str, report: Mapping[str, Any]) -> str:
    """One machine's table: a line for each competitor, its median and its ratio for each batch size."""
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
    failed = [f"failed: {escaped(words.failure(one))}" for one in report["failed"]]
    return _table(title, ["competitor", *heads, "PSNR", "MB"], 1, lines, [*_told(report), *failed])


def _table(title: str, heads: Sequence[str], texts: int, rows: Sequence[Sequence[str]], told: Sequence[str]) -> str:
    """A table in Markdown; columns behind the first `texts` are numbers. What is told stands below it."""
    lines = [
        f"{title}\n",
        f"| {' | '.join(heads)} |",
        "|" + "---|" * texts + "---:|" * (len(heads) - texts),
        *(f"| {' | '.join(cells)} |" for cells in rows),
        *(f"\n{text}" for text in told),
    ]
    return "\n".join(lines) + "\n"


def _told(report: Mapping[str, Any]) -> list[str]:
    """The command, and what to know before believing the figures."""
    told = [f"`{escaped(report['command'])}`"] if report["command"] else []
    told += [f"warning: {escaped(text)}" for text in report["warnings"]]
    return told + (["interrupted before everything was measured"] if report["partial"] else [])


def _where(report: Mapping[str, Any], device: str) -> str:
    """What it was measured on."""
    machine = report["machine"]
    if device == "cuda" and machine["gpu"]:
        return escaped(str(machine["gpu"]))
    return f"{machine['processor']}, {machine['threads']} thread" + ("s" if machine["threads"] != 1 else "")


def _cells(name: str, costs: Mapping[str, Any], rows: Sequence[Mapping[str, Any] | None]) -> list[str]:
    """What stands in one competitor's line."""
    cells = [escaped(name)]
    for row in rows:
        cells += ["", ""] if row is None else [f"{row['figures']['p50'] * 1000:.2f}", _ratio(row)]
    found = [row["psnr"] for row in rows if row is not None and row["psnr"] is not None]
    wrong = any(row is not None and row["same"] is False for row in rows)
    same = any(row is not None and row["same"] for row in rows)
    cells.append("WRONG" if wrong else f"{min(found):.0f} dB" if found else "identical" if same else "")
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


def updated(text: str, found: Committed) -> str:
    """A page with the reports' tables between its markers.

    Raises:
        InputError: it has none.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"the page has no markers {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{tables(found)}{END}{after}"


def read(folder: Path) -> Committed:
    """The reports of a folder.

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
    """Pictures made by code, as CycleGAN's data lie: enough to train it for the steps that a latency needs.

    Args:
        folder: Where `trainA` and `trainB` are made.
        count: Pictures in each.
        side: Their height and width, pixels.
    """
    from PIL import Image

    from ganedge.runtime.inputs import natural

    for seed, name in enumerate(("trainA", "trainB")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place, pixels in enumerate(natural(count, side, side, 3, seed)):
            Image.fromarray(pixels).save(folder / name / f"{place}.png")


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Write the tables of docs/results.md from the committed reports.")

    @app.command("write")
    def write(
        folder: Annotated[Path, typer.Option(help="Where the reports lie.")] = Path("benchmarks/results"),
        document: Annotated[Path, typer.Option(help="Page to write the tables into.")] = Path("docs/results.md"),
    ) -> None:
        """Write the tables between the page's markers."""
        try:
            text = document.read_text("utf-8")
        except OSError as error:
            raise InputError(f"cannot read {document}: {error.strerror}") from error
        found = read(folder)
        page.require()
        for name, report in found.latencies.items():
            batches = sorted({row["batch"] for row in report["results"]})
            for batch in batches:
                rows = [row for row in report["results"] if row["batch"] == batch]
                plot = f"{name}-batch{batch}" if len(batches) > 1 else name
                write_whole(folder / f"{plot}.svg", page.distribution(rows))
        write_whole(document, updated(text, found))

    @app.command("pictures")
    def pictures(folder: Annotated[Path, typer.Argument(help="Where trainA and trainB are made.")]) -> None:
        """Make pictures by code as CycleGAN's data lie."""
        unpaired(folder)

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.studies.results`; without a command it writes the tables."""
    if len(sys.argv) == 1 or sys.argv[1] not in ("write", "pictures", "-h", "--help"):
        sys.argv.insert(1, "write")
    terminal.run(build, "results", "train")


if __name__ == "__main__":
    main()
