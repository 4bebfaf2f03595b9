"""From an .onnx file, ours or another's, to an `Original`. No torch here: this is the way in on a small device.

    original = of_onnx(Path("generator.onnx"))
    original = of_onnx(Path("theirs.onnx"), kind="image", value_range=(0.0, 1.0))

The reference of every proof is the file itself, in the first engine that is installed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper, version_converter

from ganedge.export import rewrite
from ganedge.export.original import Arrays, Original, Run
from ganedge.runtime import engines, onnx_file
from ganedge.runtime.errors import ArtifactError, GanEdgeError, UsageError
from ganedge.runtime.manifest import KEY, Interface, Noise, NormMode, Port, Source, program, read_artifact
from ganedge.runtime.shared_norm import WHOLE_PICTURE

OPSET = 18
"""Older files are raised to this operator set."""
NEWEST = 21
"""Newer ones than this stay what they are; between the two as well."""
DTYPES: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8", TensorProto.INT64: "int64"}
TRAINING = "BatchNormalization in training mode"


def of_onnx(
    path: Path,
    kind: Literal["latent", "image"] | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    noise: Noise = "normal",
    classes: Sequence[str] = (),
) -> Original:
    """Read an ONNX file.

    Args:
        path: An artifact of ours, whose manifest says everything, or any other ONNX model.
        kind: What goes into a foreign one.
        value_range: Values of black and white in its pictures.
        noise: The distribution of its latents.
        classes: Names of the classes that its second input chooses from.

    Raises:
        ArtifactError: no such file, damaged, its weights elsewhere and missing, or no valid ONNX.
        UsageError: a foreign one, and not said what goes in.
    """
    data = read_file(path)
    _, metadata = onnx_file.split(data)
    if KEY in metadata:
        if kind is not None:
            raise UsageError(f"--kind {kind}: {path} says itself what it takes; leave --kind out")
        manifest, _ = read_artifact(path)
        model = onnx.load_model_from_string(data)
        del model.metadata_props[:]
        _name_nodes(model)
        model = rewrite.tidy(model, _names(manifest.interface))
        run = _in_engine(model, manifest.precision)
        return Original(
            model,
            manifest.interface,
            manifest.norm_mode,
            manifest.source,
            run,
            path.parent,
            path.stem,
            manifest.precision,
            manifest.parity,
        )
    if kind is None:
        raise UsageError(f"{path} has no manifest: say what goes in with --kind latent|image (and --range, --noise)")
    model = _checked(_load(path), path)
    interface = _interface(model, kind, value_range, noise, tuple(classes))
    source = Source(variant=path.name, weights=hashlib.sha256(data).hexdigest(), program=program())
    _name_nodes(model)
    rewrite.fold_batch_norm(model)
    model = rewrite.tidy(model, _names(interface))
    return Original(model, interface, _norm_mode(model), source, _in_engine(model, "fp32"), path.parent, path.stem)


def read_file(path: Path) -> bytes:
    """The bytes of a model; one line where there are none, or a Git LFS pointer in their place (ArtifactError)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    if data.startswith(b"version https://git-lfs"):
        raise ArtifactError(f"{path} is a Git LFS pointer, not the model: run git lfs pull, or download the file")
    return data


def _load(path: Path) -> ModelProto:
    """Read a foreign model with the weights beside it."""
    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} keeps weights in a file that is missing: {error.filename or error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:250]
        raise ArtifactError(f"{path} is damaged, or its weights lie where they may not: {reason}") from error


def _checked(model: ModelProto, path: Path) -> ModelProto:
    """Of a current operator set, without weights among its inputs, and computing what it computes in use."""
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
    opset = next((entry.version for entry in model.opset_import if entry.domain in rewrite.ONNX_DOMAINS), 0)
    try:
        if opset < OPSET:
            model = version_converter.convert_version(model, OPSET)
        onnx.checker.check_model(model)
    except Exception as error:
        reason = " ".join(str(error).split())[:250]
        raise ArtifactError(
            f"{path} (operator set {opset}) cannot be brought to operator set {OPSET}: {reason}"
        ) from error
    return model


