"""Plain bytes in and out: scaling, clipping, rounding and layout inside the graph. No torch here.

    model, interface = to_bytes(model, interface)        # picture ports become uint8 [N, H, W, C]

A device then passes a camera's bytes in and shows the bytes that come out, without converting values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ganedge.export import rewrite
from ganedge.export.graph import copied, rename, set_nodes
from ganedge.export.source_model import RunAll
from ganedge.runtime.inputs import to_range
from ganedge.runtime.manifest import Interface, Port


def to_bytes(model: ModelProto, interface: Interface) -> tuple[ModelProto, Interface]:
    """Put uint8 `[N, H, W, C]` boundaries around the picture ports of a graph.

    The arithmetic at the boundary is FP32 whatever the graph computes in: 255 levels need more than FP16 keeps.

    Returns:
        A new model, checked, and the interface it now has.
    """
    changed = copied(model)
    graph = changed.graph
    before: list[NodeProto] = []
    after: list[NodeProto] = []
    for value, port in zip(graph.input, interface.inputs, strict=True):
        if _is_float_picture(port):
            inner = f"{value.name}_float"
            rename(graph.node, value.name, inner)
            before += _decode(changed, value.name, inner, port)
            _set_bytes(value, port)
    for value, port in zip(graph.output, interface.outputs, strict=True):
        if _is_float_picture(port):
            inner = f"{value.name}_float"
            rename(graph.node, value.name, inner)
            after += _encode(changed, inner, value.name, port)
            _set_bytes(value, port)
    set_nodes(graph, [*before, *graph.node, *after])
    new = bytes_interface(interface)
    names = {size for port in (*new.inputs, *new.outputs) for size in port.shape if isinstance(size, str)}
    return rewrite.tidy(changed, names), new


def steps(model: ModelProto) -> frozenset[str]:
    """Names of the nodes that `to_bytes` put around a graph, which stay FP32 in any precision."""
    return frozenset(node.name for node in model.graph.node if node.name.startswith("io_"))


def bytes_interface(interface: Interface) -> Interface:
    """What an artifact takes and gives with bytes at its boundary."""
    inputs, outputs = (tuple(map(_bytes_port, ports)) for ports in (interface.inputs, interface.outputs))
    return replace(interface, inputs=inputs, outputs=outputs)


def reference(run: RunAll, interface: Interface) -> RunAll:
    """The same generator with bytes in, and levels out: not clipped to whole ones, so that rounding shows as error."""
    sources = interface.inputs

    def in_levels(inputs: Sequence[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        floats = [
            to_range(array.astype(np.uint8), port) if _is_float_picture(port) else array
            for array, port in zip(inputs, sources, strict=True)
        ]
        return [_levels(array, port) for array, port in zip(run(floats), interface.outputs, strict=True)]

    return in_levels


def _levels(output: NDArray[np.generic], port: Port) -> NDArray[np.generic]:
    """An output as unrounded levels of 0 to 255 where it is a picture of floats, else as it is."""
    if not _is_float_picture(port):
        return output
    assert port.range is not None
    low, high = port.range
    levels = np.clip((output.astype(np.float64) - low) * 255 / (high - low), 0, 255)
    return levels.transpose(0, 2, 3, 1) if port.layout == "NCHW" else levels


def _is_float_picture(port: Port) -> bool:
    return port.is_picture and port.dtype == "float32"


def _bytes_port(port: Port) -> Port:
    if not _is_float_picture(port):
        return port
    shape = port.shape if port.layout == "NHWC" else (port.shape[0], *port.shape[2:], port.shape[1])
    return replace(port, dtype="uint8", layout="NHWC", shape=shape, range=(0.0, 255.0))


def _decode(model: ModelProto, name: str, inner: str, port: Port) -> list[NodeProto]:
    """Bytes to the port's range: cast, turn, scale, shift."""
    assert port.range is not None
    low, high = port.range
    scale = _constant(model, f"{name}_scale", (high - low) / 255)
    shift = _constant(model, f"{name}_shift", low)
    nodes = [helper.make_node("Cast", [name], [f"{name}_levels"], f"io_cast_{name}", to=TensorProto.FLOAT)]
    last = f"{name}_levels"
    if port.layout == "NCHW":
        nodes.append(helper.make_node("Transpose", [last], [f"{name}_nchw"], f"io_turn_{name}", perm=[0, 3, 1, 2]))
        last = f"{name}_nchw"
    nodes.append(helper.make_node("Mul", [last, scale], [f"{name}_scaled"], f"io_scale_{name}"))
    nodes.append(helper.make_node("Add", [f"{name}_scaled", shift], [inner], f"io_shift_{name}"))
    return nodes


def _encode(model: ModelProto, inner: str, name: str, port: Port) -> list[NodeProto]:
    """The port's range to bytes: scale, shift by half a level more, clip, cut off, turn."""
    assert port.range is not None
    low, high = port.range
    factor = 255 / (high - low)
    scale = _constant(model, f"{name}_scale", factor)
    shift = _constant(model, f"{name}_shift", 0.5 - low * factor)
    least, most = _constant(model, f"{name}_least", 0.0), _constant(model, f"{name}_most", 255.0)
    nodes = [
        helper.make_node("Mul", [inner, scale], [f"{name}_scaled"], f"io_scale_{name}"),
        helper.make_node("Add", [f"{name}_scaled", shift], [f"{name}_shifted"], f"io_shift_{name}"),
        helper.make_node("Clip", [f"{name}_shifted", least, most], [f"{name}_clipped"], f"io_clip_{name}"),
    ]
    last = f"{name}_clipped"
    if port.layout == "NCHW":
        nodes.append(helper.make_node("Transpose", [last], [f"{name}_nhwc"], f"io_turn_{name}", perm=[0, 2, 3, 1]))
        last = f"{name}_nhwc"
    # Floor before the cast says what casting leaves to the engine: 254.7 is level 254, as half a level was added.
    nodes.append(helper.make_node("Floor", [last], [f"{name}_whole"], f"io_floor_{name}"))
    nodes.append(helper.make_node("Cast", [f"{name}_whole"], [name], f"io_cast_{name}", to=TensorProto.UINT8))
    return nodes


def _constant(model: ModelProto, name: str, value: float) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return name


def _set_bytes(value: object, port: Port) -> None:
    tensor = value.type.tensor_type  # type: ignore[attr-defined]
    tensor.elem_type = TensorProto.UINT8
    for dim, size in zip(tensor.shape.dim, _bytes_port(port).shape, strict=True):
        dim.Clear()
        if isinstance(size, int):
            dim.dim_value = size
        else:
            dim.dim_param = size
