"""Measure the fastest engine for an artifact on this machine, and remember it for `auto`.

    manifest, model = read_artifact(Path("generator.onnx"))
    trials = tune(model, manifest, batch=1, seconds=2.0, threads=None)
    remember(manifest.digest, best(trials).choice)

The choice is kept in one small file in the user's cache folder. It is advice: a damaged or foreign file is ignored, and
an engine that is requested by name is used whatever the file says. Where nothing is remembered, what the manifest says
of the exporting machine counts if this one has the same processor, and else the engine that the graph was made for.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from .engines import DEVICES, MODULES, cores, installed, readers, start
from .errors import EngineError, GanEdgeError
from .files import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from .engines import Engine
    from .manifest import Manifest

SWITCH = "GANEDGE_TUNE"
"""Environment variable: `0` turns tuning by itself off."""
LONG_START = 20.0
"""Processor time that starting an engine may take, seconds, for it to be started in other precisions as well."""
QUICK_SECONDS = 0.2
"""Seconds to measure each way where nobody asked for it."""
PLAINLY = 2.0
"""A long first call that takes so many times as long as the fastest's is the only one: later calls were at most 1.5
times as fast as the first, and a call more for each engine can take a second."""
COMPUTES = (None, "bf16", "fp16")
"""Precisions other than the artifact's that an engine may have been tuned to compute in."""
PSNR = 40.0
"""What an engine must reach beside the reference to be chosen, dB."""


@dataclass(frozen=True)
class Choice:
    """An engine that was measured."""

    engine: str
    """Its name."""
    version: str
    """Of its package: another one was not measured."""
    device: str
    """cpu or cuda."""
    compute: str | None = None
    """A precision other than the artifact's that it computes in."""

    @property
    def name(self) -> str:
        """The engine and what it computes in.

        >>> Choice("openvino", "2026.4", "cpu", "bf16").name
        'openvino in bf16'
        """
        return f"{self.engine} in {self.compute}" if self.compute else self.engine


class Call(NamedTuple):
    """A call and what it took."""

    inputs: list[NDArray[np.generic]]
    outputs: Sequence[NDArray[np.generic]]
    seconds: float
    work: float
    """Seconds less the time that other processes took, as far as the processor's time shows that."""


class Watched:
    """An engine that keeps its first call of each shape of its first input, so that it need not be made again.

    Args:
        engine: What computes; it stays open as long as this.
    """

    def __init__(self, engine: Engine) -> None:
        self.info = engine.info
        self._engine = engine
        self._calls: dict[tuple[int, ...], Call] = {}

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
        """Compute all outputs."""
        call = called(self._engine, feeds)
        self._calls.setdefault(call.inputs[0].shape, call)
        return call.outputs

    def first(self, feeds: Mapping[str, NDArray[np.generic]]) -> Call:
        """The call with these inputs, which is made now if it was not before."""
        import numpy as np

        known = self._calls.get(next(iter(feeds.values())).shape)
        if known is not None and all(map(np.array_equal, known.inputs, feeds.values())):
            return known
        return called(self._engine, feeds)

    def close(self) -> None:
        """Free the model and what was kept."""
        self._calls.clear()
        self._engine.close()


def called(engine: Engine, feeds: Mapping[str, NDArray[np.generic]]) -> Call:
    """Call an engine and note what that took."""
    begin, spent = time.perf_counter(), time.process_time()
    outputs = engine.run(feeds)
    taken, spent = time.perf_counter() - begin, time.process_time() - spent
    return Call(list(feeds.values()), outputs, taken, min(taken, spent))


@dataclass(frozen=True)
class Trial:
    """Measurement of one way of running an artifact."""

    choice: Choice
    """The way."""
    milliseconds: float
    """Median of one call."""
    psnr: float | None
    """Beside the reference, worst item, dB; None: identical."""

    @property
    def holds(self) -> bool:
        """Whether it is close enough to be chosen."""
        return self.psnr is None or self.psnr >= PSNR


def choose(manifest: Manifest, threads: int | None) -> Choice | None:
    """What is known to be fastest for an artifact here: remembered, or measured by its export on such a machine.

    Args:
        manifest: Of the artifact.
        threads: Threads of the engine's own pool; None where it chooses.

    Returns:
        None where nothing is known. An engine that failed the artifact's proof is never chosen.
    """
    choice = recall(manifest.digest, threads) or _measured_here(manifest, threads)
    return None if choice is None or choice.engine in manifest.failed else choice


def _measured_here(manifest: Manifest, threads: int | None) -> Choice | None:
    here = (processor(), threads or cores())
    fitting = [item for item in manifest.measured if (item.processor, item.threads) == here and item.device == "cpu"]
    if not fitting:
        return None
    fastest = min(fitting, key=lambda item: item.milliseconds)
    return _checked(Choice(fastest.engine, fastest.version, fastest.device, fastest.compute or None))


