"""Adapt the inputs and outputs of a foreign .onnx graph to those of our artifacts. No torch here.

    spec, notes = adapt_ports(model, SourceSpec(kind="image", mean="0.485,0.456,0.406"), path)

Half-precision ports become float32, labels become class numbers, flat outputs become images, and one of several outputs
is taken. Each change is a note for the user.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from ganedge.export.further import NAMES, FurtherInput, read_input, role_by_name
from ganedge.export.graph import attributes, constants, rename, set_nodes, shapes_for
from ganedge.export.outputs import ALL, Choice, choose, keepable, output_index
from ganedge.export.sizes import CHANNELS, dimensions, flat_image, main_result
from ganedge.export.source import SourceSpec
from ganedge.runtime import engines
from ganedge.runtime.errors import GanEdgeError, UsageError

TRIED_SIDE = 256
"""Height and width for which unknown shapes are inferred, pixels."""
REALS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
"""Types of real numbers that get a cast inside the graph, so that callers see float32."""
INTEGERS = frozenset(
    getattr(TensorProto, name) for name in ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "UINT64", "INT64")
)
"""Types of class numbers; callers give int64."""
ELEMENTWISE = frozenset({"Add", "Cast", "Clip", "Div", "Identity", "Mul", "Pad", "Sub"})
"""Operators that may stand before the first convolution and keep the order of dimensions."""
RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators that draw random numbers at each call."""


def adapt_ports(model: ModelProto, spec: SourceSpec, path: Path) -> tuple[SourceSpec, tuple[str, ...]]:
    """Adapt the inputs and outputs of a graph, in place.

    Args:
        model: A valid graph of another program.
        spec: What the user states of it.
        path: The file, for messages.

    Returns:
        The specification, completed by what the graph says, and notes for the user. The graph then has the result as
        its first output, those that are kept behind it, and a first input, float32 or uint8, to which a second one of
        class numbers, int64 `[N]`, may be added.

    Raises:
        UsageError: the graph contradicts the specification, or does not say what has to be stated; or it draws random
            numbers, so that no two results can be compared.
    """
    _refuse_random(model, path)
    _cast_reals(model)
    spec, further_notes = _order_inputs(model, spec, path)
    spec, notes = _infer_kind(model, spec, path)
    _complete_inputs(model, spec)
    _complete_outputs(model)

    # Select the result, and give it the shape of an image.
    notes += _select_output(model, spec, path)
    spec, reshaped = _reshape_output(model, spec)

    # Class numbers and normalised images go in.
    labels = _take_class_numbers(model, spec)
    _normalise(model, spec)
    return spec, (*notes, *further_notes, *reshaped, *labels)


def _refuse_random(model: ModelProto, path: Path) -> None:
    """Refuse a graph that draws random numbers, and name the nodes that do."""
    known = constants(model.graph)
    drawing = [
        f"{node.op_type} {node.name or node.output[0]}"
        for node in model.graph.node
        if node.op_type in RANDOM or (node.op_type == "Dropout" and _is_training(node, known))
    ]
    if drawing:
        more = f" and {len(drawing) - 3} more" if len(drawing) > 3 else ""
        raise UsageError(
            f"{path} draws random numbers at each call ({', '.join(drawing[:3])}{more}), so that no two results can be "
            "compared: export it again in evaluation mode, with the noise as a constant"
        )


def _is_training(node: NodeProto, known: Mapping[str, TensorProto]) -> bool:
    """Whether a Dropout drops features in use too."""
    mode = node.input[2] if len(node.input) > 2 else ""
    return bool(mode) and (mode not in known or bool(numpy_helper.to_array(known[mode]).any()))


