"""Measure the fastest engine for an artifact on this machine, and remember it for `auto`.

    manifest, model = read_artifact(Path("generator.onnx"))
    trials = tune(model, manifest, batch=1, seconds=2.0, threads=None)
    remember(manifest.digest, best(trials).choice)

The choice is kept in one small file in the user's cache folder. It is advice: a damaged or foreign file is ignored, and
an engine that is requested by name is used whatever the file says.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .engines import DEVICES, MODULES, cores, installed, start
from .errors import EngineError
from .files import cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .engines import Engine
    from .manifest import Manifest

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


@dataclass(frozen=True)
class Trial:
    """What one way of running an artifact came to."""

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


def proven(manifest: Manifest) -> tuple[str, ...]:
    """The engines whose results were proven for this artifact."""
    return tuple(proof.engine.split()[0] for proof in manifest.parity if proof.passed)


def cache_file() -> Path:
    """Where choices are remembered."""
    return cache_folder() / "tuned.json"


def recall(digest: str) -> Choice | None:
    """The choice for an artifact on this machine; None where there is none that can be read."""
    try:
        entry = json.loads(cache_file().read_text("utf-8"))[_key(digest)]
        choice = Choice(**entry)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    known = choice.engine in tuple(MODULES) and choice.device in DEVICES and choice.compute in COMPUTES
    return choice if known else None


def remember(digest: str, choice: Choice) -> Path:
    """Remember a choice.

    Raises:
        GanEdgeError: the cache cannot be written.
    """
    from .files import write_whole

    path = cache_file()
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        content = {}
    content = content if isinstance(content, dict) else {}
    write_whole(path, json.dumps({**content, _key(digest): asdict(choice)}, indent=1, sort_keys=True) + "\n")
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


def tune(model: bytes, manifest: Manifest, batch: int, seconds: float, threads: int | None) -> list[Trial]:
    """Measure every way of running an artifact that this machine has, in turns.

    Args:
        model: The artifact.
        manifest: What it says of itself.
        batch: Items in one call.
        seconds: Time for each way.
        threads: Threads of each engine; None leaves the choice to it.

    Returns:
        One trial a way; the first is the reference that the others were compared with.

    Raises:
        EngineError: no engine is installed, or the only one fails.
    """
    from . import timing
    from .fidelity import difference
    from .inputs import real_inputs, sides

    engines = _engines(model, manifest, threads)
    if not engines:
        raise EngineError("nothing to tune: no installed engine runs this artifact (gan-run doctor says what is there)")
    ports = manifest.interface.inputs
    fixed = ports[0].shape[0]
    port = manifest.interface.inputs[0]
    size = sides(port, manifest.source.size)[0] if port.role == "image" else None
    items = real_inputs(manifest.interface, fixed if isinstance(fixed, int) else batch, side=size)
    feeds = {port.name: array for port, array in zip(ports, items, strict=True)}
    outputs = [engine.run(feeds)[0] for _, engine in engines]
    times = timing.median_seconds([partial(engine.run, feeds) for _, engine in engines], seconds)
    for _, engine in engines:
        engine.close()
    distances = [difference(output, outputs[0], manifest.interface.output) for output in outputs]
    return [
        Trial(choice, 1000 * median, -math.inf if distance.nonfinite else distance.psnr)
        for (choice, _), distance, median in zip(engines, distances, times, strict=True)
    ]


def best(trials: Sequence[Trial]) -> Trial:
    """The fastest of those that are close enough; the reference always is."""
    return min((trial for trial in trials if trial.holds), key=lambda trial: trial.milliseconds)


def _key(digest: str) -> str:
    """This machine and this artifact: homes are shared between machines."""
    system = os.uname() if hasattr(os, "uname") else None
    machine = f"{system.nodename} {system.machine}" if system else os.environ.get("COMPUTERNAME", "")
    return f"{machine} {cores()} {digest}"


def _engines(model: bytes, manifest: Manifest, threads: int | None) -> list[tuple[Choice, Engine]]:
    """Every way that starts, proven engines first."""
    candidates: list[tuple[Choice, Engine]] = []
    first = proven(manifest)
    for name in sorted(MODULES, key=lambda known: known not in first):
        if not installed(name):
            continue
        for compute in _precisions(name, manifest):
            try:
                engine = start(model, manifest.precision, name, "auto", threads, compute)
            except EngineError:
                continue
            candidates.append((Choice(name, engine.info.version, engine.info.device, compute), engine))
    return candidates


def _precisions(name: str, manifest: Manifest) -> list[str | None]:
    """The artifact's own precision, and lower ones where the engine computes in them on request."""
    if name != "openvino" or manifest.precision != "fp32":
        return [None]
    from .engines.ov import precisions

    return [None, *precisions()]
