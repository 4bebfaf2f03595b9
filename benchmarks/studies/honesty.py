"""Check gan-bench against cases whose true answer is known.

    make honesty
    python -m ganedge.benchmarks.studies.honesty --runs 20 --json honesty.json

Three requirements ("bars"). The same artifact under two names must have a speed ratio within `NEAR` of 1, and an
interval that contains 1. `gan-bench compare` must find a competitor that was made 10 % slower, and no change where
nothing was changed. An artifact with one layer's weights scaled by 1.1 must be called unfaithful, for every layer. The
report also contains the time that gan-bench itself adds to a call. Each report is made in its own process, as in real
use, because two processes have different memory addresses and therefore slightly different speeds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ganedge.benchmarks import compare, input_pool, isolated, latency
from ganedge.benchmarks.competitor import EAGER, artifact_competitors
from ganedge.benchmarks.conditions import conditions, machine
from ganedge.runtime import engines, timing
from ganedge.runtime.cli import terminal
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.files import write_whole
from ganedge.runtime.manifest import read_artifact, write_artifact

SCHEMA = 1
"""Version of the report."""
NEAR = 0.02
"""Share by which an artifact may seem faster or slower than itself."""
COVERED = 19 / 20
"""Share of the runs whose interval has to contain 1."""
SLOWER = 1.1
"""Factor of a planted slowdown."""
SCALED = 1.1
"""Factor by which a planted mistake scales a layer's weights."""
SYSTEM = {"size": 32, "width": 32, "batch": 16, "sample_every": 1000}
"""Config of a DCGAN whose call takes about a millisecond, so that a turn contains many calls."""
NAMES = ("generator.onnx", "twin.onnx")
"""One artifact under two names."""
SCRIPT = """
import sys
from ganedge.benchmarks.studies.honesty import report_to
folder, out, seconds, slower = sys.argv[1:]
report_to(folder, out, float(seconds), float(slower))
"""
LIMIT = 600
"""Seconds after which a process counts as stuck."""
Say = Callable[[str], object]


def make(folder: Path) -> None:
    """Train a generator for a few steps, export it, and copy the artifact to the folder under both names."""
    from ganedge.export import export
    from ganedge.models import find
    from ganedge.train.loop import train
    from ganedge.train.settings import Settings

    run = train(find("dcgan"), SYSTEM, Settings(data="digits", out=folder / "run", steps=20, device="cpu"))
    artifact = export(run).path
    for name in NAMES:
        shutil.copy(artifact, folder / name)


def report_to(folder: str, out: str, seconds: float, slower: float = 1.0) -> None:
    """Measure both names and eager PyTorch in this process; each call of the first is stretched by `slower`."""

    def change(subject: latency.Subject) -> None:
        subject.competitors[:] = [
            replace(
                competitor,
                run=_stretched(competitor.run, slower),
                recipe=replace(competitor.recipe, make=partial(_slowed, competitor.recipe.make, slower)),
            )
            if competitor.recipe is not None and competitor.file is not None and competitor.file.name == NAMES[0]
            else competitor
            for competitor in subject.competitors
        ]

    where = Path(folder)
    settings = latency.Settings((1,), engine="onnxruntime", seconds=seconds, processes=0)
    files = [where / name for name in NAMES]
    measured = latency.measure(files, str(where / "run"), settings, change=change if slower > 1 else None)
    if measured["partial"]:
        raise KeyboardInterrupt
    write_whole(Path(out), json.dumps(measured))


def _slowed(make: Callable[[], isolated.Piece], factor: float) -> Slowed:
    return Slowed(make(), factor)


@dataclass(frozen=True)
class Slowed:
    """A competitor whose calls take `factor` times as long as those of `piece`."""

    piece: isolated.Piece
    factor: float

    @property
    def renew(self) -> Callable[[], None] | None:
        """Restart of `piece`."""
        return self.piece.renew

    def close(self) -> None:
        """Close `piece`."""
        self.piece.close()

    def over(self, pool: isolated.Pool) -> timing.Competitor:
        """Return the stretched function of `piece`."""
        return _stretched(self.piece.over(pool), self.factor)


def _stretched(run: Callable[[Any], Any], factor: float) -> Callable[[Any], Any]:
    """Return a function that takes `factor` times as long as `run`, because it spins for the rest."""

    def stretched(arrays: Any) -> Any:
        begin = time.perf_counter()
        output = run(arrays)
        end = begin + factor * (time.perf_counter() - begin)
        while time.perf_counter() < end:
            pass
        return output

    return stretched