def _cast_reals(model: ModelProto) -> None:
    """Make ports of half or double precision float32, as callers know them, by casts inside the graph."""
    for value in model.graph.input:
        element = value.type.tensor_type.elem_type
        if element in REALS:
            _before(model, value, lambda old, new, to=element: [helper.make_node("Cast", [old], [new], to=to)])
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for value in model.graph.output:
        if value.type.tensor_type.elem_type in REALS:
            _after(model, value, lambda old, new: [helper.make_node("Cast", [old], [new], to=TensorProto.FLOAT)])
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _order_inputs(model: ModelProto, spec: SourceSpec, path: Path) -> tuple[SourceSpec, tuple[str, ...]]:
    """Put the latent or image first, and tell what the other inputs are: by --input, or by their names and shapes.

    Raises:
        UsageError: a class without --classes, or an input that nothing says what it is.
    """
    values = list(model.graph.input)
    names = ", ".join(_shown(value) for value in values)
    stated = {item.name: item for item in spec.further}
    unknown = sorted(set(stated) - {value.name for value in values})
    if unknown:
        raise UsageError(f"--input {stated[unknown[0]]}: {path} takes {names}")
    labels = [value.name for value in values if value.name not in stated and _may_be_label(value, spec)]
    if len(values) == 1:
        if spec.classes:
            raise UsageError(f"--classes: {path} takes one input ({names}) and no class; leave it out")
        return spec, ()
    main = _main_input(values, [*stated, *labels], spec)
    others = [value for value in values if value.name != main.name]
    if len(others) == 1 and not spec.classes and (others[0].name in labels or _count_of_values(others[0])):
        count = _class_count(model, others[0])
        if others[0].name in labels or others[0].name.lower() in NAMES["label"]:
            classes = f"--classes {count}" if count else "--classes with their number or names"
            raise UsageError(f"{path} takes 2 inputs ({names}): if {others[0].name} is a class, give {classes}")
    if spec.classes and not labels:
        raise UsageError(f"--classes: none of the inputs ({names}) is a class; leave it out")

    # Tell what each of the others is, and name its dimensions as callers know them.
    items, notes = [], []
    for value in others:
        if value.name == next(iter(labels), None) and spec.classes:
            items.append(FurtherInput(value.name, (), "label"))
            continue
        item = stated.get(value.name) or _further(value, path)
        if value.name not in stated:
            notes.append(f"{item} is taken for the input {value.name}; --input states another")
        _set_sizes_of(value, item, path)
        items.append(item)
    del model.graph.input[:]
    model.graph.input.extend([main, *others])
    return replace(spec, further=tuple(items)), tuple(notes)


def _main_input(values: Sequence[ValueInfoProto], taken: Sequence[str], spec: SourceSpec) -> ValueInfoProto:
    """The latent or image: an image before a vector, unless the user says latent; the first of those that may be."""
    free = [value for value in values if value.name not in taken] or list(values)
    by_name = [value for value in free if role_by_name(value.name) not in ("mask", "noise", "label")] or free
    images = [value for value in by_name if len(_sizes(value)) == 4 and _sizes(value)[2:] != [1, 1]]
    return images[0] if images and spec.kind != "latent" else by_name[0]


def _count_of_values(value: ValueInfoProto) -> int:
    """The values of an input that is one vector; 0 where it is not."""
    sizes = _sizes(value)
    return sizes[1] if len(sizes) == 2 else 0


def _further(value: ValueInfoProto, path: Path) -> FurtherInput:
    """What an input beside the first carries, by its name and shape."""
    sizes = _sizes(value)
    if not 2 <= len(sizes) <= 4 or not sizes[1]:
        raise UsageError(f"{path}: say what {_shown(value)} is, such as --input {value.name}=1xHxW:mask")
    letters = [str(sizes[1]), *(str(size or letter) for size, letter in zip(sizes[2:], "HW", strict=False))]
    return read_input(f"{value.name}={'x'.join(letters)}")


def _set_sizes_of(value: ValueInfoProto, item: FurtherInput, path: Path) -> None:
    """Give an input the dimensions that were stated or recognised.

    Raises:
        UsageError: they contradict the graph, or its type is not float32.
    """
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    if tensor.elem_type != TensorProto.FLOAT or len(dims) != len(item.shape) + 1:
        raise UsageError(f"--input {item}: {path} takes {_shown(value)}")
    for dim, size in zip(dims[1:], item.shape, strict=True):
        if isinstance(size, int):
            if dim.dim_value not in (0, size):
                raise UsageError(f"--input {item}: {path} takes {_shown(value)}")
            dim.dim_value = size
        elif not dim.dim_value:
            dim.dim_param = size


def _may_be_label(value: ValueInfoProto, spec: SourceSpec) -> bool:
    """Whether an input is made of integers, or has a value for each class."""
    sizes = _sizes(value)
    if value.type.tensor_type.elem_type in INTEGERS:
        return len(sizes) < 4
    return bool(spec.classes) and len(sizes) > 1 and math.prod(sizes[1:]) == len(spec.classes)


