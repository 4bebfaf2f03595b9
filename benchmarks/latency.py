"""Latency of a generator: artifacts in their engines beside the PyTorch module they came from.

    report = measure([Path("generator.onnx")], against="runs/digits", settings=Settings(batches=(1, 8)))

What is timed is one call from a NumPy array on the host to a NumPy array on the host, with fresh real inputs each
time, on the same number of threads for all. The report is a table ready for JSON; benchmarks/SCHEMA.md describes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
"""Figures of whole sets of pictures, to the reference's and to real ones."""
COMPARED = 64
"""Items on which results are compared, at least, where latents go in."""
COMPARED_PICTURES = 16
"""The same where pictures go in: as many as in the proof of an export, since each may take a second."""
OTHERS = 0.1
"""Share of the cores' time that others may take while it is timed, before it is said."""
BUSY = 0.5
"""Load for each core, before anything is opened, above which other work is in the way; where only the load is told."""
STRICT_QUERIES, STRICT_SECONDS = 1024, 600.0
"""MLPerf inference, single stream: the least queries and the least duration."""
STICK = "yardstick: "
"""Before the names of yardsticks where they stand among competitors."""
Output = NDArray[np.generic]


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    batches: tuple[int, ...] = (1, 8)
    """Items in one call."""
    engine: str = "all"
    """auto, all, or engines with commas."""
    device: str = "cpu"
    """cpu or cuda, the same for every competitor."""
    torch: tuple[str, ...] = ("eager",)
    """Ways of running PyTorch."""
    threads: int | None = None
    """For every competitor; all cores this process may use by default."""
    seconds: float = 3.0
    """Each competitor is timed for at least this long."""
    iterations: int = 50
    """And at least this often."""
    processes: int = 3
    """Whole processes of each that are started; 0 leaves cold start and peak memory out."""
    size: str | None = None
    """Height and width of pictures that go in, `256` or `256x320`; None: as it was trained, see `size.settled`."""
    distance: Distance | None = None
    """How far sets of pictures are apart, by FID and KID; None leaves that out."""
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
    """What is measured, opened, to see what it gives; what is timed on a CPU is made by each one's `recipe`."""

    interface: Interface
    """What goes in, of one size, and what comes out."""
    competitors: list[Competitor]
    absent: dict[str, str]
    why: str = ""
    """Why pictures are of that size."""
    reference: ReferenceSpec | None = None
    """The generator to compare with, as other processes need it."""
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
        spec: What `against` does not state itself.
        change: Called once with what is about to be measured.
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
    threads = settings.threads or engines.cores()
    before = conditions()
    subject = _open(files, against, settings, spec, threads)
    if change is not None:
        change(subject)
    report: dict[str, Any] = {
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
        "warnings": [],
    }
    watch = Watch(settings.device)
    others: list[float] = []
    try:
        report["peak"] = arithmetic.peak(threads, settings.device)
        with isolated.Stage(settings.device) as stage:
            failed = {} if settings.strict else _set(stage, subject, settings, threads)
            for batch in settings.batches:
                _at_batch(report, subject, stage, dict(failed), batch, settings, pictures, others, watch)
        _cold_starts(report, subject, files, settings, threads)
        if subject.examiner is not None:
            _examine(report, subject, subject.examiner)
    except KeyboardInterrupt:
        report["partial"] = True
        if not report["results"]:
            raise
    finally:
        for competitor in subject.competitors:
            competitor.close()
    if not report["results"]:
        first = report["failed"][0]
        raise EngineError(f"nothing could be measured: {first['competitor']}: {first['reason']}")
    report["conditions"]["during"] = {**({"others": max(others)} if others else {}), **watch.found()}
    report["conditions"]["after"] = conditions()
    load = before.get("load")
    known = load if isinstance(load, float) else None
    report["warnings"] += warnings(report["results"], max(others, default=None), known, engines.cores())
    report["warnings"] += watch.warnings()
    return report


