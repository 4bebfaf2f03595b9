"""The proof: an artifact beside the eager FP32 generator, on the same real inputs. No torch here.

cases = [Case(inputs, original.reference(inputs)) for inputs in real_cases(interface)]
proofs, refusals = prove(model, manifest, cases, fidelity.gate_of("fp32", interface))
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganedge.runtime import engines
from ganedge.runtime.errors import EngineError
from ganedge.runtime.fidelity import Gate, difference, span_of, worst
from ganedge.runtime.manifest import Interface, Manifest, Parity

BATCHES = (1, 5, 16)
"""Batch sizes that a proof goes through, again and again until the inputs are used up."""
PICTURE_BATCHES = (1, 3)
"""The same where a picture goes in: they are larger, and memory goes with the batch."""


@dataclass(frozen=True)
class Case:
    """Inputs of one shape, and what the generator makes of them."""

    inputs: Sequence[NDArray[np.generic]]
    """One array per input, batch first."""
    reference: NDArray[np.generic]
    """What the FP32 generator gives for them."""


def prove(
    model: bytes, manifest: Manifest, cases: Sequence[Case], gate: Gate, required: Collection[str] = ()
) -> tuple[tuple[Parity, ...], dict[str, str]]:
    """Run a model in every engine that is installed and compare it with the reference.

    Args:
        model: A serialised ONNX model.
        manifest: Its description.
        cases: Inputs, and what the FP32 generator returns for them; the worst decides.
        gate: What to reach.
        required: Engines that have to run it; the others may refuse it as long as one runs it.

    Returns:
        One proof per engine that runs it, none where no engine for this precision is installed; and by engine why it
        does not run it.

    Raises:
        EngineError: a required engine does not run it, or none does.
    """
    proofs: list[Parity] = []
    refusals: dict[str, EngineError] = {}
    for name in filter(engines.installed, engines.readers(manifest.precision)):
        outcome = _prove_in(model, manifest, cases, gate, name)
        if isinstance(outcome, Parity):
            proofs.append(outcome)
        else:
            refusals[name] = outcome
    for name, refusal in refusals.items():
        if name in required or not proofs:
            raise refusal
    return tuple(proofs), {name: str(refusal) for name, refusal in refusals.items()}


def _prove_in(model: bytes, manifest: Manifest, cases: Sequence[Case], gate: Gate, name: str) -> Parity | EngineError:
    """The proof in one engine, or why that engine does not run the model."""
    try:
        engine = engines.start(model, manifest.precision, name, "cpu", None)
        result = prove_in(engine, manifest, cases, gate)
        engine.close()
    except EngineError as error:
        return error
    return result


def prove_in(
    engine: engines.Engine, manifest: Manifest, cases: Sequence[Case], gate: Gate, batches: Sequence[int] | None = None
) -> Parity:
    """Compare what a started engine gives with the reference, in batches of these sizes or of those of every proof."""
    port = manifest.interface.output
    sizes: set[int] = set()
    outputs = [_run_in_batches(engine, manifest.interface, case, sizes, batches) for case in cases]
    span = span_of(port, *(case.reference for case in cases))
    distance = worst(
        [difference(output, case.reference, port, span) for output, case in zip(outputs, cases, strict=True)]
    )
    return Parity(
        engine=str(engine.info),
        precision=engine.info.precision,
        samples=sum(len(case.reference) for case in cases),
        batches=tuple(sorted(sizes)),
        max_abs=distance.max_abs,
        mean_abs=distance.mean_abs,
        psnr=distance.psnr,
        ssim=distance.ssim,
        nonfinite=distance.nonfinite,
        tolerance=str(gate),
        passed=gate.holds(distance),
    )


def _run_in_batches(
    engine: engines.Engine, interface: Interface, case: Case, sizes: set[int], batches: Sequence[int] | None
) -> NDArray[np.generic]:
    """Every input of a case through an engine, in batches of changing size; a fixed batch stays what it is."""
    ports, fixed = interface.inputs, interface.inputs[0].shape[0]
    usual = BATCHES if interface.noise else PICTURE_BATCHES
    tried = (fixed,) if isinstance(fixed, int) else batches or usual
    parts, begin, turn, count = [], 0, 0, len(case.reference)
    while begin < count:
        size = min(tried[turn % len(tried)], count - begin)
        feeds = {port.name: array[begin : begin + size] for port, array in zip(ports, case.inputs, strict=True)}
        parts.append(engine.run(feeds)[0])
        sizes.add(size)
        begin, turn = begin + size, turn + 1
    return np.concatenate(parts)
