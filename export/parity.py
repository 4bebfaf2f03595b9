"""The proof: an artifact beside the eager FP32 generator, on the same real inputs. No torch here.

    cases = [Case(inputs, original.run(inputs)) for inputs in real_cases(interface)]
    proofs = prove(model, manifest, cases, GATES["fp32"])

The worst item decides. Figures are computed in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganedge.export import pictures
from ganedge.runtime import engines
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.latents import LatentStream, class_numbers
from ganedge.runtime.manifest import Interface, Manifest, Parity, Port, Precision

COUNT = 32
"""Latents in one proof."""
PICTURES = 16
"""Pictures in one proof of a generator that takes pictures."""
BATCHES = (1, 5, 16)
"""Batch sizes that a proof goes through, again and again until the inputs are used up."""
PICTURE_BATCHES = (1, 3)
"""The same where a picture goes in: they are larger, and memory goes with the batch."""
SIDES = ((64, 64), (96, 128))
"""Heights and widths of the pictures where these are dynamic; rounded up to the port's multiple."""
SEED = 20_26
"""Seed of the inputs of a proof."""


@dataclass(frozen=True)
class Case:
    """Inputs of one shape, and what the generator makes of them."""

    inputs: Sequence[NDArray[np.generic]]
    """One array per input, batch first."""
    reference: NDArray[np.generic]
    """What the FP32 generator gives for them."""


@dataclass(frozen=True)
class Difference:
    """How far two batches of outputs are apart; the worst item decides."""

    span: float
    """The range of the output: what the errors are measured against."""
    max_abs: float
    """Largest absolute difference of one value."""
    mean_abs: float
    """Mean absolute difference."""
    psnr: float | None
    """Peak signal-to-noise ratio of the worst item, dB, peak = span; None: identical."""
    ssim: float | None
    """Structural similarity of the worst picture; None where the output is no picture."""
    nonfinite: float
    """Share of values that are NaN or infinite; they count as zero in the other figures."""


@dataclass(frozen=True)
class Gate:
    """What an artifact must reach."""

    max_abs: float | None = None
    """Largest absolute error allowed, as a share of the output's range."""
    psnr: float | None = None
    """Smallest peak signal-to-noise ratio allowed, dB."""

    def __str__(self) -> str:
        parts = [f"maxabs={self.max_abs:g}"] if self.max_abs is not None else []
        parts += [f"psnr={self.psnr:g}"] if self.psnr is not None else []
        return ",".join(parts) or "none"

    def holds(self, found: Difference) -> bool:
        """Whether these figures pass; anything non-finite never does."""
        close = self.max_abs is None or found.max_abs <= self.max_abs * found.span
        clear = self.psnr is None or found.psnr is None or found.psnr >= self.psnr
        return close and clear and found.nonfinite == 0


GATES: dict[Precision, Gate] = {
    "fp32": Gate(max_abs=1e-4),
    "fp16": Gate(psnr=45.0),
    "bf16": Gate(psnr=40.0),
    "int8": Gate(psnr=30.0),
}
"""The gate of each precision."""
LATENT_INT8 = Gate(psnr=35.0)
"""The gate of INT8 where latents go in: such generators lose less."""


def gate_of(precision: Precision, interface: Interface) -> Gate:
    """The gate that an artifact must pass unless told otherwise.

    A uint8 output may be off by the half level that rounding costs, as the reference is not rounded.
    """
    if precision == "int8" and interface.noise is not None:
        return LATENT_INT8
    if precision == "fp32" and interface.output.dtype == "uint8":
        return Gate(max_abs=0.5 / 255 + 1e-4)
    return GATES[precision]


def read_gate(text: str) -> Gate:
    """A gate as people write it: `psnr=40,maxabs=1e-3`, either of them, or `none`.

    Raises:
        UsageError: anything else.
    """
    if text == "none":
        return Gate()
    known = {"psnr": "psnr", "maxabs": "max_abs"}
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[known[name.strip()]] = float(value)
        except (KeyError, ValueError):
            raise UsageError(f"tolerance {text!r}: give psnr=40, maxabs=1e-3, both with a comma, or none") from None
    if not all(np.isfinite(value) and value > 0 for value in found.values()):
        raise UsageError(f"tolerance {text!r}: the figures are more than 0")
    return Gate(**found)


