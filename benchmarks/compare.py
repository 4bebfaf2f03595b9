"""What changed between two reports beyond noise: usable in CI.

    gan-bench compare before.json after.json          # exits 1 on a regression

Times of two runs cannot be held against each other as they are: the clock, the temperature and the neighbours differ.
So each competitor is held against something measured in the same rounds of its own report: a small fixed DCGAN in the
same engine, if that has the same version in both; or eager PyTorch, if that has; or else the general yardstick, numbers
that are sorted, or on a GPU a product of matrices there. What was timed strictly, one after the other, has none: where
PyTorch is not there, times stand as they are. A change counts when the whole interval, which resamples stretches
of rounds of both reports, lies beyond the tolerance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ganedge.benchmarks import size
from ganedge.benchmarks.competitor import ALONE, EAGER, NOT_ASKED
from ganedge.benchmarks.latency import SCHEMA
from ganedge.runtime import timing
from ganedge.runtime.errors import InputError, UsageError

TOLERANCE = 0.04
"""Share by which latency may change: two processes that run the same code differ by some percent, because memory
lies elsewhere."""
NOTICEABLE = 0.10
"""A change that has to be seen: where the interval leaves room for one, it is not said that nothing changed."""
LEVEL = 0.95
"""How sure a change must be. Many are looked at, but one that did not change has to lie off by the tolerance too."""
Report = Mapping[str, Any]
PARTS = {
    **dict.fromkeys(("results", "failed"), list),
    **dict.fromkeys(("yardstick", "method", "machine", "competitors", "absent"), dict),
    "partial": bool,
}
"""What every report holds, and of which kind."""
LATER: Report = {"command": "", "choice": None}
"""What schema 4 added, and what stands for it in a report of schema 3."""
READ = (3, 4, SCHEMA)
"""Schemas that can be read."""
NETWORKS = 5
"""The first schema with yardsticks in each engine; those before have the general one alone."""
ALIKE = ("processor", "threads")
"""What two machines have to have in common: a small network tells nothing of how a large one does elsewhere."""
BEYOND: Mapping[str, tuple[str, float]] = {
    "bytes": ("MB of weights or file", 0.01),
    "peak_bytes": ("MB of memory", 0.1),
    "device_bytes": ("MB of the GPU's memory", 0.1),
}
"""Costs that are compared, and the share by which they may change."""
CLOCK, YARDSTICK, NETWORK = "the clock alone", "the yardstick", "a fixed DCGAN in the same engine"
"""What is said of those that are not held against PyTorch."""
CLEARER = 1.0
"""Decibels by which PSNR may change: what draws the same has the same."""


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
    """"slower", "faster", "same", "unclear" (too noisy to tell, or held against what is not alike); "unfaithful": its
    pictures passed before and do not now; "gone": it was measured before and cannot be now."""
    why: str = ""
    """Of one that is gone."""

    @property
    def regression(self) -> bool:
        """Whether that is worse than before."""
        return self.verdict in ("slower", "unfaithful", "gone")


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
        what = (
            "is a report of training" if isinstance(report, dict) and "kind" in report else "is no report of latencies"
        )
        raise InputError(f"{path} {what}: give a file that gan-bench --json wrote")
    if not isinstance(report["machine"].get("versions"), dict):
        raise InputError(f"{path} is damaged: its machine has no versions")
    if report.get("schema") not in READ:
        known = ", ".join(map(str, READ))
        raise InputError(f"{path} has schema {report.get('schema')}, this gan-bench reads {known}: measure again")
    peak = report.get("peak")
    if isinstance(peak, dict) and not isinstance(peak.get("flops"), dict):  # Schema 3 knew FP32's only.
        known_peak = {} if peak.get("flops") is None else {"fp32": peak["flops"]}
        report["peak"] = {"flops": known_peak, "bandwidth": None, "how": peak.get("how", "")}
    if report["schema"] < NETWORKS:
        name = report["method"].get("yardstick") or "sort"
        report["yardstick"] = {batch: {name: rounds} for batch, rounds in report["yardstick"].items()}
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
        lost = [_gone(key, why) for key in then if key not in now and (why := _why_gone(key, after))]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"a report is damaged: {type(error).__name__} {error}") from error
    if all(went) and went[0] != went[1]:
        raise InputError(f"{went[0]} went in before and {went[1]} after: measure both with the same --size")
    if not found:
        raise InputError("the reports have no competitor and batch size in common: nothing to compare")
    return [*found, *lost]


def differences(before: Report, after: Report) -> list[str]:
    """What differs between the machines and methods, so that the reader knows what is compared."""
    lines = []
    for part in ("processor", "threads", "system", "gpu"):
        then, now = before["machine"].get(part), after["machine"].get(part)
        if then != now:
            lines.append(
                f"{part}: {then} before, {now} after" + (", which leaves all unclear" if part in ALIKE else "")
            )
    then, now = before["machine"].get("versions", {}), after["machine"].get("versions", {})
    lines += [f"{name}: {then.get(name)} before, {now.get(name)} after" for name in now if then.get(name) != now[name]]
    lines += [
        f"the {which} report is partial" for which, one in (("first", before), ("second", after)) if one["partial"]
    ]
    if _is_elsewhere(YARDSTICK, before, after):
        lines.append(
            "on a GPU only PyTorch, or a product of matrices by it, tells how fast the GPU went: what is held against "
            "neither stays unclear; install PyTorch with CUDA and measure both again"
        )
    gone = sorted(key for key in _rows(before).keys() - _rows(after).keys() if not _why_gone(key, after))
    lines += [f"{name} at batch {batch} is in the first report only" for name, batch in gone]
    return [*lines, *_costs(before, after)]


def _costs(before: Report, after: Report) -> list[str]:
    """Sizes, memory and closeness that are not what they were."""
    lines = []
    for name, then in before["competitors"].items():
        now = after["competitors"].get(name, {})
        for key, (what, share) in BEYOND.items():
            was, value = then.get(key), now.get(key)
            if was and value and abs(value / was - 1) > share:
                lines.append(f"{name}: {was / 1e6:.1f} {what} before, {value / 1e6:.1f} after")
    rows = _rows(after)
    for (name, batch), row in _rows(before).items():
        was, value = row["psnr"], rows.get((name, batch), {}).get("psnr")
        if was is not None and value is not None and abs(value - was) > CLEARER:
            lines.append(f"{name}, batch {batch}: PSNR {was:.1f} dB before, {value:.1f} after")
    return lines


def _why_gone(key: tuple[str, int], after: Report) -> str:
    """Why one that was measured before is not in the later report; empty where it was not asked for."""
    name, batch = key
    for one in after["failed"]:
        if (one["competitor"], one["batch"]) == (name, batch):
            return str(one["reason"])
    why = str(after["absent"].get(name, ""))
    return "" if after["partial"] or why.startswith((NOT_ASKED, ALONE)) else why


def _gone(key: tuple[str, int], why: str) -> Change:
    return Change(*key, np.nan, np.nan, np.nan, "", "gone", why)


def table(found: Sequence[Change]) -> list[str]:
    """The changes, one line each."""
    measured = [change for change in found if change.verdict != "gone"]
    lines = [
        f"{change.verdict:<10} {change.slower - 1:+7.1%}  ({change.low - 1:+.1%} to {change.high - 1:+.1%})  "
        f"batch {change.batch}, {change.competitor}"
        + (f", beside {change.baseline}" if change.baseline != measured[-1].baseline else "")
        for change in measured
    ]
    lines += [
        f"{change.verdict:<10} batch {change.batch}, {change.competitor}: {change.why}"
        for change in found
        if change.verdict == "gone"
    ]
    return [f"latency after beside before, held against {measured[-1].baseline} of each report", *lines]


def _rows(report: Report) -> dict[tuple[str, int], Mapping[str, Any]]:
    return {(row["competitor"], row["batch"]): row for row in report["results"]}


def _change(key: tuple[str, int], before: Report, after: Report, tolerance: float) -> Change:
    name, batch = key
    then, now = _rows(before)[key], _rows(after)[key]
    baseline, bases = _bases(key, before, after)
    relative = [
        np.log(np.asarray(row["rounds"], np.float64) / np.asarray(base, np.float64))
        for row, base in zip((then, now), bases, strict=True)
    ]
    draws = timing.resampled(relative[1], seed=1) - timing.resampled(relative[0], seed=2)
    middle = float(np.median(relative[1]) - np.median(relative[0]))
    slower, low, high = np.exp([middle, *timing.interval(draws, middle, LEVEL)])
    verdict = "slower" if low > 1 + tolerance else "faster" if high < 1 - tolerance else "same"
    if verdict == "same" and high > 1 + max(NOTICEABLE, 2 * tolerance):
        verdict = "unclear"
    if min(map(len, relative)) < timing.FEWEST or _is_unlike(baseline, before, after):
        verdict = "unclear"
    if then["same"] is not False and now["same"] is False:
        verdict = "unfaithful"
    return Change(name, batch, float(slower), float(low), float(high), baseline, verdict)


def _bases(key: tuple[str, int], before: Report, after: Report) -> tuple[str, list[Sequence[float]]]:
    """What one is held against, in words, and its rounds in both reports."""
    name, batch = key
    beside = [report["yardstick"].get(str(batch), {}) for report in (before, after)]
    engine, later = (report["competitors"][name]["engine"] for report in (before, after))
    if engine == later and all(engine in sticks for sticks in beside):
        return NETWORK, [sticks[engine] for sticks in beside]
    eager = (EAGER, batch)
    same_torch = before["machine"]["versions"].get("torch") == after["machine"]["versions"].get("torch")
    if name != EAGER and same_torch and eager in _rows(before) and eager in _rows(after):
        return EAGER, [_rows(report)[eager]["rounds"] for report in (before, after)]
    names = [report["method"].get("yardstick") or "sort" for report in (before, after)]
    if any(stick not in sticks for stick, sticks in zip(names, beside, strict=True)):
        return CLOCK, [[1.0] * len(_rows(report)[key]["rounds"]) for report in (before, after)]
    return YARDSTICK, [sticks[name] for sticks, name in zip(beside, names, strict=True)]


def _is_unlike(baseline: str, before: Report, after: Report) -> bool:
    """Whether what both were held against was not the same in both, or is no measure of it."""
    machines = [report["machine"] for report in (before, after)]
    if any(machines[0].get(part) != machines[1].get(part) for part in ALIKE):
        return True
    if baseline == CLOCK:
        return not before["method"]["strict"]
    if baseline != YARDSTICK:
        return False
    package = "torch" if before["method"].get("yardstick") == "product" else "numpy"
    versions = [machine["versions"].get(package) for machine in machines]
    return versions[0] != versions[1] or _is_elsewhere(baseline, before, after)


def _is_elsewhere(baseline: str, before: Report, after: Report) -> bool:
    """Whether a GPU would be held against a CPU, whose clock has nothing to do with it."""
    timed_by = {report["method"].get("yardstick", "sort") for report in (before, after)}
    strict = bool(before["method"].get("strict"))
    on_gpu = before["method"].get("device") == "cuda"
    return baseline == YARDSTICK and on_gpu and not strict and timed_by != {"product"}
