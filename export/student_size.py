"""Choose the size of a student: by multiply-accumulates, weights, width, or the time that it takes.

config = choose(config, teacher, SizeSpec(macs=0.05), print)
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ganedge.export.graph import constants, total_multiply_accumulates
from ganedge.export.to_onnx import to_onnx
from ganedge.models import STUDENTS
from ganedge.models.narrower import NarrowConfig
from ganedge.models.student import LatentConfig, PictureConfig
from ganedge.runtime import engines
from ganedge.runtime.cli.options import flag, option
from ganedge.runtime.errors import GanEdgeError, MissingExtra, UsageError
from ganedge.runtime.timing import median_seconds

if TYPE_CHECKING:
    from ganedge.export.source_model import SourceModel

PICTURE_SHARE, LATENT_SHARE = 0.05, 0.1
"""Multiply-accumulates of the student beside the teacher's, where nobody says how many."""
WIDTHS = (4, 8, 12, *range(16, 1025, 8))
"""Widths to choose from: engines compute in vectors of eight channels or more."""
SECONDS = 0.3
"""How long a candidate is timed at least."""
SIZE = "Size"
"""Heading of the help."""
Config = TypeVar("Config", bound="PictureConfig | LatentConfig")


@dataclass(frozen=True)
class SizeSpec:
    """How large the student is to be; each field is an option of its name, and at most one of the first four is given.

    Raises:
        UsageError: a value that cannot be, or two that exclude each other.
    """

    macs: float | None = field(default=None, metadata=option(panel=SIZE, default="0.05; latents 0.1"))
    """Share of the teacher's multiply-accumulates, more than 0 and below 1."""
    params: int | None = field(default=None, metadata=option(panel=SIZE, minimum=1))
    """Most weights."""
    width: int | None = field(default=None, metadata=option(panel=SIZE, minimum=1))
    """Features: of all maps for pictures, of the smallest maps for latents; with --student same, --width of
    gan-train."""
    target_ms: float | None = field(default=None, metadata=option(panel=SIZE))
    """Most milliseconds for one input in --engine: candidates are timed untrained, and the largest under it is
    trained."""
    engine: str | None = field(default=None, metadata=option(panel=SIZE, default="the first installed one"))
    """Engine of --target-ms: onnxruntime or openvino."""
    threads: int | None = field(default=None, metadata=option(panel=SIZE, minimum=1, default="all cores"))
    """Threads of --target-ms and of the table at the end."""

    def __post_init__(self) -> None:
        """Check the values."""
        chosen = [flag(SizeSpec, name) for name in ("macs", "params", "width", "target_ms") if getattr(self, name)]
        if len(chosen) > 1:
            raise UsageError(f"{' and '.join(chosen)} exclude each other: each chooses the size, give one")
        if self.macs is not None and not 0 < self.macs < 1:
            raise UsageError(f"--macs {self.macs:g}: give a share of the teacher's, more than 0 and below 1")
        if self.target_ms is not None and self.target_ms <= 0:
            raise UsageError(f"--target-ms {self.target_ms:g}: give milliseconds, more than 0")
        if self.engine is not None and self.target_ms is None:
            raise UsageError(f"--engine {self.engine} is the one that --target-ms times: give that too")
        if self.engine is not None:
            object.__setattr__(self, "engine", engines.canonical(self.engine))
            if self.engine not in engines.readers("fp32"):
                raise UsageError(f"--engine {self.engine}: choose {', '.join(engines.readers('fp32'))}")
            if not engines.installed(str(self.engine)):
                raise MissingExtra(str(self.engine), engines.EXTRAS[str(self.engine)], f"--engine {self.engine}")


def count_macs(model: SourceModel, item: Sequence[NDArray[np.generic]]) -> int | None:
    """Multiply-accumulates of a generator for one input; None where they cannot be counted."""
    ports = model.interface.inputs
    shapes = {port.name: array.shape for port, array in zip(ports, item, strict=True)}
    batch = max(len(item[0]), 1)
    count = total_multiply_accumulates(model.model, shapes)
    return None if count is None else count // batch


def count_weights(model: SourceModel) -> int:
    """Weights of a generator's graph: elements of all constant tensors of more than one element."""
    sizes = (int(np.prod(tensor.dims)) for tensor in constants(model.model.graph).values())
    return sum(size for size in sizes if size > 1)


def student_macs(config: PictureConfig | LatentConfig) -> int:
    """Multiply-accumulates of a student for one input of the teacher's size."""
    if isinstance(config, LatentConfig):
        return config.count_macs()
    return config.count_macs(config.size, config.size)


def student_weights(config: PictureConfig | LatentConfig) -> int:
    """Weights of a student after BatchNorm was folded: those of each layer, and one bias for each of its features."""
    with torch.device("meta"):
        network = make_student(config).generator
    if isinstance(config, NarrowConfig):
        folded: int = sum(each.weight.numel() for each in network.modules() if isinstance(each, nn.BatchNorm2d))
        weights: int = sum(weight.numel() for weight in network.parameters())
        return weights - folded
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    embedded = sum(each.weight.numel() for each in network.modules() if isinstance(each, nn.Embedding))
    return embedded + sum(each.weight.numel() + len(each.weight) for each in layers)


