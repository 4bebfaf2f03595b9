"""What reads foreign bytes and texts, under Hypothesis: it gives a result or an error of the family, nothing else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ganedge.runtime import memory, onnx_file
from ganedge.runtime.cli.terminal import printable
from ganedge.runtime.engine_file import read_sidecar
from ganedge.runtime.errors import ArtifactError, GanEdgeError
from ganedge.runtime.manifest import Manifest

MANY = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
FIELDS = st.sampled_from(["schema", "interface", "precision", "norm_mode", "source", "parity", "unproven", "digest"])


@MANY
@given(st.binary(max_size=200))
def test_any_bytes_are_parted_or_refused(data: bytes) -> None:
    with contextlib.suppress(ArtifactError):
        body, metadata = onnx_file.split(data)
        again = onnx_file.split(onnx_file.join(body, metadata))
        assert (b"".join(again[0]), again[1]) == (b"".join(body), metadata)
        onnx_file.refers_outside(body)


@MANY
@given(st.dictionaries(FIELDS, JSON))
def test_any_table_is_a_manifest_or_refused(said: dict[str, object]) -> None:
    with contextlib.suppress(ArtifactError):
        Manifest.from_json(json.dumps({"schema": 1, **said}))


@MANY
@given(JSON)
def test_any_json_is_a_sidecar_or_refused(tmp_path_factory: pytest.TempPathFactory, said: object) -> None:
    path = tmp_path_factory.getbasetemp() / "any.engine"
    Path(f"{path}.json").write_text(json.dumps(said), "utf-8")
    with pytest.raises(ArtifactError):
        read_sidecar(path)


@MANY
@given(st.text(max_size=12) | st.from_regex(r"-?[0-9.e]{1,9} ?[kKmMgGtT]?i?[bB]?", fullmatch=True))
def test_any_text_is_an_amount_of_memory_or_refused(text: str) -> None:
    with contextlib.suppress(GanEdgeError):
        assert memory.parse(text) > 0


@MANY
@given(st.text())
def test_any_text_is_printed_on_one_line(text: str) -> None:
    assert printable(text).isprintable()
