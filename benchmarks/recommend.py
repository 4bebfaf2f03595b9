"""Recommend an engine and precision under constraints, with the Pareto front.

    choice = read_choice("psnr>=35, p99")
    for batch, found in choose(report, choice).items(): ...

A choice is constraints and one figure to make the best of, with commas between.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ganedge.runtime.errors import GanEdgeError, UsageError

Row = Mapping[str, Any]
TIMES = ("p50", "p90", "p95", "p99", "longest", "mean")
COSTS = {
    "memory": ("peak_bytes", 1e6),
    "size": ("bytes", 1e6),
    "cold": ("cold_start_s", 1.0),
    **{name: (name, 1.0) for name in ("fid", "kid", "data_fid", "data_kid")},
}
"""Figures that belong to a competitor rather than to a batch size, and their units in the report's units."""
FIGURES = (*TIMES, *COSTS, "images_per_s", "speedup", "psnr", "ssim", "max_abs")
"""Figures that a choice may name; times are in milliseconds."""
MORE_IS_BETTER = ("images_per_s", "speedup", "psnr", "ssim")
TESTS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Choice:
    """Constraints and the figure to optimise."""

    constraints: tuple[tuple[str, str, float], ...]
    """Figure, comparison and bound of each constraint."""
    goal: str
    """Figure to optimise."""


@dataclass(frozen=True)
class Recommendation:
    """The recommendation at one batch size."""

    best: str | None
    """Recommended competitor; None if none meets the constraints."""
    front: tuple[str, ...]
    """Pareto front: competitors that no other beats in both the goal and PSNR."""


def read_choice(text: str) -> Choice:
    """Parse a choice such as "psnr>=35, p99".

    Raises:
        UsageError: a part that is neither a constraint nor a figure, or not exactly one figure to make the best of.
    """
    constraints, goals = [], []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([a-z0-9_]+)\s*(?:(>=|<=|>|<)\s*([0-9.eE+-]+))?\s*", part)
        if match is None or match[1] not in FIGURES:
            raise UsageError(
                f"--choose {text!r}: {part.strip()!r} is neither a constraint such as psnr>=35 nor a figure; "
                f"figures are {', '.join(FIGURES)}"
            )
        if match[2] is None:
            goals.append(match[1])
            continue
        try:
            bound = float(match[3])
        except ValueError:
            raise UsageError(f"--choose {text!r}: {match[3]!r} is no number") from None
        constraints.append((match[1], match[2], bound))
    if len(goals) != 1:
        raise UsageError(f"--choose {text!r}: name one figure to make the best of, as in psnr>=35, p99")
    return Choice(tuple(constraints), goals[0])


def choose(report: Row, choice: Choice) -> dict[int, Recommendation]:
    """Find the best competitor for each batch size, and the Pareto front.

    Raises:
        GanEdgeError: a figure that the report does not have for anyone.
    """
    named = {choice.goal, *(name for name, _, _ in choice.constraints)}
    for name in sorted(named):
        if all(value(report, row, name) is None for row in report["results"]):
            raise GanEdgeError(f"--choose: nothing measured has {name}: {_remedy(name)}")
    recommendations = {}
    for batch in sorted({row["batch"] for row in report["results"]}):
        rows = [row for row in report["results"] if row["batch"] == batch]
        able = [row for row in rows if _meets(report, row, choice) and value(report, row, choice.goal) is not None]
        best = max(able, key=lambda row: _goodness(report, row, choice.goal), default=None)
        recommendations[batch] = Recommendation(
            None if best is None else best["competitor"], _front(report, rows, choice.goal)
        )
    return recommendations


def decide(report: Row, choice: Choice) -> dict[str, Any]:
    """Make the recommendation that the report contains.

    Returns:
        `wanted` and `goal`, and by batch size `best` (null where nothing meets the constraints) and `front`; `verdict`
        is the same in words.

    Raises:
        GanEdgeError: a figure that nothing measured has.
    """
    lines = []
    verdicts = choose(report, choice)
    constraints = ", ".join(f"{name}{test}{bound:g}" for name, test, bound in choice.constraints) or "no constraint"
    for batch, recommended in verdicts.items():
        answer = (
            "nothing meets that"
            if recommended.best is None
            else f"{recommended.best}, which computes in {_computes(report, recommended.best)}"
        )
        lines.append(f"best {choice.goal} at batch {batch} with {constraints}: {answer}")
        lines.append(f"  not beaten in both {choice.goal} and psnr: {'; '.join(recommended.front) or 'none'}")
    return {
        "wanted": constraints,
        "goal": choice.goal,
        "batches": {
            str(batch): {"best": recommended.best, "front": list(recommended.front)}
            for batch, recommended in verdicts.items()
        },
        "verdict": lines,
    }


