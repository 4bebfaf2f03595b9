"""Does `load(path)` without arguments take the fastest engine? Nine systems in FP32, FP16 and INT8.

    python -m ganedge.benchmarks.studies.auto_choice --out auto.json                  # all at default size, minutes
    python -m ganedge.benchmarks.studies.auto_choice --systems dcgan,cyclegan-resnet --precisions fp32

Each artifact is made, proven and timed as `gan-export` does that. It is opened by `load` without arguments and in every
installed engine, also in lower precisions that an engine computes in on request and that are close enough. All are then
timed in turns. Speed does not depend on weights, so nothing is trained. What machines remember of other artifacts is
neither read nor changed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganedge.benchmarks.conditions import machine
from ganedge.export.artifact import make, write_artifact_file
from ganedge.export.from_torch import of_network
from ganedge.export.parity import Running
from ganedge.export.source_model import SourceModel
from ganedge.export.spec import ExportSpec
from ganedge.export.speed import measured
from ganedge.models import find
from ganedge.runtime import engines, load, timing, tuning
from ganedge.runtime.cli import terminal
from ganedge.runtime.engines import EngineInfo
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.fidelity import difference
from ganedge.runtime.generator import Generator
from ganedge.runtime.manifest import Source, read_artifact

SYSTEMS = {
    "circles": ("circles", None),
    "mlp-dropout": ("mlp", "dropout"),
    "mlp-batchnorm": ("mlp", "batchnorm"),
    "digit": ("digit", None),
    "dcgan": ("dcgan", None),
    "wgan": ("wgan", None),
    "pix2pix": ("pix2pix", None),
    "cyclegan-conv": ("cyclegan", "conv"),
    "cyclegan-resnet": ("cyclegan", "resnet"),
}
"""Variant and preset of each system."""
PRECISIONS = ("fp32", "fp16", "int8")
WITHIN = 1.05
"""Most that `auto` may take, as a multiple of the fastest way's time."""
TURN = 0.04
"""Seconds of one turn: in turns of a few calls OpenVINO's threads wake up too often for tiny networks."""
CALLS = 10
"""Calls of each way at least."""


def source_of(name: str, size: int | None = None) -> SourceModel:
    """The first generator of a system with random weights, at its default size or another."""
    torch.manual_seed(0)
    variant_name, preset = SYSTEMS[name]
    variant = find(variant_name)
    options = {} if size is None else {"size": size}
    config: Any = variant.config_class(**{**variant.presets.get(preset or "", {}), **options})
    gan = variant(config)
    generator, interface = next(iter(gan.generators().items()))
    side = getattr(config, "size", None)
    return of_network(gan.networks[generator], interface, Source(config={} if side is None else {"size": side}))


def write(source: SourceModel, precision: Any, path: Path) -> None:
    """Make an artifact as `gan-export` does, with the engine that is the fastest remembered."""
    with Running() as running:
        artifact, _ = measured(make(source, ExportSpec(precision=precision), running), source, running=running)
    write_artifact_file(path, artifact)


def race(path: Path, seconds: float) -> dict[str, Any]:
    """Open an artifact as `auto` does and in every other way, and time all in turns.

    Returns:
        The way that `auto` takes, the fastest, by how much `auto` takes longer than it, and milliseconds.
    """
    manifest, model = read_artifact(path)
    feeds = tuning.feeds_of(manifest, 1)
    inputs = list(feeds.values())
    with ExitStack() as stack:
        auto = stack.enter_context(load(path))
        ways: dict[str, Callable[[], Any]] = {}
        reference = None
        for _, engine in tuning.started(model, manifest, None):
            generator = stack.enter_context(Generator(manifest, engine))
            output = generator.run(*inputs)
            reference = output if reference is None else reference
            psnr = difference(output, reference, manifest.interface.output).psnr
            if psnr is None or psnr >= tuning.PSNR:
                ways[label(engine.info)] = partial(generator.run, *inputs)
        chosen = label(auto.engine)
        auto.run(*inputs)
        return {"chosen": chosen, **compared(partial(auto.run, *inputs), chosen, ways, seconds)}


