"""Choose the inputs of the proof and of calibration: which, how many, at which sizes. No torch here.

cases = proof_cases(model, ExportSpec())
inputs = calibration(model, ExportSpec(precision="int8"))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganedge.export import parity, phases, uint8_io
from ganedge.export.graph import total_multiply_accumulates
from ganedge.export.source_model import RunAll, SourceModel
from ganedge.export.spec import ExportSpec
from ganedge.runtime.inputs import COUNT, PICTURES, USES, Use, listed, real_cases, sides
from ganedge.runtime.manifest import Interface
from ganedge.runtime.pictures import reader

WORK = 5e10
"""Multiply-accumulates that a proof of the usual number of inputs may take in one engine; a larger one is shortened."""
CALIBRATION_WORK, LEAST_PICTURES = 4e11, 6
"""Multiply-accumulates that calibration with pictures may take, and the pictures that it takes at least."""
MEDIAN_OF, MOST_SIDE = 200, 512
"""Pictures of a folder whose size is looked at, and the largest side to prove with, pixels."""
LEAST_SIDE = 64
"""Least height and width to halve a size to, pixels, where the usual size is known."""
LATENTS = 128
"""Latents to calibrate with: they are cheap, and too few would miss rare large values."""
MORE_LATENTS = 512
"""As many where INT8 misses its gate with those."""
Inputs = list[list[NDArray[np.generic]]]


def proof_inputs(original: SourceModel, spec: ExportSpec, interface: Interface | None = None) -> Inputs:
    """The inputs of a proof, one list of arrays for each size.

    The usual number; for a slow generator the fewest that cover every size, and batches of one and of several.

    Args:
        original: The source.
        spec: With `proof`, and the folder of pictures where one was given.
        interface: What the artifact takes, where that differs from the source.
    """
    side = _side(original, spec)
    sizes = _sizes(original, side)
    counts: list[int] | None = None
    if spec.proof == "short" and _is_long(original, sizes):
        sizes = _smaller(original, sizes, side, (spec.precision or original.precision) == "fp32")
        counts = _fewest(sizes)
    return real_cases(interface or original.interface, spec.folder, counts, sizes=sizes or None)


def proof_cases(original: SourceModel, spec: ExportSpec) -> list[parity.Case]:
    """The inputs of the proof as the artifact takes them, and the FP32 generator's outputs for them."""
    if original.reference is None:
        return []
    run: RunAll = original.all_outputs
    interface = original.interface
    if spec.io == "uint8":
        run, interface = uint8_io.reference(run, interface), uint8_io.bytes_interface(interface)
    inputs = proof_inputs(original, spec, interface)
    cases: list[parity.Case] = []
    for index, case in enumerate(inputs):
        phases.report("computing the FP32 generator", index, len(inputs))
        result, *extras = run(case)
        cases.append(parity.Case(case, result, extras))
    return cases


def calibration(original: SourceModel, spec: ExportSpec, use: Use = "calibration") -> Inputs:
    """Inputs to calibrate with: never those of the proof, also where a folder of pictures serves both."""
    phases.report("preparing inputs for calibration")
    sizes = _sizes(original, _side(original, spec))
    count = spec.count or (LATENTS if original.interface.noise is not None else _pictures(original, sizes))
    return real_cases(original.interface, spec.folder, count, use, sizes or None)


def too_few(folder: Path) -> tuple[str, ...]:
    """A note where a folder has too few pictures for calibration and proof to use different ones."""
    count = len(listed(folder))
    if count >= len(USES):
        return ()
    seen = "so the proof, or the choice of layers, sees what it was calibrated with: give 3 or more"
    return (f"{folder} holds {count} picture(s), {seen}",)


def _pictures(original: SourceModel, sizes: Sequence[tuple[int, int]]) -> int:
    """Pictures to calibrate with: the usual number, fewer where that is much work, and more than a short proof."""
    each = sum(_item_work(original, size) for size in sizes) / len(sizes)
    return min(PICTURES, max(LEAST_PICTURES, int(CALIBRATION_WORK / max(each, 1.0))))


def _side(original: SourceModel, spec: ExportSpec) -> int | None:
    """Side of the pictures to prove with where they may have any size: of use, of training, or the folder's median."""
    known = original.proof_size or original.source.size
    if known is not None or spec.folder is None:
        return known
    listed_sides = [side for path in listed(spec.folder)[:MEDIAN_OF] if (side := reader.shorter_side(path)) is not None]
    return min(MOST_SIDE, int(np.median(listed_sides))) if listed_sides else None


def _sizes(original: SourceModel, side: int | None) -> list[tuple[int, int]]:
    """Heights and widths of the pictures that go in; empty where latents do."""
    interface = original.interface
    return [] if interface.noise is not None else sides(interface.inputs[0], side)


def _is_long(original: SourceModel, sizes: Sequence[tuple[int, int]]) -> bool:
    """Whether a proof of the usual number of inputs takes too much work."""
    if not sizes:
        return COUNT * _item_work(original) > WORK
    return PICTURES / len(sizes) * sum(_item_work(original, size) for size in sizes) > WORK


def _smaller(
    original: SourceModel, sizes: list[tuple[int, int]], side: int | None, is_fp32: bool
) -> list[tuple[int, int]]:
    """Half of some sizes: in FP32 of those that are not the usual one, as errors hardly depend on them there.

    Where no usual size is known, half of all, if the result is larger than the input.
    """
    port = original.interface.inputs[0]
    enlarges = any("*" in str(side) for side in original.interface.output.shape)

    def half(side: int) -> int:
        return -(-side // (2 * port.multiple)) * port.multiple

    first = 0 if side is None else 1
    smaller = sizes[:first] + [(half(height), half(width)) for height, width in sizes[first:]]
    applies = enlarges if side is None else is_fp32 and min(map(min, smaller)) >= LEAST_SIDE
    return smaller if applies and len(set(smaller)) == len(sizes) else sizes


def _fewest(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Inputs of each size that cover every size, and batches of one and of several at the smallest."""
    if not sizes:
        return [sum(parity.BATCHES[:2])]
    smallest = min(sizes, key=math.prod)
    return [sum(parity.PICTURE_BATCHES) if size == smallest else 1 for size in sizes]


def _item_work(original: SourceModel, size: tuple[int, int] | None = None) -> float:
    """Multiply-accumulates for one item, with pictures of a height and width where those are open; 0 if unknown."""
    shapes: dict[str, Sequence[int]] = {}
    for port in original.interface.inputs:
        shape = [1 if axis == 0 and isinstance(side, str) else side for axis, side in enumerate(port.shape)]
        open_sides = iter(size or ())
        shapes[port.name] = [side if isinstance(side, int) else next(open_sides) for side in shape]
    items = shapes[original.interface.inputs[0].name][0]
    return (total_multiply_accumulates(original.model, shapes) or 0) / items
