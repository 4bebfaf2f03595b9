"""The best engine and precision under a constraint, and the front of those that nothing beats.

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
"""Figures of a whole competitor, and what one unit of them is: megabytes, megabytes, seconds, as they are."""
FIGURES = (*TIMES, *COSTS, "images_per_s", "speedup", "psnr", "ssim", "max_abs")
"""What a choice may name; times are in milliseconds."""
MORE_IS_BETTER = ("images_per_s", "speedup", "psnr", "ssim")
TESTS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Choice:
    """What to look for."""

    constraints: tuple[tuple[str, str, float], ...]
    """Figure, comparison, bound."""
    goal: str
    """The figure to make the best of."""


@dataclass(frozen=True)
class Found:
    """The answer at one batch size."""

    best: str | None
    """The competitor; None where none meets the constraints."""
    front: tuple[str, ...]
    """Those that no other beats in both the goal and PSNR."""


def read_choice(text: str) -> Choice:
    """Read a choice such as "psnr>=35, p99".

    Raises:
        UsageError: a part that is neither a constraint nor a figure, or not exactly one figure to make the best of.
    """
    constraints, goals = [], []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([a-z0-9_]+)\s*(?:(>=|<=|>|<)\s*([0-9.eE+-]+))?\s*", part)
        if found is None or found[1] not in FIGURES:
            raise UsageError(
                f"--choose {text!r}: {part.strip()!r} is neither a constraint such as psnr>=35 nor a figure; "
                f"figures are {', '.join(FIGURES)}"
            )
        if found[2] is None:
            goals.append(found[1])
            continue
        try:
            bound = float(found[3])
        except ValueError:
            raise UsageError(f"--choose {text!r}: {found[3]!r} is no number") from None
        constraints.append((found[1], found[2], bound))
    if len(goals) != 1:
        raise UsageError(f"--choose {text!r}: name one figure to make the best of, as in psnr>=35, p99")
    return Choice(tuple(constraints), goals[0])


def choose(report: Row, choice: Choice) -> dict[int, Found]:
    """The best competitor for each batch size, and the Pareto front.

    Raises:
        GanEdgeError: a figure that the report does not have for anyone.
    """
    named = {choice.goal, *(name for name, _, _ in choice.constraints)}
    for name in sorted(named):
        if all(value(report, row, name) is None for row in report["results"]):
            raise GanEdgeError(f"--choose: nothing measured has {name}: {_remedy(name)}")
    found = {}
    for batch in sorted({row["batch"] for row in report["results"]}):
        rows = [row for row in report["results"] if row["batch"] == batch]
        able = [row for row in rows if _meets(report, row, choice) and value(report, row, choice.goal) is not None]
        best = max(able, key=lambda row: _goodness(report, row, choice.goal), default=None)
        found[batch] = Found(None if best is None else best["competitor"], _front(report, rows, choice.goal))
    return found


def tell(report: Row, choice: Choice) -> str:
    """The verdict, in words.

    Raises:
        GanEdgeError: nothing meets the constraints at any batch size.
    """
    lines = []
    verdicts = choose(report, choice)
    wanted = ", ".join(f"{name}{test}{bound:g}" for name, test, bound in choice.constraints) or "no constraint"
    for batch, found in verdicts.items():
        answer = "nothing meets that" if found.best is None else found.best
        lines.append(f"best {choice.goal} at batch {batch} with {wanted}: {answer}")
        lines.append(f"  not beaten in both {choice.goal} and psnr: {'; '.join(found.front) or 'none'}")
    if all(found.best is None for found in verdicts.values()):
        raise GanEdgeError(f"--choose: nothing measured meets {wanted}: loosen it, or export another precision")
    return "\n".join(lines)


def value(report: Row, row: Row, name: str) -> float | None:
    """One figure of one row; times in milliseconds, sizes in megabytes. The reference itself is identical to itself."""
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
        found = None if itself else row[name]
        return perfect if itself or (found is None and name == "psnr") else found
    found = row[name]
    return None if found is None else float(found)


def _meets(report: Row, row: Row, choice: Choice) -> bool:
    if row["same"] is False:
        return False  # Its pictures are wrong, however good its figures are.
    for name, test, bound in choice.constraints:
        found = value(report, row, name)
        if found is None or not TESTS[test](found, bound):
            return False
    return True


def _goodness(report: Row, row: Row, name: str) -> float:
    found = value(report, row, name)
    assert found is not None
    return found if name in MORE_IS_BETTER else -found


def _front(report: Row, rows: Sequence[Row], goal: str) -> tuple[str, ...]:
    """Names of the rows that no other row equals or beats in both, and beats in one."""
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