def _method(settings: Settings, subject: Subject) -> dict[str, Any]:
    """How it is measured, in words where only people read it."""
    names = [one.name for one in subject.competitors]
    method: dict[str, Any] = {
        "timed": "one call, NumPy array in to NumPy array out, fresh real inputs each time",
        "warmup": f"until the median settles, {timing.WARMUP_BLOCKS} turns at most"
        + ("" if settings.strict else f"; a call before each turn, unless it takes {timing.WAKES} s"),
        "order": "one competitor after the other, each call as soon as the one before is done"
        if settings.strict
        else f"interleaved in turns of {timing.TURN_SECONDS} s and {timing.TURN_CALLS} calls, "
        f"{timing.TURN_LONGEST} s at most (a tenth of the slowest one's call where that is longer), in a new order "
        "each round, "
        + (
            "each in a process of its own that is stopped when its turn is over"
            if isolated.possible(settings.device)
            else "after all threads have gone to sleep"
        ),
        "ratio": "of the lower quartiles of turns within a round, their median over the rounds",
        "interval": f"{timing.LEVEL:.0%}, stretches of rounds resampled {timing.RESAMPLES} times"
        + (", without what drifted between two competitors" if settings.strict else ""),
        "seconds": settings.seconds,
        "iterations": settings.iterations,
        "device": settings.device,
        "dropped": 0,
        "no_yardstick": {},
        "strict": settings.strict,
        "yardstick": "" if settings.strict else yardsticks.general(settings.device),
    }
    renewed = [one.name for one in subject.competitors if one.renew is not None]
    if renewed and not settings.strict:
        others = [name for name in names if name not in renewed]
        which = "all but " + ", ".join(others) if others else "all"
        method["renewed"] = f"{which} started anew between turns, for up to {timing.RENEWAL:.0%} of the time timed"
    if not settings.strict:
        method["longer"] = (
            f"until ratios to eager PyTorch and to yardsticks are known to {timing.PRECISE:.0%} "
            f"or one has been timed for {timing.LONGEST:g} times that"
        )
    return method


def _open(
    files: Sequence[Path], against: str | None, settings: Settings, spec: SourceSpec | None, threads: int
) -> Subject:
    """Open every competitor that can be had."""
    manifest = common(files)
    interface, why = size.settled(manifest, settings.size)
    fixed = interface.inputs[0].shape[0]
    for batch in settings.batches:
        if isinstance(fixed, int) and batch != fixed:
            raise UsageError(f"batch {batch}: these artifacts take {fixed} at a time: give --batch {fixed}")
    found, absent = artifact_competitors(files, settings.engine, settings.device, threads)
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
        torch_ones, missing = reference.competitors(network, inputs, settings.device, threads, settings.torch)
        again = partial(reference.again, origin, manifest, interface, settings.batches[0], threads)
        torch_ones = [replace(one, recipe=isolated.Recipe(partial(again, one.name), one.name)) for one in torch_ones]
        found, absent = [*torch_ones, *found], {**missing, **absent}
    if not found:
        raise EngineError("nothing to measure here: " + "; ".join(f"{name}: {why}" for name, why in absent.items()))
    return Subject(interface, found, absent, why, origin, examiner)


