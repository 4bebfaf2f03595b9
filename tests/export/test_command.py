"""gan-export as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganedge.runtime.engines import ov
from ganedge.runtime.manifest import read_artifact

Command = Callable[..., Any]


def test_export(command: Command, tiny_run: Path, tmp_path: Path) -> None:
    done = command("gan-export", tiny_run, "--format", "onnx", "--fp16", "-o", tmp_path / "deep" / "g.onnx")
    assert done.code == 0, done.err
    assert "passed psnr=45" in done.err
    manifest, _ = read_artifact(tmp_path / "deep" / "g.onnx")
    assert manifest.precision == "fp16"
    assert manifest.interface.output.shape == ("batch", 1, 16, 16)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere",), 1, "does not exist"),
        (("{here}",), 1, "is not a run"),
        (("{run}", "--format", "tflite"), 2, "onnx"),
        (("{run}", "-o", "{here}"), 1, "is a folder"),
        ((), 2, ""),
    ],
)
def test_mistakes_get_one_line(
    command: Command, tiny_run: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = command("gan-export", *(argument.format(run=tiny_run, here=tmp_path) for argument in arguments))
    assert done.code == code, done.err
    assert said in done.err
    assert not list(tmp_path.iterdir())
    if arguments and arguments[-1] != "{here}":
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("run", ("--weights", "a.pth"), "has no effect on a run"),
        ("run", ("--kind", "latent"), "has no effect on a run"),
        ("run", ("--range", "0,1"), "--which, --checkpoint"),
        ("artifact", ("--which", "a2b"), "has no effect on an artifact"),
        ("artifact", ("--noise", "uniform"), "takes --size"),
        ("nets.py:G", ("--which", "a2b"), "has no effect on a module"),
        ("nets.py:G", ("--kind", "image", "--noise", "uniform"), "is an image"),
        ("netG.pth", ("--arch", "auto", "--range", "0,1"), "weights to recognise"),
        ("netG.pth", ("--kwargs", "{}"), "a pickled module"),
        ("run", ("--level", "3"), "--format trt"),
        ("run", ("--instances", "2"), "--format triton"),
        ("run", ("--size", "64,128,256"), "--format trt"),
        ("run", ("--for", "ort"), "add --int8"),
        ("run", ("--format", "trt", "-o", "x.plan"), "by its ending, .engine"),
        ("run", ("--format", "trt", "-o", "x.onnx"), "by its ending, .engine"),
        ("run", ("-o", "x.engine"), "give .onnx"),
        ("run", ("--int8", "--for", "ort", "--format", "trt"), "does not read"),
        ("run", ("--calibrate", "64"), "need values"),
        ("run", ("--fp16", "--bf16"), "exclude each other"),
        ("run", ("--int8", "--fp16"), "add --for tensorrt"),
        ("run", ("--int8", "--fp16", "--bf16"), "exclude each other"),
        ("run", ("--int8", "--fp16", "--for", "trt", "--remainder", "fp32"), "contradict each other"),
        ("run", ("--fp16", "--remainder", "fp16"), "add --int8"),
        ("run", ("--auto", "--remainder", "fp16"), "leave --remainder out"),
        ("half", ("--int8", "--for", "trt"), "is fp16 already"),
        ("run", ("--bf16", "--engines", "ort"), "has no bf16"),
        ("run", ("--format", "trt", "--batch", "4,1"), "MIN,OPT,MAX"),
        ("run", ("--bf16", "--format", "triton"), "--triton-backend tensorrt"),
        ("run", ("--format", "triton", "--triton-name", "../x"), "cannot name a model"),
        ("run", ("--format", "triton", "--triton-name", ""), "cannot name a model"),
        ("artifact", ("--size", "dynamic"), "has one size"),
        ("half", ("--calibrate", "64", "--fp16"), "is fp16 already"),
    ],
)
def test_options_without_effect_are_refused(
    command: Command,
    tiny_run: Path,
    artifact: Path,
    half_artifact: Path,
    source: str,
    options: tuple[str, ...],
    said: str,
) -> None:
    places = {"run": tiny_run, "artifact": artifact, "half": half_artifact}
    before = set(tiny_run.rglob("*"))
    done = command("gan-export", places.get(source, source), *options)
    assert done.code == 2, done.err
    assert done.err.count("\n") == 1
    assert said in done.err
    assert set(tiny_run.rglob("*")) == before


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_layers_go_back_to_fp32_where_a_gate_is_missed(
    command: Command, tiny_run: Path, tmp_path: Path, precision: str
) -> None:
    """The gate is just above what the precision reaches where no layer is left out."""
    if precision == "bf16" and "bf16" in ov.precisions():
        pytest.skip("a processor with bf16 rounds each layer's result to it, and of these few the last one decides")
    assert command("gan-export", tiny_run, f"--{precision}", "-o", tmp_path / "all.onnx").code == 0
    levels = [proof.psnr for proof in read_artifact(tmp_path / "all.onnx")[0].parity]
    gate = f"psnr={max(level for level in levels if level is not None) + 0.5:.1f}"
    done = command("gan-export", tiny_run, f"--{precision}", "--tolerance", gate, "-o", tmp_path / "fewer.onnx")
    assert done.code == 0, done.err
    assert "kept in FP32" in done.err


def test_bf16_can_be_verified_later(command: Command, tiny_run: Path, tmp_path: Path) -> None:
    """One engine alone reads it, so what it must give lies beside it."""
    out = tmp_path / "g.onnx"
    done = command("gan-export", tiny_run, "--bf16", "-o", out)
    assert done.code == 0, done.err
    assert "openvino" in done.err
    assert "onnxruntime" not in done.err
    done = command("gan-run", "verify", out)
    assert done.code == 0, done.err
    assert "beside g.onnx.proof.npz" in done.err
    done = command("gan-run", "sample", out, "-o", tmp_path / "x.png", "--engine", "onnxruntime")
    assert done.code == 1
    assert "has no bf16 on the CPU" in done.err
    assert command("gan-run", "sample", out, "-o", tmp_path / "x.png").code == 0
