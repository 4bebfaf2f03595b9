"""From a proven ONNX artifact to a TensorRT engine and what it says of itself. No torch.

    write_engine(Path("g.onnx"), Path("g.engine"), proven, Settings.read(batch="1,4,16"), print)

The builder is the runtime's, so that a device can build an engine again; here the types of the network that it read
are checked against the graph, the engine is proven where its GPU is the one here, and what it is tied to is written
beside it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ganedge.export import dla, parity
from ganedge.export.artifact import VerifiedArtifact, write_proof
from ganedge.export.quantize import LAYERS
from ganedge.export.sizes import read_size
from ganedge.runtime.engine_file import EngineIdentity, Shapes, write_sidecar
from ganedge.runtime.engines import trt, trt_layers
from ganedge.runtime.engines.trt_builder import Built, Recipe, build, flavour
from ganedge.runtime.errors import EngineError, EngineMismatch, GanEdgeError, MissingExtra, UsageError
from ganedge.runtime.fidelity import Gate, gate_of, read_gate
from ganedge.runtime.files import write_whole
from ganedge.runtime.manifest import Interface, Manifest, Parity, Port, relation_of

BATCH, PICTURE_BATCH = (1, 1, 16), (1, 1, 1)
"""Smallest, most usual and largest batch where nothing else is asked for: of latents, and of pictures. An engine keeps
room for its largest shapes from the start, and what a small device has would be gone on pictures it never sees."""
SIDES = (32, 256, 512)
"""Heights and widths of pictures, in the same order, where nothing else is asked for or known from training, pixels."""


@dataclass(frozen=True)
class Settings:
    """How to build an engine."""

    batch: tuple[int, int, int] | None = None
    """Smallest, most usual and largest batch; None: as `BATCH` or `PICTURE_BATCH`."""
    size: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None = None
    """The same for height and width, where they are dynamic, pixels."""
    recipe: Recipe = field(default_factory=Recipe)
    """Further settings of the builder."""

    @classmethod
    def read(
        cls,
        batch: str | None = None,
        size: str | None = None,
        workspace: int | None = None,
        level: int | None = None,
        portable: bool = False,
        targets: str | None = None,
        timing_cache: Path | None = None,
        dla: int | None = None,
    ) -> Settings:
        """Settings as people write them.

        Raises:
            UsageError: figures that are no MIN,OPT,MAX.
        """
        sizes = None
        if size is not None and "," in size:
            parts = [read_size(part) for part in size.split(",")]
            if len(parts) != 3 or any(list(side) != sorted(side) for side in zip(*parts, strict=True)):
                raise UsageError(f"--size {size}: give MIN,OPT,MAX, such as 256,512,1024")
            sizes = (parts[0], parts[1], parts[2])
        names = tuple(targets.lower().split(",")) if targets else ()
        recipe = Recipe(workspace, level, portable, names, timing_cache, dla)
        return cls(None if batch is None else _batches(batch), sizes, recipe)

    def batches(self, interface: Interface) -> tuple[int, int, int]:
        """Smallest, most usual and largest batch of an engine for this generator."""
        return self.batch or (PICTURE_BATCH if interface.inputs[0].role == "image" else BATCH)


def _batches(text: str) -> tuple[int, int, int]:
    try:
        least, usual, most = (int(part) for part in text.split(","))
    except ValueError:
        least, usual, most = 1, 0, 0
    if not 1 <= least <= usual <= most <= 65_536:
        raise UsageError(f"--batch {text}: give MIN,OPT,MAX, such as 1,4,16")
    return least, usual, most


def write_engine(
    onnx_path: Path, path: Path, proven: VerifiedArtifact, settings: Settings, say: Callable[[str], None]
) -> Path:
    """Build an engine from an artifact, check it, and write it with its description.

    Args:
        onnx_path: The artifact, written already; it stays beside the engine.
        path: The engine.
        proven: The same artifact in memory.
        settings: How.
        say: Takes lines for people.

    Raises:
        EngineError: no TensorRT, or it refuses the model or the settings.
        GanEdgeError: the types it built are not those asked for, or on this GPU it gives other pictures; then no
            engine is written.
    """
    name, package = flavour(bool(settings.recipe.targets))
    manifest = proven.manifest
    profiles = _profiles(manifest.interface, settings, manifest.source.size)
    if settings.recipe.dla is not None and name == "tensorrt_rtx":
        raise UsageError(f"--dla {settings.recipe.dla}: TensorRT for RTX has no DLA; a Jetson's own TensorRT does")
    if settings.recipe.dla is not None and manifest.precision == "fp32":
        raise UsageError(f"--dla {settings.recipe.dla}: a DLA computes in FP16 or INT8; add --fp16 or --int8")
    if onnx_path.parent.resolve() != path.parent.resolve():
        raise UsageError(f"{path}: the .onnx is kept beside the engine, in one folder")
    say(_room(manifest.interface, profiles))
    graph = onnx.load_model_from_string(proven.data)
    if settings.recipe.dla is not None:
        say(dla.report(graph, _one_shape(settings.recipe.dla, profiles)))
    built = build(
        name,
        package,
        proven.data,
        profiles,
        settings.recipe,
        say,
        lambda network: _check_types(package, network, graph, manifest),
    )
    gate = _gate(proven)
    identity = EngineIdentity(
        flavour=name,
        version=str(package.__version__),
        compute_capability=built.capability,
        targets=built.targets,
        profiles=profiles,
        precision=manifest.precision,
        portable=settings.recipe.portable,
        onnx=onnx_path.name,
        onnx_digest=hashlib.sha256(proven.data).hexdigest(),
        engine_digest=hashlib.sha256(built.engine).hexdigest(),
        tolerance=str(gate),
    )
    proof, unproven, layers = _prove(built, identity, proven, gate)
    if layers:
        identity = replace(identity, layers=layers)
        say(trt_layers.line(layers, manifest.precision))
    described = replace(manifest, parity=() if proof is None else (proof,), unproven=unproven)
    if proof is None:
        say(unproven + ("; the .onnx it was built from is proven, see above" if manifest.parity else ""))
    else:
        say(str(proof))
        if not proof.passed:
            raise GanEdgeError(parity.explain([proof], manifest.precision, what="engine"))
    write_whole(path, built.engine)
    write_sidecar(path, described, identity)
    write_proof(path, replace(proven, cases=_inside(profiles, proven)[0]))
    return path


def _one_shape(core: int, profiles: Mapping[str, Shapes]) -> dict[str, tuple[int, ...]]:
    """The shape of each input of an engine for a DLA, which takes one only."""
    for name, shapes in profiles.items():
        if len(set(shapes)) > 1:
            least, _, most = (" × ".join(map(str, shape)) for shape in shapes)
            raise UsageError(
                f"--dla {core}: a DLA takes one shape, and {name} is {least} to {most}: give --batch 1,1,1 and, where "
                "heights and widths are dynamic, one --size three times, such as 256,256,256"
            )
    return {name: shapes[1] for name, shapes in profiles.items()}


def _gate(proven: VerifiedArtifact) -> Gate:
    """Return the gate of the .onnx, which the engine must pass too."""
    manifest = proven.manifest
    tolerance = next((proof.tolerance for proof in manifest.parity if proof.passed), None)
    return gate_of(manifest.precision, manifest.interface) if tolerance is None else read_gate(tolerance)


def _prove(
    built: Built, identity: EngineIdentity, proven: VerifiedArtifact, gate: Gate
) -> tuple[Parity | None, str, dict[str, int]]:
    """The engine beside the FP32 generator, on the GPU it was built on; or nothing, and why not.

    And its layers by the precision that they run in, where it was loaded and says so.
    """
    if not built.capability:
        return None, "engine not run here: no GPU", {}
    if built.targets and built.capability not in built.targets:
        targets = ", ".join(built.targets)
        return None, f"engine not run here: this GPU is {built.capability}, and it is for {targets}", {}
    if not proven.cases:
        return None, "engine not run here: nothing here runs the source to compare with; pip install 'ganedge[cpu]'", {}
    cases, batches = _inside(identity.profiles, proven)
    if not cases:
        return None, "engine not run here: no input of the proof fits its shapes", {}
    try:
        engine = trt.start(built.engine, identity)
    except EngineMismatch:
        raise
    except (MissingExtra, EngineError) as error:  # No cuda-python, or one that does not fit the driver.
        return None, f"engine not run here: {error}", {}
    try:
        layers = engine.layers()
        proof = parity.prove_in(engine, proven.manifest, cases, gate, batches)
    finally:
        engine.close()
    return (replace(proof, passed=True) if str(gate) == "none" else proof), "", layers


def _inside(profiles: Mapping[str, Shapes], proven: VerifiedArtifact) -> tuple[list[parity.Case], tuple[int, ...]]:
    """Those inputs of a proof that an engine's shapes allow, and the sizes of batches to try."""
    interface = proven.manifest.interface
    shapes = [profiles[port.name] for port in interface.inputs]
    least, most = max(shape[0][0] for shape in shapes), min(shape[2][0] for shape in shapes)
    usual = parity.BATCHES if interface.noise else parity.PICTURE_BATCHES
    batches = tuple(dict.fromkeys(min(max(size, least), most) for size in usual))
    cases = []
    for case in proven.cases:
        fits = all(
            low <= size <= high
            for array, (small, _, large) in zip(case.inputs, shapes, strict=True)
            for size, low, high in zip(array.shape[1:], small[1:], large[1:], strict=True)
        )
        whole = len(case.reference)
        if least > 1:  # Only sizes that divide it leave no batch below the smallest.
            batches, whole = (least,), whole // least * least
        if fits and whole:
            cases.append(case.first(whole))
    return cases, batches