def real_inputs(
    interface: Interface,
    count: int = COUNT,
    seed: int = SEED,
    folder: Path | None = None,
    side: tuple[int, int] | None = None,
) -> list[NDArray[np.generic]]:
    """Inputs such as the generator meets in use: latents of its own distribution, or pictures; every class in turn.

    Args:
        interface: What the generator takes.
        count: How many; fewer where the folder holds fewer.
        seed: Of latents, and of pictures made by code.
        folder: Pictures to take; without one they are made by code.
        side: Height and width of pictures where these are dynamic, pixels.

    Returns:
        One array per input, batch first; as many as a fixed batch divides.
    """
    port = interface.inputs[0]
    if interface.noise is not None:
        inputs: list[NDArray[np.generic]] = [LatentStream(interface.noise, port.item_shape, seed).take(count)]
    else:
        height, width = side or sides(port)[0]
        shape = (count, height, width, port.channels)
        made = pictures.natural(*shape, seed) if folder is None else pictures.from_folder(folder, *shape)
        inputs = [pictures.to_port(made, port)]
    if interface.classes:
        inputs.append(class_numbers(len(inputs[0]), len(interface.classes)))
    batch = port.shape[0]
    if isinstance(batch, int) and len(inputs[0]) % batch:  # A fixed batch is filled up with the first ones again.
        places = np.arange(-(-len(inputs[0]) // batch) * batch) % len(inputs[0])
        inputs = [array[places] for array in inputs]
    return inputs


def real_cases(
    interface: Interface, folder: Path | None = None, count: int | None = None, seed: int = SEED
) -> list[list[NDArray[np.generic]]]:
    """Real inputs at every size that a proof looks at: one where the size is fixed, two where it is dynamic."""
    if interface.noise is not None:
        return [real_inputs(interface, count or COUNT, seed)]
    chosen = sides(interface.inputs[0])
    each = -(-(count or PICTURES) // len(chosen))
    return [real_inputs(interface, each, seed + place, folder, side) for place, side in enumerate(chosen)]


def sides(port: Port) -> list[tuple[int, int]]:
    """The heights and widths to try for a picture port: its own, or two that its multiple allows."""
    height, width = port.shape[2:] if port.layout == "NCHW" else port.shape[1:3]
    if isinstance(height, int) and isinstance(width, int):
        return [(height, width)]

    def pick(fixed: int | str, wanted: int) -> int:
        return fixed if isinstance(fixed, int) else -(-wanted // port.multiple) * port.multiple

    found = [(pick(height, h), pick(width, w)) for h, w in SIDES]
    if found[0] == found[1]:  # A large multiple rounds both to one: make the second wider.
        found[1] = (pick(height, found[0][0]), pick(width, found[0][1] + port.multiple))
    return found


def prove(model: bytes, manifest: Manifest, cases: Sequence[Case], gate: Gate) -> tuple[Parity, ...]:
    """Run a model in every engine that is installed and compare it with the reference.

    Args:
        model: A serialised ONNX model.
        manifest: What it is said to be.
        cases: Inputs, and what the FP32 generator gives for them; the worst decides.
        gate: What to reach.

    Returns:
        One proof per engine; empty where no engine that computes this precision is installed.
    """
    names = filter(engines.installed, engines.readers(manifest.precision))
    return tuple(_prove_in(model, manifest, cases, gate, name) for name in names)


def _prove_in(model: bytes, manifest: Manifest, cases: Sequence[Case], gate: Gate, name: str) -> Parity:
    engine = engines.start(model, manifest.precision, name, "cpu", None)
    port = manifest.interface.output
    sizes: set[int] = set()
    outputs = [_run_in_batches(engine, manifest.interface, case, sizes) for case in cases]
    engine.close()
    span = None if port.range is not None else _span(port, np.concatenate([case.reference for case in cases]))
    found = worst([difference(output, case.reference, port, span) for output, case in zip(outputs, cases, strict=True)])
    return Parity(
        engine=str(engine.info),
        precision=engine.info.precision,
        samples=sum(len(case.reference) for case in cases),
        batches=tuple(sorted(sizes)),
        max_abs=found.max_abs,
        mean_abs=found.mean_abs,
        psnr=found.psnr,
        ssim=found.ssim,
        nonfinite=found.nonfinite,
        tolerance=str(gate),
        passed=gate.holds(found),
    )


def _run_in_batches(engine: engines.Engine, interface: Interface, case: Case, sizes: set[int]) -> NDArray[np.generic]:
    """Every input of a case through an engine, in batches of changing size; a fixed batch stays what it is."""
    ports, fixed = interface.inputs, interface.inputs[0].shape[0]
    tried = (fixed,) if isinstance(fixed, int) else BATCHES if interface.noise else PICTURE_BATCHES
    parts, begin, turn, count = [], 0, 0, len(case.reference)
    while begin < count:
        size = min(tried[turn % len(tried)], count - begin)
        feeds = {port.name: array[begin : begin + size] for port, array in zip(ports, case.inputs, strict=True)}
        parts.append(engine.run(feeds)[0])
        sizes.add(size)
        begin, turn = begin + size, turn + 1
    return np.concatenate(parts)


def worst(found: Sequence[Difference]) -> Difference:
    """The worst figures of several comparisons; the mean error is their mean."""
    psnr = [one.psnr for one in found if one.psnr is not None]
    ssims = [one.ssim for one in found if one.ssim is not None]
    return Difference(
        span=found[0].span,
        max_abs=max(one.max_abs for one in found),
        mean_abs=float(np.mean([one.mean_abs for one in found])),
        psnr=min(psnr) if psnr else None,
        ssim=min(ssims) if ssims else None,
        nonfinite=max(one.nonfinite for one in found),
    )


def difference(
    output: NDArray[np.generic], reference: NDArray[np.generic], port: Port, span: float | None = None
) -> Difference:
    """Compare what an engine gives with what it should give.

    Args:
        output: `[N, ...]` as the port says.
        reference: The same shape.
        port: Layout and range.
        span: What errors are measured against; the declared range, or for points the reference's own, by default.

    Raises:
        GanEdgeError: the shapes differ, so that there is nothing to compare.
    """
    if output.shape != reference.shape:
        raise GanEdgeError(
            f"the artifact gives shape {output.shape}, the generator {reference.shape}: not the same one"
        )
    span = span or _span(port, reference)
    finite = np.isfinite(output)
    found, wanted = np.where(finite, output, 0.0).astype(np.float64), reference.astype(np.float64)
    error = np.abs(found - wanted)
    noise = float((error**2).reshape(len(error), -1).mean(1).max())
    return Difference(
        span=span,
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        psnr=None if noise == 0 else float(10 * np.log10(span**2 / noise)),
        ssim=ssim(found, wanted, port, span) if port.role == "image" else None,
        nonfinite=float(1 - finite.mean()),
    )


def ssim(a: NDArray[np.float64], b: NDArray[np.float64], port: Port, span: float) -> float:
    """Structural similarity of the worst pair of pictures, Wang et al. 2004, eq. 13, over 7×7 windows.

    Args:
        a: Pictures in the port's layout.
        b: The same shape.
        port: Says which dimensions are height and width.
        span: The distance of white from black.

    Returns:
        At most 1: the mean over windows and channels, of the worst pair.
    """
    if port.layout == "NHWC":
        a, b = a.transpose(0, 3, 1, 2), b.transpose(0, 3, 1, 2)
    side = min(7, *a.shape[2:])
    low = port.range[0] if port.range is not None else 0.0
    a, b = a - low, b - low  # Black is zero, as the formula's luminance term needs it.
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_a, mean_b = _box(a, side), _box(b, side)
    var_a, var_b = _box(a * a, side) - mean_a**2, _box(b * b, side) - mean_b**2
    covariance = _box(a * b, side) - mean_a * mean_b
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float((top / bottom).reshape(len(a), -1).mean(1).min())


def _box(x: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Means over all windows of `side` × `side`, by running sums."""
    sums = np.pad(x, ((0, 0), (0, 0), (1, 0), (1, 0))).cumsum(2).cumsum(3)
    total = (
        sums[:, :, side:, side:] - sums[:, :, :-side, side:] - sums[:, :, side:, :-side] + sums[:, :, :-side, :-side]
    )
    return np.asarray(total / side**2)


def _span(port: Port, reference: NDArray[np.generic]) -> float:
    """The declared range; for points, which have none, the reference's own."""
    low, high = port.range if port.range is not None else (float(reference.min()), float(reference.max()))
    return max(high - low, 1e-12)