def _class_count(model: ModelProto, value: ValueInfoProto) -> int:
    """Return the number of classes: the rows of the table that a label looks up, or the values of a vector."""
    if value.type.tensor_type.elem_type not in INTEGERS:
        return math.prod(_sizes(value)[1:])
    known, names = constants(model.graph), {value.name}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[1] in names and node.input[0] in known:
            return int(known[node.input[0]].dims[0])
        if node.op_type in ("Cast", "Identity", "Squeeze", "Reshape") and node.input[0] in names:
            names.add(node.output[0])
    return 0


def _infer_kind(model: ModelProto, spec: SourceSpec, path: Path) -> tuple[SourceSpec, tuple[str, ...]]:
    """Tell latents from images by the shape of the first input, where the user does not say.

    Raises:
        UsageError: the shape allows both.
    """
    if spec.kind is not None:
        return spec, ()
    value = model.graph.input[0]
    sizes = _sizes(value)
    channels = _first_channels(model, value.name)[0] or (sizes[1] if len(sizes) == 4 else 0)
    images = len(sizes) == 4 and (channels in CHANNELS or sizes[3] in CHANNELS) and sizes[2] != 1
    latents = len(sizes) == 2 or (len(sizes) == 4 and sizes[2:] == [1, 1])
    if not images and not latents:
        raise UsageError(f"{path} does not say what goes into {_shown(value)}: give --kind latent or --kind image")
    kind: Literal["image", "latent"] = "image" if images else "latent"
    return replace(spec, kind=kind), (f"input: {kind} {_shown(value)}, by its shape; --kind states another",)


def _complete_inputs(model: ModelProto, spec: SourceSpec) -> None:
    """Fill in sizes that the first input leaves unknown: from --input, or from the first convolution's weights.

    Raises:
        UsageError: --input contradicts the graph.
    """
    value = model.graph.input[0]
    if not value.type.tensor_type.HasField("shape") and spec.input is not None:
        value.type.tensor_type.shape.dim.extend(
            onnx.TensorShapeProto.Dimension() for _ in range(len(dimensions(spec.input, "--input")) + 1)
        )
    dims = value.type.tensor_type.shape.dim
    if spec.input is not None:
        stated = dimensions(spec.input, "--input")
        if len(stated) + 1 != len(dims) or any(
            isinstance(size, int) and dim.dim_value not in (0, size) for size, dim in zip(stated, dims[1:], strict=True)
        ):
            raise UsageError(f"--input {spec.input}: the first input of this model is {_shown(value)}")
        for size, dim in zip(stated, dims[1:], strict=True):
            if isinstance(size, int):
                dim.dim_value = size
    elif len(dims) == 4 and not dims[1].dim_value and not dims[3].dim_value:
        channels, channels_last = _first_channels(model, value.name)
        if channels:
            dims[3 if channels_last else 1].dim_value = channels


def _complete_outputs(model: ModelProto) -> None:
    """Fill in sizes that the outputs leave unknown: by inference, else by one run in an engine."""
    graph, shapes = shapes_for(model, {})
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.output}
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        while len(dims) < ranks[value.name]:
            dims.add()
        for dim, size in zip(dims, shapes[value.name], strict=False):
            if size and not dim.dim_value:
                dim.dim_value = size
    if all(_is_known(_sizes(value)) for value in model.graph.output):
        return
    for value, returned in zip(model.graph.output, _run_once(model), strict=False):
        if not returned:  # A single number, such as a loss.
            continue
        sizes = [0, *returned[1:]]
        if len(returned) == 4 and returned[1] in CHANNELS:
            sizes[2:] = [0, 0]
        elif len(returned) == 4:
            sizes[1:3] = [0, 0]
        if not _is_known(_sizes(value)):
            _set_sizes(value, [known or size for known, size in zip(_sizes(value) or sizes, sizes, strict=False)])


def _is_known(sizes: Sequence[int]) -> bool:
    """Whether a shape says the channels of images, or how many values there are."""
    return (len(sizes) == 4 and (sizes[1] in CHANNELS or sizes[3] in CHANNELS)) or (len(sizes) > 1 and all(sizes[1:]))


