"""From an .onnx file, ours or another's, to an `SourceModel`. No torch here: this is the way in on a small device.

    original = of_onnx(Path("generator.onnx"))
    original = of_onnx(Path("theirs.onnx"), SourceSpec(kind="image", range=(0.0, 1.0)))

The reference of every proof is the file itself, in the first engine that is installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper, version_converter

from ganedge.export import rewrite
from ganedge.export.bounds import with_bounded_range
from ganedge.export.graph import attributes, constants, copied, opset
from ganedge.export.onnx_ports import adapt_ports
from ganedge.export.outputs import (
    ALL,
    Choice,
    KeptOutput,
    Shapes,
    describe,
    hindrance,
    keepable,
    note_of,
    read_kept,
    with_sizes,
)
from ganedge.export.receptive_field import find_reach
from ganedge.export.sizes import CHANNELS, find_multiple, larger, read_size, scaled
from ganedge.export.source import SourceSpec, metadata
from ganedge.export.source_model import Arrays, RunAll, SourceModel, result_of
from ganedge.runtime import engines
from ganedge.runtime.errors import ArtifactError, GanEdgeError, UsageError, one_line
from ganedge.runtime.files import read_file
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import (
    KEY,
    Interface,
    NormMode,
    Port,
    Precision,
    Source,
    program,
    read_artifact,
    relation_of,
)
from ganedge.runtime.pictures.shared_norm import WHOLE_PICTURE

OPSET = 18
"""Older files are raised to this operator set; newer ones stay what they are."""
LEAST_IR = 8
"""Older files are raised to this version of the format: before version 4 weights had to be inputs as well."""
DTYPES: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8", TensorProto.INT64: "int64"}
HALVES: dict[int, Precision] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
QUANTISED = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
    }
)
"""Operators of a graph that is INT8 already."""
TRAINING = "BatchNormalization in training mode"


def of_onnx(path: Path, spec: SourceSpec | None = None, tried: bool = True) -> SourceModel:
    """Read an ONNX file.

    Args:
        path: An artifact of ours, whose manifest says everything, or any other ONNX model.
        spec: What the user states of a foreign one.
        tried: Whether a foreign one whose pictures may have any size is run to find their multiple. Where one size is
            asked for that says nothing: it may be the only one at which it works.

    Raises:
        ArtifactError: no such file, damaged, its weights elsewhere and missing, or no valid ONNX.
        UsageError: a foreign one that does not say what goes in, or contradicts the specification.
    """
    data = read_file(path)
    if KEY in metadata(data, path):
        return _of_artifact(path)
    model = _checked(_load(path), path)
    spec, notes = adapt_ports(model, spec or SourceSpec(), path)
    interface = _interface(model, spec)
    source = Source(variant=path.name, weights=hashlib.sha256(data).hexdigest(), program=program())
    _name_nodes(model)
    rewrite.fold_batch_norm(model)
    model = rewrite.tidy(model, _names(interface))
    precision = _precision(model)
    kept: tuple[Choice, ...] = ()
    if spec.keep_outputs:
        model, interface, kept, dropped = _with_extras(model, interface, spec, precision)
        notes += dropped
    every = _in_engine(model, precision)
    if tried:
        model, interface, untried = _sized(model, interface, every)
        notes += untried
    notes += tuple(note_of(port, choice.output.source) for port, choice in zip(interface.extras, kept, strict=True))
    if precision != "fp32":
        notes += (f"it is {precision} inside already, and is proven to stay what it is",)
    mode = _norm_mode(model, interface)
    interface = replace(interface, reach=find_reach(model, interface))
    run = result_of(every)
    outputs = every if interface.extras else None
    opened = SourceModel(
        model, interface, mode, source, run, path.parent, path.stem, precision, notes=notes, outputs=outputs
    )
    return with_bounded_range(opened, spec)


def _of_artifact(path: Path) -> SourceModel:
    """Read an artifact, whose manifest says everything."""
    manifest, _ = read_artifact(path)
    model = onnx.load_model_from_string(read_file(path))
    del model.metadata_props[:]
    _name_nodes(model)
    model = rewrite.tidy(model, _names(manifest.interface))
    every = _in_engine(model, manifest.precision, tuple(manifest.failed))
    interface = manifest.interface
    if interface.reach is None:  # Written before this was computed.
        interface = replace(interface, reach=find_reach(model, interface))
    return SourceModel(
        model,
        interface,
        manifest.norm_mode,
        manifest.source,
        result_of(every),
        path.parent,
        path.stem,
        manifest.precision,
        manifest.parity,
        made_for=manifest.made_for,
        remainder=manifest.remainder,
        outputs=every if manifest.interface.extras else None,
    )


def _with_extras(
    model: ModelProto, interface: Interface, spec: SourceSpec, precision: Precision
) -> tuple[ModelProto, Interface, tuple[Choice, ...], tuple[str, ...]]:
    """Describe the outputs that are kept beside the result, by running the graph once on real inputs.

    Returns:
        The graph without those that cannot be kept, the interface, what is kept, and notes for the user.

    Raises:
        UsageError: one that was named cannot be kept, or no engine is installed to run the graph.
    """
    every = spec.keep_outputs == (ALL,)
    outputs = list(model.graph.output)[1:]
    texts = [value.name for value in outputs] if every else spec.keep_outputs
    choices = []
    for index, (value, text) in enumerate(zip(outputs, texts, strict=True)):
        stated = KeptOutput(text, "", None) if every else read_kept(text)
        choices.append(Choice(index, replace(stated, name=value.name)))
    batch = interface.inputs[0].shape[0]
    batches = (batch,) if isinstance(batch, int) else (2, 1)
    side = None if spec.size is None or spec.size == "dynamic" or "," in spec.size else read_size(spec.size)
    calls = _run_each(model, [real_inputs(interface, count, side=side) for count in batches], precision)

    def reason(choice: Choice) -> str:
        return hindrance([call[choice.index + 1].shape for call in calls], batches, is_real=True)

    able, notes = keepable(choices, reason, every)
    ports = []
    for choice in able:
        sample = calls[0][choice.index + 1]
        ports.append(describe(choice.output, sample, (interface.output.shape[0], *sample.shape[1:]), interface.output))
    described = replace(interface, outputs=(interface.output, *ports))
    kept = [model.graph.output[0], *(outputs[choice.index] for choice in able)]
    values = [ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del model.graph.output[:]
    model.graph.output.extend(values)
    _set_shapes(model, described)
    return rewrite.tidy(model, _names(described)), described, tuple(able), notes


def _set_shapes(model: ModelProto, interface: Interface) -> None:
    """Write the shapes of the extra outputs into the graph."""
    for value, port in zip(list(model.graph.output)[1:], interface.extras, strict=True):
        dims = value.type.tensor_type.shape
        dims.ClearField("dim")
        for size in port.shape:
            dims.dim.add(**({"dim_value": size} if isinstance(size, int) else {"dim_param": size}))


def _run_each(model: ModelProto, calls: Sequence[Arrays], precision: Precision) -> list[list[NDArray[np.generic]]]:
    """All outputs for the inputs of each call. Raises UsageError where no engine is installed."""
    name = next((name for name in engines.readers(precision) if engines.installed(name)), None)
    if name is None:
        raise UsageError("--keep-outputs: no engine is installed to look at what they are: pip install 'ganedge[cpu]'")
    names = [value.name for value in model.graph.input]
    engine = engines.start(model.SerializeToString(), precision, name, "cpu", None)
    try:
        return [list(engine.run(dict(zip(names, inputs, strict=True)))) for inputs in calls]
    finally:
        engine.close()


def _precision(model: ModelProto) -> Precision:
    """What a foreign graph computes in already, by its quantisations, weights and casts."""
    if QUANTISED & {node.op_type for node in model.graph.node}:
        return "int8"
    types = {tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        types.update(a.i for a in node.attribute if node.op_type == "Cast" and a.name == "to")
        types.update(a.t.data_type for a in node.attribute if a.name == "value" and node.op_type == "Constant")
    return next((name for element, name in HALVES.items() if element in types), "fp32")


def _sized(
    model: ModelProto, interface: Interface, every: RunAll | None
) -> tuple[ModelProto, Interface, tuple[str, ...]]:
    """Find by trial runs the size multiple of dynamic heights and widths, and the sizes of the outputs."""
    port, output = interface.inputs[0], interface.output
    if port.role != "image" or output.role != "image" or all(isinstance(size, int) for size in port.shape[1:]):
        return model, interface, ()
    if every is None:
        return (
            model,
            interface,
            ("the multiple that heights and widths must have was not tried: no engine is installed",),
        )
    resized = with_sizes(interface, lambda least: _find_multiple(interface, every, least))
    values = model.graph.output
    for value, port in zip(values, resized.outputs, strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, port.shape, strict=True):
            if isinstance(size, str):
                dim.dim_param = size
    return rewrite.tidy(model, _names(resized)), resized, ()


def _find_multiple(interface: Interface, every: RunAll, least: int) -> tuple[Interface, Shapes]:
    """Find the smallest multiple at which the result's size follows the input's, and how it does.

    Returns:
        The interface with both, and the shapes of all outputs at the heights and widths of that multiple.
    """
    port, output = interface.inputs[0], interface.output
    sides = (2, 3) if port.layout == "NCHW" else (1, 2)
    results = (2, 3) if output.layout == "NCHW" else (1, 2)
    random = np.random.default_rng(0)
    others, shapes = interface.inputs[1:], Shapes()

    def tried(height: int, width: int) -> list[tuple[int, int]]:
        shape = [size if isinstance(size, int) else 1 for size in port.shape]
        for axis, size in zip(sides, (height, width), strict=True):
            shape[axis] = size if isinstance(port.shape[axis], str) else shape[axis]
        first = (random.random(shape) * 255).astype(np.uint8) if port.dtype == "uint8" else random.random(shape)
        further = [np.zeros(_shape_at(other, interface, shape[0], (height, width)), other.dtype) for other in others]
        given = shapes[height, width] = [array.shape for array in every([first.astype(port.dtype), *further])]
        pairs = [(shape[into], given[0][out]) for out, into in zip(results, sides, strict=True)]
        return [pair for pair, axis in zip(pairs, sides, strict=True) if isinstance(port.shape[axis], str)]

    multiple, scale, border = find_multiple(tried, least)
    if interface.extras:  # A size that stays the same over a few pixels may still follow the picture's.
        tried(*larger(multiple))
    shape = list(output.shape)
    for result_axis, name in zip(results, ("height", "width"), strict=True):
        if isinstance(shape[result_axis], str) and (scale != 1 or border):
            shape[result_axis] = scaled(name, scale, border)
    aligned = [replace(other, multiple=multiple) if interface.is_aligned(other) else other for other in others]
    ports = (replace(port, multiple=multiple), *aligned)
    outputs = (replace(output, shape=tuple(shape)), *interface.extras)
    fitting = {size: each for size, each in shapes.items() if not any(side % multiple for side in size)}
    return replace(interface, inputs=ports, outputs=outputs), fitting


def _shape_at(port: Port, interface: Interface, batch: int, size: tuple[int, int]) -> tuple[int, ...]:
    """The shape of a further input where the first has this height and width."""
    item = (port.item_shape[0], *size) if interface.is_aligned(port) else port.item_shape
    return (batch, *item)


def _load(path: Path) -> ModelProto:
    """Read a foreign model with the weights beside it."""
    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} keeps weights in a file that is missing: {error.filename or error}") from error
    except Exception as error:
        reason = one_line(error)
        raise ArtifactError(f"{path} is damaged, or its weights lie where they may not: {reason}") from error


def _checked(model: ModelProto, path: Path) -> ModelProto:
    """Of a current operator set and format, without weights among its inputs, and computing what it computes in use."""
    model.ir_version = max(model.ir_version, LEAST_IR)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in weights]:
        model.graph.input.remove(value)
    training = [
        n
        for n in model.graph.node
        if n.op_type == "BatchNormalization" and any(a.name == "training_mode" and a.i for a in n.attribute)
    ]
    if training:
        raise ArtifactError(f"{path} holds {TRAINING} ({training[0].name}): export it again after calling .eval()")
    version = opset(model)
    try:
        if version < OPSET:
            model = version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(model)
    except Exception as error:
        reason = one_line(error)
        raise ArtifactError(
            f"{path} (operator set {version}) cannot be brought to operator set {OPSET}: {reason}"
        ) from error
    return model


def _interface(model: ModelProto, spec: SourceSpec) -> Interface:
    """Describe what a foreign graph takes and returns, after `adapt_ports`."""
    first = _port(model.graph.input[0], spec.kind or "latent", spec.input_range)
    ports = (first, *(item.port(spec.input_range, first.shape[0]) for item in spec.further))
    for value in model.graph.input[1:]:
        _set_batch(value)
    returned = model.graph.output[0]
    role = "image" if len(returned.type.tensor_type.shape.dim) == 4 else "points"
    output = _port(returned, role, spec.result_range)
    noise = spec.noise if spec.kind == "latent" else None
    try:
        return Interface(f"{spec.kind}-to-{role}", ports, (output,), noise, spec.classes)  # type: ignore[arg-type]
    except ArtifactError as error:
        raise UsageError(f"this model is not what --kind {spec.kind} says: {error}") from error


def _port(value: ValueInfoProto, role: str, value_range: tuple[float, float]) -> Port:
    tensor = value.type.tensor_type
    dims = list(tensor.shape.dim)
    shown = "×".join(str(dim.dim_value or dim.dim_param or "?") for dim in dims) or "of unknown dimensions"
    if tensor.elem_type not in DTYPES or len(dims) not in (2, 4):
        element = TensorProto.DataType.Name(tensor.elem_type).lower()
        state = "give its shape, such as --output-shape 1x28x28" if role == "points" else "give --input"
        raise UsageError(f"{value.name} of this model is {element}, {shown}: an image or a latent is needed; {state}")
    _set_batch(value)
    nhwc = role == "image" and dims[3].dim_value in CHANNELS and dims[1].dim_value not in CHANNELS
    if role == "image" and dims[3 if nhwc else 1].dim_value not in CHANNELS:
        raise UsageError(
            f"{value.name} of this model, {shown}, has no 1, 3 or 4 channels; give --input 3xHxW (HxWx3 where the "
            "channels come last) where its sizes are unknown, or --result where it returns several"
        )
    names = ("batch", "height", "width", "channels") if nhwc else ("batch", "channels", "height", "width")
    shape: list[int | str] = []
    for axis, size in enumerate(dims):
        if not size.dim_value:  # Renamed to our port names, which callers use.
            size.dim_param = names[axis] if len(dims) == 4 else ("batch", "features")[axis]
        shape.append(size.dim_value or size.dim_param)
    layout = "NC" if len(dims) == 2 else "NHWC" if nhwc else "NCHW"
    dtype = DTYPES[tensor.elem_type]
    bounds = None if role != "image" else (0.0, 255.0) if dtype == "uint8" else value_range
    return Port(value.name, role, dtype, tuple(shape), layout, bounds)  # type: ignore[arg-type]


def _set_batch(value: ValueInfoProto) -> None:
    first = value.type.tensor_type.shape.dim[0]
    if not first.dim_value:
        first.dim_param = "batch"


def _name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own, by which it can be left out of a precision: exporters need not."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}_of_{model.graph.name or 'graph'}"
        taken.add(node.name)


def _names(interface: Interface) -> set[str]:
    return {size for port in (*interface.inputs, *interface.outputs) for size in port.shape if isinstance(size, str)}


def has_global_ops(model: ModelProto) -> bool:
    """Whether a pixel of the result depends on all of the picture: a normalisation over it, or means of whole maps."""
    if WHOLE_PICTURE & {node.op_type for node in model.graph.node}:
        return True
    weights = constants(model.graph)
    known = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in known}
    return any(
        _reduces_pixels(node, ranks.get(node.input[0], 0), weights)
        for node in model.graph.node
        if node.op_type.startswith("Reduce")
    )


def _reduces_pixels(node: NodeProto, rank: int, weights: Mapping[str, TensorProto]) -> bool:
    """Whether a reduction goes over pixels: of `[N, C, H, W]`, or of flat maps, `[N, C, H·W]` or `[N, C·H·W]`."""
    if rank not in (2, 3, 4):
        return False
    options = attributes(node)
    axes = list(options.get("axes", []))
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in weights:
            return True  # Found while it runs: over the pixels for all that is known.
        axes = numpy_helper.to_array(weights[node.input[1]]).tolist()
    if not axes:
        return not options.get("noop_with_empty_axes", 0)
    return any(axis % rank >= min(rank - 1, 2) for axis in axes)


def _norm_mode(model: ModelProto, interface: Interface) -> NormMode:
    kinds = {node.op_type for node in model.graph.node}
    whole = interface.inputs[0].role == "image" and has_global_ops(model)
    return (
        "instance" if whole or "InstanceNormalization" in kinds else "eval" if "BatchNormalization" in kinds else "none"
    )


def _in_engine(model: ModelProto, precision: str, failed: Collection[str] = ()) -> RunAll | None:
    """Run the file itself, for all outputs; the engine starts at the first call, because not every export needs it.

    Engines in `failed` gave other pictures at an earlier proof, and are no reference.
    """
    able = [name for name in engines.readers(precision) if engines.installed(name) and name not in failed]
    name = next(iter(able), None)
    if name is None:
        return None
    names = [value.name for value in model.graph.input]
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    started: list[engines.Engine] = []

    def run(inputs: Arrays) -> list[NDArray[np.generic]]:
        if not started:
            started.append(engines.start(model.SerializeToString(), precision, name, "cpu", None))
        step = batch or (1 if inputs[0].ndim == 4 else 64)
        parts = [
            started[0].run({key: array[i : i + step] for key, array in zip(names, inputs, strict=True)})
            for i in range(0, len(inputs[0]), step)
        ]
        outputs = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        if not all(np.isfinite(output).all() for output in outputs):
            raise GanEdgeError("this model gives NaN or infinite values on real inputs: its weights are spoilt")
        return outputs

    return run


def _fixed(size: int | str, given: Mapping[str, int | str]) -> int | str:
    """A dimension such as `height`, `4*height` or `height-4` where heights and widths are given."""
    relation = relation_of(size)
    side = given.get(relation.name) if relation is not None else None
    if relation is None or not isinstance(side, int):
        return size
    return round(relation.scale * side) - relation.border


def with_size(original: SourceModel, height: int | str, width: int | str) -> SourceModel:
    """The same with its pictures' heights and widths fixed, where they were dynamic.

    Raises:
        UsageError: latents go in, the size is fixed to another already, or it is no multiple of what it must be.
    """
    port = original.interface.inputs[0]
    if port.role != "image":
        raise UsageError(f"--size {height}x{width}: the size of what this generator draws is part of its weights")
    if any(isinstance(size, int) and size % port.multiple for size in (height, width)):
        raise UsageError(f"--size {height}x{width}: heights and widths must be multiples of {port.multiple}")
    sides = port.shape[2:] if port.layout == "NCHW" else port.shape[1:3]
    if any(isinstance(old, int) and old != new for old, new in zip(sides, (height, width), strict=True)):
        shown = "x".join(map(str, sides))
        raise UsageError(f"--size {height}x{width}: this model is fixed to {shown} already; export it again")
    given: Mapping[str, int | str] = {"height": height, "width": width}
    inputs, outputs = original.interface.inputs, original.interface.outputs
    fixed = [tuple(_fixed(size, given) for size in port.shape) for port in inputs]
    model = copied(original.model)
    for value, shape in zip(model.graph.input, fixed, strict=True):
        _set_sizes(value, shape)

    # The outputs' sizes follow from the graph; where ONNX does not infer them, from the names of their dimensions.
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim[1:]:
            if not dim.dim_value:
                dim.Clear()
    model = rewrite.tidy(model, _names(original.interface))
    made = []
    for value, port in zip(model.graph.output, outputs, strict=True):
        inferred = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        made.append(tuple(known or _fixed(size, given) for known, size in zip(inferred, port.shape, strict=True)))
        _set_sizes(value, made[-1])
    ports = [replace(port, shape=shape) for port, shape in zip((*inputs, *outputs), (*fixed, *made), strict=True)]
    count = len(inputs)
    interface = replace(original.interface, inputs=tuple(ports[:count]), outputs=tuple(ports[count:]))
    return replace(original, model=model, interface=interface, parity=())


def _set_sizes(value: ValueInfoProto, shape: Sequence[int | str]) -> None:
    """Write sizes into a graph's input or output, where it has none."""
    for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
        if isinstance(size, int) and not dim.dim_value:
            dim.dim_value = size
        elif isinstance(size, str) and not dim.dim_value:
            dim.dim_param = size
