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
