"""Latency of a generator: artifacts in their engines, compared with the PyTorch module they came from.

    report = measure([Path("generator.onnx")], against="runs/digits", settings=Settings(batches=(1, 8)))

One call is timed from NumPy arrays on the host to a NumPy array on the host, with different real inputs each time. All
competitors use the same number of threads. The report is a table ready for JSON; benchmarks/SCHEMA.md describes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ganedge.benchmarks import arithmetic, input_pool, isolated, process, size, yardsticks
from ganedge.benchmarks.competitor import ALONE, EAGER, TORCH, Competitor, Inputs, Split, artifact_competitors, common
from ganedge.benchmarks.conditions import Others, Watch, conditions, machine
from ganedge.export.source import SourceSpec
from ganedge.runtime import engines, fidelity, timing
from ganedge.runtime.errors import EngineError, MissingExtra, UsageError
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import Interface, Precision, read_artifact

if TYPE_CHECKING:
    from ganedge.benchmarks.distance import Distance, Examiner
    from ganedge.benchmarks.reference import ReferenceSpec

__all__ = ["EAGER", "Settings", "measure"]

SCHEMA = 5
"""Version of the report."""
DISTANCES = ("fid", "kid", "data_fid", "data_kid")
"""Distances between sets of pictures: to the reference's, and to real ones."""
COMPARED = 64
"""Least number of outputs compared, for generators that take latents."""
COMPARED_PICTURES = 16
"""The same for generators that take pictures: as many as an export's proof, since each may take a second."""
OTHERS = 0.1
"""Share of the cores' time that other processes may take before there is a warning."""
BUSY = 0.5
"""Load per core before anything is opened, above which there is a warning where the system tells nothing better."""
STRICT_QUERIES, STRICT_SECONDS = 1024, 600.0
"""Least calls and least duration of MLPerf inference's single stream."""
STICK = "yardstick: "
"""Prefix of yardsticks' names among those of competitors."""
Output = NDArray[np.generic]


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    batches: tuple[int, ...] = (1, 8)
    """Batch sizes."""
    engine: str = "all"
    """auto, all, or engines with commas."""
    device: str = "cpu"
    """cpu or cuda, the same for every competitor."""
    torch: tuple[str, ...] = ("eager",)
    """Ways of running PyTorch."""
    threads: int | None = None
    """Threads of every competitor; by default all cores that this process may use."""
    seconds: float = 3.0
    """Least time for which each competitor is timed."""
    iterations: int = 50
    """Least number of timed calls of each competitor."""
    processes: int = 3
    """Processes started for each competitor's cold start and peak memory; 0 leaves both out."""
    size: str | None = None
    """Height and width of input pictures, `256` or `256x320`; None: as in training, see `size.settled`."""
    distance: Distance | None = None
    """How to compute FID and KID; None leaves both out."""
    strict: bool = False
    """MLPerf's single stream: batch 1, one competitor after the other, the next call as soon as the last is done, at
    least 1024 calls and 600 s each; the 90th percentile is the result."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.device not in ("cpu", "cuda"):
            raise UsageError(f"device is {self.device!r}: give cpu or cuda, the same for every competitor")
        if not 0 <= self.seconds <= 86_400:
            raise UsageError(f"--seconds {self.seconds:g}: give 0 to 86400, a day")
        if not self.batches or any(batch < 1 for batch in self.batches):
            raise UsageError(f"batches {','.join(map(str, self.batches))}: give whole numbers of 1 or more")
        unknown = [way for way in self.torch if way not in TORCH]
        if unknown:
            raise UsageError(f"--torch {unknown[0]!r}: choose all, or some of {','.join(TORCH)} with commas")
        if self.strict and self.batches != (1,):
            raise UsageError("--strict is single stream: give --batch 1")
        if self.strict and (self.seconds < STRICT_SECONDS or self.iterations < STRICT_QUERIES):
            raise UsageError(
                f"--seconds {self.seconds:g} --iterations {self.iterations}: --strict asks for {STRICT_SECONDS:g} s "
                f"and {STRICT_QUERIES} calls at least"
            )


@dataclass
class Subject:
    """What is measured.

    Competitors are opened in this process to compare outputs; on a CPU each is also made from its `recipe` in another
    process, where it is timed.
    """

    interface: Interface
    """Inputs, of a fixed size, and outputs."""
    competitors: list[Competitor]
    absent: dict[str, str]
    """Why others cannot be measured, by name."""
    why: str = ""
    """Why input pictures have that size."""
    reference: ReferenceSpec | None = None
    """The generator to compare with, as another process can open it."""
    examiner: Examiner | None = None


Pictures = dict[str, Output]
Change = Callable[[Subject], None]


def measure(
    files: Sequence[Path],
    against: str | None = None,
    settings: Settings | None = None,
    spec: SourceSpec | None = None,
    change: Change | None = None,
    pictures: Pictures | None = None,
) -> dict[str, Any]:
    """Measure artifacts, and the generator they came from in PyTorch.

    Args:
        files: Artifacts.
        against: A run's folder, a module as `gan-export` takes it, or a checkpoint; None leaves PyTorch out.
        settings: How to measure.
        spec: Description of `against`, as far as it does not describe itself.
        change: Called with the opened competitors before anything is timed; tests and studies alter them.
        pictures: Filled with the first outputs of every competitor, by name.

    Returns:
        The report. After Ctrl-C it holds what was measured until then and says that it is partial.

    Raises:
        UsageError: arguments out of range.
        ArtifactError: a file that is no artifact, a folder that is no run.
        InputError: artifacts that take different inputs.
        KeyboardInterrupt: before anything was measured.
    """
    settings = settings or Settings()
    if not files:
        raise UsageError("nothing to measure: give artifacts that gan-export wrote")

    # Open everything that is compared.
    threads = settings.threads or engines.cores()
    before = conditions()
    subject = _open(files, against, settings, spec, threads)
    if change is not None:
        change(subject)
    report = _empty_report(subject, files, settings, threads, before)
    session = _Session(subject, settings, threads, report, Watch(settings.device), pictures)

    # Time it at every batch size, then whole processes, then distances between sets of pictures.
    try:
        report["peak"] = arithmetic.peak(threads, settings.device)
        with isolated.Stage(settings.device) as stage:
            failed = {} if settings.strict else _add_to_stage(stage, session)
            for batch in settings.batches:
                _measure_batch(session, stage, batch, dict(failed))
        _cold_starts(session, files)
        if subject.examiner is not None:
            _distances(report, subject, subject.examiner)
    except KeyboardInterrupt:
        report["partial"] = True
        if not report["results"]:
            raise
    finally:
        for competitor in subject.competitors:
            competitor.close()

    # Add the machine's state during the measurement.
    if not report["results"]:
        first = report["failed"][0]
        raise EngineError(f"nothing could be measured: {first['competitor']}: {first['reason']}")
    _close_report(session, before.get("load"))
    return report


@dataclass
class _Session:
    """State of one measurement over all its batch sizes."""

    subject: Subject
    settings: Settings
    threads: int
    report: dict[str, Any]
    watch: Watch
    pictures: Pictures | None
    """Filled with the first outputs of every competitor, by name."""
    others: list[float] = field(default_factory=list)
    """Share of the cores' time that other processes used, for each timed batch size."""


