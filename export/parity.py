"""The proof: an artifact beside the eager FP32 generator, on the same real inputs. No torch here.

cases = [Case(inputs, original.reference(inputs)) for inputs in real_cases(interface)]
proofs = prove(model, manifest, cases, fidelity.gate_of("fp32", interface))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ganedge.runtime import engines
from ganedge.runtime.fidelity import Gate, difference, span_of, worst
from ganedge.runtime.inputs import from_folder, natural, to_port
from ganedge.runtime.latents import LatentStream, class_numbers
from ganedge.runtime.manifest import Interface, Manifest, Parity, Port

COUNT = 32
"""Latents in one proof."""
PICTURES = 16
"""Pictures in one proof of a generator that takes pictures."""
BATCHES = (1, 5, 16)
"""Batch sizes that a proof goes through, again and again until the inputs are used up."""
PICTURE_BATCHES = (1, 3)
"""The same where a picture goes in: they are larger, and memory goes with the batch."""
SIDES = ((64, 64), (96, 128))
"""Heights and widths of the pictures where these are dynamic and nothing says what they were in training; rounded up to
the port's multiple."""
SEED = 20_26
"""Seed of the inputs of a proof."""
Use = Literal["proof", "calibration", "foresight"]
"""What real inputs are for: to prove with, to calibrate with, or to tell what each layer's INT8 costs."""
USES: tuple[Use, ...] = get_args(Use)
"""No two of them see the same inputs."""


@dataclass(frozen=True)
class Case:
    """Inputs of one shape, and what the generator makes of them."""

    inputs: Sequence[NDArray[np.generic]]
    """One array per input, batch first."""
    reference: NDArray[np.generic]
    """What the FP32 generator gives for them."""


def real_inputs(
    interface: Interface,
    count: int = COUNT,
    seed: int = SEED,
    folder: Path | None = None,
    side: tuple[int, int] | None = None,
    share: tuple[int, int] = (0, 1),
) -> list[NDArray[np.generic]]:
    """Inputs such as the generator meets in use: latents of its own distribution, or pictures; every class in turn.

    Args:
        interface: What the generator takes.
        count: How many; fewer where the folder holds fewer.
        seed: Of latents, and of pictures made by code.
        folder: Pictures to take; without one they are made by code.
        side: Height and width of pictures where these are dynamic, pixels.
        share: Which of the folder's pictures, see `pictures.from_folder`.

    Returns:
        One array per input, batch first; as many as a fixed batch divides.
    """
    port = interface.inputs[0]
    if interface.noise is not None:
        inputs: list[NDArray[np.generic]] = [LatentStream(interface.noise, port.item_shape, seed).take(count)]
    else:
        height, width = side or sides(port)[0]
        shape = (count, height, width, port.channels)
        made = natural(*shape, seed) if folder is None else from_folder(folder, *shape, share)
        inputs = [to_port(made, port)]
    if interface.classes:
        inputs.append(class_numbers(len(inputs[0]), len(interface.classes)))
    batch = port.shape[0]
    if isinstance(batch, int) and len(inputs[0]) % batch:  # A fixed batch is filled up with the first ones again.
        places = np.arange(-(-len(inputs[0]) // batch) * batch) % len(inputs[0])
        inputs = [array[places] for array in inputs]
    return inputs


def real_cases(
    interface: Interface,
    folder: Path | None = None,
    count: int | None = None,
    use: Use = "proof",
    trained: int | None = None,
) -> list[list[NDArray[np.generic]]]:
    """Real inputs at every size that a proof looks at: one where the size is fixed, two where it is dynamic.

    Args:
        interface: What the generator takes.
        folder: Pictures to take; without one they are made by code.
        count: How many in all; what a proof takes by default.
        use: What for: each has inputs of its own, in a folder every third picture.
        trained: Height and width of the pictures in training, where they are known, pixels.
    """
    share = (USES.index(use), len(USES))
    seed = SEED + 1000 * share[0]
    if interface.noise is not None:
        return [real_inputs(interface, count or COUNT, seed)]
    chosen = sides(interface.inputs[0], trained)
    each = -(-(count or PICTURES) // len(chosen))
    return [real_inputs(interface, each, seed + place, folder, side, share) for place, side in enumerate(chosen)]


def sides(port: Port, trained: int | None = None) -> list[tuple[int, int]]:
    """The heights and widths to try for a picture port: its own, or two that its multiple allows.

    Where the training's size is known it is the first, and the second is another, smaller where the multiple allows.
    """
    height, width = port.shape[2:] if port.layout == "NCHW" else port.shape[1:3]
    if isinstance(height, int) and isinstance(width, int):
        return [(height, width)]

    def pick(fixed: int | str, wanted: int) -> int:
        return fixed if isinstance(fixed, int) else -(-wanted // port.multiple) * port.multiple

    wanted = SIDES if trained is None else ((trained, trained), (trained // 2, 3 * trained // 4))
    found = [(pick(height, h), pick(width, w)) for h, w in wanted]
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
    found = prove_in(engine, manifest, cases, gate)
    engine.close()
    return found


def prove_in(
    engine: engines.Engine, manifest: Manifest, cases: Sequence[Case], gate: Gate, batches: Sequence[int] | None = None
) -> Parity:
    """Compare what a started engine gives with the reference, in batches of these sizes or of those of every proof."""
    port = manifest.interface.output
    sizes: set[int] = set()
    outputs = [_run_in_batches(engine, manifest.interface, case, sizes, batches) for case in cases]
    span = span_of(port, *(case.reference for case in cases))
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
