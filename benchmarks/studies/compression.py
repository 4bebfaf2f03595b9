"""Speed of the default edge student and of a CycleGAN with nine residual blocks, at 256 × 256, random weights.

    python -m ganedge.benchmarks.studies.compression --out benchmarks/results/compress/speed.json

Speed does not depend on weights, so nothing is trained. All competitors are timed in turns in one process; only ratios
within one run are meaningful.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ganedge.benchmarks.conditions import machine
from ganedge.export.from_torch import eager, of_network
from ganedge.export.quantize import int8_share, to_int8
from ganedge.export.spec import Target
from ganedge.export.student_size import SizeSpec, choose, count_macs, feeds_of
from ganedge.models import find
from ganedge.models.student import PictureConfig, PictureStudent
from ganedge.runtime import engines
from ganedge.runtime.cli import terminal
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import Source
from ganedge.runtime.timing import median_seconds

SIDE = 256
TARGETS: tuple[Target, ...] = ("onnxruntime", "openvino")


def measure(seconds: float, threads: int) -> dict[str, Any]:
    """Return the median milliseconds of one picture for each competitor, and the size of both networks."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)

    # The teacher, and the student that gan-compress chooses for it.
    variant = find("cyclegan")
    config: Any = variant.config_class()
    gan = variant(config)
    network, interface = gan.networks["generator-a2b"], gan.generators()["generator-a2b"]
    item = real_inputs(interface, 1, side=(SIDE, SIDE))
    teacher = of_network(network, interface, Source(config={"size": SIDE}))
    macs = count_macs(teacher, item) or 0
    chosen = choose(PictureConfig(teacher_macs=macs), SizeSpec(), item, print)
    student = PictureStudent(chosen)
    small = of_network(student.generator, student.generators()["generator"], Source(config={"size": SIDE}))

    # All in every engine, in turns.
    calls: dict[str, Callable[[], object]] = {"teacher, eager PyTorch": partial(eager(network), item)}
    shares: dict[str, float] = {}
    calibration = [real_inputs(interface, 4, seed=1, side=(SIDE, SIDE))]
    for name in TARGETS:
        graphs = {"teacher": teacher.model, "student": small.model}
        graphs["student, INT8"], share, _ = to_int8(small.model, calibration, name)
        shares[name] = share
        assert share == int8_share(graphs["student, INT8"], [array.shape for array in item])
        for what, graph in graphs.items():
            precision = "int8" if "INT8" in what else "fp32"
            engine = engines.start(graph.SerializeToString(), precision, name, "cpu", threads)
            feeds = feeds_of(graph.SerializeToString(), item)
            engine.run(feeds)
            calls[f"{what}, {name}"] = partial(engine.run, feeds)
    taken = dict(zip(calls, median_seconds(list(calls.values()), seconds), strict=True))
    return {
        "machine": machine(threads),
        "side": SIDE,
        "teacher_macs": macs,
        "student": {"width": chosen.width, "blocks": chosen.blocks, "macs": chosen.macs, "weights": chosen.parameters},
        "int8_share": shares,
        "ms": {name: 1e3 * value for name, value in taken.items()},
        "times_as_fast": _ratios(taken),
    }


def _ratios(taken: dict[str, float]) -> dict[str, float]:
    """Return the speed-up of the student over the teacher in the same engine, and of INT8 over eager PyTorch."""
    ratios = {f"FP32 in {name}": taken[f"teacher, {name}"] / taken[f"student, {name}"] for name in TARGETS}
    whole = taken["teacher, eager PyTorch"]
    return ratios | {f"INT8 in {name}, × eager": whole / taken[f"student, INT8, {name}"] for name in TARGETS}


@terminal.one_line_errors("compression", "train")
def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=engines.cores())
    options = parser.parse_args()
    measured = measure(options.seconds, options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(measured, indent=2) + "\n", "utf-8")
    for name, value in measured["times_as_fast"].items():
        print(f"{name}: {value:.1f} times as fast")


if __name__ == "__main__":
    main()
