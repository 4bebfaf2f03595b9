"""How far one output is from another, and the gates an artifact must pass.

    distance = difference(output, reference, port)
    GATES["int8"].holds(distance)

The worst item decides. Figures are computed in double precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .errors import ArtifactError, UsageError
from .manifest import Figures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .manifest import Interface, OutputParity, Parity, Port, Precision


@dataclass(frozen=True)
class Difference(Figures):
    """The figures of a comparison."""

    def __str__(self) -> str:
        """Return one line of text; the largest error is a share of the range, as in a gate."""
        psnr = "identical" if self.psnr is None else f"PSNR {self.psnr:.1f} dB"
        ssim = "" if self.ssim is None else f", SSIM {self.ssim:.4f}"
        bad = "" if self.nonfinite == 0 else f", {self.nonfinite:.2%} not finite"
        return f"max error {self.max_abs / (self.span or 1):.2g}, {psnr}{ssim}{bad}"


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

    @property
    def text(self) -> str:
        """The gate for people: a share of the output's range, a PSNR, or both."""
        parts = [f"{100 * self.max_abs:.2g} %"] if self.max_abs is not None else []
        parts += [f"{self.psnr:g} dB"] if self.psnr is not None else []
        return " and ".join(parts) or "none"

    def holds(self, distance: Difference, slack: float = 1.0) -> bool:
        """Whether these figures pass, with errors `slack` times as large; anything non-finite never does."""
        close = self.max_abs is None or distance.max_abs <= slack * self.max_abs * distance.span
        clear = self.psnr is None or distance.psnr is None or distance.psnr >= self.psnr - 20 * math.log10(slack)
        return close and clear and distance.nonfinite == 0


GATES: dict[Precision, Gate] = {
    "fp32": Gate(max_abs=1e-4),
    "fp16": Gate(psnr=45.0),
    "bf16": Gate(psnr=40.0),
    "int8": Gate(psnr=30.0),
}
"""The gate of each precision."""
LATENT_INT8 = Gate(psnr=35.0)
"""The gate of INT8 where latents go in: such generators lose less."""
HALF_LEVEL = 0.5 / 255
"""What rounding to bytes costs, as a share of the range."""


def gate_of(precision: Precision, interface: Interface) -> Gate:
    """The gate that an artifact must pass unless told otherwise.

    A uint8 output may be off by the half level that rounding costs, as the reference is not rounded.
    """
    if precision == "int8" and interface.noise is not None:
        return LATENT_INT8
    if precision == "fp32" and interface.output.dtype == "uint8":
        return Gate(max_abs=HALF_LEVEL + 1e-4)
    return GATES[precision]


def gates_of(gate: Gate, interface: Interface) -> tuple[Gate, ...]:
    """The gate of each output where this is the result's: the same, but floats are not rounded as bytes are."""
    floats = gate
    if gate.max_abs is not None and interface.output.dtype == "uint8" and gate.max_abs > HALF_LEVEL:
        floats = replace(gate, max_abs=round(gate.max_abs - HALF_LEVEL, 9))
    return (gate, *(gate if port.dtype == "uint8" else floats for port in interface.extras))


def read_gate(text: str) -> Gate:
    """A gate as people write it: `psnr=40,maxabs=1e-3`, either of them, or `none`.

    Raises:
        UsageError: anything else.
    """
    if text == "none":
        return Gate()
    known = {"psnr": "psnr", "maxabs": "max_abs"}
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            limits[known[name.strip()]] = float(value)
        except (KeyError, ValueError):
            raise UsageError(f"tolerance {text!r}: give psnr=40, maxabs=1e-3, both with a comma, or none") from None
    if not all(np.isfinite(value) and value > 0 for value in limits.values()):
        raise UsageError(f"tolerance {text!r}: the figures are more than 0")
    return Gate(**limits)


def miss(proof: Parity) -> str:
    """Return one line on how far an engine was off in a proof that it failed."""
    extras = [extra for extra in proof.extras if not extra.passed]
    lines = [f"in its output {extra.output} {_off(extra)}" for extra in extras]
    if not extras or misses_result(proof):
        lines.insert(0, f"{_off(proof)}{proof.worst and f', worst for {proof.worst}'}")
    return " and ".join(lines)


def _off(proof: Parity | OutputParity) -> str:
    """Return one line on how far one output was off."""
    if proof.nonfinite:
        off = f"{proof.nonfinite:.2%} of its values are NaN or infinite"
    else:
        share = (
            f"{100 * proof.max_abs / proof.span:.2g} % of the output's range" if proof.span else f"{proof.max_abs:.2g}"
        )
        level = "" if proof.psnr is None else f" ({proof.psnr:.1f} dB)"
        off = f"off by {share}{level}"
    return f"{off} where the gate is {read_gate(proof.tolerance).text}"


def misses_result(proof: Parity) -> bool:
    """Whether the result itself is off in a failed proof, and not only outputs beside it."""
    figures = Difference(proof.span, proof.max_abs, proof.mean_abs, proof.psnr, proof.ssim, proof.nonfinite)
    return not read_gate(proof.tolerance).holds(figures)


def worst(distances: Sequence[Difference]) -> Difference:
    """The worst figures of several comparisons; the mean error is their mean."""
    psnr = [each.psnr for each in distances if each.psnr is not None]
    ssims = [each.ssim for each in distances if each.ssim is not None]
    return Difference(
        span=distances[0].span,
        max_abs=max(each.max_abs for each in distances),
        mean_abs=float(np.mean([each.mean_abs for each in distances])),
        psnr=min(psnr) if psnr else None,
        ssim=min(ssims) if ssims else None,
        nonfinite=max(each.nonfinite for each in distances),
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
        ArtifactError: the shapes differ, so that there is nothing to compare.
    """
    if output.shape != reference.shape:
        raise ArtifactError(f"one gives shape {output.shape}, the other {reference.shape}: not the same generator")
    span = span or span_of(port, reference)
    finite = np.isfinite(output)
    values, expected = np.where(finite, output, 0.0).astype(np.float64), reference.astype(np.float64)
    error = np.abs(values - expected)
    noise = float((error**2).reshape(len(error), -1).mean(1).max())
    return Difference(
        span=span,
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        psnr=None if noise == 0 else float(10 * np.log10(span**2 / noise)),
        ssim=ssim(values, expected, port, span) if port.is_picture else None,
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


def span_of(port: Port, *references: NDArray[np.generic]) -> float:
    """The declared range of a port; for points and other values, which have none, that of the references."""
    if port.range is not None:
        low, high = port.range
    else:
        low, high = min(float(tensor.min()) for tensor in references), max(float(tensor.max()) for tensor in references)
        if low == high and port.role == "values":  # A constant: its own size is what an error is measured against.
            return abs(low) or 1.0
    return max(high - low, 1e-12)
