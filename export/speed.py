"""Time a new artifact in each engine of this machine, compared with the FP32 source. No torch here.

    artifact, lines = measured(artifact, source)
    # beside fp32: 1.04 × in onnxruntime (54.00 ms), 3.90 × in openvino (25.60 ms); auto takes openvino

The figures go into the manifest, and the fastest engine is remembered for this machine: `auto` takes it from then on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from ganedge.export import phases, uint8_io
from ganedge.export.artifact import VerifiedArtifact
from ganedge.export.parity import Running
from ganedge.export.source_model import SourceModel
from ganedge.runtime import engines, tuning
from ganedge.runtime.errors import EngineError, GanEdgeError
from ganedge.runtime.manifest import Manifest, Measurement, read_bytes, write_artifact
from ganedge.runtime.tuning import Trial, Watched

SECONDS = 0.1
"""Seconds to time each way; where one call takes longer it is timed twice."""


def measured(
    artifact: VerifiedArtifact, source: SourceModel, least: float | None = None, running: Running | None = None
) -> tuple[VerifiedArtifact, tuple[str, ...]]:
    """Time an artifact in every installed engine that it passed its proof in.

    Args:
        artifact: A proven one.
        source: What it was made from.
        least: How many times as fast as the FP32 source the fastest way has to be; None for no matter.
        running: The engines of the last proof, open; those of this artifact are timed as they are.

    Returns:
        The artifact with the figures in its manifest, and what to tell the user. It is unchanged where nothing was
        measured: no proof, or the environment variable GANEDGE_TUNE is 0.

    Raises:
        GanEdgeError: it is not as fast as `least` asks for.
    """
    manifest = artifact.manifest
    wanted = least is not None
    if not manifest.parity or (os.environ.get(tuning.SWITCH) == "0" and not wanted):
        return artifact, ()
    phases.report("timing it in each engine")
    fp32 = _fp32(artifact, source)
    try:
        trials = tuning.tune(artifact.data, manifest, 1, SECONDS, None, fp32, _ready(manifest, running))
    except EngineError:
        return artifact, ()
    count = len(trials) if fp32 is None else sum(trial.choice.compute != "fp32" for trial in trials)
    own, others = trials[:count], trials[count:]
    fastest = tuning.best(own)
    lines = _lines(manifest, own, others, fastest)
    if least is not None:
        _check(others, fastest, least, manifest)
    return with_figures(artifact, own), lines


def with_figures(artifact: VerifiedArtifact, trials: Sequence[Trial]) -> VerifiedArtifact:
    """The artifact with what was measured in its manifest; the fastest is remembered for this machine."""
    figures = tuple(_figure(trial) for trial in trials if trial.holds)
    _, model = read_bytes(artifact.data, artifact.name)
    data = write_artifact(model, replace(artifact.manifest, measured=figures))
    sealed, _ = read_bytes(data, artifact.name)
    with suppress(GanEdgeError):  # A cache that cannot be written: the figures are in the manifest, too.
        tuning.remember(sealed.digest, tuning.best(trials).choice)
    return replace(artifact, data=data, manifest=sealed)


def _ready(manifest: Manifest, running: Running | None) -> Mapping[str, Watched]:
    """The open engines of this artifact."""
    return running.engines if running is not None and running.manifest is manifest else {}


def _fp32(artifact: VerifiedArtifact, source: SourceModel) -> tuple[bytes, Manifest] | None:
    """The FP32 artifact of the same inputs and outputs; None where this is it, or the source is not FP32."""
    if artifact.manifest.precision == "fp32" or source.precision != "fp32":
        return None
    model, interface = source.model, source.interface
    if artifact.manifest.interface != interface:
        model, interface = uint8_io.to_bytes(model, interface)
    return model.SerializeToString(), Manifest(interface, "fp32", source.norm_mode, source.source)


def _figure(trial: Trial) -> Measurement:
    choice = trial.choice
    return Measurement(
        choice.engine,
        choice.version,
        choice.device,
        tuning.processor(),
        engines.cores(),
        round(trial.milliseconds, 3),
        choice.compute or "",
    )


def _lines(manifest: Manifest, own: Sequence[Trial], others: Sequence[Trial], fastest: Trial) -> tuple[str, ...]:
    """Return one line on the speed relative to FP32 in each engine, beginning with a warning if it is not faster."""
    by_engine = {trial.choice.engine: trial.milliseconds for trial in others}
    if not by_engine:
        if len(own) < 2:
            return ()
        times: dict[str, list[str]] = {}
        for choice, milliseconds in ((trial.choice, trial.milliseconds) for trial in own if trial.holds):
            name = choice.compute if choice.compute and choice.engine in times else choice.name
            times.setdefault(choice.engine, []).append(f"{name} {milliseconds:.2f}")
        shown = ", ".join(first + (f" ({', '.join(rest)})" if rest else "") for first, *rest in times.values())
        return (f"ms a call: {shown}; auto takes {fastest.choice.name}",)
    precision = manifest.precision
    shown = ", ".join(
        f"{by_engine[choice.engine] / trial.milliseconds:.2f} × in {choice.name} ({trial.milliseconds:.2f} ms)"
        for trial in own
        if (choice := trial.choice).engine in by_engine
    )
    best, plain = fastest.milliseconds, min(by_engine.values())
    engine = min(by_engine, key=lambda name: by_engine[name])
    if best >= plain:
        return (
            f"{precision} is NOT faster than fp32 here: {best:.2f} ms in {fastest.choice.name}, fp32 takes "
            f"{plain:.2f} ms in {engine} ({shown})",
        )
    return (f"beside fp32: {shown}; auto takes {fastest.choice.name}",)


def _check(others: Sequence[Trial], fastest: Trial, least: float, manifest: Manifest) -> None:
    if not others:
        raise GanEdgeError("--require-speedup compares with FP32: the source is not FP32, or no engine here runs it")
    plain = min(trial.milliseconds for trial in others)
    factor = plain / fastest.milliseconds
    if factor < least:
        raise GanEdgeError(
            f"not exported: {manifest.precision} is {factor:.2f} × as fast as fp32 here ({fastest.milliseconds:.2f} ms "
            f"in {fastest.choice.name}, fp32 {plain:.2f} ms), and --require-speedup asks for {least:g}"
        )
