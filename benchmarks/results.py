"""The README's table of latencies, made from the committed reports: never typed.

    make results                              # measure this machine, then the line below
    python -m ganedge.benchmarks.results      # README.md between its markers, from benchmarks/results/*.json

Each report is one that `gan-bench --json` wrote; the line above also draws the latencies of each into an SVG beside it,
one for each batch size.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ganedge.benchmarks import compare, page
from ganedge.benchmarks import report as words
from ganedge.benchmarks.report import escaped
from ganedge.runtime import terminal
from ganedge.runtime.errors import InputError
from ganedge.runtime.files import write_whole

BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The reports as Markdown, one table each.

    Args:
        reports: By name.
    """
    return "\n".join(_one(name, report) for name, report in reports.items())


def _one(name: str, report: Mapping[str, Any]) -> str:
    """One machine's table: a line for each competitor, its median and its ratio for each batch size."""
    machine = report["machine"]
    batches = sorted({row["batch"] for row in report["results"]})
    cores = f"{machine['threads']} thread" + ("s" if machine["threads"] != 1 else "")
    heads = [part for batch in batches for part in (f"batch {batch}: ms", "× eager (95 %)")]
    lines = [
        f"`{name}`: "
        + (f"{escaped(words.subject(report))}; " if words.subject(report) else "")
        + f"{machine['processor']}, {cores}, {_versions(machine['versions'])}\n",
        "| competitor | " + " | ".join(heads) + " | PSNR | MB |",
        "|---|" + "---:|" * (len(heads) + 2),
    ]
    for competitor, costs in report["competitors"].items():
        rows = {row["batch"]: row for row in report["results"] if row["competitor"] == competitor}
        if rows:
            lines.append(_line(competitor, costs, [rows.get(batch) for batch in batches]))
    told = [f"`{escaped(report['command'])}`"] if report["command"] else []
    told += [f"failed: {escaped(words.failure(one))}" for one in report["failed"]]
    told += [f"warning: {escaped(text)}" for text in report["warnings"]]
    told += ["interrupted before everything was measured"] if report["partial"] else []
    return "\n".join([*lines, *(f"\n{text}" for text in told)]) + "\n"


def _line(name: str, costs: Mapping[str, Any], rows: Sequence[Mapping[str, Any] | None]) -> str:
    cells: list[str] = []
    for row in rows:
        cells += ["", ""] if row is None else [f"{row['figures']['p50'] * 1000:.2f}", _ratio(row)]
    found = [row["psnr"] for row in rows if row is not None and row["psnr"] is not None]
    wrong = any(row is not None and row["same"] is False for row in rows)
    same = any(row is not None and row["same"] for row in rows)
    cells.append("WRONG" if wrong else f"{min(found):.0f} dB" if found else "identical" if same else "")
    cells.append(f"{costs['bytes'] / 1e6:.1f}" if costs["bytes"] else "")
    return f"| {escaped(name)} | " + " | ".join(cells) + " |"


def _ratio(row: Mapping[str, Any]) -> str:
    if row["speedup"] is None:
        return ""
    return f"{row['speedup']:.2f} ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def updated(text: str, reports: Mapping[str, Mapping[str, Any]]) -> str:
    """A README with the reports' table between its markers.

    Raises:
        InputError: it has none.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"the README has no markers {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{table(reports)}{END}{after}"


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The reports of a folder, by the names of their files.

    Raises:
        InputError: there are none, or one is damaged.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InputError(f"{folder} holds no report: make results")
    return {file.stem: compare.read(file) for file in files}


def unpaired(folder: Path, count: int = 4, side: int = 256) -> None:
    """Pictures made by code, as CycleGAN's data lie: enough to train it for the steps that a latency needs.

    Args:
        folder: Where `trainA` and `trainB` are made.
        count: Pictures in each.
        side: Their height and width, pixels.
    """
    from PIL import Image

    from ganedge.export.pictures import natural

    for seed, name in enumerate(("trainA", "trainB")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place, pixels in enumerate(natural(count, side, side, 3, seed)):
            Image.fromarray(pixels).save(folder / name / f"{place}.png")


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Write the README's table of latencies from the committed reports.")

    @app.command("write")
    def write(
        folder: Annotated[Path, typer.Option(help="Where the reports lie.")] = Path("benchmarks/results"),
        readme: Annotated[Path, typer.Option(help="What to write the table into.")] = Path("README.md"),
    ) -> None:
        """Write the table between the README's markers."""
        try:
            text = readme.read_text("utf-8")
        except OSError as error:
            raise InputError(f"cannot read {readme}: {error.strerror}") from error
        reports = read(folder)
        page.require()
        for name, report in reports.items():
            batches = sorted({row["batch"] for row in report["results"]})
            for batch in batches:
                rows = [row for row in report["results"] if row["batch"] == batch]
                plot = f"{name}-batch{batch}" if len(batches) > 1 else name
                write_whole(folder / f"{plot}.svg", page.distribution(rows))
        write_whole(readme, updated(text, reports))

    @app.command("pictures")
    def pictures(folder: Annotated[Path, typer.Argument(help="Where trainA and trainB are made.")]) -> None:
        """Make pictures by code as CycleGAN's data lie."""
        unpaired(folder)

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.results`; without a command it writes the table."""
    if len(sys.argv) == 1 or sys.argv[1] not in ("write", "pictures", "-h", "--help"):
        sys.argv.insert(1, "write")
    terminal.run(build, "results", "train")


if __name__ == "__main__":
    main()