def label(info: EngineInfo) -> str:
    """The name of a way: engine, and what it computes in."""
    return f"{info.name}, {info.precision}"


def compared(
    auto: Callable[[], Any], chosen: str, ways: Mapping[str, Callable[[], Any]], seconds: float
) -> dict[str, Any]:
    """Time `auto` and every way in turns: the fastest way, and how many times as long as it `auto` takes.

    A way that takes `timing.HOPELESS` times as long as the fastest in its second call is not timed further. Both copies
    of the chosen engine are timed, so that what `auto` takes and the fastest are never the same numbers.
    """
    once = {name: _seconds(run) for name, run in ways.items()}
    near = [name for name in ways if once[name] <= timing.HOPELESS * min(once.values()) or name == chosen]
    runs = {"auto": auto, **{name: ways[name] for name in near}}
    competitors = {name: _competitor(run) for name, run in runs.items()}
    turns = timing.interleaved(competitors, seconds, CALLS, known=[])
    quiet = {name: timing.undisturbed(turns[name]) for name in runs}
    times = {name: float(np.median(values)) for name, values in quiet.items()}
    fastest = min(near, key=lambda name: times[name])
    ratio = float(np.median(quiet["auto"] / quiet[fastest]))
    return {
        "fastest": fastest,
        "ratio": ratio,
        "within": fastest == chosen or ratio <= WITHIN,
        "ms": {**{name: 1e3 * taken for name, taken in once.items()}, **{n: 1e3 * taken for n, taken in times.items()}},
    }


def _competitor(run: Callable[[], Any]) -> timing.Timed:
    """A way that is called without pauses for `TURN` at least, as a folder of pictures is."""
    shortest = timing.here(lambda _: run())
    return timing.Timed(lambda first, least, wakes: shortest.turn(first, max(TURN, least), wakes))


def _seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def study(systems: list[str], precisions: list[str], seconds: float, size: int | None) -> dict[str, Any]:
    """Every system in every precision; a precision that cannot be made says why."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update({"XDG_CACHE_HOME": folder, tuning.SWITCH: "1"})
        for name in systems:
            source = source_of(name, size)
            for precision in precisions:
                path = Path(folder) / f"{name}-{precision}.onnx"
                row: dict[str, Any] = {"system": name, "precision": precision}
                try:
                    write(source, precision, path)
                    row |= race(path, seconds)
                except GanEdgeError as error:
                    row["refused"] = str(error)
                rows.append(row)
                print(line(row), flush=True)
    return {"machine": machine(engines.cores()), "seconds": seconds, "size": size or "default", "rows": rows}


def line(row: Mapping[str, Any]) -> str:
    """One row for people."""
    head = f"{row['system']:<16} {row['precision']:<5}"
    if "refused" in row:
        return f"{head} not made: {row['refused']}"
    verdict = "" if row["within"] else "  SLOWER"
    return f"{head} auto: {row['chosen']}; fastest: {row['fastest']}; {row['ratio']:.3f} ×{verdict}"


@terminal.one_line_errors("auto_choice", "train")
def main() -> None:
    """Parse the command line, measure, write; exit code 1 where `auto` was too slow for one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--seconds", type=float, default=0.5, help="to time each way, at least")
    parser.add_argument("--size", type=int, help="of the pictures; each system's default where it is left out")
    options = parser.parse_args()
    report = study(options.systems.split(","), options.precisions.split(","), options.seconds, options.size)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    timed = [row for row in report["rows"] if "ratio" in row]
    held = sum(row["within"] for row in timed)
    print(f"auto takes the fastest way, or is within 5 % of it, for {held} of {len(timed)} artifacts")
    raise SystemExit(held < len(timed))


if __name__ == "__main__":
    main()