def _interface(
    model: ModelProto, kind: str, value_range: tuple[float, float], noise: Noise, classes: tuple[str, ...]
) -> Interface:
    """What a foreign graph takes and gives."""
    values = list(model.graph.input)
    if len(values) != (2 if classes else 1):
        names = ", ".join(value.name for value in values)
        raise UsageError(
            f"this model takes {len(values)} inputs ({names}): a second one needs --classes, more cannot be"
        )
    first = _port(values[0], kind, value_range)
    ports: tuple[Port, ...] = (first,)
    if classes:
        ports = (first, Port(values[1].name, "label", "int64", (first.shape[0],), "N"))
        _set_batch(values[1])
    given = model.graph.output[0]
    role = "image" if len(given.type.tensor_type.shape.dim) == 4 else "points"
    output = _port(given, role, value_range)
    del model.graph.output[1:]
    sample_noise = noise if kind == "latent" else None
    try:
        return Interface(f"{kind}-to-{role}", ports, (output,), sample_noise, classes)  # type: ignore[arg-type]
    except ArtifactError as error:
        raise UsageError(f"this model is not what --kind {kind} says: {error}") from error


def _port(value: ValueInfoProto, role: str, value_range: tuple[float, float]) -> Port:
    tensor = value.type.tensor_type
    dims = list(tensor.shape.dim)
    if tensor.elem_type not in DTYPES or len(dims) not in (2, 4):
        raise UsageError(f"{value.name} of this model is no float32 or uint8 tensor of 2 or 4 dimensions")
    _set_batch(value)
    nhwc = role == "image" and dims[3].dim_value in (1, 3, 4) and dims[1].dim_value not in (1, 3, 4)
    names = ("batch", "height", "width", "channels") if nhwc else ("batch", "channels", "height", "width")
    shape: list[int | str] = []
    for place, size in enumerate(dims):
        if not size.dim_value:
            size.dim_param = names[place] if len(dims) == 4 else ("batch", "features")[place]
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
    for place, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{place}_of_{model.graph.name or 'graph'}"
        taken.add(node.name)


def _names(interface: Interface) -> set[str]:
    return {size for port in (*interface.inputs, *interface.outputs) for size in port.shape if isinstance(size, str)}


def looks_at_all(model: ModelProto) -> bool:
    """Whether a pixel of the result depends on all of the picture: a normalisation over it, or means of whole maps."""
    if WHOLE_PICTURE & {node.op_type for node in model.graph.node}:
        return True
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.value_info}
    for node in model.graph.node:
        if not node.op_type.startswith("Reduce") or ranks.get(node.input[0]) != 4:
            continue
        said = [list(a.ints) for a in node.attribute if a.name == "axes"]
        given = [numpy_helper.to_array(weights[name]).tolist() for name in node.input[1:2] if name in weights]
        if any(axis % 4 >= 2 for axes in (*said, *given) for axis in axes):
            return True
    return False


def _norm_mode(model: ModelProto) -> NormMode:
    kinds = {node.op_type for node in model.graph.node}
    return "instance" if looks_at_all(model) else "eval" if "BatchNormalization" in kinds else "none"


def _in_engine(model: ModelProto, precision: str) -> Run | None:
    """Run the file itself; the engine starts at the first call, because not every export needs it."""
    name = next((name for name in engines.readers(precision) if engines.installed(name)), None)
    if name is None:
        return None
    names = [value.name for value in model.graph.input]
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    started: list[engines.Engine] = []

    def run(inputs: Arrays) -> NDArray[np.generic]:
        if not started:
            started.append(engines.start(model.SerializeToString(), precision, name, "cpu", None))
        step = batch or (1 if inputs[0].ndim == 4 else 64)
        parts = [
            started[0].run({key: array[i : i + step] for key, array in zip(names, inputs, strict=True)})[0]
            for i in range(0, len(inputs[0]), step)
        ]
        output = np.concatenate(parts)
        if not np.isfinite(output).all():
            raise GanEdgeError("this model gives NaN or infinite values on real inputs: its weights are spoilt")
        return output

    return run


def with_size(original: Original, height: int | str, width: int | str) -> Original:
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
    model = ModelProto()
    model.CopyFrom(original.model)
    ports = []
    for value, port in zip(
        (*model.graph.input, *model.graph.output),
        (*original.interface.inputs, *original.interface.outputs),
        strict=True,
    ):
        shape = tuple({"height": height, "width": width}.get(str(size), size) for size in port.shape)
        for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            if isinstance(size, int) and not dim.dim_value:
                dim.dim_value = size
        ports.append(replace(port, shape=shape))
    count = len(original.interface.inputs)
    interface = replace(original.interface, inputs=tuple(ports[:count]), outputs=tuple(ports[count:]))
    return replace(original, model=rewrite.tidy(model, _names(interface)), interface=interface, parity=())
