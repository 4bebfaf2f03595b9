"""What changed between two reports beyond noise: usable in CI.

    gan-bench compare before.json after.json          # exits 1 on a regression

Times of two runs cannot be held against each other as they are: the clock, the temperature and the neighbours differ.
So each competitor is held against something measured in the same rounds of its own report: eager PyTorch, if it is in
both and is the same version, or else the yardstick, numbers that are sorted. A change counts when the whole interval,
which resamples the rounds of both reports, lies beyond the tolerance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ganedge.benchmarks import size, timing
from ganedge.benchmarks.competitor import EAGER
from ganedge.benchmarks.latency import SCHEMA
from ganedge.runtime.errors import InputError, UsageError

TOLERANCE = 0.04
"""Share by which latency may change: two processes that run the same code differ by some percent, because memory
lies elsewhere."""
NOTICEABLE = 0.10
"""A change that has to be seen: where the interval leaves room for one, it is not said that nothing changed."""
LEVEL = 0.95
"""How sure a change must be. Many are looked at, but one that did not change has to lie off by the tolerance too: at
the precision that gan-bench times for, five standard deviations."""
Report = Mapping[str, Any]
PARTS = {"results": list, "yardstick": dict, "method": dict, "machine": dict, "competitors": dict, "partial": bool}
"""What every report holds, and of which kind."""
LATER: Report = {"inputs": None, "size": "", "distance": None, "failed": []}
"""What schema 3 added, and what stands for it in a report of schema 2."""


@dataclass(frozen=True)
class Change:
    """One competitor at one batch size, after beside before."""

    competitor: str
    batch: int
    slower: float
    """Latency after over latency before, both relative to the baseline: 1.1 is 10 % slower."""
    low: float
    high: float
    baseline: str
    """What both were held against."""
    verdict: str
    """"slower", "faster", "same", "unclear" (the reports are too noisy to tell), or "unfaithful": its pictures passed
    before and do not now."""

    @property
    def regression(self) -> bool:
        """Whether that is worse than before."""
        return self.verdict in ("slower", "unfaithful")


def read(path: Path) -> dict[str, Any]:
    """Read a report.

    Raises:
        InputError: no such file, not a report of `gan-bench`, or one of another schema.
    """
    try:
        report = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no report: give a file that gan-bench --json wrote") from error
    if not isinstance(report, dict) or any(not isinstance(report.get(name), kind) for name, kind in PARTS.items()):
        raise InputError(f"{path} is no report of latencies: give a file that gan-bench --json wrote")
    if not isinstance(report["machine"].get("versions"), dict):
        raise InputError(f"{path} is damaged: its machine has no versions")
    if report.get("schema") not in (2, SCHEMA):
        raise InputError(
            f"{path} has schema {report.get('schema')}, this gan-bench reads 2 and {SCHEMA}: measure again"
        )
    return {**LATER, **report}


def changes(before: Report, after: Report, tolerance: float = TOLERANCE) -> list[Change]:
    """Every competitor and batch size that both reports have.

    Raises:
        InputError: they have nothing in common, or a report is damaged.
        UsageError: a tolerance that is no share.
    """
    if not 0 <= tolerance <= 1:
        raise UsageError(f"--tolerance {tolerance:g}: give a share of 0 to 1, such as 0.04")
    for part in ("device", "strict"):
        if before["method"].get(part) != after["method"].get(part):
            raise InputError(
                f"{part} is {before['method'].get(part)} before and {after['method'].get(part)} after: not alike"
            )
    if before["schema"] != after["schema"]:
        raise InputError(
            f"one report has schema {before['schema']}, the other {after['schema']}, and their rounds are not alike: "
            "measure the first again"
        )
    try:
        went = [size.shown(report["inputs"] or (), "") for report in (before, after)]
        then, now = _rows(before), _rows(after)
        found = [_change(key, before, after, tolerance) for key in now if key in then]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"a report is damaged: {type(error).__name__} {error}") from error
    if all(went) and went[0] != went[1]:
        raise InputError(f"{went[0]} went in before and {went[1]} after: measure both with the same --size")
    if not found:
        raise InputError("the reports have no competitor and batch size in common: nothing to compare")
    return found


def differences(before: Report, after: Report) -> list[str]:
    """What differs between the machines and methods, so that the reader knows what is compared."""
    lines = []
    for part in ("processor", "threads", "system", "gpu"):
        then, now = before["machine"].get(part), after["machine"].get(part)
        if then != now:
            lines.append(f"{part}: {then} before, {now} after")
    then, now = before["machine"].get("versions", {}), after["machine"].get("versions", {})
    lines += [f"{name}: {then.get(name)} before, {now.get(name)} after" for name in now if then.get(name) != now[name]]
    lines += [
        f"the {which} report is partial" for which, one in (("first", before), ("second", after)) if one["partial"]
    ]
    gone = sorted(_rows(before).keys() - _rows(after).keys())
    return lines + [f"{name} at batch {batch} is in the first report only" for name, batch in gone]


def table(found: Sequence[Change]) -> str:
    """The changes, one line each."""
    lines = [
        f"{change.verdict:<10} {change.slower - 1:+7.1%}  ({change.low - 1:+.1%} to {change.high - 1:+.1%})  "
        f"batch {change.batch}, {change.competitor}"
        + (f", beside {change.baseline}" if change.baseline != found[-1].baseline else "")
        for change in found
    ]
    return "\n".join([f"latency after beside before, held against {found[-1].baseline} of each report", *lines])


def _rows(report: Report) -> dict[tuple[str, int], Mapping[str, Any]]:
    return {(row["competitor"], row["batch"]): row for row in report["results"]}


def _change(key: tuple[str, int], before: Report, after: Report, tolerance: float) -> Change:
    name, batch = key
    then, now = _rows(before)[key], _rows(after)[key]
    eager = (EAGER, batch)
    same_torch = before["machine"]["versions"].get("torch") == after["machine"]["versions"].get("torch")
    if name != EAGER and same_torch and eager in _rows(before) and eager in _rows(after):
        baseline, bases = EAGER, [_rows(report)[eager]["rounds"] for report in (before, after)]
    else:
        baseline, bases = "the yardstick", [report["yardstick"][str(batch)] for report in (before, after)]
    relative = [
        np.log(np.asarray(row["rounds"], np.float64) / np.asarray(base, np.float64))
        for row, base in zip((then, now), bases, strict=True)
    ]
    draws = timing.resampled(relative[1], seed=1) - timing.resampled(relative[0], seed=2)
    low, high = np.exp(np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)))
    slower = float(np.exp(np.median(relative[1]) - np.median(relative[0])))
    verdict = "slower" if low > 1 + tolerance else "faster" if high < 1 - tolerance else "same"
    if verdict == "same" and high > 1 + max(NOTICEABLE, 2 * tolerance):
        verdict = "unclear"
    if then["same"] is not False and now["same"] is False:
        verdict = "unfaithful"
    return Change(name, batch, slower, float(low), float(high), baseline, verdict)
