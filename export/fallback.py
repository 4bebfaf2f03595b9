"""Which layers to take back to FP32 where a lower precision misses its gate. No torch here.

losses = losses_of("int8", model, conversion, spec, calibrated, others)
keep = losses.kept(low, keep)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from ganedge.export import layers, phases, quantize
from ganedge.export.calibration import METHODS, Way
from ganedge.export.conversion import Conversion
from ganedge.export.graph import copied
from ganedge.export.sensitivity import Sensitivity, open_sides
from ganedge.export.source_model import SourceModel
from ganedge.export.spec import ExportSpec
from ganedge.runtime import engines, fidelity
from ganedge.runtime.errors import EngineError, one_line
from ganedge.runtime.manifest import Precision

SPARE = 1.0
"""Margin over the gate when predicting INT8 quality, dB; raised by as much each time an engine missed the gate."""
SLOW, WORTH = 1e11, 0.1
"""Multiply-accumulates of a search from which on a generator is slow, and the share of its arithmetic from which on
other calibrations are tried to keep that in INT8."""
OVERFLOW = 3.0
"""How many dB an engine may lose beside what rounding does, before weights of 7 bits are tried."""
MOST_SPARE = 15.0
"""Largest such margin, dB."""
Cases = Sequence[Sequence[NDArray[np.generic]]]


def losses_of(
    precision: Precision,
    original: SourceModel,
    conversion: Conversion,
    spec: ExportSpec,
    calibrated: Cases,
    others: Callable[[], Cases],
) -> Losses:
    """Rank the layers of a precision by how much quality they lose.

    Args:
        precision: fp16, bf16 or int8.
        original: The FP32 source.
        conversion: What makes its graphs in that precision, of which the first missed the gate.
        spec: What was asked for.
        calibrated: Inputs that the graph was calibrated with.
        others: Gives further inputs, for INT8: the choice must not see those of the calibration or the proof.
    """
    if precision == "int8":
        return _LossesOfInt8(original, conversion, spec, others())
    return _LossesOfFp16(original, calibrated) if precision == "fp16" else _LossesOfBf16(original)


class Losses(Protocol):
    """Ranks layers by how much quality they lose in a lower precision."""

    worst: str
    """What loses most, for messages."""

    def kept(self, model: ModelProto, keep: frozenset[str], missed: Mapping[int, float], /) -> frozenset[str]:
        """The nodes to keep in FP32 next, after `model` missed its gate with `keep`; the same where nothing helps.

        `missed` has the PSNR, dB, of the outputs that missed theirs, by their indices.
        """
        ...


class _LossesOfFp16:
    """FP16: what overflows or cancels shows in the layer itself: those that lose most, more each attempt."""

    def __init__(self, original: SourceModel, inputs: Cases) -> None:
        self._original = original
        self._inputs = inputs
        self._count = max(1, sum(node.op_type in quantize.LAYERS for node in original.model.graph.node) // 12)
        self.worst = ""

    def kept(self, model: ModelProto, keep: frozenset[str], _missed: Mapping[int, float], /) -> frozenset[str]:
        """As `Losses` says."""
        lost = layers.losses(self._original.model, model, self._inputs)
        self.worst = ", ".join(map(str, lost[:3]))
        names = [loss.node for loss in lost if loss.node not in keep][: self._count]
        self._count *= 2
        return keep | layers.with_makers(self._original.model, names)


class _LossesOfBf16:
    """bf16: all layers round equally, so errors of early layers are amplified by the most layers after them."""

    worst = "the first layers"

    def __init__(self, original: SourceModel) -> None:
        self._layers = [node.name for node in original.model.graph.node if node.op_type in quantize.LAYERS]
        self._count = max(1, len(self._layers) // 12)

    def kept(self, _model: ModelProto, _keep: frozenset[str], _missed: Mapping[int, float], /) -> frozenset[str]:
        """As `Losses` says: twice as many each time, and never all of them."""
        kept = frozenset(self._layers[: self._count][: len(self._layers) - 1])
        self._count *= 2
        return kept


class _LossesOfInt8:
    """INT8: later layers may amplify or damp a rounding error, so layers are ranked by its effect on the output."""

    def __init__(self, original: SourceModel, conversion: Conversion, spec: ExportSpec, others: Cases) -> None:
        self._original, self._conversion, self._spec, self._others = original, conversion, spec, others
        self._effect = self._sensitivity(conversion.way)
        self._conversion.note = self._effect.note
        self._compared = False
        self._gate = spec.gate or fidelity.gate_of("int8", original.interface)
        self._gates = fidelity.gates_of(self._gate, original.interface)
        self._extras: dict[int, Sensitivity] = {}
        self._reasons: tuple[str, ...] = ()
        self._wrong: frozenset[str] | None = None
        self._may_narrow = conversion.way.bits == 8
        self._before: tuple[Way, Sensitivity, float, float] | None = None
        self._spare = SPARE
        self.worst = self._effect.worst()

    def kept(self, _model: ModelProto, keep: frozenset[str], missed: Mapping[int, float], /) -> frozenset[str]:
        """As `Losses` says. More is asked for each time, at least what the prediction was off by in an engine.

        An engine that is off by much more than rounding is may clip sums. Then the same layers are tried with weights
        of 7 bits, whose sums cannot be too large; 8 are taken again if that gains nothing. If the engine is off by as
        much then, each layer is tried alone in it, and those that it computes wrongly are left out.
        """
        extras = [index for index in missed if index]
        gaps = [(self._of_extra(index) if index else self._effect).predicted(keep) - missed[index] for index in missed]
        gap = max(gaps, default=0.0)
        if self._may_narrow and gap > OVERFLOW:
            self._narrow_weights(gap, min(missed.values()))
            return keep
        if self._before is not None:
            gap = self._choose_bits(gap, min(missed.values()))
        if self._wrong is None and gap > OVERFLOW:
            self._wrong = self._miscomputed()
            if self._wrong - keep:
                return keep | self._wrong
        wrong = self._wrong or frozenset()
        self._spare = min(max(self._spare, gap), MOST_SPARE)
        while self._spare <= MOST_SPARE:
            spare = self._spare
            names = keep if extras and 0 not in missed else self._effect.kept(self._gate, spare)
            for index in extras:
                names |= self._of_extra(index).kept(self._gates[index], spare)
            self._spare += SPARE
            if names | wrong != keep:
                names = names if self._compared or extras else self._with_better_way(names, spare)
                if names | wrong == self._effect.every:
                    break
                return names | wrong
        return keep

    def _narrow_weights(self, gap: float, level: float) -> None:
        """Round weights to 7 bits from here on; with 8 an engine has `level` dB, `gap` less than rounding costs."""
        self._may_narrow = False
        self._before = (self._conversion.way, self._effect, gap, level)
        way = replace(self._conversion.way, bits=7)
        self._extras.clear()
        self._effect = self._sensitivity(way)
        self._conversion.way = way
        self._add_reason(
            f"weights of 7 bits: with 8 an engine lost {gap:.0f} dB more here than rounding does, "
            "as on x86-64 processors without VNNI"
        )
        self.worst = self._effect.worst()

    def _choose_bits(self, gap: float, level: float) -> float:
        """Round weights to 8 bits again if the engine is no better with 7; returns what it is off by then, dB."""
        assert self._before is not None
        way, effect, gap_of_8, level_of_8 = self._before
        self._before = None
        if gap <= OVERFLOW or level >= level_of_8 + OVERFLOW:
            return gap
        self._conversion.way, self._effect = way, effect
        self._extras.clear()
        self._reasons = ()
        self._conversion.note = effect.note
        self.worst = effect.worst()
        return gap_of_8

    def _miscomputed(self) -> frozenset[str]:
        """The layers that the engine computes otherwise than rounding says, each INT8 alone; none if all are."""
        target, groups = self._spec.target, self._effect.groups
        if target not in quantize.runnable_targets():
            return frozenset()
        every = self._effect.every
        wrong: set[str] = set()
        for index, group in enumerate(groups):
            phases.report("looking for layers that the engine computes wrongly", index, len(groups))
            low = copied(self._conversion.quantiser.graph(every - {*group.nodes}, self._conversion.way)[0])
            open_sides(low.graph)  # Layers may be tried on parts of pictures.
            try:
                engine = engines.start(low.SerializeToString(), "int8", target, "cpu", None)
                with contextlib.closing(engine):
                    if self._effect.lost_in(engine, index) > OVERFLOW:
                        wrong |= {*group.nodes}
            except EngineError as error:
                self._add_reason(f"layers could not be tried alone: {one_line(error)}")
                return frozenset()
        if wrong == every:
            return frozenset()
        if wrong:
            self._add_reason(f"not INT8, as {target} computes them wrongly in it here: {', '.join(sorted(wrong))}")
        return frozenset(wrong)

    def _add_reason(self, reason: str) -> None:
        self._reasons += (reason,)
        self._conversion.note = "; ".join(filter(None, (self._effect.note, *self._reasons)))

    def _of_extra(self, index: int) -> Sensitivity:
        """What each layer costs at an output beside the result."""
        if index not in self._extras:
            self._extras[index] = self._sensitivity(self._conversion.way, (), index)
            self.worst = self._extras[index].worst()
        return self._extras[index]

    def _with_better_way(self, names: frozenset[str], spare: float) -> frozenset[str]:
        """The layers to keep by the way to calibrate that needs fewest of them, which is used from here on.

        Ways are tried in the order of what they cost, until one needs none; of a slow generator only where the layers
        that MinMax leaves out have a share of the arithmetic that is worth it.
        """
        self._compared = True
        if self._effect.work > SLOW and self._effect.share(names) < WORTH:
            return names
        best = self._conversion.way
        counts = {best: len(names)}
        ways = [replace(best, method=method) for method in METHODS[1:]]
        for index in range(len(ways) + 1):
            if not names:
                break
            way = ways[index] if index < len(ways) else replace(best, corrected=True)
            phases.report(f"calibrating by {way}")
            effect = self._sensitivity(way, self._effect.noise)
            kept = effect.kept(self._gate, spare)
            counts[way] = len(kept)
            if len(kept) < len(names):
                names, best, self._effect = kept, way, effect
        self._conversion.way = best
        shown = ", ".join(f"{way} {count}" for way, count in counts.items())
        compared = f"layers that INT8 leaves out by the calibration: {shown}; taken: {best}"
        self._conversion.note = "; ".join(filter(None, (self._effect.note, *self._reasons, compared)))
        return names

    def _sensitivity(self, way: Way, noise: Sequence[float] = (), output: int = 0) -> Sensitivity:
        quantiser, target = self._conversion.quantiser, self._spec.target
        assert target is not None
        low, _ = quantiser.graph(way=replace(way, corrected=False))
        errors = quantiser.errors(way) if way.corrected else {}
        interface = self._original.interface
        return Sensitivity(quantiser.prepared, low, target, self._others, interface, errors, noise, output)
