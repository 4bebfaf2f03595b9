"""Read and write what an ONNX file says about itself, with nothing but the standard library.

An ONNX file is one protocol-buffers message (`ModelProto`, onnx.proto3). Its top level is a short list of fields, of
which `metadata_props` (number 14) holds key–value strings and the others hold the graph and its weights. A device
reads the manifest and checks the digest from here before any engine sees a byte, and needs no `onnx` package for it.

    body, metadata = split(Path("generator.onnx").read_bytes())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

METADATA_PROPS = 14
"""Field number of `ModelProto.metadata_props`."""
GRAPH = 7
"""Field number of `ModelProto.graph`."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
"""Field numbers of `GraphProto.node`, `.initializer` and `.sparse_initializer`."""
NODE_ATTRIBUTE = 5
"""Field number of `NodeProto.attribute`."""
ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = (5, 10), (6, 11)
"""Field numbers of the tensors and of the graphs in an `AttributeProto`."""
TENSOR_EXTERNAL = 13
"""Field number of `TensorProto.external_data`."""


def split(model: bytes) -> tuple[list[memoryview], dict[str, str]]:
    """Part an ONNX model into its body and its metadata.

    Args:
        model: A serialised `ModelProto`.

    Returns:
        The top-level fields other than metadata, each as its raw bytes in the order of the file, and the metadata.

    Raises:
        ArtifactError: the bytes are no ONNX model: not a message, cut off, or without a graph.
    """
    view = memoryview(model)
    body: list[memoryview] = []
    metadata: dict[str, str] = {}
    numbers = set()
    for number, start, value, end in _fields(view):
        numbers.add(number)
        if number == METADATA_PROPS and value is not None:
            key, text = _entry(value)
            metadata[key] = text
        else:
            body.append(view[start:end])
    if GRAPH not in numbers:
        raise ArtifactError("this is not an ONNX model: it holds no graph")
    return body, metadata


def join(body: Iterable[memoryview | bytes], metadata: Mapping[str, str]) -> bytes:
    """Put a body and its metadata together again: the inverse of `split`, metadata last."""
    entries = [
        field(METADATA_PROPS, field(1, key.encode()) + field(2, text.encode())) for key, text in metadata.items()
    ]
    return b"".join([*body, *entries])


def refers_outside(body: Iterable[memoryview | bytes]) -> bool:
    """Whether a model keeps weights in other files, which no digest over this one covers.

    Raises:
        ArtifactError: the graph is damaged.
    """
    whole = [memoryview(part) for part in body]
    if not any(b"location" in bytes(part) for part in whole):  # The key that names such a file.
        return False
    return any(
        _graph_refers_outside(value)
        for part in whole
        for number, _, value, _ in _fields(part)
        if number == GRAPH and value is not None
    )


def _graph_refers_outside(graph: memoryview) -> bool:
    """Look through the weights of a graph, those in its nodes' attributes, and the graphs in there."""
    for number, _, value, _ in _fields(graph):
        if value is None:
            continue
        if number == GRAPH_INITIALIZER and _has(value, TENSOR_EXTERNAL):
            return True
        if number == GRAPH_SPARSE and any(_has(t, TENSOR_EXTERNAL) for _, _, t, _ in _fields(value) if t is not None):
            return True
        if number == GRAPH_NODE and _node_refers_outside(value):
            return True
    return False


def _node_refers_outside(node: memoryview) -> bool:
    for number, _, attribute, _ in _fields(node):
        if number != NODE_ATTRIBUTE or attribute is None:
            continue
        for kind, _, value, _ in _fields(attribute):
            if value is None:
                continue
            if kind in ATTRIBUTE_TENSORS and _has(value, TENSOR_EXTERNAL):
                return True
            if kind in ATTRIBUTE_GRAPHS and _graph_refers_outside(value):
                return True
    return False


def _has(message: memoryview, field_number: int) -> bool:
    return any(number == field_number for number, _, _, _ in _fields(message))


def _fields(view: memoryview) -> Iterator[tuple[int, int, memoryview | None, int]]:
    """Yield (number, start, value if it is bytes, end) of each field of one message."""
    position = 0
    while position < len(view):
        start = position
        key, position = _varint(view, position)
        number, wire = key >> 3, key & 7
        value: memoryview | None = None
        if wire == _VARINT:
            _, position = _varint(view, position)
        elif wire == _BYTES:
            length, position = _varint(view, position)
            value = view[position : position + length]
            position += length
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        else:
            raise ArtifactError("this is not an ONNX model, or it is damaged")
        if position > len(view) or number == 0:
            raise ArtifactError("this is not an ONNX model, or it is cut off")
        yield number, start, value, position


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """Read a base-128 number of at most ten bytes; give it and the position behind it."""
    number = 0
    for index, byte in enumerate(view[position : position + 10]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, position + index + 1
    raise ArtifactError("this is not an ONNX model, or it is cut off")


def _entry(view: memoryview) -> tuple[str, str]:
    """Read one `StringStringEntryProto`: key is field 1, value is field 2."""
    texts = {number: value for number, _, value, _ in _fields(view) if value is not None}
    try:
        return bytes(texts.get(1, b"")).decode(), bytes(texts.get(2, b"")).decode()
    except UnicodeDecodeError as error:
        raise ArtifactError("the metadata of this ONNX model is damaged: it is not UTF-8 text") from error


def field(number: int, payload: bytes | int) -> bytes:
    """Write one field of a message: bytes with their length, or a whole number."""
    if isinstance(payload, int):
        return _write_varint(number << 3 | _VARINT) + _write_varint(payload)
    return _write_varint(number << 3 | _BYTES) + _write_varint(len(payload)) + payload


def _write_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
