"""Training speed of this project's loop, compared with a tutorial's plain loop.

    gan-bench train --seconds 20 --json training.json

`plain.py` has the plain loops. Both loops train in turns of whole steps (one on a CPU, several on CUDA). Each turn is
timed, and nothing after the warm-up is dropped. The data are random pictures of the right size, kept in memory by both.
This project's loop includes its reports, samples and checkpoints; because these are rare, ratios are of total times,
not of medians.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ganedge.benchmarks import latency, plain
from ganedge.benchmarks.conditions import Others, Watch, conditions, machine
from ganedge.benchmarks.plain import Device
from ganedge.models import find
from ganedge.models.variant import Wants, require
from ganedge.runtime import engines, timing
from ganedge.runtime.errors import EngineError, GanEdgeError, UsageError
from ganedge.train import arithmetic, compiling
from ganedge.train.data import EXAMPLES, Data
from ganedge.train.devices import make_fabric
from ganedge.train.reporter import Reporter
from ganedge.train.settings import Precision, Settings
from ganedge.train.sources import InMemory
from ganedge.train.trainer import Trainer

SCHEMA = 3
"""Version of the report."""
CUDA_TURN = 20
"""Steps of one turn on CUDA: synchronising after each step would prevent a loop from running ahead of the GPU."""
WARM_UP = 3
"""Turns in each block of the warm-up."""
BLOCK_SECONDS = 0.5
"""Length of a resampled block: as many consecutive turns as take the plain loop this long."""
ITEMS = 2048
"""Pictures in the data set."""
CASES: dict[str, dict[str, Any]] = {
    "mlp": {"batch": 64, "size": 28, "channels": 1},
    "dcgan": {"batch": 32, "size": 64, "channels": 3, "width": 64},
    "dcgan-modern": {
        **find("dcgan").presets["modern"],
        "size": 64,
        "channels": 3,
        "augment": "",
        "blur": 0.0,
        "blur_steps": 0,
    },
    "pix2pix": {"size": 64, "decay": 1.0},
    "pix2pix-modern": {**find("pix2pix").presets["modern"], "size": 64, "decay": 1.0, "augment": ""},
    "cyclegan": {**find("cyclegan").presets["resnet"], "size": 64, "decay": 1.0},
    "cyclegan-modern": {**find("cyclegan").presets["modern"], "size": 64, "decay": 1.0, "augment": ""},
}
"""Trained GANs: the fully connected one on pictures of MNIST's size, the others at 64 × 64 in colour, and their presets
`modern` without augmentation and blur. The name of a variant comes first."""
KEYS = {"images": ("images",), "pairs": ("input", "target"), "unpaired": ("a", "b")}
"""Pictures of a batch, by the kind of data."""


def our_steps(
    name: str,
    config: Any,
    pixels: Mapping[str, np.ndarray],
    precision: Precision,
    device: Device = "cpu",
    compiled: bool = False,
) -> Iterator[str]:
    """Run this project's trainer as `gan-train` does: each `next` trains one step and returns the precision.

    That includes the moving average, and the reporter's metrics, sample pictures and checkpoints when they are due.
    """
    variant = find(name)
    data = _data(variant.wants(config), pixels)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            data="random", out=Path(folder), steps=10**9, device=device, precision=precision, compile=compiled
        )
        fabric = make_fabric(settings)
        with contextlib.redirect_stderr(io.StringIO()):
            settings = arithmetic.settle(fabric, variant, config, settings, data)
            trainer = Trainer(fabric, variant, config, settings, data)
            reporter = Reporter(trainer, math.inf)
        computes = str(arithmetic.Way(settings.precision, settings.weight_gradients, settings.memory_format))
        while True:
            losses = trainer.advance()
            with contextlib.redirect_stderr(io.StringIO()):  # Hide the training's progress lines.
                reporter.after_step(losses)
            yield computes


def _data(wants: Wants, pixels: Mapping[str, np.ndarray]) -> Data:
    """Pictures in memory as this project's loop takes them."""
    items = {key: torch.from_numpy(each).permute(0, 3, 1, 2).contiguous() for key, each in pixels.items()}
    groups = [{key: each} for key, each in items.items()] if wants.kind == "unpaired" else [items]
    data = Data(tuple(map(InMemory, groups)), "random", wants)
    return data if wants.kind == "images" else replace(data, examples=data.preview(torch.arange(EXAMPLES)))


