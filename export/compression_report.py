"""A student beside its teacher: how far their pictures are apart, how large both are, and how fast in each engine.

distance = distances(network, run, teacher, lesson, "small")
    lines = table(run, artifact, teacher_model, student_model, distance, threads=2)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ganedge.export.from_torch import eager
from ganedge.export.student_size import feeds_of
from ganedge.runtime import engines
from ganedge.runtime.errors import EngineError, GanEdgeError, MissingExtra
from ganedge.runtime.fidelity import difference
from ganedge.runtime.files import write_whole
from ganedge.runtime.inputs import real_inputs, to_port
from ganedge.runtime.manifest import Interface
from ganedge.runtime.pictures import images
from ganedge.runtime.timing import median_seconds
from ganedge.train import run_folder
from ganedge.train.distill import Lesson, Teacher, latents, translated
from ganedge.train.metrics import FEWEST, Judge, Name

if TYPE_CHECKING:
    from ganedge.export.source_model import SourceModel

REPORT = "compression.md"
"""The table at the end, in the run folder."""
PAIRS = 256
"""Latents for which student and teacher are compared one by one."""
DRAWN = 2000
"""Pictures drawn from latents for FID."""
SEED = 3
"""Of those latents: others than those of previews, measurements in training, and proofs."""
SECONDS = 0.5
"""How long each generator is timed in each engine."""


def distances(
    network: nn.Module, run: Path, teacher: Teacher, lesson: Lesson, features: Name
) -> dict[str, float | int | str]:
    """How far the student is from its teacher on inputs that it did not learn from.

    Args:
        network: The student's generator, in evaluation mode.
        run: Its run folder.
        teacher: Its teacher.
        lesson: Holds the pictures that were not learned from.
        features: Feature network of FID.

    Returns:
        `inputs`: how many; `psnr` (dB) and `ssim`: means over them; `fid`: between their pictures; `fid_data` and
        `fid_teacher`: of student and teacher to the data's real pictures. Those that cannot be had are left out.
    """
    opened = run_folder.read(run)
    interface = opened.variant(opened.config).generators()["generator"]
    own, other, port = _outputs(eager(network.cpu()), interface, teacher, lesson)
    pairs = [difference(a[None], b[None], port) for a, b in zip(own[:PAIRS], other[:PAIRS], strict=True)]
    figures: dict[str, float | int | str] = {"inputs": len(pairs), "mean_abs": _mean([p.mean_abs for p in pairs])}
    if port.role != "image":
        return figures
    figures |= {"psnr": _mean([100.0 if p.psnr is None else p.psnr for p in pairs])}
    figures |= {"ssim": _mean([1.0 if p.ssim is None else p.ssim for p in pairs])}
    if len(own) < FEWEST:
        return figures
    try:
        return {**figures, **_fids(own, other, lesson, port.range or (-1.0, 1.0), features)}
    except MissingExtra:
        return figures


def _outputs(run: Any, interface: Interface, teacher: Teacher, lesson: Lesson) -> tuple[Any, Any, Any]:
    """What student and teacher give for the same inputs, NCHW, and the port that says what that is."""
    port = interface.output
    if interface.noise is not None:
        count = DRAWN if port.role == "image" else PAIRS
        inputs = latents(interface, count, SEED)
        return run(inputs)[0], teacher(inputs), port
    assert lesson.unseen is not None
    assert port.range is not None
    low, high = port.range
    made = translated(teacher, lesson.unseen).transpose(0, 3, 1, 2).astype(np.float32)
    return run([to_port(lesson.unseen, interface.inputs[0])])[0], made * ((high - low) / 255) + low, port


def _fids(
    own: NDArray[Any], other: NDArray[Any], lesson: Lesson, bounds: tuple[float, float], features: Name
) -> dict[str, float | str]:
    """FID between both, and of each to real pictures."""
    student, teacher = (_levels(each, bounds) for each in (own, other))
    cpu = torch.device("cpu")
    figures: dict[str, float | str] = {"features": features}
    figures["fid"] = Judge(features, teacher, cpu)(student)["fid"]
    if lesson.real is not None and len(lesson.real) >= FEWEST:
        judge = Judge(features, torch.from_numpy(lesson.real).permute(0, 3, 1, 2), cpu)
        figures |= {"fid_data": judge(student)["fid"], "fid_teacher": judge(teacher)["fid"]}
    return figures


def _levels(output: NDArray[Any], bounds: tuple[float, float]) -> torch.Tensor:
    """uint8 `[N, C, H, W]`, without alpha."""
    return torch.from_numpy(images.to_pixels(output, bounds, "NCHW")[..., :3]).permute(0, 3, 1, 2)


def facts(run: Path, distance: Mapping[str, float | int | str]) -> dict[str, Any]:
    """What a manifest says of the compression."""
    config: Any = run_folder.read(run).config
    names = ("teacher", "teacher_digest", "teacher_macs", "teacher_parameters", "macs", "parameters")
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in distance.items()}
    return {**{name: getattr(config, name) for name in names}, "distance": rounded}


def table(
    run: Path,
    artifact: Path,
    teacher: SourceModel,
    student: SourceModel,
    distance: Mapping[str, float | int | str],
    threads: int | None,
) -> list[str]:
    """Student beside teacher, as lines of Markdown; also written into the run folder. "Not faster" is said first."""
    config: Any = run_folder.read(run).config
    sizes = (len(teacher.model.SerializeToString()), artifact.stat().st_size)
    rows = [
        ("million multiply-accumulates", config.teacher_macs / 1e6, config.macs / 1e6),
        ("thousand weights", config.teacher_parameters / 1e3, config.parameters / 1e3),
        ("MB of the .onnx", sizes[0] / 1e6, sizes[1] / 1e6),
    ]
    slower: list[str] = []
    timed = _timed(teacher, student, getattr(config, "size", 0), threads)
    for name, (slow, fast) in timed.items():
        rows.append((f"ms in {name}", 1e3 * slow, 1e3 * fast))
        slower += [f"{name} ({slow / fast:.2f} times as fast)"] if fast >= slow else []
    lines = [f"the student is not faster than its teacher in {', '.join(slower)}"] if slower else []
    lines += ["| | teacher | student | ratio |", "|---|---|---|---|"]
    lines += [f"| {what} | {a:.4g} | {b:.4g} | {a / b if b else 0:.3g} |" for what, a, b in rows]
    lines.append(_distance_line(distance))
    write_whole(run / REPORT, "\n".join(lines) + "\n")
    figures = {"distance": dict(distance), "rows": rows, "threads": threads}
    write_whole(run / "compression-report.json", json.dumps(figures, indent=2) + "\n")
    return [*lines, f"next: gan-export {run} --int8"]


def _timed(
    teacher: SourceModel, student: SourceModel, side: int, threads: int | None
) -> dict[str, tuple[float, float]]:
    """Seconds of teacher and student for one input in each engine that runs both."""
    pairs = {}
    for name in filter(engines.installed, engines.readers("fp32")):
        started: list[engines.Engine] = []
        try:
            calls = []
            for each in (teacher, student):
                model = each.model.SerializeToString()
                started.append(engines.start(model, each.precision, name, "cpu", threads))
                item = real_inputs(each.interface, 1, side=(side, side) if side else None)
                feeds = feeds_of(model, item)
                started[-1].run(feeds)
                calls.append(partial(started[-1].run, feeds))
            slow, fast = median_seconds(calls, SECONDS)
            pairs[name] = (slow, fast)
        except (EngineError, GanEdgeError):
            continue  # It does not run the teacher: there is nothing to compare with.
        finally:
            for engine in started:
                engine.close()
    return pairs


def _distance_line(distance: Mapping[str, float | int | str]) -> str:
    """How far both are apart, for people."""
    parts = [f"on {distance['inputs']} inputs that it did not learn from: mean difference {distance['mean_abs']:.3g}"]
    if "psnr" in distance:
        parts.append(f"PSNR {distance['psnr']:.1f} dB and SSIM {distance['ssim']:.3f} to the teacher")
    if "fid" in distance:
        parts.append(f"FID {distance['fid']:.3g} between both ({distance['features']} features)")
    if "fid_data" in distance:
        parts.append(f"FID to the data {distance['fid_data']:.3g}, the teacher's {distance['fid_teacher']:.3g}")
    return ", ".join(parts)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