def preferred(manifest: Manifest) -> tuple[str, ...]:
    """The engines to try where no measurement applies: the one that the graph was made for, then those proven."""
    if manifest.made_for in manifest.proven or (not manifest.proven and manifest.made_for):
        return (manifest.made_for,)
    return manifest.proven


def refuse_failed(manifest: Manifest, engine: str) -> None:
    """Refuse an engine that gives other outputs than the generator: at the export it failed the proof.

    Args:
        manifest: Of the artifact.
        engine: A name, or auto, which needs one that did not fail.

    Raises:
        EngineError: it failed, or with auto all that are installed here did.
    """
    from .fidelity import miss

    able = [name for name in readers(manifest.precision) if installed(name)]
    left = [name for name in able if name not in manifest.failed]
    if engine not in manifest.failed and (engine != "auto" or left or not able):
        return
    proof = manifest.failed[engine if engine != "auto" else able[0]]
    passed = " or ".join(manifest.proven)
    remedy = f"use --engine auto or {passed}" if left else f"install {passed}, which passed"
    raise EngineError(f"{proof.engine_name} failed the proof of this artifact: {miss(proof)}; {remedy}")


def tune_once(model: bytes, manifest: Manifest, threads: int | None = None) -> Trial | None:
    """Measure the engines for an artifact of which nothing is known here, and remember the fastest.

    Returns:
        The fastest; None where it is known already, there is only one way to run it, nothing could be remembered, or
        the environment variable GANEDGE_TUNE is 0.
    """
    if os.environ.get(SWITCH) == "0" or choose(manifest, threads) is not None or len(ways(manifest)) < 2:
        return None
    if not _can_remember():
        return None
    trials = tune(model, manifest, 1, QUICK_SECONDS, threads)
    fastest = best(trials)
    remember(manifest.digest, fastest.choice, threads)
    return fastest


def ways(manifest: Manifest) -> list[tuple[str, str | None]]:
    """The installed engines that may run an artifact, each with the precisions that it may compute in."""
    names = [name for name in readers(manifest.precision) if installed(name) and name not in manifest.failed]
    return [(name, compute) for name in names for compute in _precisions(name, manifest)]