def _describe(subject: Subject, files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What is known of each without timing it: engine, size, arithmetic."""
    counts = {file: _macs(file, subject.interface) for file in files}
    # PyTorch and TensorRT's engines run the same network: their arithmetic is that of the plainest artifact.
    plain = [
        count
        for file, count in counts.items()
        if count is not None and read_artifact(file)[0].precision in ("fp32", "fp16", "bf16")
    ]
    return {
        one.name: {
            "engine": one.engine,
            "precision": one.precision,
            "computes": one.computes or one.precision,
            "device": one.device,
            "file": None if one.file is None else one.file.name,
            "digest": one.digest or None,
            "bytes": one.bytes,
            "macs": counts[one.file]
            if one.file is not None and one.file.suffix == ".onnx"
            else min(plain, default=None),
            "cold_start_s": None,
            "peak_bytes": None,
            "device_bytes": None,
            **dict.fromkeys(DISTANCES),
        }
        for one in subject.competitors
    }


def _macs(file: Path, interface: Interface) -> int | None:
    """Multiply-accumulates of one item; None for engines, whose graph cannot be read."""
    if file.suffix != ".onnx":
        return None
    inputs = real_inputs(interface, 1, seed=1)
    shapes = {port.name: array.shape for port, array in zip(interface.inputs, inputs, strict=True)}
    found = arithmetic.multiply_accumulates(file.read_bytes(), shapes)
    return None if found is None else round(found / len(inputs[0]))


def _cold_starts(
    report: dict[str, Any],
    subject: Subject,
    files: Sequence[Path],
    settings: Settings,
    threads: int,
) -> None:
    """What a whole process costs, into the costs of those that were measured: artifacts and eager PyTorch."""
    if not settings.processes:
        return
    port = subject.interface.inputs[0]
    shape = "x".join(map(str, port.shape[1:])) if port.role == "image" else ""
    measured = {row["competitor"] for row in report["results"]}
    scripts: dict[str, list[str]] = {}
    for one in subject.competitors:
        if one.name not in measured:
            continue
        if one.file is not None:
            engine, device = one.place
            scripts[one.name] = process.artifact_script(one.file, engine, one.compute, device, threads, shape)
        elif one.name == EAGER and subject.reference is not None:
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


def _at_batch(
    report: dict[str, Any],
    subject: Subject,
    stage: isolated.Stage,
    failed: dict[str, Exception],
    batch: int,
    settings: Settings,
    pictures: Pictures | None,
    others: list[float],
    watch: Watch,
) -> None:
    """Time every competitor at one batch size, compare what they give, and add that to the report.

    `failed` holds the errors of those that could not be set up.
    """
    pool, said = input_pool.make(subject.interface, batch)
    report["method"].setdefault("pool", {})[str(batch)] = said
    turns: timing.Turns = {}
    outputs: dict[str, Output] = {}
    splits: dict[str, Split] = {}
    interrupted = False
    try:
        _timed(subject, stage, pool, settings, turns, failed, others, watch)
        able = [one for one in subject.competitors if turns.get(one.name)]
        _compute(able, pool, subject.interface, outputs, failed)
        for one in able:
            if one.split is not None:
                with timing.noted(one.name, failed):
                    splits[one.name] = one.split(pool)
    except KeyboardInterrupt:
        interrupted = True
        # Whole rounds are kept; what was not compared by then is compared no more.
    turns = timing.whole_rounds(turns)
    beside = {name.removeprefix(STICK): turns.pop(name) for name in list(turns) if name.startswith(STICK)}
    report["method"]["no_yardstick"] |= {
        name.removeprefix(STICK): str(failed.pop(name)) for name in list(failed) if name.startswith(STICK)
    }
    judge = _judge(subject.competitors, outputs, failed, report["reference"])
    report["reference"] = report["reference"] or (None if judge is None else judge.name)
    if beside:
        report["yardstick"][str(batch)] = {name: _rounded(timing.undisturbed(found)) for name, found in beside.items()}
    if turns:
        if pictures is not None:
            pictures.update({name: output[:4] for name, output in outputs.items() if name not in pictures})
        for one in subject.competitors:
            if one.name in turns and one.name not in failed:
                with timing.noted(one.name, failed):
                    row = _figures(report, one, batch, turns, failed)
                    row |= _fidelity(subject.interface, one, judge, outputs)
                    row["split"] = asdict(splits[one.name]) if one.name in splits else None
                    report["results"].append(row)
    report["failed"] += [_failure(name, batch, error) for name, error in failed.items()]
    if interrupted:
        raise KeyboardInterrupt


def _set(stage: isolated.Stage, subject: Subject, settings: Settings, threads: int) -> dict[str, Exception]:
    """Put competitors and yardsticks where they are timed; the errors of those that could not be."""
    able = {one.name: one.recipe if stage.able and one.recipe is not None else one for one in subject.competitors}
    sticks = yardsticks.wanted(subject.competitors, settings.device, threads)
    return stage.add({**able, **{STICK + name: recipe for name, recipe in sticks.items()}})


def _timed(
    subject: Subject,
    stage: isolated.Stage,
    pool: Sequence[Inputs],
    settings: Settings,
    turns: timing.Turns,
    failed: dict[str, Exception],
    others: list[float],
    watch: Watch,
) -> None:
    """Time every competitor, and yardsticks beside them; interrupted too, it says what others took meanwhile."""
    since: list[Others] = []

    def ready() -> None:
        since.append(Others(stage.used))

    try:
        if settings.strict:
            runs = {one.name: one.over(pool) for one in subject.competitors}
            timing.one_by_one(runs, settings.seconds, settings.iterations, turns, failed, ready, watch.look)
            return
        timed = stage.timed(pool)
        names = [one.name for one in subject.competitors]
        # The ratios that are shown, and those that `compare` looks at.
        known = [(EAGER, name) for name in names if name != EAGER]
        known += [(STICK + one.engine, one.name) for one in subject.competitors]
        timing.interleaved(
            {name: timed[name] for name in dict.fromkeys([*names, *timed]) if name in timed},
            settings.seconds,
            settings.iterations,
            turns,
            failed,
            ready,
            known,
            watch.look,
        )
    finally:
        others += [share for one in since if (share := one.share()) is not None]


def _compute(
    competitors: Sequence[Competitor],
    pool: Sequence[Inputs],
    interface: Interface,
    outputs: dict[str, Output],
    failed: dict[str, Exception],
) -> None:
    """What each gives for the first inputs of the pool, put into `outputs`."""
    least = COMPARED if interface.noise is not None else COMPARED_PICTURES
    compared = pool[: max(1, -(-least // len(pool[0][0])))]
    for one in competitors:
        with timing.noted(one.name, failed):
            outputs[one.name] = np.concatenate([one.run(arrays) for arrays in compared])


def _failure(name: str, batch: int, error: Exception) -> dict[str, Any]:
    """One that could not go on, as the report holds it."""
    return {"competitor": name, "batch": batch, "reason": str(error) or type(error).__name__}


def _examine(report: dict[str, Any], subject: Subject, examiner: Examiner) -> None:
    """FID and KID of every competitor that was measured, into its costs."""
    measured = {row["competitor"] for row in report["results"]}
    able = [one for one in subject.competitors if one.name in measured]
    judge = next((one for one in able if one.name == report["reference"]), None)
    batch = max(row["batch"] for row in report["results"])

    def failed(name: str, error: Exception) -> None:
        report["failed"].append(_failure(name, batch, error))

    for name, figures in examiner(able, judge, failed).items():
        report["competitors"][name].update(figures)
    report["distance"] = examiner.said


def _judge(
    competitors: Sequence[Competitor],
    outputs: Mapping[str, Output],
    failed: dict[str, Exception],
    before: str | None = None,
) -> Competitor | None:
    """Whom the others' pictures are compared with: eager PyTorch, or else the FP32 artifact in its first engine.

    The same at every batch size: where that one failed, nothing is compared. One that gives NaN has failed.
    """
    for one in sorted(competitors, key=lambda one: one.name != EAGER):
        wanted = (
            one.name == before if before else one.name == EAGER or (one.precision == "fp32" and len(competitors) > 1)
        )
        if not wanted or one.name not in outputs:
            continue
        if np.isfinite(outputs[one.name]).all():
            return one
        failed[one.name] = EngineError("it gives NaN or infinite values on real inputs: nothing is compared with it")
    return None


def _figures(
    report: dict[str, Any], one: Competitor, batch: int, turns: timing.Turns, failed: Collection[str]
) -> dict[str, Any]:
    """One row of the report: times, throughput, ratio to eager PyTorch and share of the peak."""
    found = timing.figures(turns[one.name])
    rounds = timing.undisturbed(turns[one.name])
    eager = EAGER in turns and EAGER not in failed
    ratio = timing.ratio(timing.undisturbed(turns[EAGER]), rounds) if eager else None
    macs = report["competitors"][one.name]["macs"]
    peak = report["peak"]["flops"].get(arithmetic.kind(report["competitors"][one.name]["computes"]))
    times = np.concatenate(turns[one.name])
    return {
        "competitor": one.name,
        "precision": one.precision,
        "batch": batch,
        "figures": asdict(found),
        "images_per_s": batch / found.mean,
        "speedup": None if ratio is None else ratio.value,
        "speedup_low": None if ratio is None or np.isnan(ratio.low) else ratio.low,
        "speedup_high": None if ratio is None or np.isnan(ratio.high) else ratio.high,
        "peak_share": None if macs is None or peak is None else 2 * macs * batch / found.p50 / peak,
        "rounds": _rounded(rounds),
        "quantiles": _rounded(np.quantile(times, np.linspace(0, 1, 51))),
    }


def _fidelity(
    interface: Interface, one: Competitor, judge: Competitor | None, outputs: Mapping[str, Output]
) -> dict[str, Any]:
    """How far its pictures are from the reference's, and whether that passes the gate of its precision."""
    if judge is None or judge is one or one.name not in outputs:
        return {"psnr": None, "ssim": None, "max_abs": None, "same": None}
    port = interface.output
    found = fidelity.difference(outputs[one.name], outputs[judge.name], port)
    gate = fidelity.gate_of(_gated(one), interface)
    if judge.name != EAGER and gate.max_abs is not None:
        gate = replace(gate, max_abs=2 * gate.max_abs)  # Each may be that far from eager PyTorch, on either side.
    elif port.dtype == "uint8" and gate.max_abs is not None:
        gate = replace(gate, max_abs=1 / 255 + 1e-4)  # Both are rounded to whole levels.
    return {"psnr": found.psnr, "ssim": found.ssim, "max_abs": found.max_abs, "same": gate.holds(found)}


def _gated(one: Competitor) -> Precision:
    """The precision whose gate applies: TF32 rounds to as many bits as FP16."""
    if "TF32" in one.computes:
        return "fp16"
    known: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8"}
    return known[one.precision]


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def warnings(results: Sequence[Mapping[str, Any]], others: float | None, load: float | None, cores: int) -> list[str]:
    """What a reader must know before believing the figures.

    Args:
        results: Rows of the report.
        others: Share of the cores' time that others took while it was timed; None where the system does not tell.
        load: Processes that wanted to run in the minute before anything was opened, to go by in that case.
        cores: That this process may use.
    """
    found = []
    what = ""
    if others is not None and others > OTHERS:
        what = f"it took {others:.0%} of {'its core' if cores == 1 else f'the {cores} cores'}"
    elif others is None and load is not None and load > BUSY * cores:
        what = f"load {load:.1f} on {cores} cores"
    if what:
        found.append(
            f"other work was running here ({what}): threads that wait for one another are "
            "hit hardest, so ratios between engines mislead too; measure again when it is quiet, or with --threads 1"
        )
    worst = max((row["figures"]["spread"] for row in results), default=0.0)
    if worst > timing.UNQUIET:
        found.append(f"the machine was not quiet: medians of turns lie up to {worst:.0%} apart; mind the intervals")
    return found
