"""From a PyTorch generator to an ONNX graph: dynamic batch, one file, nothing in it but the computation.

model = to_onnx(network, interface)
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ganedge.export import rewrite
from ganedge.export.compiled import is_script
from ganedge.export.sizes import SMALL
from ganedge.export.traced import export_traced, traced
from ganedge.runtime.errors import GanEdgeError, one_line
from ganedge.runtime.inputs import sides
from ganedge.runtime.manifest import Interface, NormMode, Port

OPSETS = (18, 19, 20, 22)
"""ONNX operator sets to write, the first that has all operators: TensorRT from 8.6, ONNX Runtime from 1.14 read 18."""
LINE = re.compile(r"# File: (.+?):(\d+) in \w+, code: (.*)")
"""How torch.export names a line of the code that it follows."""


def to_onnx(network: nn.Module, interface: Interface) -> onnx.ModelProto:
    """Export a generator, fold its normalisation and strip what is not computation.

    Args:
        network: In evaluation mode, FP32, on the CPU.
        interface: What it takes and gives; its port names become the graph's.

    Returns:
        A checked model with inferred shapes.

    Raises:
        GanEdgeError: the network cannot be exported; the message says what stood in the way.
    """
    with _quiet():
        plain = traced(network, interface, example_inputs(interface, 2, small_size(interface)), OPSETS[0])
    model = plain or _export(network, interface, OPSETS[0])
    missing = [version for version in OPSETS[1:] if not _defined(model, OPSETS[0]) and _defined(model, version)]
    if missing:
        model = _export(network, interface, missing[0])
    rewrite.fold_batch_norm(model)
    _name_dimensions(model, interface)
    ports = (*interface.inputs, *interface.outputs)
    model = rewrite.tidy(model, {size for port in ports for size in port.shape if isinstance(size, str)})
    for port in interface.inputs:
        given = next(value for value in model.graph.input if value.name == port.name)
        fixed = [size.dim_value for size in given.type.tensor_type.shape.dim if not size.dim_param]
        if len(fixed) != sum(isinstance(size, int) for size in port.shape):
            raise GanEdgeError(
                f"this generator computes with the size of {port.name}, so that it works at one size only: "
                "give that size, such as --size 256"
            )
    return model


def _export(network: nn.Module, interface: Interface, version: int) -> onnx.ModelProto:
    """Run PyTorch's exporter; its errors become one line that names the place in the generator's code."""
    shapes = tuple(_dynamic(port) for port in interface.inputs)
    names: dict[str, Any] = {
        "input_names": [port.name for port in interface.inputs],
        "output_names": [port.name for port in interface.outputs],
    }
    with _quiet() as output, _Attention():
        try:
            if is_script(network):
                return export_traced(network, interface, example_inputs(interface), version)
            program = torch.onnx.export(
                network,
                example_inputs(interface),
                dynamo=True,
                optimize=True,
                verbose=False,
                opset_version=version,
                dynamic_shapes=(shapes,) if _takes_varargs(network) else shapes,
                **names,
            )
        except Exception as error:
            root = _root(error)
            where = _where(error, output.getvalue())
            hint = "; give its source, FILE.py:NAME, with its weights" if is_script(network) else ""
            raise GanEdgeError(
                f"this generator cannot be exported to ONNX{where}: {type(root).__name__}: {one_line(root)}{hint}"
            ) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _defined(model: onnx.ModelProto, version: int) -> bool:
    """Whether an operator set has all operators of a graph."""
    return all(_has_schema(node.op_type, version) for node in model.graph.node if node.domain in rewrite.ONNX_DOMAINS)


def _has_schema(operator: str, version: int) -> bool:
    try:
        onnx.defs.get_schema(operator, version, "")
    except onnx.defs.SchemaError:
        return False
    return True


class _Attention(TorchFunctionMode):
    """Attention of `[N, L, C]` as that of one head, `[N, 1, L, C]`: the exporter knows no other."""

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **options)
        bound = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | options
        rest = args[4:]
        if bound["query"].ndim != 3:
            return func(*args, **options)
        for name in ("query", "key", "value", "attn_mask"):
            if bound.get(name) is not None and bound[name].ndim == 3:
                bound[name] = bound[name].unsqueeze(1)
        bound.setdefault("attn_mask", None)
        heads = [bound.pop(name) for name in ("query", "key", "value", "attn_mask")]
        return func(*heads, *rest, **bound).squeeze(1)


def _dynamic(port: Port) -> dict[int, object]:
    """Which dimensions the exporter must leave open; height and width follow what the network itself demands."""
    names = {axis: size for axis, size in enumerate(port.shape) if isinstance(size, str)}
    batch = torch.export.Dim("batch", min=1)
    return {axis: batch if axis == 0 else torch.export.Dim.AUTO for axis in names}


def _name_dimensions(model: onnx.ModelProto, interface: Interface) -> None:
    """Give the open dimensions of inputs and outputs the interface's names."""
    for value, port in zip(
        (*model.graph.input, *model.graph.output), (*interface.inputs, *interface.outputs), strict=True
    ):
        for size, name in zip(value.type.tensor_type.shape.dim, port.shape, strict=True):
            if isinstance(name, str) and not size.HasField("dim_value"):
                size.dim_param = name


