"""Reading an ONNX file's metadata without onnx: the same as onnx reads, and one clear error for anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from ganedge.runtime import onnx_file
from ganedge.runtime.errors import ArtifactError


def test_it_reads_what_onnx_reads(artifact: Path) -> None:
    data = artifact.read_bytes()
    model = onnx.load_from_string(data)
    body, metadata = onnx_file.split(data)
    assert metadata == {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    bare = onnx.load_from_string(b"".join(body))
    assert bare == model


def test_join_is_the_inverse_of_split(artifact: Path) -> None:
    body, metadata = onnx_file.split(artifact.read_bytes())
    metadata["another"] = "ü" * 300
    again, said = onnx_file.split(onnx_file.join(body, metadata))
    assert said == metadata
    assert b"".join(again) == b"".join(body)


def test_every_truncation_is_an_error_or_lacks_the_end(artifact: Path) -> None:
    data = artifact.read_bytes()
    whole = b"".join(onnx_file.split(data)[0])
    for end in np.linspace(0, len(data) - 1, 200).astype(int):
        try:
            body, metadata = onnx_file.split(data[:end])
        except ArtifactError:
            continue
        assert not metadata, "the manifest is last, so that no truncated file has one"
        assert b"".join(body) == whole[:end]


@pytest.mark.parametrize("data", [b"", b"\x00", b"\xff" * 40, b"hello, this is no model", b"\x3a\xff\xff\xff\xff\x0f"])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="not an ONNX model"):
        onnx_file.split(data)


def varint(number: int, length: int) -> bytes:
    """A number in so many bytes, more than it needs where they are."""
    parts = [number >> 7 * index & 0x7F | 0x80 for index in range(length)]
    return bytes([*parts[:-1], parts[-1] & 0x7F])


GRAPH = b"\x3a\x00"
"""An empty graph: field 7, no bytes."""


@pytest.mark.parametrize(
    ("number", "payload", "written"),
    [
        (1, b"", b"\x0a\x00"),
        (7, b"ab", b"\x3a\x02ab"),
        (14, b"x" * 127, b"\x72\x7f" + b"x" * 127),
        (16, b"x" * 128, b"\x82\x01\x80\x01" + b"x" * 128),
        (1, 0, b"\x08\x00"),
        (3, 127, b"\x18\x7f"),
        (3, 128, b"\x18\x80\x01"),
        (20, 300, b"\xa0\x01\xac\x02"),
    ],
)
def test_fields_as_protocol_buffers_writes_them(number: int, payload: bytes | int, written: bytes) -> None:
    assert onnx_file.field(number, payload) == written
    ((read, start, value, end),) = onnx_file._fields(memoryview(written))
    assert (read, start, end) == (number, 0, len(written))
    assert value == (payload if isinstance(payload, bytes) else None)


def test_fields_of_every_wire_type_are_passed_over() -> None:
    fields = [b"\x08\x05", b"\x11" + b"8" * 8, GRAPH, b"\x1d" + b"4" * 4, onnx_file.field(14, onnx_file.field(1, b"k"))]
    body, metadata = onnx_file.split(b"".join(fields))
    assert [bytes(part) for part in body] == fields[:4]
    assert metadata == {"k": ""}
    assert onnx_file.split(GRAPH + onnx_file.field(14, onnx_file.field(2, b"v")))[1] == {"": "v"}
    assert onnx_file.split(GRAPH + b"\x72\x00")[1] == {"": ""}
    body, metadata = onnx_file.split(GRAPH + b"\x70\x05")
    assert ([bytes(part) for part in body], metadata) == ([GRAPH, b"\x70\x05"], {}), "a number is no entry"


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"\x08\x05", "it holds no graph"),
        (GRAPH + b"\x11" + b"8" * 7, "it is cut off"),
        (GRAPH + b"\x1d" + b"4" * 3, "it is cut off"),
        (GRAPH + b"\x0a\x02x", "it is cut off"),
        (GRAPH + b"\x0b", "it is damaged"),
        (GRAPH + b"\x0f", "it is damaged"),
        (GRAPH + b"\x02\x00", "it is cut off"),
        (GRAPH + b"\x08\xff", "it is cut off"),
        (GRAPH + b"\x08" + varint(1, 11), "it is cut off"),
    ],
)
def test_damaged_fields_are_refused(damaged: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=f"not an ONNX model.*{message}"):
        onnx_file.split(damaged)


def test_numbers_have_at_most_ten_bytes() -> None:
    data = GRAPH + b"\x08" + varint(2**63, 10)
    assert [bytes(part) for part in onnx_file.split(data)[0]] == [GRAPH, data[2:]]
    assert onnx_file._varint(memoryview(b"x" + varint(2**63 + 5, 10)), 1) == (2**63 + 5, 11)
    assert onnx_file._varint(memoryview(b"\xac\x02\x7f"), 0) == (300, 2)


def test_metadata_are_text() -> None:
    entry = onnx_file.field(1, b"k") + onnx_file.field(2, b"\xff")
    with pytest.raises(ArtifactError, match="metadata of this ONNX model is damaged: it is not UTF-8 text"):
        onnx_file.split(GRAPH + onnx_file.field(14, entry))


def nested(*numbers: int, payload: bytes) -> bytes:
    """A field in a field in a field, the outermost first."""
    for number in reversed(numbers):
        payload = onnx_file.field(number, payload)
    return payload


OUTSIDE = onnx_file.field(13, b"location")
"""What a tensor has whose values lie in another file."""
NAMED = onnx_file.field(8, b"location")
"""A text of a tensor that only looks like it."""


@pytest.mark.parametrize(
    ("numbers", "tensor", "outside"),
    [
        ((7, 5), OUTSIDE, True),
        ((7, 5), NAMED, False),
        ((7, 2), OUTSIDE, False),
        ((6, 5), OUTSIDE, False),
        ((7, 15, 1), OUTSIDE, True),
        ((7, 15, 1), NAMED, False),
        ((7, 1, 5, 5), OUTSIDE, True),
        ((7, 1, 5, 10), OUTSIDE, True),
        ((7, 1, 5, 5), NAMED, False),
        ((7, 1, 5, 4), OUTSIDE, False),
        ((7, 1, 4, 5), OUTSIDE, False),
        ((7, 1, 5, 6, 5), OUTSIDE, True),
        ((7, 1, 5, 11, 5), OUTSIDE, True),
        ((7, 1, 5, 6, 5), NAMED, False),
        ((7, 1, 5, 6, 1, 5, 11, 15, 1), OUTSIDE, True),
    ],
)
def test_weights_in_other_files_wherever_they_are_named(numbers: tuple[int, ...], tensor: bytes, outside: bool) -> None:
    """Each among others that are no weights, and in front of and behind numbers, which are no messages."""
    other = nested(*numbers, payload=onnx_file.field(8, b"x"))
    wrapped = nested(*numbers[1:], payload=b"\x08\x05" + tensor)
    for payload in (wrapped, other[2:] + wrapped, wrapped + other[2:], b"\x08\x05" + wrapped):
        body = [memoryview(other), memoryview(b"\x38\x05"), memoryview(onnx_file.field(numbers[0], payload))]
        assert onnx_file.refers_outside(body) == outside
    assert not onnx_file.refers_outside([memoryview(other)])
    assert onnx_file.refers_outside([other, nested(*numbers, payload=tensor)]) == outside, "bytes as well"


def test_numbers_among_messages_are_no_weights() -> None:
    """At each depth: a number under a message's field number holds nothing, and what follows is looked through."""
    five = b"\x28\x05"  # Field 5, a number.
    attribute = five + b"\x50\x05\x30\x05\x58\x05" + onnx_file.field(5, OUTSIDE)
    node = five + onnx_file.field(5, attribute)
    graph = b"\x08\x05" + five + b"\x78\x05" + onnx_file.field(15, b"\x08\x05") + onnx_file.field(1, node)
    assert onnx_file.refers_outside([onnx_file.field(7, graph)])
    assert not onnx_file.refers_outside([onnx_file.field(7, graph.replace(OUTSIDE, NAMED))])
