"""Latency of a generator: artifacts in their engines beside the PyTorch module they came from.

    report = measure([Path("generator.onnx")], against="runs/digits", settings=Settings(batches=(1, 8)))

What is timed is one call from a NumPy array on the host to a NumPy array on the host, with fresh real inputs each
time, on the same number of threads for all. The report is a table ready for JSON; benchmarks/SCHEMA.md describes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ganedge.benchmarks import arithmetic, process, size, timing
from ganedge.benchmarks.competitor import EAGER, TORCH, Competitor, Inputs, artifact_competitors
from ganedge.benchmarks.conditions import Others, conditions, machine
from ganedge.export import parity
from ganedge.runtime import fidelity
from ganedge.runtime.errors import EngineError, GanEdgeError, MissingExtra, UsageError
from ganedge.runtime.manifest import Interface, Precision

if TYPE_CHECKING:
    from ganedge.benchmarks.distance import Distance, Examiner
    from ganedge.benchmarks.reference import Said

__all__ = ["EAGER", "Settings", "machine", "measure"]

SCHEMA = 3
"""Version of the report."""
POOL_BYTES = 2**26
"""Inputs kept ready: more than the caches of most processors hold, where the count below allows it."""
POOL_ITEMS = 4096
"""Inputs of latents at most; making more takes longer than measuring."""
POOL_PICTURES = 32
"""Pictures at most, as making one by code takes long; at least 8 batches in either case."""
YARDSTICK = 100_000
"""Numbers that are sorted, timed beside the others and the same in every report: work of one thread. NumPy's matrix
product would leave the threads of its own library spinning, and slow down whoever comes next."""
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
STRICT_QUERIES, STRICT_SECONDS = 1024, 60.0
"""MLPerf inference, single stream: the least queries, and the least duration that its first rounds asked for. Later
rounds ask for 600 s: `--strict --seconds 600`."""
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
    """MLPerf's single stream: batch 1, at least 1024 calls and 60 s each, the 90th percentile is the result."""

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

    @property
    def least(self) -> tuple[float, int]:
        """Seconds and calls that each competitor is timed for."""
        if not self.strict:
            return self.seconds, self.iterations
        return max(self.seconds, STRICT_SECONDS), max(self.iterations, STRICT_QUERIES)


@dataclass
class Subject:
    """What is measured, opened: change it to plant something in a test."""

    interface: Interface
    """What goes in, of one size, and what comes out."""
    competitors: list[Competitor]
    absent: dict[str, str]
    why: str = ""
    """Why pictures are of that size."""
    said: Said | None = None
    """What a module does not say itself, as other processes need it."""
    examiner: Examiner | None = None


Pictures = dict[str, Output]
Change = Callable[[Subject], None]


