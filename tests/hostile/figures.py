"""The table of docs/results.md on what was tried and found, from the reports that the suites leave in `results/`.

python tests/hostile/figures.py          # write the table into docs/results.md
python tests/hostile/figures.py --check  # exit with 1 if the page has another
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- hostile: begin -->\n", "<!-- hostile: end -->\n"


def _fuzz(report: dict[str, Any]) -> str:
    return (
        f"{report['cases']} damaged files of {len(report['kinds'])} kinds; the slowest took {report['slowest_s']} s by "
        f"the clock (10 s of computing are allowed), the largest {report['largest_mib']} MiB"
    )


def _kill(report: dict[str, Any]) -> str:
    aimed = report["ways"]["before a change of files"]
    return (
        f"{report['kills']} times SIGKILL to {len(report['victims'])} commands, {aimed} of them right before a change "
        f"of files; {report['ends_compared']} ends compared with undisturbed ones"
    )


def _asked(report: dict[str, Any]) -> str:
    return f"{report['cases']} damaged requests to `gan-run serve`; it grew by {report['grown_mib']} MiB at most"


def _soak(report: dict[str, Any]) -> str:
    return (
        f"{report['hours']:.1f} hours of sampling and `gan-run serve`, {report['requests']} requests; "
        f"{report['loads']} times loaded and let go"
    )


def _matrix(report: dict[str, Any]) -> str:
    ends = Counter(cell["end"] for cell in report["cells"])
    works = {cell["python"] for cell in report["cells"] if cell["end"] == "works"}
    return (
        f"{ends['works']} environments work (Python {', '.join(sorted(works, key=_version))}, oldest and newest "
        f"dependencies); {ends['resolved']} resolved and {ends['checked']} checked for grammar, without being installed"
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


SUITES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "fuzz": ("make hostile", _fuzz),
    "asked": ("make hostile", _asked),
    "kill": ("make hostile", _kill),
    "soak": ("make soak", _soak),
    "matrix": ("make install-matrix", _matrix),
}
"""Each suite's report, what makes it, and its line."""


def table() -> str:
    """The table, of the reports that are there."""
    rows = ["| suite | tried | open findings |", "|---|---|---|"]
    for name, (command, line) in SUITES.items():
        path = HERE / "results" / f"{name}.json"
        if path.is_file():
            report = json.loads(path.read_text("utf-8"))
            rows.append(f"| {name} (`{command}`) | {line(report)} | {len(report['findings'])} |")
    mended = json.loads((HERE / "mended.json").read_text("utf-8"))
    return "\n".join(rows) + f"\n\n{len(mended)} findings were fixed on the way (`tests/hostile/mended.json`).\n"


def updated(text: str) -> str:
    """The page with the current table between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} has no markers {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{table()}{END}{after}"


def main() -> None:
    """Write, or check."""
    text = PAGE.read_text("utf-8")
    if "--check" in sys.argv[1:]:
        sys.exit(
            "the table in docs/results.md is not that of the reports: make figures" if updated(text) != text else 0
        )
    PAGE.write_text(updated(text), "utf-8")


if __name__ == "__main__":
    main()