def _empty_report(
    subject: Subject, files: Sequence[Path], settings: Settings, threads: int, before: dict[str, Any]
) -> dict[str, Any]:
    """Return the report before anything is timed."""
    return {
        "schema": SCHEMA,
        "partial": False,
        "command": "",
        "machine": machine(threads),
        "conditions": {"before": before},
        "method": _method(settings, subject),
        "inputs": size.inputs(subject.interface),
        "size": subject.why,
        "reference": None,
        "absent": subject.absent,
        "failed": [],
        "competitors": _describe(subject, files),
        "peak": arithmetic.NOT_REACHED,
        "yardstick": {},
        "distance": None,
        "choice": None,
        "results": [],
        "warnings": _left_out(subject, files),
    }


def _left_out(subject: Subject, files: Sequence[Path]) -> list[str]:
    """A warning for each file that nothing here runs."""
    run = {competitor.file for competitor in subject.competitors}
    reasons = {file: [why for name, why in subject.absent.items() if name.startswith(file.name)] for file in files}
    return [f"{file} was not measured: {'; '.join(dict.fromkeys(reasons[file]))}" for file in files if file not in run]


def _close_report(session: _Session, load: object) -> None:
    """Add the conditions during timing, and warnings about them. `load` is the load before anything was opened."""
    report, watch = session.report, session.watch
    others = max(session.others, default=None)
    report["conditions"]["during"] = {**({} if others is None else {"others": others}), **watch.figures()}
    report["conditions"]["after"] = conditions()
    known = load if isinstance(load, float) else None
    report["warnings"] += warnings(report["results"], others, known, engines.cores())
    report["warnings"] += watch.warnings()