def _run_once(model: ModelProto) -> list[tuple[int, ...]]:
    """Return the shapes of all outputs for zeros of a usual size; nothing where no engine runs the graph."""
    name = next((name for name in engines.readers("fp32") if engines.installed(name)), None)
    feeds = {}
    for value in model.graph.input:
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = np.zeros(_usual_sizes(value), dtype)
    if name is None:
        return []
    try:
        engine = engines.start(model.SerializeToString(), "fp32", name, "cpu", None)
        shapes = [array.shape for array in engine.run(feeds)]
        engine.close()
    except GanEdgeError:
        return []
    return shapes


def _usual_sizes(value: ValueInfoProto) -> list[int]:
    """Return the shape of one example for an input, with a usual size in place of an unknown one."""
    sizes = _sizes(value)
    usual = TRIED_SIDE if len(sizes) == 4 else 1
    return [*[size or 1 for size in sizes[:1]], *[size or usual for size in sizes[1:]]]


def _first_channels(model: ModelProto, name: str) -> tuple[int, bool]:
    """Return the channels of an input by the first convolution behind it, and whether they are its last dimension."""
    weights, channels_last = constants(model.graph), False
    for node in model.graph.node:  # In order of computation.
        if name not in node.input:
            continue
        if node.op_type == "Conv" and node.input[1] in weights:
            return int(weights[node.input[1]].dims[1] * attributes(node).get("group", 1)), channels_last
        if node.op_type == "Transpose" and list(attributes(node).get("perm", [])) == [0, 3, 1, 2]:
            channels_last = True
        elif node.op_type not in ELEMENTWISE:
            break
        name = node.output[0]
    return 0, False


def _select_output(model: ModelProto, spec: SourceSpec, path: Path) -> tuple[str, ...]:
    """Take the output that the user names, else the one that is most likely the picture, and those to keep beside it.

    Those to keep come behind the result, float32, under the names that they have in the artifact.
    """
    outputs = model.graph.output
    if len(outputs) == 1:
        if spec.result is not None and spec.result not in ("0", outputs[0].name):
            raise UsageError(f"--result {spec.result}: {path} has one output, {outputs[0].name}")
        if spec.keep_outputs:
            raise UsageError(f"--keep-outputs: {path} has one output, {outputs[0].name}, the result; leave it out")
        return ()
    names = [value.name for value in outputs]
    if spec.result is None:
        index = main_result(_result_shapes(model))
        others = "" if spec.keep_outputs else ", --keep-outputs keeps more of them"
        shown = ", ".join(names[:8])
        note = f"it has {len(names)} outputs ({shown}): {names[index]} is taken; --result takes another{others}"
    else:
        stated, note = output_index(spec.result, names), ""
        if stated is None:
            raise UsageError(f"--result {spec.result}: {path} has the outputs {', '.join(names)}")
        index = stated
    taken = {names[index], *(value.name for value in model.graph.input)}
    kept: list[Choice] = []
    notes: tuple[str, ...] = (note,) if note else ()
    if spec.keep_outputs:
        types = [value.type.tensor_type.elem_type for value in outputs]

        def reason(choice: Choice) -> str:
            element = types[choice.index]
            known = element in (TensorProto.FLOAT, TensorProto.BOOL) or element in REALS | INTEGERS
            return "" if known else f"it is {TensorProto.DataType.Name(element).lower()}"

        choices = choose(spec.keep_outputs, names, index, taken)
        kept, dropped = keepable(choices, reason, spec.keep_outputs == (ALL,))
        notes += dropped
    chosen = [ValueInfoProto() for _ in range(len(kept) + 1)]
    for value, index_of_output in zip(chosen, (index, *(choice.index for choice in kept)), strict=True):
        value.CopyFrom(outputs[index_of_output])
    del outputs[:]
    outputs.extend(chosen)
    for value, choice in zip(outputs[1:], kept, strict=True):
        _rename_output(model, value, choice.output.name)
    return notes


