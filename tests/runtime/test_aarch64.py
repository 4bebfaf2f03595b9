"""Artifacts of this processor as 64-bit ARM code: they pass their gates, and latents are the same bit for bit."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture
def arm() -> dict[str, Any]:
    """The script that emulates, where it can."""
    script = runpy.run_path(str(TESTS / "aarch64.py"))
    if reason := script["missing"]():
        pytest.skip(f"needs an emulated ARM processor: {reason}")
    return script


def test_what_was_made_here_passes_its_gates_as_arm_code(arm: dict[str, Any], artifact: Path) -> None:
    first, *others = arm["verified"]([artifact, TESTS / "legacy" / "dcgan-int8.onnx"])
    assert first == {"machine": "aarch64", "latents": arm["latents"]()}
    assert [line["artifact"] for line in others] == [artifact.name, "dcgan-int8.onnx"]
    for line in others:
        assert [(engine.split()[0], passed) for engine, _, passed in line["checks"]] == [("onnxruntime", True)]
