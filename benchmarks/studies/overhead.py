"""Overhead of the runtime over the bare engine call, memory growth, thread safety.

    python -m ganedge.benchmarks.studies.overhead generator.onnx --batch 16
    python -m ganedge.benchmarks.studies.overhead monet2photo.onnx --size 256
    python -m ganedge.benchmarks.studies.overhead tiny.onnx --calls 10000

The bare call runs the same engine on an input in memory. The API draws latents or takes a uint8 picture, runs, and
returns uint8 pictures. Calls alternate, so that other load on the machine affects both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from ganedge.benchmarks.conditions import machine
from ganedge.runtime.cli import terminal
from ganedge.runtime.engines import cores, start
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.generator import Generator, load
from ganedge.runtime.latents import LatentStream
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.memory import resident
from ganedge.runtime.pictures.images import from_pixels

WARM_UP = 10
"""Pairs of calls before timing."""
SEEDS = 40
"""Different seeds or pictures that the threads use in turn."""


def pair(
    file: Path, engine: str, batch: int, size: int, threads: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the bare call and the API call that does the same work, each with its own instance of the engine."""
    manifest, model = read_artifact(file)
    bare = start(model, manifest.precision, engine, "cpu", threads)
    generator = load(file, engine, "cpu", threads, batch)
    port = manifest.interface.inputs[0]
    if manifest.interface.noise is not None:
        feeds = {port.name: LatentStream(manifest.interface.noise, port.item_shape, 0).take(batch)}
        if manifest.interface.classes:
            feeds[manifest.interface.inputs[1].name] = np.zeros(batch, np.int64)
        return lambda: bare.run(feeds), lambda: generator.sample(batch, seed=0)
    picture = np.random.default_rng(0).integers(0, 256, (size, size, port.channels), np.uint8)
    tensor = from_pixels(picture, port)
    return lambda: bare.run({port.name: tensor}), lambda: generator.translate(picture)


def overhead(bare: Callable[[], object], api: Callable[[], object], seconds: float) -> dict[str, float]:
    """Return the seconds of both and what the API adds: medians over pairs of calls, and a share of the bare call.

    `quiet` is the difference of the 10 % quantiles, which is more accurate on a busy machine.
    """
    times: list[tuple[float, float]] = []
    begin = time.monotonic()
    while time.monotonic() - begin < seconds or len(times) < WARM_UP + 10:
        first = time.perf_counter()
        bare()
        second = time.perf_counter()
        api()
        third = time.perf_counter()
        times.append((second - first, third - second))
    taken = np.array(times[WARM_UP:])
    middle = np.median(taken, axis=0)
    added = float(np.median(taken[:, 1] - taken[:, 0]))
    fast = np.percentile(taken, 10, axis=0)
    return {
        "bare": float(middle[0]),
        "api": float(middle[1]),
        "added": added,
        "quiet": float(fast[1] - fast[0]),
        "share": added / float(middle[0]),
        "calls": float(len(taken)),
    }


def growth(api: Callable[[], object], calls: int) -> float:
    """Return how much the resident memory grows over many calls, as a share, after a tenth as many calls of warm-up."""
    for _ in range(max(1, calls // 10)):
        api()
    before = resident()
    for _ in range(calls):
        api()
    after = resident()
    if before is None or after is None:
        raise GanEdgeError("this system does not report how much memory a process uses: run it on Linux")
    return after / before - 1


def threads_agree(file: Path, engine: str, size: int, threads: int = 8, calls: int = 500) -> bool:
    """Whether concurrent threads get bit for bit the same outputs as serial calls."""
    with load(file, engine, "cpu", 1) as generator, ThreadPoolExecutor(threads) as pool:
        expected = [_item(generator, seed, size) for seed in range(SEEDS)]

        def work(thread: int) -> bool:
            seeds = [(thread + turn) % SEEDS for turn in range(calls)]
            return all(np.array_equal(_item(generator, seed, size), expected[seed]) for seed in seeds)

        return all(pool.map(work, range(threads)))


def _item(generator: Generator, seed: int, size: int) -> NDArray[np.generic]:
    if generator.manifest.interface.noise is not None:
        return generator.sample(1, seed=seed)
    channels = generator.manifest.interface.inputs[0].channels
    return generator.translate(np.random.default_rng(seed).integers(0, 256, (size, size, channels), np.uint8))


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Measure what the runtime adds to the bare engine call.")

    @app.command()
    def measure(
        file: Annotated[Path, typer.Argument(help="An artifact.")],
        batch: Annotated[int, typer.Option(min=1, help="Items in one call of sample.")] = 1,
        size: Annotated[int, typer.Option(min=1, help="Height and width of the picture to translate.")] = 256,
        engine: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "onnxruntime",
        threads: Annotated[int, typer.Option(min=1, help="Threads of the engine.")] = 2,
        seconds: Annotated[float, typer.Option(min=0.0, help="Time to measure.")] = 10.0,
        calls: Annotated[int, typer.Option(min=0, help="Calls for the check of memory growth; 0 skips it.")] = 0,
        agree: Annotated[bool, typer.Option("--agree", help="Compare 8 threads × 500 calls with serial ones.")] = False,
    ) -> None:
        bare, api = pair(file, engine, batch, size, threads)
        report: dict[str, object] = {**overhead(bare, api, seconds)}
        typer.echo(
            f"bare {report['bare'] * 1e3:.3f} ms, API {report['api'] * 1e3:.3f} ms: "  # type: ignore[operator]
            f"{report['added'] * 1e6:.0f} µs added, {report['share']:.1%}; "  # type: ignore[operator]
            f"{report['quiet'] * 1e6:.0f} µs between the 10 % quantiles"  # type: ignore[operator]
        )
        if calls:
            report["growth"] = growth(api, calls)
            typer.echo(f"memory over {calls} calls: {report['growth']:+.2%}")
        if agree:
            report["agree"] = threads_agree(file, engine, size)
            typer.echo(f"8 threads × 500 calls equal serial ones: {'yes' if report['agree'] else 'NO'}")
        typer.echo(json.dumps({"schema": 1, "machine": machine(cores()), "engine": engine, **report}))

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.studies.overhead`."""
    terminal.run(build, "ganedge.benchmarks.studies.overhead", "cpu")


if __name__ == "__main__":
    main()