def _rename_output(model: ModelProto, value: ValueInfoProto, name: str) -> None:
    """Give an output the name that it has in the artifact, and the type float32."""
    tensor, old = value.type.tensor_type, value.name
    is_float = tensor.elem_type == TensorProto.FLOAT
    if name == old and is_float:
        return
    if _fresh(model, name) != name:
        if name != old:
            raise UsageError(f"--keep-outputs: the graph has another tensor {name}; give NAME={old} with another name")
        old = _fresh(model, f"{name}_inner")
        rename(model.graph.node, name, old)
    node = helper.make_node("Identity", [old], [name])
    if not is_float:
        node = helper.make_node("Cast", [old], [name], to=TensorProto.FLOAT)
    set_nodes(model.graph, [*model.graph.node, node])
    value.name, tensor.elem_type = name, TensorProto.FLOAT


def _result_shapes(model: ModelProto) -> list[Sequence[int]]:
    """Return the shapes of all outputs as `[N, C, H, W]`, for inputs of a usual size; 0 where they are unknown."""
    sizes = {value.name: _usual_sizes(value) for value in model.graph.input}
    try:
        shapes = shapes_for(model, sizes)[1]
    except onnx.shape_inference.InferenceError:
        shapes = {}
    known = [shapes.get(value.name) or _sizes(value) for value in model.graph.output]
    return [
        (shape[0], shape[3], *shape[1:3]) if len(shape) == 4 and _is_channels_last(shape) else shape for shape in known
    ]


def _is_channels_last(shape: Sequence[int]) -> bool:
    return shape[3] in CHANNELS and shape[1] not in CHANNELS


def _reshape_output(model: ModelProto, spec: SourceSpec) -> tuple[SourceSpec, tuple[str, ...]]:
    """Give a flat output the shape of --output-shape, or of the square image that it is.

    Raises:
        UsageError: the stated shape has another number of values, or the output is an image already.
    """
    value = model.graph.output[0]
    sizes = _sizes(value)
    notes: tuple[str, ...] = ()
    shape = spec.output_shape
    if shape is None:
        shape = flat_image(sizes)
        if shape is None:
            return spec, ()
        notes = (f"its flat output is taken for an image of {shape}; --output-shape states another",)
    stated = dimensions(shape, "--output-shape")
    if any(isinstance(size, str) for size in stated) or len(stated) != 3:
        raise UsageError(f"--output-shape {shape}: give channels, height and width, such as 1x28x28")
    if len(sizes) == 4 and (sizes[1] in CHANNELS or sizes[3] in CHANNELS):
        raise UsageError(f"--output-shape {shape}: this model returns images, {_shown(value)}, already; leave it out")
    values = math.prod(sizes[1:])
    if values and values != math.prod(int(size) for size in stated):
        raise UsageError(f"--output-shape {shape}: this model returns {_shown(value)} = {values} values")
    target = np.array([0, *stated], np.int64)  # 0 keeps the batch.
    name = _constant(model, f"{value.name}_shape", target)
    _after(model, value, lambda old, new: [helper.make_node("Reshape", [old, name], [new])])
    _set_sizes(value, [sizes[0] if sizes else 0, *map(int, stated)])
    return replace(spec, output_shape=shape), notes


def _take_class_numbers(model: ModelProto, spec: SourceSpec) -> tuple[str, ...]:
    """Let class numbers, int64 `[N]`, go in where the second input has another form.

    Raises:
        UsageError: it has a form that no class number can be turned into.
    """
    if not spec.classes:
        return ()
    index = next(index for index, item in enumerate(spec.further, 1) if item.role == "label")
    value, count = model.graph.input[index], len(spec.classes)
    element, sizes = value.type.tensor_type.elem_type, _sizes(value)
    extra = list(range(1, len(sizes)))
    notes: tuple[str, ...] = ()
    if element in INTEGERS and all(sizes[axis] in (0, 1) for axis in extra):

        def convert(old: str, new: str) -> list[NodeProto]:
            cast = helper.make_node("Cast", [old], [f"{new}_cast" if extra else new], to=element)
            return [cast, *_unsqueezed(model, f"{new}_cast", new, extra)]

        needed = element != TensorProto.INT64 or bool(extra)
    elif len(sizes) > 1 and math.prod(size or count for size in sizes[1:]) == count:
        dtype = helper.tensor_dtype_to_np_dtype(element)
        table = _constant(model, f"{value.name}_vectors", np.eye(count, dtype=dtype))
        axes = extra[1:]

        def convert(old: str, new: str) -> list[NodeProto]:
            gathered = f"{new}_vector" if axes else new
            return [helper.make_node("Gather", [table, old], [gathered]), *_unsqueezed(model, gathered, new, axes)]

        needed, notes = True, ("it takes a vector with a one for the class: made from --classes inside",)
    else:
        raise UsageError(f"{_shown(value)} takes no class of {count}: a class is an integer, or {count} values")
    if needed:
        _before(model, value, convert)
    value.type.tensor_type.elem_type = TensorProto.INT64
    _set_sizes(value, [sizes[0] if sizes else 0])
    return notes