def measure(
    files: Sequence[Path],
    against: str | None = None,
    settings: Settings | None = None,
    said: Said | None = None,
    change: Change | None = None,
    pictures: Pictures | None = None,
) -> dict[str, Any]:
    """Measure artifacts, and the generator they came from in PyTorch.

    Args:
        files: Artifacts.
        against: A run's folder, a module as `gan-export` takes it, or a checkpoint; None leaves PyTorch out.
        settings: How to measure.
        said: What a module does not say itself.
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
    threads = settings.threads or _cores()
    before = conditions()
    subject = _open(files, against, settings, said, threads)
    if change is not None:
        change(subject)
    given = size.inputs(subject.interface)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "partial": False,
        "machine": machine(threads),
        "conditions": {"before": before},
        "method": _method(settings),
        "inputs": given,
        "size": subject.why,
        "reference": None,
        "absent": subject.absent,
        "failed": [],
        "competitors": {},
        "peak": {"flops": None, "how": "not reached"},
        "yardstick": {},
        "distance": None,
        "results": [],
        "warnings": [],
    }
    others: list[float] = []
    try:
        peak, how = arithmetic.peak_flops(threads, settings.device)
        report["peak"] = {"flops": peak, "how": how}
        report["competitors"] = _describe(report, subject, against, settings, threads)
        for batch in settings.batches:
            _at_batch(report, subject, batch, settings, pictures, others)
        if subject.examiner is not None:
            _examine(report, subject, subject.examiner)
    except KeyboardInterrupt:
        report["partial"] = True
        if not report["results"]:
            raise
    if not report["results"]:
        first = report["failed"][0]
        raise EngineError(f"nothing could be measured: {first['competitor']}: {first['reason']}")
    report["conditions"]["during"] = {"others": max(others)} if others else {}
    report["conditions"]["after"] = conditions()
    load = before.get("load")
    known = load if isinstance(load, float) else None
    report["warnings"] += warnings(report["results"], max(others, default=None), known, _cores())
    for competitor in subject.competitors:
        competitor.close()
    return report


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _method(settings: Settings) -> dict[str, Any]:
    seconds, iterations = settings.least
    return {
        "timed": "one call, NumPy array in to NumPy array out, fresh real inputs each time",
        "warmup": "until the median settles",
        "renewed": f"on a CPU, started anew between turns, for up to {timing.RENEWAL:.0%} of the time it is timed for",
        "order": f"interleaved in turns of {timing.TURN_SECONDS} s and {timing.TURN_CALLS} calls, "
        f"{timing.TURN_LONGEST} s at most, in a new order each round, after all threads have gone to sleep",
        "ratio": "of the lower quartiles of turns within a round, their median over the rounds",
        "interval": f"{timing.LEVEL:.0%}, rounds resampled {timing.RESAMPLES} times",
        "seconds": seconds,
        "iterations": iterations,
        "device": settings.device,
        "longer": f"up to {timing.LONGEST:g} times that, until ratios are known to {timing.PRECISE:.0%}",
        "dropped": 0,
        "strict": settings.strict,
    }


def _open(files: Sequence[Path], against: str | None, settings: Settings, said: Said | None, threads: int) -> Subject:
    """Open every competitor that can be had."""
    found, absent = artifact_competitors(files, settings.engine, settings.device, threads)
    manifest = found[0].manifest
    assert manifest is not None
    interface, why = size.settled(manifest, settings.size)
    fixed = interface.inputs[0].shape[0]
    for batch in settings.batches:
        if isinstance(fixed, int) and batch != fixed:
            raise UsageError(f"batch {batch}: these artifacts take {fixed} at a time and nothing else")
    examiner: Examiner | None = None
    if settings.distance is not None:
        from ganedge.benchmarks import distance

        examiner = distance.Examiner(settings.distance, interface, max(settings.batches))
    if against is None:
        absent[EAGER] = "no generator to compare with: give --against"
    elif find_spec("torch") is None:
        absent[EAGER] = str(MissingExtra("torch", "export", EAGER))
    else:
        from ganedge.benchmarks import reference

        said = said or reference.Said()
        network = reference.open_reference(against, manifest, said)
        said = replace(said, plain=reference.is_plain(network))
        inputs = parity.real_inputs(interface, settings.batches[0], seed=1)
        reference.check(network, interface, inputs)
        torch_ones, missing = reference.competitors(network, inputs, settings.device, threads, settings.torch)
        found, absent = [*torch_ones, *found], {**missing, **absent}
    return Subject(interface, found, absent, why, said, examiner)


def _describe(
    report: dict[str, Any], subject: Subject, against: str | None, settings: Settings, threads: int
) -> dict[str, dict[str, Any]]:
    """What does not depend on the batch: engine, size, arithmetic, and what a whole process costs."""
    rows: dict[str, dict[str, Any]] = {}
    scripts: dict[str, list[str]] = {}
    counts: dict[Path, int | None] = {}
    port = subject.interface.inputs[0]
    shape = "x".join(map(str, port.shape[1:])) if port.role == "image" else ""
    for one in subject.competitors:
        if one.file is not None and one.file not in counts:
            counts[one.file] = _macs(one.file, subject.interface)
        rows[one.name] = {
            "engine": one.engine,
            "precision": one.precision,
            "device": one.device,
            "file": None if one.file is None else one.file.name,
            "digest": None if one.manifest is None else one.manifest.digest,
            "bytes": one.bytes,
            "macs": None if one.file is None else counts[one.file],
            "cold_start_s": None,
            "peak_bytes": None,
            **dict.fromkeys(DISTANCES),
        }
        engine = one.engine.split()[0]
        if one.file is not None and engine != "ort-tensorrt":
            name = "auto" if one.file.suffix == ".engine" else engine
            scripts[one.name] = process.artifact_script(one.file, name, one.compute, settings.device, threads, shape)
        elif one.name == EAGER and against is not None and subject.said is not None:
            file = next(other.file for other in subject.competitors if other.file is not None)
            if file.suffix == ".onnx":
                text = subject.said.to_json()
                scripts[EAGER] = process.eager_script(against, file, settings.device, threads, shape, text)
    # PyTorch runs the same network: its arithmetic is that of the plainest artifact.
    plain = [row["macs"] for row in rows.values() if row["macs"] is not None and row["precision"] == "fp32"]
    for row in rows.values():
        if row["file"] is None and plain:
            row["macs"] = min(plain)
    if settings.processes:
        failed: dict[str, str] = {}
        for name, cost in process.measure(scripts, settings.processes, failed).items():
            rows[name].update(cost)
        report["warnings"] += [f"no cold start of {name}: {reason}" for name, reason in failed.items()]
    return rows


def _macs(file: Path, interface: Interface) -> int | None:
    """Multiply-accumulates of one item; None for engines, whose graph cannot be read."""
    if file.suffix != ".onnx":
        return None
    inputs = parity.real_inputs(interface, 1, seed=1)
    shapes = {port.name: array.shape for port, array in zip(interface.inputs, inputs, strict=True)}
    return arithmetic.multiply_accumulates(file.read_bytes(), shapes)


def _at_batch(
    report: dict[str, Any],
    subject: Subject,
    batch: int,
    settings: Settings,
    pictures: Pictures | None,
    others: list[float],
) -> None:
    """Time every competitor at one batch size, compare what they give, and add that to the report."""
    pool = _pool(subject.interface, batch)
    timed: dict[str, timing.Competitor] = {one.name: _over(one.run, pool) for one in subject.competitors}
    timed["yardstick"] = _yardstick()
    renew = {one.name: one.renew for one in subject.competitors if one.renew is not None}
    # Ratios are to eager PyTorch, and to nothing where it is not there.
    names = {one.name for one in subject.competitors}
    settled = names if EAGER in names else set()
    turns: timing.Turns = {}
    failed: dict[str, Exception] = {}
    watch: list[Others] = []
    interrupted = False
    try:
        timing.interleaved(timed, *settings.least, turns, failed, lambda: watch.append(Others()), renew, settled)
    except KeyboardInterrupt:
        interrupted = True
    others += [share for one in watch if (share := one.share()) is not None]
    turns = timing.whole_rounds(turns)
    if turns.get("yardstick"):
        report["yardstick"][str(batch)] = _rounded(timing.undisturbed(turns.pop("yardstick")))
        least = COMPARED if subject.interface.noise is not None else COMPARED_PICTURES
        outputs: dict[str, Output] = {}
        try:
            _compute([one for one in subject.competitors if one.name in turns], pool, least, outputs, failed)
        except KeyboardInterrupt:
            interrupted = True
        judge = _judge(subject.competitors, outputs, report["reference"])
        report["reference"] = report["reference"] or (None if judge is None else judge.name)
        if pictures is not None:
            pictures.update({name: output[:4] for name, output in outputs.items() if name not in pictures})
        for one in subject.competitors:
            if one.name in turns and one.name not in failed:
                row = _figures(report, one, batch, turns)
                row |= _fidelity(subject.interface, one, judge, outputs)
                row["split"] = None if one.split is None or interrupted else asdict(one.split(pool))
                report["results"].append(row)
    report["failed"] += [_failure(name, batch, error) for name, error in failed.items()]
    if interrupted:
        raise KeyboardInterrupt


def _compute(
    competitors: Sequence[Competitor],
    pool: Sequence[Inputs],
    least: int,
    outputs: dict[str, Output],
    failed: dict[str, Exception],
) -> None:
    """What each gives for the first inputs of the pool, `least` items or more, put into `outputs`."""
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


def _over(run: Callable[[Inputs], Output], pool: Sequence[Inputs]) -> timing.Competitor:
    return lambda i: run(pool[i % len(pool)])


def _judge(
    competitors: Sequence[Competitor], outputs: Mapping[str, Output], before: str | None = None
) -> Competitor | None:
    """Whom the others' pictures are compared with: eager PyTorch, or else the FP32 artifact in its first engine.

    The same at every batch size: where that one failed, nothing is compared.
    """
    able = [one for one in competitors if one.name in outputs]
    if before is not None:
        return next((one for one in able if one.name == before), None)
    eager = next((one for one in able if one.name == EAGER), None)
    return eager or next((one for one in able if one.precision == "fp32" and len(competitors) > 1), None)


def _figures(report: dict[str, Any], one: Competitor, batch: int, turns: timing.Turns) -> dict[str, Any]:
    """One row of the report: times, throughput, ratio to eager PyTorch and share of the peak."""
    found = timing.figures(turns[one.name])
    rounds = timing.undisturbed(turns[one.name])
    ratio = timing.ratio(timing.undisturbed(turns[EAGER]), rounds) if EAGER in turns else None
    macs, peak = report["competitors"][one.name]["macs"], report["peak"]["flops"]
    times = np.concatenate(turns[one.name])
    return {
        "competitor": one.name,
        "precision": one.precision,
        "batch": batch,
        "figures": asdict(found),
        "images_per_s": batch / found.mean,
        "speedup": None if ratio is None else ratio.value,
        "speedup_low": None if ratio is None else ratio.low,
        "speedup_high": None if ratio is None else ratio.high,
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
    if not np.isfinite(outputs[judge.name]).all():
        raise GanEdgeError(f"{judge.name} gives NaN or infinite values on real inputs: nothing can be compared with it")
    found = fidelity.difference(outputs[one.name], outputs[judge.name], port)
    gate = fidelity.gate_of(_gated(one), interface)
    if judge.name != EAGER and gate.max_abs is not None:
        gate = replace(gate, max_abs=2 * gate.max_abs)  # Each may be that far from eager PyTorch, on either side.
    elif port.dtype == "uint8" and gate.max_abs is not None:
        gate = replace(gate, max_abs=1 / 255 + 1e-4)  # Both are rounded to whole levels.
    return {"psnr": found.psnr, "ssim": found.ssim, "max_abs": found.max_abs, "same": gate.holds(found)}


def _gated(one: Competitor) -> Precision:
    """The precision whose gate applies."""
    known: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "int8": "int8"}
    return known[one.precision]


def _yardstick() -> timing.Competitor:
    """A fixed piece of work: what it takes tells how fast the machine is going just then."""
    values = np.random.default_rng(0).random(YARDSTICK, np.float32)
    return lambda _: np.sort(values)


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


def _pool(interface: Interface, batch: int) -> list[Inputs]:
    """Real inputs enough that no call sees the one before again soon."""
    item = parity.real_inputs(interface, 1, seed=1)[0].nbytes
    most = POOL_ITEMS if interface.noise is not None else POOL_PICTURES
    count = max(8, min(POOL_BYTES // (item * batch), most // batch))
    arrays = parity.real_inputs(interface, min(count * batch, most), seed=1)
    have = len(arrays[0])
    places = [np.arange(i * batch, (i + 1) * batch) % have for i in range(count)]
    return [[array[place] for array in arrays] for place in places]
