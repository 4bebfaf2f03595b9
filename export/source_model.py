"""The source generator of an export: its graph, its interface and a reference to compare with. No torch here.

model.reference([latents])        # what every artifact of it is compared with
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ganedge.runtime.manifest import Interface, NormMode, Parity, Precision, Source

Arrays = Sequence[NDArray[np.generic]]
Run = Callable[[Arrays], NDArray[np.generic]]
"""From one array per input to the result."""
RunAll = Callable[[Arrays], list[NDArray[np.generic]]]
"""From one array per input to one array per output."""


def result_of(every: RunAll | None) -> Run | None:
    """A function to the result alone; None where nothing can compute it."""
    return None if every is None else lambda inputs: every(inputs)[0]


@dataclass(frozen=True)
class SourceModel:
    """A source generator."""

    model: onnx.ModelProto
    """Its graph, checked, normalisation folded, with inferred shapes."""
    interface: Interface
    """What it takes and gives."""
    norm_mode: NormMode
    """Which statistics its normalisation uses."""
    source: Source
    """Where it comes from."""
    reference: Run | None
    """The reference of every proof, one array per input, batch first: eager PyTorch in FP32, or the .onnx it came from
    in an engine; None where no engine is installed to run that."""
    folder: Path
    """Where its artifacts go unless told otherwise."""
    stem: str = "generator"
    """What their names begin with."""
    precision: Precision = "fp32"
    """Precision of the graph."""
    parity: tuple[Parity, ...] = ()
    """Its recorded proofs, if the source is an artifact."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how it was read."""
    exact: RunAll | None = None
    """All outputs in FP64, to tell rounding from faults; None where nothing can compute that."""
    made_for: str = ""
    """The engine that its graph variant was made for, where it is an INT8 artifact itself."""
    remainder: str = ""
    """What that computes in where it is not INT8, as `Manifest` has it."""
    proof_size: int | None = None
    """Side of the images to prove with, pixels, where it takes any size; that of its training by default."""
    outputs: RunAll | None = None
    """As `reference`, for all outputs, the result first; None where there is the result alone."""

    def all_outputs(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """What the reference makes of these inputs: one array per output of the interface."""
        if self.outputs is not None:
            return self.outputs(inputs)
        assert self.reference is not None, "nothing runs this source"
        return [self.reference(inputs)]