def choose(
    config: Config,
    spec: SizeSpec,
    item: Sequence[NDArray[np.generic]],
    say: Callable[[str], None],
    has_blocks: bool = False,
) -> Config:
    """The student of the size that the user asks for.

    Args:
        config: All but its width, and its blocks where nobody chose them.
        spec: How large.
        item: One input of the teacher, to time with.
        say: Takes a line for each candidate that was timed.
        has_blocks: Whether the blocks were chosen.

    Raises:
        UsageError: even the smallest student is larger; the message says how large that is.
    """
    if spec.width is not None:
        return _counted(replace(config, width=spec.width))
    if spec.target_ms is not None:
        return _counted(_by_time(config, spec, item, say))
    if spec.params is not None:
        measure, most, what = student_weights, float(spec.params), f"--params {spec.params}"
    else:
        share = spec.macs or (LATENT_SHARE if isinstance(config, LatentConfig) else PICTURE_SHARE)
        if not config.teacher_macs:
            raise UsageError("the teacher's multiply-accumulates cannot be counted: choose a size with --width")
        measure, most = student_macs, share * config.teacher_macs
        what = f"--macs {share:g}, {most:,.0f} of the teacher's {config.teacher_macs:,}"
    widths = _widths(config)
    least = replace(config, width=widths[0])
    for blocks in [config.blocks] if has_blocks or isinstance(config, NarrowConfig) else range(config.blocks, -1, -1):
        candidates = [replace(config, width=width, blocks=blocks) for width in widths]
        fitting = bisect.bisect_right(candidates, most, key=measure)
        if fitting:
            return _counted(candidates[fitting - 1])
        least = candidates[0]
    raise UsageError(f"{what}: the smallest student has {measure(least):,}; ask for more, or for fewer --blocks")


def _by_time(config: Config, spec: SizeSpec, item: Sequence[NDArray[np.generic]], say: Callable[[str], None]) -> Config:
    """The widest student under the time, by bisection over the widths that are smaller than the teacher."""
    name = spec.engine or next((each for each in engines.readers("fp32") if engines.installed(each)), None)
    if name is None:
        raise MissingExtra("onnxruntime", "cpu", "--target-ms")
    target = float(spec.target_ms or 0)
    widths = _widths(config)
    most = config.teacher_macs or student_macs(replace(config, width=widths[-1]))
    fitting = bisect.bisect_right([replace(config, width=width) for width in widths], most, key=student_macs)
    widths = widths[: max(fitting, 1)]
    best, low, high = None, 0, len(widths) - 1
    taken = float("inf")
    while low <= high:
        middle = (low + high) // 2
        candidate = replace(config, width=widths[middle])
        taken = 1e3 * seconds(_untrained(candidate), item, name, spec.threads)
        say(f"width {candidate.width}: {taken:.3g} ms in {name}")
        if taken <= target:
            best, low = candidate, middle + 1
        else:
            high = middle - 1
    if best is None:
        raise UsageError(
            f"--target-ms {target:g}: the smallest student with {config.blocks} blocks takes {taken:.3g} ms in {name}; "
            "allow more, or give fewer --blocks"
        )
    return best


def _widths(config: PictureConfig | LatentConfig) -> Sequence[int]:
    """Widths to choose from, in order; those below the teacher's for its own networks."""
    if not isinstance(config, NarrowConfig):
        return WIDTHS
    return [width for width in range(1, config.width) if width < 4 or width % 2 == 0] or [1]


def seconds(model: bytes, item: Sequence[NDArray[np.generic]], name: str, threads: int | None) -> float:
    """Median seconds of a serialised FP32 model for one input in one engine."""
    engine = engines.start(model, "fp32", name, "cpu", threads)
    try:
        feeds = feeds_of(model, item)
        engine.run(feeds)
        return median_seconds([partial(engine.run, feeds)], SECONDS)[0]
    finally:
        engine.close()


def feeds_of(model: bytes, item: Sequence[NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """Arrays by the names of a model's inputs, in their order."""
    import onnx

    graph = onnx.load_from_string(model).graph
    return {value.name: array for value, array in zip(graph.input, item, strict=True)}


def _untrained(config: PictureConfig | LatentConfig) -> bytes:
    """A student's graph before it learned: as fast as afterwards."""
    student = make_student(config)
    network = student.generator.eval()
    try:
        return bytes(to_onnx(network, student.generators()["generator"]).SerializeToString())
    except GanEdgeError as error:
        raise GanEdgeError(f"the student cannot be exported: {error}") from error


def make_student(config: PictureConfig | LatentConfig) -> Any:
    """The student of a config, untrained."""
    return next(each for each in STUDENTS if each.config_class is type(config))(config)


def _counted(config: Config) -> Config:
    """With its own multiply-accumulates and weights."""
    return replace(config, macs=student_macs(config), parameters=student_weights(config))
