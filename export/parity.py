"""The proof: an artifact beside the eager FP32 generator, on the same real inputs. No torch here.

    inputs = real_inputs(interface, count=32, seed=0)
    proofs = prove(model, manifest, inputs, reference_outputs, GATES["fp32"])

The worst item decides. Figures are computed in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganedge.runtime import engines
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.latents import LatentStream
from ganedge.runtime.manifest import Interface, Manifest, Parity, Port, Precision

COUNT = 32
"""Inputs in one proof."""
BATCHES = (1, 5, 16)
"""Batch sizes that a proof goes through, again and again until the inputs are used up."""
SEED = 20_26
"""Seed of the latents of a proof."""


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


GATES: dict[Precision, Gate] = {"fp32": Gate(max_abs=1e-4), "fp16": Gate(psnr=45.0)}
"""The gate of each precision."""


def real_inputs(interface: Interface, count: int = COUNT, seed: int = SEED) -> list[NDArray[np.generic]]:
    """Inputs such as the generator meets in use: latents of its own distribution, every class in turn."""
    assert interface.noise is not None
    latent = interface.inputs[0]
    inputs: list[NDArray[np.generic]] = [LatentStream(interface.noise, latent.item_shape, seed).take(count)]
    if interface.classes:
        inputs.append(np.arange(count, dtype=np.int64) % len(interface.classes))
    return inputs


def prove(
    model: bytes,
    manifest: Manifest,
    inputs: Sequence[NDArray[np.generic]],
    reference: NDArray[np.float32],
    gate: Gate,
) -> tuple[Parity, ...]:
    """Run a model in every engine that is installed and compare it with the reference.

    Args:
        model: A serialised ONNX model.
        manifest: What it is said to be.
        inputs: One array per input, batch first.
        reference: What the eager FP32 generator gives for them.
        gate: What to reach.

    Returns:
        One proof per engine; empty where no engine is installed.
    """
    return tuple(
        _prove_in(model, manifest, inputs, reference, gate, name) for name in engines.MODULES if engines.installed(name)
    )


def _prove_in(
    model: bytes,
    manifest: Manifest,
    inputs: Sequence[NDArray[np.generic]],
    reference: NDArray[np.float32],
    gate: Gate,
    name: str,
) -> Parity:
    engine = engines.start(model, manifest.precision, name, "cpu", None)
    ports = manifest.interface.inputs
    parts, sizes, begin, turn = [], set(), 0, 0
    while begin < len(reference):
        size = min(BATCHES[turn % len(BATCHES)], len(reference) - begin)
        feeds = {port.name: array[begin : begin + size] for port, array in zip(ports, inputs, strict=True)}
        parts.append(engine.run(feeds)[0])
        sizes.add(size)
        begin, turn = begin + size, turn + 1
    engine.close()
    found = difference(np.concatenate(parts), reference, manifest.interface.output)
    return Parity(
        engine=str(engine.info),
        precision=engine.info.precision,
        samples=len(reference),
        batches=tuple(sorted(sizes)),
        max_abs=found.max_abs,
        mean_abs=found.mean_abs,
        psnr=found.psnr,
        ssim=found.ssim,
        nonfinite=found.nonfinite,
        tolerance=str(gate),
        passed=gate.holds(found),
    )


def difference(output: NDArray[np.generic], reference: NDArray[np.generic], port: Port) -> Difference:
    """Compare what an engine gives with what it should give.

    Args:
        output: `[N, ...]` as the port says.
        reference: The same shape.
        port: Layout and range.

    Raises:
        GanEdgeError: the shapes differ, so that there is nothing to compare.
    """
    if output.shape != reference.shape:
        raise GanEdgeError(
            f"the artifact gives shape {output.shape}, the generator {reference.shape}: not the same one"
        )
    span = _span(port, reference)
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