def check(decided: Row) -> None:
    """Raise GanEdgeError if nothing meets the constraints at any batch size."""
    if all(batch["best"] is None for batch in decided["batches"].values()):
        constraints = decided["wanted"]
        raise GanEdgeError(f"--choose: nothing measured meets {constraints}: loosen it, or export another precision")


def check_figures(choice: Choice, *, compared: bool, eager: bool, distance: bool, data: bool, processes: bool) -> None:
    """Refuse a figure that will not be measured, before minutes are spent on the others.

    Args:
        choice: What was asked for.
        compared: Whether pictures are compared with a reference's.
        eager: Whether eager PyTorch is measured.
        distance: Whether FID and KID are.
        data: And to real pictures.
        processes: Whether whole processes are started.

    Raises:
        UsageError: such a figure.
    """
    there = {
        **dict.fromkeys(("psnr", "ssim", "max_abs"), compared),
        "speedup": eager,
        **dict.fromkeys(("fid", "kid"), distance and compared),
        **dict.fromkeys(("data_fid", "data_kid"), data),
        **dict.fromkeys(("memory", "cold"), processes),
    }
    for name in (choice.goal, *(name for name, _, _ in choice.constraints)):
        if not there.get(name, True):
            raise UsageError(f"--choose: nothing measured will have {name}: {_remedy(name)}")


def _computes(report: Row, name: str) -> str:
    """Return the precision that a competitor computes in."""
    row = report["competitors"].get(name, {})
    return str(row.get("computes") or row.get("precision") or "precision unknown")


def value(report: Row, row: Row, name: str) -> float | None:
    """Return a figure of a row; times in milliseconds, sizes in megabytes. The reference has an infinite PSNR."""
    if name in TIMES:
        return 1000 * float(row["figures"][name])
    if name in COSTS:
        if name in ("fid", "kid") and report["distance"] and row["competitor"] == report["reference"]:
            return 0.0
        key, unit = COSTS[name]
        cost = report["competitors"].get(row["competitor"], {}).get(key)
        return None if cost is None else cost / unit
    if name in ("psnr", "ssim", "max_abs"):
        itself = row["competitor"] == report["reference"]
        if not itself and row["same"] is None:
            return None
        perfect = {"psnr": math.inf, "ssim": 1.0, "max_abs": 0.0}[name]
        figure = None if itself else row[name]
        return perfect if itself or (figure is None and name == "psnr") else figure
    figure = row[name]
    return None if figure is None else float(figure)


def _meets(report: Row, row: Row, choice: Choice) -> bool:
    if row["same"] is False:
        return False  # Its pictures are wrong, however good its figures are.
    for name, test, bound in choice.constraints:
        figure = value(report, row, name)
        if figure is None or not TESTS[test](figure, bound):
            return False
    return True


def _goodness(report: Row, row: Row, name: str) -> float:
    figure = value(report, row, name)
    assert figure is not None
    return figure if name in MORE_IS_BETTER else -figure


def _front(report: Row, rows: Sequence[Row], goal: str) -> tuple[str, ...]:
    """Return the names of the rows that no other row beats in one figure while equalling or beating them in both."""
    points = []
    for row in rows:
        if row["same"] is False:
            continue
        psnr = value(report, row, "psnr")
        if value(report, row, goal) is not None and psnr is not None:
            points.append((row["competitor"], _goodness(report, row, goal), psnr))
    return tuple(
        name
        for name, good, clear in points
        if not any((a >= good and b >= clear) and (a > good or b > clear) for _, a, b in points)
    )


def _remedy(name: str) -> str:
    if name in ("psnr", "ssim", "max_abs"):
        return "give the generator with --against, or an FP32 artifact beside the others"
    if name in ("fid", "kid", "data_fid", "data_kid"):
        return "add --data DATA" if name.startswith("data") else "add --fid"
    return "give --against RUN" if name == "speedup" else "leave --processes above 0"