def _method(settings: Settings, subject: Subject) -> dict[str, Any]:
    """Return the description of the method that goes into the report."""
    names = [competitor.name for competitor in subject.competitors]
    method: dict[str, Any] = {
        "timed": "one call, NumPy array in to NumPy array out, fresh real inputs each time",
        "warmup": f"until the median settles, {timing.WARMUP_BLOCKS} turns at most"
        + ("" if settings.strict else f"; a call before each turn, unless it takes {timing.WAKES} s"),
        "order": "one competitor after the other, each call as soon as the previous one is done"
        if settings.strict
        else f"interleaved in turns of {timing.TURN_SECONDS} s and {timing.TURN_CALLS} calls, "
        f"{timing.TURN_LONGEST} s at most (a tenth of the slowest competitor's call where that is longer), in a new "
        "order each round, "
        + (
            "each in its own process, which is paused outside its turns"
            if isolated.possible(settings.device)
            else "after all threads have gone to sleep"
        ),
        "ratio": "of the lower quartiles of turns within a round, their median over the rounds",
        "interval": f"{timing.LEVEL:.0%}, blocks of rounds resampled {timing.RESAMPLES} times"
        + (", without the drift between two competitors" if settings.strict else ""),
        "seconds": settings.seconds,
        "iterations": settings.iterations,
        "device": settings.device,
        "dropped": 0,
        "no_yardstick": {},
        "strict": settings.strict,
        "yardstick": "" if settings.strict else yardsticks.general(settings.device),
    }
    clocked = [competitor.name for competitor in subject.competitors if competitor.clocked is not None]
    if clocked:
        method["clocked"] = (
            f"{', '.join(clocked)}: one call of ganedge.js, by the page's clock, in a browser that is not stopped"
        )
    renewed = [competitor.name for competitor in subject.competitors if competitor.renew is not None]
    if renewed and not settings.strict:
        others = [name for name in names if name not in renewed]
        which = "all but " + ", ".join(others) if others else "all"
        method["renewed"] = f"{which} restarted between turns, for at most {timing.RENEWAL:.0%} of the timed seconds"
    if not settings.strict:
        method["longer"] = (
            f"until ratios to eager PyTorch and to yardsticks are known to {timing.PRECISE:.0%} "
            f"or one has been timed for {timing.LONGEST:g} times as long, and for {timing.FEWEST} rounds at least"
        )
    return method