def _unsqueezed(model: ModelProto, old: str, new: str, axes: list[int]) -> list[NodeProto]:
    """Add dimensions of one; nothing where there are none to add."""
    if not axes:
        return []
    return [helper.make_node("Unsqueeze", [old, _constant(model, f"{new}_axes", np.array(axes, np.int64))], [new])]


def _normalise(model: ModelProto, spec: SourceSpec) -> None:
    """Subtract --mean from images of 0 to 1 and divide them by --std, inside the graph.

    Raises:
        UsageError: no float image goes in, or it has other channels.
    """
    if not spec.mean and not spec.std:
        return
    value = model.graph.input[0]
    sizes = _sizes(value)
    option = "--mean" if spec.mean else "--std"
    if spec.kind != "image" or len(sizes) != 4 or value.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise UsageError(f"{option}: {_shown(value)} is no image of float values")
    channels_last = _is_channels_last(sizes)
    channels = sizes[3 if channels_last else 1]
    if {len(spec.mean or spec.std), len(spec.std or spec.mean)} - {1, channels}:
        raise UsageError(f"{option}: images of {channels} channels go in: give one value, or one for each")
    shape = (1, 1, 1, -1) if channels_last else (1, -1, 1, 1)
    mean, std = (np.array(values, np.float32).reshape(shape) for values in (spec.mean or (0.0,), spec.std or (1.0,)))
    shift, scale = _constant(model, f"{value.name}_mean", mean), _constant(model, f"{value.name}_std", std)
    _before(
        model,
        value,
        lambda old, new: [
            helper.make_node("Sub", [old, shift], [f"{new}_centred"]),
            helper.make_node("Div", [f"{new}_centred", scale], [new]),
        ],
    )


def _before(model: ModelProto, value: ValueInfoProto, make: Any) -> None:
    """Put nodes between an input and what reads it; `make(old, new)` returns them."""
    inner = _fresh(model, f"{value.name}_inner")
    rename(model.graph.node, value.name, inner)
    set_nodes(model.graph, [*make(value.name, inner), *model.graph.node])


def _after(model: ModelProto, value: ValueInfoProto, make: Any) -> None:
    """Put nodes between what computes an output and the output; `make(old, new)` returns them."""
    inner = _fresh(model, f"{value.name}_inner")
    rename(model.graph.node, value.name, inner)
    set_nodes(model.graph, [*model.graph.node, *make(inner, value.name)])


def _fresh(model: ModelProto, name: str) -> str:
    """Return a name that no tensor has."""
    taken = {tensor.name for tensor in model.graph.initializer}
    taken.update(name for node in model.graph.node for name in (*node.input, *node.output))
    while name in taken:
        name += "_"
    return name


def _constant(model: ModelProto, name: str, value: np.ndarray) -> str:
    name = _fresh(model, name)
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def _sizes(value: ValueInfoProto) -> list[int]:
    """Return the dimensions of a port, 0 where they are unknown."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _set_sizes(value: ValueInfoProto, sizes: Sequence[int]) -> None:
    """Replace the dimensions of a port."""
    shape = value.type.tensor_type.shape
    first = shape.dim[0].dim_param if shape.dim else ""
    del shape.dim[:]
    for axis, size in enumerate(sizes):
        dim = shape.dim.add()
        if size:
            dim.dim_value = size
        elif axis == 0:
            dim.dim_param = first or "batch"


def _shown(value: ValueInfoProto) -> str:
    """Name a port with its shape, `x 1×3×?×?`."""
    sizes = "×".join(str(dim.dim_value or dim.dim_param or "?") for dim in value.type.tensor_type.shape.dim)
    return f"{value.name} {sizes}" if sizes else value.name
