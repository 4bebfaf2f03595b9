"""Change what a generator's graph computes in; what that takes is measured once for all attempts. No torch here.

conversion = Conversion(original, "int8", ExportSpec(engine="openvino"), inputs)
model, notes = conversion.graph(frozenset({"layer_3"}))        # that layer stays in FP32
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from ganedge.export import layers, uint8_io
from ganedge.export.precision import in_opset, overflowing, to_half
from ganedge.export.quantize import MINMAX, Quantiser
from ganedge.export.source_model import SourceModel
from ganedge.export.spec import ExportSpec
from ganedge.runtime import engines
from ganedge.runtime.manifest import Precision

FP16_SCALES_OPSET = 19
"""The first operator set whose quantisation takes FP16 values and scales."""


class Conversion:
    """Graphs of one generator in one precision, with any nodes kept in a higher one.

    Args:
        original: The source.
        precision: What to compute in.
        spec: With the engine that an INT8 graph is made for.
        inputs: What values are looked at with, one group per shape.

    Attributes:
        way: How INT8 is calibrated.
        note: What to say of that.
    """

    def __init__(
        self,
        original: SourceModel,
        precision: Precision,
        spec: ExportSpec,
        inputs: Sequence[Sequence[NDArray[np.generic]]],
    ) -> None:
        self._original = original
        self._precision = precision
        self._spec = spec
        self._inputs = inputs
        self.way = MINMAX
        self.note = ""

    @cached_property
    def quantiser(self) -> Quantiser:
        """What makes the INT8 graphs, with FP32 outside INT8."""
        assert self._spec.target is not None
        model = self._original.model
        if self._spec.remaining == "fp16":
            model = in_opset(model, FP16_SCALES_OPSET)
        return Quantiser(model, self._inputs, self._spec.target)

    def graph(self, keep: frozenset[str]) -> tuple[ModelProto, tuple[str, ...]]:
        """The graph in that precision, and what there is to say of it.

        Args:
            keep: Nodes that stay in FP32, by their names in the source's graph.
        """
        if self._precision == self._original.precision:
            return self._original.model, ()
        if self._precision == "int8":
            return self._int8(keep)
        levels = uint8_io.steps(self._original.model)
        if self._precision == "bf16":  # It reaches as far as FP32 does.
            return to_half(self._original.model, "bf16", keep | levels), _kept(keep)
        if not engines.installed("onnxruntime"):
            return to_half(self._original.model, "fp16", keep | levels), (
                "values not looked at: onnxruntime is not installed",
            )
        wide = self._overflowing | keep
        return to_half(self._original.model, "fp16", wide | levels), _kept(wide)

    def _int8(self, keep: frozenset[str]) -> tuple[ModelProto, tuple[str, ...]]:
        low, share = self.quantiser.graph(keep, self.way)
        note = f"INT8 for {self._spec.target}: {share:.0%} of the multiply-accumulates"
        notes = (self.note,) if self.note else ()
        if self._spec.remaining == "fp32":
            return low, (*notes, note)
        wide = self._overflowing_prepared
        half = to_half(low, "fp16", wide | uint8_io.steps(self._original.model))
        return half, (*notes, f"{note}, FP16 for the rest", *_kept(wide))

    @cached_property
    def _overflowing_prepared(self) -> frozenset[str]:
        """The nodes of the graph that is quantised whose values FP16 does not keep safely."""
        prepared = self.quantiser.prepared
        return overflowing(prepared, layers.largest_values(prepared, self._inputs))

    @cached_property
    def _overflowing(self) -> frozenset[str]:
        """The nodes whose values FP16 does not keep safely."""
        return overflowing(self._original.model, layers.largest_values(self._original.model, self._inputs))


def _kept(names: frozenset[str]) -> tuple[str, ...]:
    return (f"kept in FP32 beside normalisation: {', '.join(sorted(names))}",) if names else ()
