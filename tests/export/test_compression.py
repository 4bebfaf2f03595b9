"""gan-compress: the real command with tiny numbers, resuming bit for bit, and what is refused before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganedge.runtime import load
from ganedge.runtime.manifest import read_artifact

TINY = ("--batch", 8, "--device", "cpu", "--precision", "fp32", "--width", 4)


def test_a_student_of_latents_is_exported_and_goes_on_bit_for_bit(
    tiny_run: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert command("gan-compress", tiny_run, "--out", whole, "--steps", 4, *TINY).code == 0
    assert command("gan-compress", tiny_run, "--out", parts, "--steps", 2, *TINY).code == 0
    assert command("gan-compress", tiny_run, "--out", parts, "--steps", 4, "--resume", *TINY[2:6]).code == 0
    first, second = (folder / "generator.safetensors" for folder in (whole, parts))
    assert first.read_bytes() == second.read_bytes()
    manifest, _ = read_artifact(whole / "generator.onnx")
    assert manifest.source.compressed["teacher"] == tiny_run.name
    assert manifest.source.compressed["macs"] < manifest.source.compressed["teacher_macs"]
    with load(whole / "generator.onnx") as generator:
        assert generator.sample(2, seed=0).shape[0] == 2
    assert "student" in (whole / "compression.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--macs", 0.1, "--width", 8), "exclude each other"),
        (("--macs", 2), "more than 0 and below 1"),
        (("--engine", "onnxruntime"), "give that too"),
        (("--macs", 0.000001), "the smallest student has"),
        (("--crop", 16), "takes latents"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    tiny_run: Path, tmp_path: Path, command: Callable[..., Any], arguments: tuple[object, ...], message: str
) -> None:
    done = command("gan-compress", tiny_run, "--out", tmp_path / "out", "--device", "cpu", *arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