def measure(runs: int, seconds: float, say: Say) -> dict[str, Any]:
    """Measure all bars, in a temporary folder.

    Args:
        runs: Number of runs.
        seconds: Time for which each competitor is timed in each report.
        say: Called with a line for each run and each bar.

    Returns:
        The report: each bar with its counts, and every run. After Ctrl-C it holds the runs that were done and is marked
        as partial.
    """
    if runs < 1 or not 0 < seconds <= 600:
        raise UsageError(f"--runs {runs} --seconds {seconds:g}: give at least one run, and 0 to 600 s")
    before = conditions()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        wrong = planted_mistakes(folder)
        own = overhead(folder / NAMES[0], seconds)
        say(f"gan-bench adds {1e6 * own['added_s']:.1f} µs to a call of {1e6 * own['bare_s']:.0f} µs")
        rows: list[dict[str, Any]] = []
        ended = False
        try:
            for turn in range(runs):
                rows.append(judged(_reports(folder, seconds, turn)))
                say(f"run {turn + 1} of {runs}: {_line(rows[-1])}")
        except (KeyboardInterrupt, GanEdgeError, subprocess.TimeoutExpired) as error:
            ended = True
            if not rows and isinstance(error, subprocess.TimeoutExpired):
                raise GanEdgeError(f"a run took more than {LIMIT} s") from error
            if not rows:
                raise
            say(f"stopped: {str(error) or 'interrupted'}")
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "partial": ended,
        "machine": machine(engines.cores()),
        "conditions": {"before": before, "after": conditions()},
        "seconds": seconds,
        "bars": bars(rows, wrong),
        "overhead": own,
        "runs": rows,
        "mistakes": wrong,
    }
    for bar in report["bars"]:
        verdict = "held" if bar["held"] else "MISSED"
        say(f"{verdict}: {bar['what']}: {bar['count']} of {bar['of']} (required: {bar['wanted']})")
    return report