def processor() -> str:
    """The processor's own name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    name = named[0] if named else platform.processor() or platform.machine()
    return "".join(letter for letter in name if letter.isprintable())[:200]


def cache_file() -> Path:
    """Where choices are remembered."""
    return cache_folder() / "tuned.json"


def recall(digest: str, threads: int | None = None) -> Choice | None:
    """The choice for an artifact on this machine; None where there is none that can be read."""
    try:
        entry = json.loads(cache_file().read_text("utf-8"))[_key(digest, threads)]
        choice = Choice(**entry)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return _checked(choice)


def _checked(choice: Choice) -> Choice | None:
    """Return the choice if its names are valid."""
    known = choice.engine in tuple(MODULES) and choice.device in DEVICES and choice.compute in COMPUTES
    return choice if known and isinstance(choice.version, str) else None


def _can_remember() -> bool:
    """Whether the cache can be written: otherwise it would be measured again at every start."""
    from .files import write_whole

    path = cache_file().with_name("writable")
    try:
        write_whole(path, "")
        path.unlink()
    except (GanEdgeError, OSError):
        return False
    return True


def remember(digest: str, choice: Choice, threads: int | None = None) -> Path:
    """Remember a choice.

    Raises:
        GanEdgeError: the cache cannot be written.
    """
    from .files import write_whole

    path = cache_file()
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        content = {}
    content = content if isinstance(content, dict) else {}
    write_whole(path, json.dumps({**content, _key(digest, threads): asdict(choice)}, indent=1, sort_keys=True) + "\n")
    return path


def start_tuned(model: bytes, manifest: Manifest, choice: Choice, threads: int | None) -> Engine | None:
    """Start what was chosen; None where this machine no longer has it as it was measured."""
    if not installed(choice.engine):
        return None
    try:
        engine = start(model, manifest.precision, choice.engine, choice.device, threads, choice.compute)
    except EngineError:
        return None
    if engine.info.version != choice.version:
        engine.close()
        return None
    return engine


def tune(
    model: bytes,
    manifest: Manifest,
    batch: int,
    seconds: float,
    threads: int | None,
    beside: tuple[bytes, Manifest] | None = None,
    ready: Mapping[str, Watched] = MappingProxyType({}),
) -> list[Trial]:
    """Measure every way of running an artifact that this machine has, in turns.

    Args:
        model: The artifact.
        manifest: What it says of itself.
        batch: Items in one call.
        seconds: Time for each way.
        threads: Threads of each engine; None leaves the choice to it.
        beside: Another artifact with the same inputs, such as the FP32 one, that is timed in the same turns.
        ready: Engines that run the artifact on the CPU already, by name; they stay open.

    Returns:
        One trial a way; the first is the reference that the others were compared with. Behind them those of `beside`,
        in its own precision, whose `psnr` is None and whose choice says `compute` as its manifest's precision.

    Raises:
        EngineError: no engine is installed, or the only one fails.
    """
    from .fidelity import difference

    engines = started(model, manifest, threads, True, ready)
    if not engines:
        raise EngineError("nothing to tune: no installed engine runs this artifact (gan-run doctor says what is there)")
    feeds = feeds_of(manifest, batch)
    first = [engine.first(feeds) if isinstance(engine, Watched) else called(engine, feeds) for _, engine in engines]
    results = [call.outputs[0] for call in first]
    distances = [difference(result, results[0], manifest.interface.output) for result in results]
    others = [] if beside is None else started(*beside, threads, False)
    other_feeds = feeds if beside is None else feeds_of(beside[1], batch)
    calls = [partial(engine.run, feeds) for _, engine in engines]
    calls += [partial(engine.run, other_feeds) for _, engine in others]
    first += [called(engine, other_feeds) for _, engine in others]
    times = _times(calls, len(engines), seconds, first)
    for _, engine in (*engines, *others):
        if not isinstance(engine, Watched):
            engine.close()
    trials = [
        Trial(choice, 1000 * median, -math.inf if distance.nonfinite else distance.psnr)
        for (choice, _), distance, median in zip(engines, distances, times, strict=False)
    ]
    return trials + [
        Trial(replace(choice, compute=str(beside and beside[1].precision)), 1000 * median, None)
        for (choice, _), median in zip(others, times[len(engines) :], strict=True)
    ]


def _times(calls: Sequence[Callable[[], object]], own: int, seconds: float, first: Sequence[Call]) -> list[float]:
    """Median seconds of each call; one that is plainly much slower than another of its group is not called again.

    Args:
        calls: Of the artifact, and behind them those of the other.
        own: How many are the artifact's.
        seconds: Time for each.
        first: The first call of each.
    """
    from . import timing

    again: list[int] = []
    for group in (range(own), range(own, len(calls))):
        limit = max(timing.WAKES, PLAINLY * min((first[index].work for index in group), default=0.0))
        again += [index for index in group if first[index].work < limit]
    taken = [first[index].work for index in again]
    medians = timing.median_seconds([calls[index] for index in again], seconds, taken)
    times = dict(zip(again, medians, strict=True))
    return [times.get(index, call.seconds) for index, call in enumerate(first)]


def feeds_of(manifest: Manifest, batch: int) -> dict[str, NDArray[np.generic]]:
    """Real inputs of one call, by name."""
    from .inputs import real_inputs, sides

    ports = manifest.interface.inputs
    fixed = ports[0].shape[0]
    size = sides(ports[0], manifest.source.size)[0] if ports[0].role == "image" else None
    items = real_inputs(manifest.interface, fixed if isinstance(fixed, int) else batch, side=size)
    return {port.name: array for port, array in zip(ports, items, strict=True)}


def best(trials: Sequence[Trial]) -> Trial:
    """The fastest of those that are close enough; the reference always is."""
    return min((trial for trial in trials if trial.holds), key=lambda trial: trial.milliseconds)


def _key(digest: str, threads: int | None) -> str:
    """This machine, its threads and this artifact: homes are shared between machines."""
    system = os.uname() if hasattr(os, "uname") else None
    machine = f"{system.nodename} {system.machine}" if system else os.environ.get("COMPUTERNAME", "")
    return f"{machine} {cores()}{'' if threads is None else f' {threads}'} {digest}"


def started(
    model: bytes,
    manifest: Manifest,
    threads: int | None,
    lower: bool = True,
    ready: Mapping[str, Watched] = MappingProxyType({}),
) -> list[tuple[Choice, Engine]]:
    """Every way that starts, preferred engines first; with `lower` in precisions below the artifact's own too.

    An engine that takes more than `LONG_START` to prepare the artifact's own precision is started in no other. One that
    is `ready` on the CPU is not started again, unless it would start on another device.
    """
    candidates: list[tuple[Choice, Engine]] = []
    first, slow = preferred(manifest), set[str]()
    for name, compute in sorted(ways(manifest), key=lambda way: way[0] not in first):
        if compute is not None and (name in slow or not lower):
            continue
        if compute is None and name in ready and not _starts_on_gpu(name):
            candidates.append((Choice(name, ready[name].info.version, ready[name].info.device), ready[name]))
            continue
        began = time.process_time()
        try:
            engine = start(model, manifest.precision, name, "auto", threads, compute)
        except EngineError:
            continue
        finally:
            if time.process_time() - began > LONG_START:
                slow.add(name)
        candidates.append((Choice(name, engine.info.version, engine.info.device, compute), engine))
    return candidates


def _starts_on_gpu(name: str) -> bool:
    """Whether an engine takes a GPU here where it may."""
    from .engines import ort

    return name == "onnxruntime" and ort.takes_cuda()


def _precisions(name: str, manifest: Manifest) -> list[str | None]:
    """The artifact's own precision, and lower ones where the engine computes in them on request."""
    if name != "openvino" or manifest.precision != "fp32":
        return [None]
    from .engines.ov import precisions

    return [None, *precisions()]