def compare(
    name: str,
    seconds: float,
    precision: Precision = "auto",
    device: Device = "cpu",
    compiled: bool = False,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train with both loops in turns.

    Args:
        name: One of `CASES`.
        seconds: Least time for each loop.
        precision: Precision of this project's loop; the plain loop computes in FP32.
        device: Device of both loops.
        compiled: Whether this project's loop compiles its networks, before anything is timed.
        watch: Samples the machine's state between turns.

    Returns:
        Images per second of both loops over their total time, the speed-up from these totals with its interval, and
        percentiles of the step times. After Ctrl-C it covers the turns until then, and is `partial`.

    Raises:
        KeyboardInterrupt: before both had a turn.
        GanEdgeError: the device ran out of memory.
    """
    config_values = CASES[name]
    variant = find(name.partition("-")[0])
    config: Any = variant.config_class(**config_values)
    side = getattr(config, "uncut", 0) or config.size
    random = np.random.default_rng(0)
    shape = (ITEMS, side, side, config.channels)
    pixels = {key: random.integers(0, 256, shape, np.uint8) for key in KEYS[variant.wants(config).kind]}
    turn = CUDA_TURN if device == "cuda" else 1
    loops: dict[str, Iterator[str]] = {
        "plain": plain.steps(variant.name, config, pixels, device),
        "ganedge": our_steps(variant.name, config, pixels, precision, device, compiled),
    }

    # Time both in turns.
    times: dict[str, list[float]] = {key: [] for key in loops}
    computes: dict[str, str] = {}
    partial = False
    try:
        _alternate(loops, times, computes, seconds, turn, device, Watch(device) if watch is None else watch)
    except KeyboardInterrupt:
        partial = True
        if not times["ganedge"]:
            raise
    except torch.OutOfMemoryError as error:
        raise GanEdgeError(f"device {device} ran out of memory") from error

    # Summarise.
    rounds = len(times["ganedge"])  # An interruption may have left one more turn of the plain loop.
    steps_of = {key: np.array(turn_times[:rounds]) / turn for key, turn_times in times.items()}
    speedup, low, high = _ratio_of_totals(steps_of["plain"], steps_of["ganedge"], turn)
    quantiles = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
    return {
        "variant": name,
        "partial": partial,
        "config": {"batch": config.batch, **config_values},
        "precision": precision,
        "computes": computes,
        "compiled": compiled,
        "device": device,
        "turn": turn,
        "steps": dict.fromkeys(loops, rounds * turn),
        "step_s": {
            key: {part: float(np.percentile(step_times, share)) for part, share in quantiles.items()}
            for key, step_times in steps_of.items()
        },
        "images_per_s": {key: config.batch / float(step_times.mean()) for key, step_times in steps_of.items()},
        "spread": max(_spread(step_times) for step_times in steps_of.values()),
        "speedup": speedup,
        "speedup_low": low,
        "speedup_high": high,
    }


def _alternate(
    loops: dict[str, Iterator[str]],
    times: dict[str, list[float]],
    computes: dict[str, str],
    seconds: float,
    turn: int,
    device: Device,
    watch: Watch,
) -> None:
    """Warm both loops up, then time a turn of each until each has run for `seconds`; fills `times` and `computes`."""
    for key, steps in loops.items():
        computes[key] = _computed(next(steps), device)
        _warm_up(steps, turn, device)
    while min(map(sum, times.values())) < seconds or len(times["plain"]) < 2:
        for key, steps in loops.items():
            times[key].append(_timed(steps, turn, device))
        watch.look()


def _warm_up(steps: Iterator[str], turn: int, device: Device) -> None:
    """Train until the time of a turn settles, so that allocators and just-in-time compilers are warm."""
    last = math.inf
    for done in range(timing.WARMUP_BLOCKS):
        now = float(np.median([_timed(steps, turn, device) for _ in range(WARM_UP)]))
        if done and abs(now / last - 1) < timing.SETTLED:
            return
        last = now


def _computed(precision: str, device: Device) -> str:
    """Return the precision including TF32, which PyTorch uses in FP32 convolutions on CUDA by default."""
    is_tf32 = device == "cuda" and torch.backends.cudnn.allow_tf32
    arithmetic_type, *layout = precision.split(", ")
    return ", ".join(["fp32 (TF32 in convolutions)", *layout]) if arithmetic_type == "fp32" and is_tf32 else precision


def _blocks(plain: NDArray[np.float64], ours: NDArray[np.float64], turn: int) -> NDArray[np.float64]:
    """Return the seconds of both loops in each block of consecutive turns, `[2, blocks]`."""
    count = max(1, min(len(plain), int(plain.sum() * turn / BLOCK_SECONDS)))
    return np.array([[part.sum() for part in np.array_split(steps, count)] for steps in (plain, ours)])


def _ratio_of_totals(
    plain: NDArray[np.float64], ours: NDArray[np.float64], turn: int
) -> tuple[float, float | None, float | None]:
    """Return the ratio of total times, and its 95 % interval from resampled blocks of turns.

    The bounds are None if there are too few blocks.
    """
    blocks = _blocks(plain, ours, turn)
    total = float(plain.sum() / ours.sum())
    count = blocks.shape[1]
    if count < timing.FEWEST:
        return total, None, None
    random, at_once = np.random.default_rng(0), max(1, timing.DRAWN // count)
    parts = []
    for begin in range(0, timing.RESAMPLES, at_once):
        chosen = random.integers(0, count, (min(at_once, timing.RESAMPLES - begin), count))
        parts.append(blocks[:, chosen].sum(axis=2))
    drawn = np.concatenate(parts, axis=1)  # [2, resamples]
    low, high = np.quantile(drawn[0] / drawn[1], ((1 - timing.LEVEL) / 2, (1 + timing.LEVEL) / 2))
    return total, float(low), float(high)


def _spread(steps: NDArray[np.float64]) -> float:
    """Return the interquartile range of the step times as a share of their median."""
    low, middle, high = np.quantile(steps, (0.25, 0.5, 0.75))
    return float((high - low) / middle)


def measure(
    seconds: float,
    threads: int | None,
    precision: Precision,
    say: Callable[[str], object],
    device: Device = "cpu",
    compiled: bool = False,
    cases: str = "",
) -> dict[str, Any]:
    """Measure cases of `CASES`, with one line of output for each.

    Args:
        seconds: Each loop of each case runs at least this long.
        threads: Threads of both loops; all cores by default.
        precision: Precision of this project's loop.
        say: Called with each line.
        device: Device of both loops.
        compiled: Whether this project's loop compiles its networks.
        cases: Names separated by commas; all by default.

    Returns:
        The report; benchmarks/SCHEMA.md describes it. After Ctrl-C it holds the cases measured until then and is
        marked as partial.

    Raises:
        EngineError: device is cuda, and there is none.
        UsageError: seconds out of range, or a case that does not exist.
    """
    if not 0 <= seconds <= 86_400:
        raise UsageError(f"--seconds {seconds:g}: give 0 to 86400, a day")
    chosen = cases.split(",") if cases else list(CASES)
    for name in chosen:
        require(name in CASES, "cases", name, f"names out of {','.join(CASES)}, separated by commas")
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineError("device cuda: PyTorch sees no CUDA device here")
    used = threads or engines.cores()
    torch.set_num_threads(used)
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "training",
        "partial": False,
        "command": "",
        "machine": machine(used),
        "conditions": {"before": conditions()},
        "results": [],
        "failed": [],
        "warnings": [],
    }
    others, watch = Others(), Watch(device)
    error: GanEdgeError | None = None
    try:
        for name in chosen:
            try:
                with compiling.at_work() if compiled else contextlib.nullcontext():
                    result = compare(name, seconds, precision, device, compiled, watch)
            except GanEdgeError as failure:
                error = failure
                report["failed"].append({"variant": name, "reason": str(failure)})
                continue
            report["results"].append(result)
            say(line(result))
            if result["partial"]:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        report["partial"] = True
        if not report["results"]:
            raise
    if error is not None:
        report["partial"] = True
        if not report["results"]:
            raise error
    share = others.share()
    during = {**({} if share is None else {"others": share}), **watch.figures()}
    report["conditions"] |= {"during": during, "after": conditions()}
    rows = [{"figures": {"spread": result["spread"]}} for result in report["results"]]
    report["warnings"] = [*latency.warnings(rows, share, None, engines.cores()), *watch.warnings()]
    for text in report["warnings"]:
        say(f"warning: {text}")
    return report


def line(result: Mapping[str, Any]) -> str:
    """Format one case as a line for the terminal."""
    rates, low, high = result["images_per_s"], result["speedup_low"], result["speedup_high"]
    return (
        f"{result['variant']:<15} batch {result['config']['batch']}: plain {rates['plain']:.0f}, "
        f"ganedge {rates['ganedge']:.0f} images/s in {result['computes']['ganedge']}"
        f"{', compiled' if result['compiled'] else ''}, {result['speedup']:.2f}x "
        + ("" if low is None else f"({low:.2f} to {high:.2f})")
    ).rstrip()


def _timed(steps: Iterator[str], turn: int, device: Device) -> float:
    """Train one turn of steps and return its seconds, until the device has finished."""
    before = time.perf_counter()
    for _ in range(turn):
        next(steps)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - before