def _reports(folder: Path, seconds: float, turn: int) -> dict[str, dict[str, Any]]:
    """Make three reports, each in its own process, in rotating order: two without a change, one with the slowdown."""
    kinds = ["before", "after", "slowed"]
    kinds = kinds[turn % 3 :] + kinds[: turn % 3]
    reports = {}
    for name in kinds:
        out = folder / f"{name}.json"
        slower = SLOWER if name == "slowed" else 1.0
        line = [sys.executable, "-c", SCRIPT, str(folder), str(out), str(seconds), str(slower)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT)  # noqa: S603 - our own
        if done.returncode:
            raise GanEdgeError(f"a run failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
        reports[name] = compare.read(out)
    return reports


def judged(reports: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Evaluate one run's three reports.

    Returns:
        `ratio`, `low`, `high` of the two names in a report without a change; `planted`: compare's findings with the
        slowdown; `unchanged`: its findings without one; `others`: the largest share of the cores' time that other
        processes used.
    """
    rounds = {row["competitor"]: row["rounds"] for row in reports["before"]["results"]}
    first, second = (rounds[f"{name}, onnxruntime"] for name in NAMES)
    ratio = timing.ratio(first, second)
    shares = [report["conditions"]["during"].get("others") for report in reports.values()]
    return {
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "planted": _findings(reports["before"], reports["slowed"]),
        "unchanged": _findings(reports["before"], reports["after"]),
        "others": max((share for share in shares if share is not None), default=None),
    }


def _findings(before: compare.Report, after: compare.Report) -> dict[str, dict[str, Any]]:
    """Return the verdict of `compare` and its interval, by competitor."""
    return {
        change.competitor: {
            "verdict": change.verdict,
            "slower": change.slower,
            "low": change.low,
            "high": change.high,
            "beside": change.baseline,
        }
        for change in compare.changes(before, after)
    }


def overhead(artifact: Path, seconds: float) -> dict[str, float]:
    """Measure what gan-bench adds to the engine's bare call: selecting an input from the pool, and checks.

    Returns:
        `bare_s` and `added_s`, medians over the rounds of the turns' lower quartiles, seconds.
    """
    manifest, model = read_artifact(artifact)
    threads = engines.cores()
    (competitor,), _ = artifact_competitors([artifact], "onnxruntime", "cpu", threads)
    engine = engines.start(model, manifest.precision, "onnxruntime", "cpu", threads)
    pool, _ = input_pool.make(manifest.interface, 1)
    names = [port.name for port in manifest.interface.inputs]
    feeds = [dict(zip(names, arrays, strict=True)) for arrays in pool]
    turns = timing.interleaved(
        {
            "bare": timing.here(lambda i: engine.run(feeds[i % len(feeds)])),
            "ours": timing.here(competitor.over(pool)),
        },
        seconds,
        50,
    )
    bare, ours = (timing.undisturbed(turns[name]) for name in ("bare", "ours"))
    competitor.close()
    engine.close()
    return {"bare_s": float(np.median(bare)), "added_s": float(np.median(ours - bare))}


def planted_mistakes(folder: Path) -> dict[str, bool]:
    """Return by layer whether gan-bench calls the artifact unfaithful when the layer's weights are scaled by `SCALED`.

    The empty name stands for the unchanged artifact.
    """
    import onnx
    from onnx import numpy_helper

    manifest, data = read_artifact(folder / NAMES[0])
    layers = [tensor.name for tensor in onnx.load_from_string(data).graph.initializer if len(tensor.dims) > 1]
    files = {"": folder / NAMES[0]}
    for number, name in enumerate(layers):
        model = onnx.load_from_string(data)
        weights = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        scaled = numpy_helper.to_array(weights) * np.float32(SCALED)
        weights.CopyFrom(numpy_helper.from_array(scaled, name))
        files[name] = folder / f"wrong{number}.onnx"
        files[name].write_bytes(write_artifact(model.SerializeToString(), manifest))
    settings = latency.Settings((1,), engine="onnxruntime", seconds=0.02, iterations=2, processes=0)
    measured = latency.measure(list(files.values()), str(folder / "run"), settings)
    same = {row["competitor"]: row["same"] for row in measured["results"]}
    return {name: same[f"{file.name}, onnxruntime"] is False for name, file in files.items()}


def bars(rows: Sequence[dict[str, Any]], wrong: dict[str, bool]) -> list[dict[str, Any]]:
    """Return each bar with its count, the total, the required count (`wanted`) and whether it is held."""
    slowed = f"{NAMES[0]}, onnxruntime"
    near = sum(abs(row["ratio"] - 1) <= NEAR for row in rows)
    covered = sum(row["low"] <= 1 <= row["high"] for row in rows)
    detected = sum(row["planted"][slowed]["verdict"] == "slower" for row in rows)
    quiet = sum(_none_found(row["unchanged"]) for row in rows)
    unaffected = sum(_none_found({k: v for k, v in row["planted"].items() if k != slowed}) for row in rows)
    layers = [called for name, called in wrong.items() if name]
    least = int(np.ceil(COVERED * len(rows) - 1e-9))
    counted = [
        (f"the same artifact under two names has a ratio within {NEAR:.0%} of 1", near, len(rows), len(rows)),
        ("the interval of that ratio contains 1", covered, len(rows), least),
        (f"a planted slowdown of {SLOWER - 1:.0%} is found", detected, len(rows), len(rows)),
        ("no change is found where nothing was changed", quiet, len(rows), len(rows)),
        ("no change is found in competitors beside a planted slowdown", unaffected, len(rows), len(rows)),
        (
            f"an artifact with one layer's weights × {SCALED} is called unfaithful",
            sum(layers),
            len(layers),
            len(layers),
        ),
        ("the unchanged artifact is not called unfaithful", int(not wrong[""]), 1, 1),
    ]
    return [
        {"what": what, "count": count, "of": of, "wanted": needed, "held": count >= needed}
        for what, count, of, needed in counted
    ]


def _none_found(findings: dict[str, dict[str, Any]]) -> bool:
    """Whether no competitor, PyTorch included, has a verdict of slower, faster or unfaithful."""
    return all(finding["verdict"] in ("same", "unclear") for finding in findings.values())


def _line(row: dict[str, Any]) -> str:
    """Format one run as a line."""
    slowed, kept = (row[name][f"{NAMES[0]}, onnxruntime"] for name in ("planted", "unchanged"))
    others = "" if row["others"] is None else f"; other processes used {row['others']:.0%}"
    eager = row["unchanged"][EAGER]
    return (
        f"twins {row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f}); planted {slowed['slower'] - 1:+.1%} "
        f"({slowed['low'] - 1:+.1%} to {slowed['high'] - 1:+.1%}) {slowed['verdict']}; unchanged "
        f"{kept['slower'] - 1:+.1%} {kept['verdict']}, PyTorch {eager['slower'] - 1:+.1%} {eager['verdict']}{others}"
    )


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Check gan-bench against cases whose true answer is known.")

    @app.command()
    def honesty(
        runs: Annotated[int, typer.Option(help="Runs; each takes three processes.")] = 20,
        seconds: Annotated[float, typer.Option(help="Time each competitor this long in each report.")] = 0.8,
        json_file: Annotated[Path | None, typer.Option("--json", help="Write every run here.")] = None,
    ) -> None:
        """Measure, print a line for each run and each bar, and exit with 1 if a bar is missed."""
        measured = measure(runs, seconds, typer.echo)
        if json_file is not None:
            write_whole(json_file, json.dumps(measured, indent=1) + "\n")
        if measured["partial"]:
            raise KeyboardInterrupt
        missed = [bar["what"] for bar in measured["bars"] if not bar["held"]]
        if missed:
            raise GanEdgeError(f"missed: {'; '.join(missed)}")

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.studies.honesty`."""
    terminal.run(build, "honesty", "train")


if __name__ == "__main__":
    main()