def _open(
    files: Sequence[Path], against: str | None, settings: Settings, spec: SourceSpec | None, threads: int
) -> Subject:
    """Open all competitors that this machine can run."""
    manifest = common(files)
    interface, why = size.settled(manifest, settings.size)
    fixed = interface.inputs[0].shape[0]
    for batch in settings.batches:
        if isinstance(fixed, int) and batch != fixed:
            raise UsageError(f"batch {batch}: these artifacts have the fixed batch size {fixed}: give --batch {fixed}")
    competitors, absent = artifact_competitors(files, settings.engine, settings.device, threads)
    examiner: Examiner | None = None
    origin: ReferenceSpec | None = None
    if settings.distance is not None:
        from ganedge.benchmarks import distance

        examiner = distance.Examiner(settings.distance, interface, max(settings.batches))
    if against is None:
        absent |= {TORCH[way]: f"{ALONE}: give --against" for way in settings.torch}
    elif find_spec("torch") is None:
        absent |= {TORCH[way]: str(MissingExtra("torch", "export", EAGER)) for way in settings.torch}
    else:
        from ganedge.benchmarks import reference

        origin = reference.ReferenceSpec(against, spec or SourceSpec())
        network = reference.open_reference(origin, manifest)
        origin = replace(origin, plain=reference.is_plain(network))
        inputs = real_inputs(interface, settings.batches[0], seed=1)
        reference.check(network, interface, inputs)
        in_torch, missing = reference.competitors(network, inputs, settings.device, threads, settings.torch)
        again = partial(reference.again, origin, manifest, interface, settings.batches[0], threads)
        in_torch = [
            replace(competitor, recipe=isolated.Recipe(partial(again, competitor.name), competitor.name))
            for competitor in in_torch
        ]
        competitors, absent = [*in_torch, *competitors], {**missing, **absent}
    if not competitors:
        raise EngineError("nothing to measure here: " + "; ".join(f"{name}: {why}" for name, why in absent.items()))
    return Subject(interface, competitors, absent, why, origin, examiner)


