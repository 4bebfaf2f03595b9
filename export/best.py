"""Make an artifact in every precision, prove and time all, and keep the fastest good one. No torch here.

    best = best_of(model, ExportSpec(auto=True, psnr=40.0, max_mb=10.0), print)

Candidates are precisions × the graph variants of the installed engines. All that pass their proof are timed in turns,
in one run, in every engine that they passed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ganedge.export.artifact import VerifiedArtifact, make
from ganedge.export.quantize import runnable_targets
from ganedge.export.source_model import SourceModel
from ganedge.export.spec import ExportSpec
from ganedge.export.speed import with_figures
from ganedge.runtime import engines, timing, tuning
from ganedge.runtime.errors import EngineError, GanEdgeError, UsageError
from ganedge.runtime.fidelity import difference
from ganedge.runtime.manifest import Precision
from ganedge.runtime.tuning import Choice, Trial

SECONDS = 0.3
"""Seconds to time each way of running a candidate."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One way of running one candidate."""

    artifact: VerifiedArtifact
    """The candidate."""
    trial: Trial
    """The engine, and its time."""
    psnr: float
    """Beside the eager generator, worst case, dB; infinite where it is the same."""

    @property
    def megabytes(self) -> float:
        """Size of the file."""
        return len(self.artifact.data) / 1e6

    def is_beaten(self, others: Sequence[Row]) -> bool:
        """Whether another row is at least as good in time, size and quality, and better in one of them."""
        mine = (-self.trial.milliseconds, -self.megabytes, self.psnr)
        figures = [(-row.trial.milliseconds, -row.megabytes, row.psnr) for row in others if row is not self]
        return any(all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine for other in figures)


def best_of(model: SourceModel, spec: ExportSpec, say: Say) -> VerifiedArtifact:
    """Make all candidates, and return the fastest that meets the constraints.

    Args:
        model: An FP32 generator.
        spec: With `psnr`, `max_mb` and `max_minutes`, and what all candidates share.
        say: Takes a line of text for each candidate, and the table.

    Raises:
        UsageError: a source that is not FP32.
        GanEdgeError: no candidate passes its proof, or none meets the constraints.
    """
    if model.precision != "fp32":
        raise UsageError(f"--auto makes every precision from FP32, and this source is {model.precision} already")
    passed = _candidates(model, spec, say)
    if not passed:
        raise GanEdgeError("not exported: no precision passes its proof in an installed engine, see above")
    rows = _race(passed)
    fitting = [row for row in rows if _fits(row, spec)]
    chosen = min(fitting, key=lambda row: row.trial.milliseconds, default=None)
    for line in _table(rows, chosen, spec):
        say(line)
    if chosen is None:
        raise GanEdgeError(f"not exported: nothing meets {_constraints(spec)}; the table shows what there is")
    own = [row.trial for row in rows if row.artifact is chosen.artifact]
    return with_figures(chosen.artifact, own)


def _candidates(model: SourceModel, spec: ExportSpec, say: Say) -> list[VerifiedArtifact]:
    """Make every precision and graph variant, and return those that pass their proof; each gets a line of output."""
    plans: list[tuple[Precision, str | None]] = [("fp32", None), ("fp16", None)]
    plans += [("int8", target) for target in runnable_targets()]
    if engines.installed("openvino"):
        plans.insert(2, ("bf16", None))
    end = math.inf if spec.max_minutes is None else time.monotonic() + 60 * spec.max_minutes
    passed: list[VerifiedArtifact] = []
    for number, (precision, target) in enumerate(plans, 1):
        name = precision + (f" for {target}" if target else "")
        if passed and time.monotonic() > end:
            say(f"{name}: not tried, the {spec.max_minutes:g} minutes are over")
            continue
        begin = time.monotonic()
        try:
            artifact = make(model, replace(spec, precision=precision, engine=target, auto=False))
        except GanEdgeError as error:
            say(f"{number}/{len(plans)} {name}: left out, {error}")
            continue
        passed.append(replace(artifact, name=name))
        say(f"{number}/{len(plans)} {name}: proven in {', '.join(_proven(artifact))}, {time.monotonic() - begin:.1f} s")
    return passed


def _proven(artifact: VerifiedArtifact) -> list[str]:
    return [proof.engine.split()[0] for proof in artifact.parity if proof.passed]


def _race(artifacts: Sequence[VerifiedArtifact]) -> list[Row]:
    """Time every candidate in every engine that it passed in, in turns."""
    ways: list[tuple[VerifiedArtifact, Choice, float | None]] = []
    calls: list[Callable[[], object]] = []
    running: list[engines.Engine] = []
    for artifact in artifacts:
        feeds, first = tuning.feeds_of(artifact.manifest, 1), None
        for choice, engine in tuning.started(artifact.data, artifact.manifest, None):
            output = engine.run(feeds)[0]
            first = output if first is None else first
            ways.append((artifact, choice, difference(output, first, artifact.manifest.interface.output).psnr))
            calls.append(partial(engine.run, feeds))
            running.append(engine)
    if not ways:
        raise EngineError("no installed engine runs what was made")
    times = timing.median_seconds(calls, SECONDS)
    for engine in running:
        engine.close()
    trials = [Trial(choice, 1000 * seconds, psnr) for (_, choice, psnr), seconds in zip(ways, times, strict=True)]
    rows = zip(ways, trials, strict=True)
    return [Row(artifact, trial, _psnr(artifact, trial)) for (artifact, _, _), trial in rows if trial.holds]


def _psnr(artifact: VerifiedArtifact, trial: Trial) -> float:
    """The worst PSNR of the engine's proof; where it computes in another precision, beside the artifact itself."""
    proofs = [proof.psnr for proof in artifact.parity if proof.engine.split()[0] == trial.choice.engine]
    own = proofs[0] if proofs else None
    figures = [value for value in (own, trial.psnr if trial.choice.compute else None) if value is not None]
    return min(figures, default=math.inf)


def _fits(row: Row, spec: ExportSpec) -> bool:
    return (spec.psnr is None or row.psnr >= spec.psnr) and (spec.max_mb is None or row.megabytes <= spec.max_mb)


def _constraints(spec: ExportSpec) -> str:
    parts = [
        "" if spec.psnr is None else f"--psnr {spec.psnr:g}",
        "" if spec.max_mb is None else f"--max-mb {spec.max_mb:g}",
    ]
    return " and ".join(filter(None, parts))


def _table(rows: Sequence[Row], chosen: Row | None, spec: ExportSpec) -> list[str]:
    """The rows, fastest first; those that another beats in everything are marked."""
    plain = min((row.trial.milliseconds for row in rows if row.artifact.manifest.precision == "fp32"), default=0.0)
    lines = [f"{'made':<22} {'engine':<22} {'ms':>9} {'speed':>7} {'MB':>8} {'PSNR dB':>8}"]
    for row in sorted(rows, key=lambda row: row.trial.milliseconds):
        speed = f"{plain / row.trial.milliseconds:.2f}x" if plain else "-"
        quality = "same" if math.isinf(row.psnr) else f"{row.psnr:.1f}"
        note = "  best" if row is chosen else "  too far off or too large" if not _fits(row, spec) else ""
        note = note or ("  another is at least as good in each" if row.is_beaten(rows) else "")
        lines.append(
            f"{row.artifact.name:<22} {row.trial.choice.name:<22} {row.trial.milliseconds:>9.2f} {speed:>7} "
            f"{row.megabytes:>8.1f} {quality:>8}{note}"
        )
    return lines