def _profiles(interface: Interface, settings: Settings, trained: int | None = None) -> dict[str, Shapes]:
    """Smallest, most usual and largest shape of every input; `trained` is the pictures' side in training, pixels."""
    shapes: dict[str, Shapes] = {}
    for port in interface.inputs:
        sides = settings.size
        if sides is None:
            least, usual, most = SIDES
            if trained is not None:
                least, usual, most = min(least, -(-trained // 2)), trained, max(most, trained)
            first, second, third = (_rounded((side, side), port.multiple) for side in (least, usual, most))
            sides = (first, second, third)
        elif any(size % port.multiple for pair in sides for size in pair):
            raise UsageError(f"--size: heights and widths must be multiples of {port.multiple}")
        made = []
        for batch, (height, width) in zip(settings.batches(interface), sides, strict=True):
            values = {"batch": batch, "height": height, "width": width}
            made.append(tuple(size if isinstance(size, int) else values.get(size, 1) for size in port.shape))
        shapes[port.name] = (made[0], made[1], made[2])
    return shapes


def _room(interface: Interface, profiles: Mapping[str, Shapes]) -> str:
    """What the engine is for, and the memory that its inputs and outputs take at their largest."""
    shown = "; ".join(
        f"{name} {', '.join(' × '.join(map(str, shape)) for shape in dict.fromkeys(shapes))}"
        for name, shapes in profiles.items()
    )
    most = {
        size: value
        for port in interface.inputs
        for size, value in zip(port.shape, profiles[port.name][2], strict=True)
        if isinstance(size, str)
    }
    room = sum(_largest(port, most) for port in (*interface.inputs, *interface.outputs))
    return (
        f"engine for {shown}: inputs and outputs take up to {room / 1e6:.3g} MB on the GPU and as much on the host for "
        "each call at once; --batch and --size choose"
    )


def _largest(port: Port, most: Mapping[str, int]) -> float:
    """Bytes of a port where what is dynamic is at its most, such as `2*height` or `height-4`."""
    sizes = []
    for size in port.shape:
        relation = relation_of(size)
        known = relation is not None and relation.name in most
        largest = relation.scale * most[relation.name] - relation.border if relation is not None and known else 1
        sizes.append(size if isinstance(size, int) else float(largest))
    return math.prod(sizes) * np.dtype(port.dtype).itemsize


def _rounded(pair: tuple[int, int], multiple: int) -> tuple[int, int]:
    return -(-pair[0] // multiple) * multiple, -(-pair[1] // multiple) * multiple


def _check_types(trt: Any, network: Any, model: onnx.ModelProto, manifest: Manifest) -> None:
    """Every convolution and matrix product of the network computes in the type that the graph gives it.

    INT8 is arithmetic between a quantised input and its layer: such a layer still names a floating-point type, so the
    quantisations are counted as well.

    Raises:
        GanEdgeError: other types, fewer layers, or none in the precision that was asked for.
    """
    heavy = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    names = {trt.float32: "fp32", trt.float16: "fp16", trt.bfloat16: "bf16"}
    types = Counter(names.get(layer.get_output(0).dtype, "another type") for layer in layers if layer.type in heavy)
    expected = Counter(_computed_in(model))
    quantisations = sum(layer.type == trt.LayerType.QUANTIZE for layer in layers)
    present = quantisations > 0 if manifest.precision == "int8" else not expected or expected[manifest.precision] > 0
    if types != expected or not present:
        shown = ", ".join(f"{count} in {name}" for name, count in sorted(types.items())) or "nothing"
        given = ", ".join(f"{count} in {name}" for name, count in sorted(expected.items())) or "nothing"
        raise GanEdgeError(
            f"the network TensorRT read computes {shown} (quantisations: {quantisations}), where the "
            f"{manifest.precision} graph has {given}"
        )


def _computed_in(model: onnx.ModelProto) -> Iterator[str]:
    """The type of what each convolution and matrix product of a graph gives."""
    names = {onnx.TensorProto.FLOAT: "fp32", onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
    known = (*model.graph.value_info, *model.graph.output)
    types = {value.name: names.get(value.type.tensor_type.elem_type, "another type") for value in known}
    for node in model.graph.node:
        if node.op_type in LAYERS:
            yield types[node.output[0]]