def example_inputs(
    interface: Interface, batch: int = 2, size: tuple[int, int] | None = None
) -> tuple[torch.Tensor, ...]:
    """A batch of the right shapes and types; two items, because exporters take a batch of one for a constant.

    Args:
        interface: What the network takes.
        batch: Items, where their number is dynamic.
        size: Height and width of pictures where these are dynamic; two different lengths by default, so that one is
            not taken for the other.
    """
    first = interface.inputs[0]
    height, width = (sides(first)[-1] if size is None else size) if first.is_picture else (0, 0)
    fixed = batch if isinstance(first.shape[0], str) else first.shape[0]
    made = []
    for port in interface.inputs:
        shape: tuple[int, ...] = (fixed, *port.item_shape)
        if interface.is_aligned(port):
            shape = (fixed, port.item_shape[0], height, width)
        elif port.is_picture:
            shape = (fixed, port.channels, *sides(port)[-1])
        made.append(torch.zeros(shape, dtype=torch.int64) if port.dtype == "int64" else torch.randn(shape))
    return tuple(made)


def small_size(interface: Interface) -> tuple[int, int] | None:
    """A small size that it takes, as `find_multiple` tried it, or its own; None where no picture goes in."""
    port = interface.inputs[0]
    few = -(-SMALL // port.multiple) * port.multiple
    height, width = (side if isinstance(side, int) else few for side in port.sides) if port.is_picture else (0, 0)
    return (height, width) if port.is_picture else None


def norm_mode(network: nn.Module) -> NormMode:
    """Which statistics the generator's normalisation uses."""
    kinds = tuple(network.modules())
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in kinds):
        return "eval"
    return "instance" if any(isinstance(module, nn.modules.instancenorm._InstanceNorm) for module in kinds) else "none"


def _takes_varargs(network: nn.Module) -> bool:
    """Whether forward is `forward(*inputs)`; decorators such as torch.no_grad show what they wrap."""
    kinds = [parameter.kind for parameter in inspect.signature(network.forward).parameters.values()]
    return kinds[:1] == [inspect.Parameter.VAR_POSITIONAL]


def _root(error: BaseException) -> BaseException:
    """Return the first cause of an error, which is more specific than the exporter's summary."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _where(error: BaseException, message: str) -> str:
    """The line of the generator's own code that the exporter was at: from the error, or from what it printed."""
    own = tuple(f"{Path(module.__file__ or '').parent}{os.sep}" for module in (torch, sys.modules[__name__]))
    cause: BaseException | None = error
    while cause is not None:
        location = ""
        for frame, line in traceback.walk_tb(cause.__traceback__):
            code = frame.f_code
            module = frame.f_locals.get(code.co_varnames[0]) if code.co_varnames else None
            if isinstance(module, nn.Module) and not code.co_filename.startswith(own):
                location = f" at {Path(code.co_filename).name}:{line} ({type(module).__name__}.{code.co_name})"
        if location:
            return location
        cause = cause.__cause__ or cause.__context__
    lines = [match for match in LINE.findall(message) if not match[0].startswith(own)]
    return f" at {Path(lines[-1][0]).name}:{lines[-1][1]} ({lines[-1][2].strip()[:80]})" if lines else ""


@contextlib.contextmanager
def _quiet() -> Iterator[StringIO]:
    """The exporter prints and warns of its own inner steps; what it said tells the place of an error."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        captured = StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(captured), contextlib.redirect_stderr(captured):
            warnings.simplefilter("ignore")
            yield captured
    finally:
        logging.disable(level)