def _describe(subject: Subject, files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return engine, precision, file size and multiply-accumulates of each competitor."""
    counts = {file: _macs(file, subject.interface) for file in files}
    # PyTorch and TensorRT run the same network, so they get the smallest count of the artifacts that are not INT8.
    plain = [
        count
        for file, count in counts.items()
        if count is not None and read_artifact(file)[0].precision in ("fp32", "fp16", "bf16")
    ]
    return {
        competitor.name: {
            "engine": competitor.engine,
            "precision": competitor.precision,
            "computes": competitor.computes or competitor.precision,
            "device": competitor.device,
            "file": None if competitor.file is None else competitor.file.name,
            "digest": competitor.digest or None,
            "bytes": competitor.bytes,
            "macs": counts[competitor.file]
            if competitor.file is not None and competitor.file.suffix == ".onnx"
            else min(plain, default=None),
            "cold_start_s": None,
            "peak_bytes": None,
            "device_bytes": None,
            **dict.fromkeys(DISTANCES),
        }
        for competitor in subject.competitors
    }


def _macs(file: Path, interface: Interface) -> int | None:
    """Count the multiply-accumulates of one item; None for engine files, whose graph cannot be read."""
    if file.suffix != ".onnx":
        return None
    inputs = real_inputs(interface, 1, seed=1)
    shapes = {port.name: array.shape for port, array in zip(interface.inputs, inputs, strict=True)}
    total = arithmetic.multiply_accumulates(file.read_bytes(), shapes)
    return None if total is None else round(total / len(inputs[0]))


def _cold_starts(session: _Session, files: Sequence[Path]) -> None:
    """Add cold start and peak memory of a whole process, for artifacts and eager PyTorch that were timed."""
    subject, settings, threads, report = session.subject, session.settings, session.threads, session.report
    if not settings.processes:
        return
    port = subject.interface.inputs[0]
    shape = "x".join(map(str, port.shape[1:])) if port.role == "image" else ""
    measured = {row["competitor"] for row in report["results"]}
    scripts: dict[str, list[str]] = {}
    for competitor in subject.competitors:
        if competitor.name not in measured:
            continue
        if competitor.file is not None and competitor.engine_device[0]:
            engine, device = competitor.engine_device
            scripts[competitor.name] = process.artifact_script(
                competitor.file, engine, competitor.compute, device, threads, shape
            )
        elif competitor.name == EAGER and subject.reference is not None:
            text = subject.reference.to_json()
            scripts[EAGER] = process.eager_script(text, files[0], settings.device, threads, shape)
    failed: dict[str, str] = {}
    costs: dict[str, dict[str, float | int | None]] = {}
    try:
        process.measure(scripts, settings.processes, failed, costs)
    finally:
        for name, cost in costs.items():
            report["competitors"][name].update(cost)
        report["warnings"] += [f"no cold start of {name}: {reason}" for name, reason in failed.items()]


def _add_to_stage(stage: isolated.Stage, session: _Session) -> dict[str, Exception]:
    """Start competitors and yardsticks on the stage; returns the errors of those that did not start."""
    subject = session.subject
    recipes = {
        competitor.name: competitor.recipe if stage.able and competitor.recipe is not None else competitor
        for competitor in subject.competitors
    }
    sticks = yardsticks.recipes(subject.competitors, session.settings.device, session.threads)
    return stage.add({**recipes, **{STICK + name: recipe for name, recipe in sticks.items()}})


def _measure_batch(session: _Session, stage: isolated.Stage, batch: int, failed: dict[str, Exception]) -> None:
    """Time every competitor at one batch size, compare their outputs, and add both to the report.

    `failed` holds the errors of those that did not start. After an interruption the complete rounds go into the report,
    without outputs that were not compared yet, and the interruption is raised again.
    """
    subject, report = session.subject, session.report
    pool, pool_size = input_pool.make(subject.interface, batch)
    report["method"].setdefault("pool", {})[str(batch)] = pool_size
    turns: timing.Turns = {}
    outputs: dict[str, Output] = {}
    splits: dict[str, Split] = {}

    # Time, then compute the outputs to compare, then split the time on a GPU into copies and computation.
    interrupted = False
    try:
        _take_turns(session, stage, pool, turns, failed)
        able = [competitor for competitor in subject.competitors if turns.get(competitor.name)]
        _compute(able, pool, subject.interface, outputs, failed)
        for competitor in able:
            if competitor.split is not None:
                with timing.noted(competitor.name, failed):
                    splits[competitor.name] = competitor.split(pool)
    except KeyboardInterrupt:
        interrupted = True

    # Report yardsticks apart from competitors.
    turns = timing.whole_rounds(turns)
    _report_yardsticks(report, batch, turns, failed)
    reference = _reference(subject.competitors, outputs, failed, report["reference"])
    report["reference"] = report["reference"] or (None if reference is None else reference.name)

    # One row for each competitor.
    if session.pictures is not None and turns:
        session.pictures.update({name: out[:4] for name, out in outputs.items() if name not in session.pictures})
    for competitor in subject.competitors:
        if competitor.name in turns and competitor.name not in failed:
            with timing.noted(competitor.name, failed):
                row = _figures(report, competitor, batch, turns, failed)
                row |= _fidelity(subject.interface, competitor, reference, outputs)
                row["split"] = asdict(splits[competitor.name]) if competitor.name in splits else None
                report["results"].append(row)
    report["failed"] += [_failure(name, batch, error) for name, error in failed.items()]
    if interrupted:
        raise KeyboardInterrupt


def _report_yardsticks(report: dict[str, Any], batch: int, turns: timing.Turns, failed: dict[str, Exception]) -> None:
    """Move the yardsticks' times and errors out of the competitors' into the report."""
    times = {name.removeprefix(STICK): turns.pop(name) for name in list(turns) if name.startswith(STICK)}
    errors = {name.removeprefix(STICK): str(failed.pop(name)) for name in list(failed) if name.startswith(STICK)}
    report["method"]["no_yardstick"] |= errors
    if times:
        report["yardstick"][str(batch)] = {name: _rounded(timing.undisturbed(rounds)) for name, rounds in times.items()}


def _take_turns(
    session: _Session,
    stage: isolated.Stage,
    pool: Sequence[Inputs],
    turns: timing.Turns,
    failed: dict[str, Exception],
) -> None:
    """Time competitors and yardsticks into `turns`, and record what other processes used, also when interrupted."""
    settings, competitors = session.settings, session.subject.competitors
    since: list[Others] = []

    def ready() -> None:
        since.append(Others(lambda: stage.used() + sum(competitor.processor_time() for competitor in competitors)))

    try:
        if settings.strict:
            runs = {competitor.name: competitor.over(pool) for competitor in competitors}
            timing.one_by_one(runs, settings.seconds, settings.iterations, turns, failed, ready, session.watch.look)
            return
        timed = stage.timed(pool)
        names = [competitor.name for competitor in competitors]
        # The ratios that are shown, and those that `compare` uses.
        known = [(EAGER, name) for name in names if name != EAGER]
        known += [(STICK + competitor.engine, competitor.name) for competitor in competitors]
        timing.interleaved(
            {name: timed[name] for name in dict.fromkeys([*names, *timed]) if name in timed},
            settings.seconds,
            settings.iterations,
            turns,
            failed,
            ready,
            known,
            session.watch.look,
        )
    finally:
        session.others += [share for watched in since if (share := watched.share()) is not None]


def _compute(
    competitors: Sequence[Competitor],
    pool: Sequence[Inputs],
    interface: Interface,
    outputs: dict[str, Output],
    failed: dict[str, Exception],
) -> None:
    """Run each competitor on the first inputs of the pool, into `outputs`."""
    least = COMPARED if interface.noise is not None else COMPARED_PICTURES
    compared = pool[: max(1, -(-least // len(pool[0][0])))]
    for competitor in competitors:
        with timing.noted(competitor.name, failed):
            outputs[competitor.name] = np.concatenate([competitor.run(arrays) for arrays in compared])


def _failure(name: str, batch: int, error: Exception) -> dict[str, Any]:
    """Return the report's entry for a failed competitor."""
    return {"competitor": name, "batch": batch, "reason": str(error) or type(error).__name__}


def _distances(report: dict[str, Any], subject: Subject, examiner: Examiner) -> None:
    """Add FID and KID of every competitor that was timed."""
    measured = {row["competitor"] for row in report["results"]}
    able = [competitor for competitor in subject.competitors if competitor.name in measured]
    reference = next((competitor for competitor in able if competitor.name == report["reference"]), None)
    batch = max(row["batch"] for row in report["results"])

    def failed(name: str, error: Exception) -> None:
        report["failed"].append(_failure(name, batch, error))

    for name, figures in examiner(able, reference, failed).items():
        report["competitors"][name].update(figures)
    report["distance"] = examiner.method


def _reference(
    competitors: Sequence[Competitor],
    outputs: Mapping[str, Output],
    failed: dict[str, Exception],
    before: str | None = None,
) -> Competitor | None:
    """Return the competitor that the others' outputs are compared with: eager PyTorch, else the first FP32 artifact.

    It is the same at every batch size: where it failed, nothing is compared. A competitor that returns NaN has failed.
    """
    for competitor in sorted(competitors, key=lambda other: other.name != EAGER):
        may_serve = (
            competitor.name == before
            if before
            else competitor.name == EAGER or (competitor.precision == "fp32" and len(competitors) > 1)
        )
        if not may_serve or competitor.name not in outputs:
            continue
        if np.isfinite(outputs[competitor.name]).all():
            return competitor
        failed[competitor.name] = EngineError(
            "it returns NaN or infinite values on real inputs: nothing is compared with it"
        )
    return None


def _figures(
    report: dict[str, Any], competitor: Competitor, batch: int, turns: timing.Turns, failed: Collection[str]
) -> dict[str, Any]:
    """Return one row of the report: times, throughput, ratio to eager PyTorch and share of the peak."""
    figures = timing.figures(turns[competitor.name])
    rounds = timing.undisturbed(turns[competitor.name])
    eager = EAGER in turns and EAGER not in failed
    ratio = timing.ratio(timing.undisturbed(turns[EAGER]), rounds) if eager else None
    macs = report["competitors"][competitor.name]["macs"]
    peak = report["peak"]["flops"].get(arithmetic.number_type(report["competitors"][competitor.name]["computes"]))
    times = np.concatenate(turns[competitor.name])
    return {
        "competitor": competitor.name,
        "precision": competitor.precision,
        "batch": batch,
        "figures": asdict(figures),
        "images_per_s": batch / figures.mean,
        "speedup": None if ratio is None else ratio.value,
        "speedup_low": None if ratio is None or np.isnan(ratio.low) else ratio.low,
        "speedup_high": None if ratio is None or np.isnan(ratio.high) else ratio.high,
        "peak_share": None if macs is None or peak is None else 2 * macs * batch / figures.p50 / peak,
        "rounds": _rounded(rounds),
        "quantiles": _rounded(np.quantile(times, np.linspace(0, 1, 51))),
    }


def _fidelity(
    interface: Interface, competitor: Competitor, reference: Competitor | None, outputs: Mapping[str, Output]
) -> dict[str, Any]:
    """Compare a competitor's outputs with the reference's, and check them against the gate of its precision."""
    if reference is None or reference is competitor or competitor.name not in outputs:
        return {"psnr": None, "ssim": None, "max_abs": None, "same": None}
    port = interface.output
    difference = fidelity.difference(outputs[competitor.name], outputs[reference.name], port)
    gate = fidelity.gate_of(_gate_precision(competitor), interface)
    if reference.name != EAGER and gate.max_abs is not None:
        gate = replace(gate, max_abs=2 * gate.max_abs)  # Both may differ that much from eager PyTorch.
    elif port.dtype == "uint8" and gate.max_abs is not None:
        gate = replace(gate, max_abs=1 / 255 + 1e-4)  # Both are rounded to integers.
    return {
        "psnr": difference.psnr,
        "ssim": difference.ssim,
        "max_abs": difference.max_abs,
        "same": gate.holds(difference),
    }


def _gate_precision(competitor: Competitor) -> Precision:
    """Return the precision whose gate applies; TF32 has as many mantissa bits as FP16."""
    if "TF32" in competitor.computes:
        return "fp16"
    known: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8"}
    return known[competitor.precision]


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def warnings(results: Sequence[Mapping[str, Any]], others: float | None, load: float | None, cores: int) -> list[str]:
    """Warnings about other work on the machine and noisy timings.

    Args:
        results: Rows of the report.
        others: Share of the cores' time that other processes took during the timing; None if the system does not tell.
        load: Load average before anything was opened, used where `others` is None.
        cores: Cores that this process may use.
    """
    share = ""
    if others is not None and others > OTHERS:
        share = f"{others:.0%} of {'the core' if cores == 1 else f'the {cores} cores'}"
    elif others is None and load is not None and load > BUSY * cores:
        share = f"load {load:.1f} on {cores} cores"
    worst = max((row["figures"]["spread"] for row in results), default=0.0)
    spread = f"medians of turns differ by up to {worst:.0%}" if worst > timing.UNQUIET else ""
    if share:
        return [
            f"other processes were running ({share}){spread and f', and {spread}'}: they slow several threads more "
            "than one, so ratios are unreliable too; measure again on an idle machine, or with --threads 1"
        ]
    return [f"the machine was busy: {spread}; compare the confidence intervals"] if spread else []
