"""Compare two reports: what changed beyond noise. Usable in CI.

    gan-bench compare before.json after.json          # exits 1 on a regression

Absolute times of two runs are not comparable, because clock, temperature and other load differ. So each competitor's
time is divided by that of a baseline measured in the same rounds of the same report. The baseline is the first of
these that both reports have: a small fixed DCGAN in the same engine and version; eager PyTorch of the same version; the
general yardstick (sorting numbers, or on a GPU a matrix product). Reports made with --strict contain no yardsticks, so
without PyTorch their absolute times are compared. A change counts if its whole confidence interval, from resampled
blocks of rounds of both reports, lies beyond the tolerance.
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
"""Share by which latency may change: two processes that run the same code differ by some percent, because they get
other memory addresses."""
NOTICEABLE = 0.10
"""Change that must not be overlooked: an interval that includes one gives "unclear" instead of "same"."""
LEVEL = 0.95
"""Confidence level of a change. It is not corrected for many comparisons: a change must exceed the tolerance too."""
Report = Mapping[str, Any]
PARTS = {
    **dict.fromkeys(("results", "failed"), list),
    **dict.fromkeys(("yardstick", "method", "machine", "competitors", "absent"), dict),
    "partial": bool,
}
"""Keys of every report, and the type of their values."""
LATER: Report = {"command": "", "choice": None}
"""Keys that schema 4 added, with their values for a report of schema 3."""
READ = (3, 4, SCHEMA)
"""Schemas that can be read."""
NETWORKS = 5
"""First schema with a yardstick in each engine; earlier ones have the general yardstick only."""
ALIKE = ("processor", "threads")
"""What must be equal in both machines: on another processor, a small network does not predict a large one's speed."""
BEYOND: Mapping[str, tuple[str, float]] = {
    "bytes": ("MB of weights or file", 0.01),
    "peak_bytes": ("MB of memory", 0.1),
    "device_bytes": ("MB of the GPU's memory", 0.1),
}
"""Costs that are compared, and the share by which they may change."""
CLOCK, YARDSTICK, NETWORK = "absolute times", "the yardstick", "a fixed DCGAN in the same engine"
"""Baselines other than eager PyTorch, as they are named in the output."""
CLEARER = 1.0
"""Change of PSNR that is reported, dB."""


@dataclass(frozen=True)
class Change:
    """How one competitor changed at one batch size."""

    competitor: str
    batch: int
    slower: float
    """Latency after over latency before, both relative to the baseline: 1.1 is 10 % slower."""
    low: float
    high: float
    baseline: str
    """What its time was divided by in both reports."""
    verdict: str
    """"slower", "faster", "same", "unclear" (too noisy, or the baselines differ); "unfaithful": its pictures passed
    before and do not now; "gone": it was measured before and cannot be measured now."""
    why: str = ""
    """The reason for "gone"."""

    @property
    def regression(self) -> bool:
        """Whether the verdict is a change for the worse."""
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
    if not isinstance(report, dict) or any(not isinstance(report.get(name), cls) for name, cls in PARTS.items()):
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
    if isinstance(peak, dict) and not isinstance(peak.get("flops"), dict):  # Schema 3 has the peak of FP32 only.
        known_peak = {} if peak.get("flops") is None else {"fp32": peak["flops"]}
        report["peak"] = {"flops": known_peak, "bandwidth": None, "how": peak.get("how", "")}
    if report["schema"] < NETWORKS:
        name = report["method"].get("yardstick") or "sort"
        report["yardstick"] = {batch: {name: rounds} for batch, rounds in report["yardstick"].items()}
    return {**LATER, **report}


def changes(before: Report, after: Report, tolerance: float = TOLERANCE) -> list[Change]:
    """Compare every competitor and batch size that both reports have.

    Raises:
        InputError: they have nothing in common, or a report is damaged.
        UsageError: the tolerance is not between 0 and 1.
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
        changed = [_change(key, before, after, tolerance) for key in now if key in then]
        lost = [_gone(key, why) for key in then if key not in now and (why := _why_gone(key, after))]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"a report is damaged: {type(error).__name__} {error}") from error
    if all(went) and went[0] != went[1]:
        raise InputError(f"{went[0]} went in before and {went[1]} after: measure both with the same --size")
    if not changed:
        raise InputError("the reports have no competitor and batch size in common: nothing to compare")
    return [*changed, *lost]


def differences(before: Report, after: Report) -> list[str]:
    """Return one line for each difference between the machines, methods, sizes and memory of two reports."""
    lines = []
    for part in ("processor", "threads", "system", "gpu"):
        then, now = before["machine"].get(part), after["machine"].get(part)
        if then != now:
            lines.append(
                f"{part}: {then} before, {now} after" + (", so every verdict is unclear" if part in ALIKE else "")
            )
    then, now = before["machine"].get("versions", {}), after["machine"].get("versions", {})
    lines += [f"{name}: {then.get(name)} before, {now.get(name)} after" for name in now if then.get(name) != now[name]]
    lines += [
        f"the {which} report is partial"
        for which, report in (("first", before), ("second", after))
        if report["partial"]
    ]
    if _is_elsewhere(YARDSTICK, before, after):
        lines.append(
            "verdicts on a GPU are unclear without PyTorch as the baseline or for the yardstick: install PyTorch with "
            "CUDA and measure both again"
        )
    gone = sorted(key for key in _rows(before).keys() - _rows(after).keys() if not _why_gone(key, after))
    lines += [f"{name} at batch {batch} is in the first report only" for name, batch in gone]
    return [*lines, *_costs(before, after)]


def _costs(before: Report, after: Report) -> list[str]:
    """Return one line for each file size, memory use and PSNR that changed."""
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
    """Why a competitor is missing from the later report; empty if it was not requested there."""
    name, batch = key
    for failure in after["failed"]:
        if (failure["competitor"], failure["batch"]) == (name, batch):
            return str(failure["reason"])
    why = str(after["absent"].get(name, ""))
    return "" if after["partial"] or why.startswith((NOT_ASKED, ALONE)) else why


def _gone(key: tuple[str, int], why: str) -> Change:
    return Change(*key, np.nan, np.nan, np.nan, "", "gone", why)


def table(changed: Sequence[Change]) -> list[str]:
    """Format the changes, one line each."""
    measured = [change for change in changed if change.verdict != "gone"]
    lines = [
        f"{change.verdict:<10} {change.slower - 1:+7.1%}  ({change.low - 1:+.1%} to {change.high - 1:+.1%})  "
        f"batch {change.batch}, {change.competitor}"
        + (f", {_relative_to(change.baseline)}" if change.baseline != measured[-1].baseline else "")
        for change in measured
    ]
    lines += [
        f"{change.verdict:<10} batch {change.batch}, {change.competitor}: {change.why}"
        for change in changed
        if change.verdict == "gone"
    ]
    return [f"change of latency, {_relative_to(measured[-1].baseline)}", *lines]


def _relative_to(baseline: str) -> str:
    return baseline if baseline == CLOCK else f"relative to {baseline} in the same report"


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
    """Return the name of a competitor's baseline, and the baseline's rounds in both reports."""
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
    """Whether the machines or the baselines differ too much between the reports for a verdict."""
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
    """Whether times on a GPU would be divided by a yardstick that ran on the CPU."""
    timed_by = {report["method"].get("yardstick", "sort") for report in (before, after)}
    strict = bool(before["method"].get("strict"))
    on_gpu = before["method"].get("device") == "cuda"
    return baseline == YARDSTICK and on_gpu and not strict and timed_by != {"product"}
