"""gan-compress: the real command with tiny numbers, resuming bit for bit, and what is refused before training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from ganedge.export import compression, compression_report, student_size, to_tensorrt
from ganedge.export.artifact import make
from ganedge.export.from_torch import of_run
from ganedge.export.spec import ExportSpec
from ganedge.export.student_size import SizeSpec
from ganedge.models.student import PictureConfig
from ganedge.runtime import engines, load
from ganedge.runtime.engine_file import check_engine, read_sidecar
from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import read_artifact


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the student with little effort."""
    monkeypatch.setattr(compression_report, "DRAWN", 32)
    monkeypatch.setattr(compression_report, "SECONDS", 0.01)


TINY = ("--batch", 8, "--device", "cpu", "--precision", "fp32", "--width", 4)
SMALL = (
    "--size",
    32,
    "--batch",
    2,
    "--steps",
    2,
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--blocks",
    0,
    "--width",
    4,
)
KILLED = """
import os, signal, torch
torch.set_num_threads({})
from ganedge.export import gan_compress
from ganedge.train.trainer import Trainer
advance = Trainer.advance
def stop(self):
    if self.step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(self)
Trainer.advance = stop
gan_compress.main()
"""
"""gan-compress that is killed in its third step."""


def write_foreign(
    path: Path, weight: float = 0.1, inputs: int = 1, size: tuple[int | str, int | str] = ("h", "w"), seed: int = 0
) -> Path:
    """An .onnx file that no program of this project made: two convolutions."""
    random = np.random.default_rng(seed)
    kernels = {"a": random.normal(size=(4, 3, 5, 5)), "b": random.normal(size=(3, 4, 3, 3)) * weight}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[2] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "b"], ["e"], pads=[1] * 4),
        helper.make_node("Add", ["e", "x" if inputs == 1 else "x2"], ["f"]),
        helper.make_node("Tanh", ["f"], ["y"]),
    ]
    x, y, x2 = (helper.make_tensor_value_info(name, 1, ["n", 3, *size]) for name in ("x", "y", "x2"))
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in kernels.items()]
    graph = helper.make_graph(nodes, "theirs", [x, x2][:inputs], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


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


def test_killed_and_resumed_it_ends_bit_for_bit_alike(
    tiny_run: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the teacher's own networks, which start from its channels; SIGKILL in the third of four steps."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = ("--steps", 4, "--student", "same", "--checkpoint-every", 1, *TINY)
    with monkeypatch.context() as patched:
        patched.setattr(compression, "_conclude", lambda *_: None)  # The weights suffice of this run.
        done = command("gan-compress", tiny_run, "--out", whole, *more)
    assert done.code == 0
    assert "starts from the teacher's most important channels" in done.err
    killed = subprocess.run(
        [sys.executable, "-c", KILLED.format(torch.get_num_threads()), tiny_run, "--out", parts, *map(str, more)],
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (parts / "generator.onnx").exists()
    assert command("gan-compress", tiny_run, "--out", parts, "--student", "same", "--resume", *TINY[2:6]).code == 0
    first, second = (folder / "generator.safetensors" for folder in (whole, parts))
    assert first.read_bytes() == second.read_bytes()
    with load(parts / "generator.onnx") as generator:
        assert generator.sample(2, seed=0).shape[0] == 2


def test_a_foreign_onnx_teaches_without_code(
    tmp_path: Path, pictures: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        compression_report, "_timed", lambda *_: {"onnxruntime": (1e-3, 2e-3), "openvino": (3e-3, 1e-3)}
    )
    foreign = write_foreign(tmp_path / "theirs.onnx")
    out = tmp_path / "out"
    done = command("gan-compress", foreign, "--kind", "image", "--data", pictures, "--out", out, *SMALL)
    assert done.code == 0
    assert done.err.splitlines()[-1].startswith("next: ")
    report = (out / "compression.md").read_text("utf-8")
    first_line = report.splitlines()[0]
    assert first_line == "the student is not faster than its teacher in onnxruntime (0.50 times as fast)"
    manifest, _ = read_artifact(out / "generator.onnx")
    assert manifest.source.compressed["teacher"] == "theirs.onnx"
    assert manifest.interface.reach == 11
    other = write_foreign(tmp_path / "other.onnx", seed=1)
    more = ("--kind", "image", "--data", pictures, "--out", out, *SMALL[:-2], "--resume")
    refused = command("gan-compress", other, *more)
    assert "compressed from another teacher" in refused.err
    again = command("gan-compress", foreign, "--kind", "image", "--data", pictures, "--out", out, *SMALL)
    assert again.code == 2
    assert "already holds a run" in again.err


def write_enlarging(path: Path) -> Path:
    """A foreign .onnx file that makes pictures of twice the size, in 0 to 1."""
    random = np.random.default_rng(0)
    kernels = {"a": random.normal(size=(8, 3, 3, 3)) * 0.3, "b": random.normal(size=(12, 8, 3, 3)) * 0.3}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "b"], ["e"], pads=[1] * 4),
        helper.make_node("DepthToSpace", ["e"], ["f"], blocksize=2, mode="CRD"),
        helper.make_node("Sigmoid", ["f"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", 1, ["n", 3, "h", "w"])
    y = helper.make_tensor_value_info("y", 1, ["n", 3, "2*h", "2*w"])
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in kernels.items()]
    graph = helper.make_graph(nodes, "larger", [x], [y], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.skipif(not engines.installed("tensorrt_rtx"), reason="needs tensorrt-rtx-cu13: ganedge[rtx]")
def test_a_super_resolution_student_keeps_the_scale_and_becomes_engines(
    tmp_path: Path, pictures: Path, command: Callable[..., Any]
) -> None:
    teacher, out = write_enlarging(tmp_path / "larger.onnx"), tmp_path / "small"
    done = command("gan-compress", teacher, "--kind", "image", "--data", pictures, "--out", out, *SMALL)
    assert done.code == 0
    with load(out / "generator.onnx") as generator:
        assert generator.translate(np.zeros((24, 40, 3), np.uint8)).shape == (48, 80, 3)
    _build_engines(out, tmp_path)


@pytest.mark.skipif(not engines.installed("tensorrt_rtx"), reason="needs tensorrt-rtx-cu13: ganedge[rtx]")
def test_a_student_of_latents_becomes_engines(tiny_run: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    out = tmp_path / "small"
    assert command("gan-compress", tiny_run, "--out", out, "--steps", 2, *TINY).code == 0
    _build_engines(out, tmp_path)


def _build_engines(run: Path, folder: Path) -> None:
    """FP16 and INT8 engines of TensorRT for RTX, after the proof in every installed engine; all arithmetic is INT8."""
    for precision in ("fp16", "int8"):
        spec = ExportSpec(precision=precision, engine="trt" if precision == "int8" else None)
        proven = make(of_run(run), spec)
        passed = [proof.passed for proof in proven.manifest.parity]
        assert all(passed) if precision == "fp16" else any(passed), "INT8 depends on the processor too"
        file, engine = folder / f"{precision}.onnx", folder / f"{precision}.engine"
        file.write_bytes(proven.data)
        settings = to_tensorrt.Settings.read(batch="1,1,2", targets="sm86")
        to_tensorrt.write_engine(file, engine, proven, settings, lambda _: None)
        _, identity = read_sidecar(engine)
        assert identity.precision == precision
        assert len(check_engine(engine, identity)) > 10_000


def test_two_processes_learn_together(tiny_run: Path, tmp_path: Path) -> None:
    """One of them measures, exports and says what it does, while the other has ended."""
    out = tmp_path / "small"
    module = (sys.executable, "-m", "ganedge.export.gan_compress")
    arguments = (tiny_run, "--out", out, "--steps", 2, "--devices", 2, *TINY)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*module, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("student: width 4") == 1
    with load(out / "generator.onnx") as generator:
        assert generator.sample(2, seed=0).shape[0] == 2


def test_points_teach_too(tmp_path: Path, command: Callable[..., Any]) -> None:
    teacher, out = tmp_path / "circles", tmp_path / "small"
    short = ("--steps", 2, "--device", "cpu")
    assert command("gan-train", "circles", "--out", teacher, *short).code == 0
    assert command("gan-compress", teacher, "--out", out, "--width", 4, *short).code == 0
    with load(out / "generator.onnx") as generator:
        assert generator.sample(5, seed=0).shape == (5, 2)


@pytest.mark.parametrize(("target", "width"), [(3.1, 24), (2.0, 16), (100.0, None)])
def test_the_widest_student_under_the_time_is_chosen(
    monkeypatch: pytest.MonkeyPatch, target: float, width: int | None
) -> None:
    """Widths take an eighth of a millisecond for each channel here; none may be larger than its teacher."""
    lines: list[str] = []
    monkeypatch.setattr(student_size, "_untrained", lambda config: str(config.width).encode())
    monkeypatch.setattr(student_size, "seconds", lambda model, *_: int(model) / 8000)
    teacher = student_size.student_macs(PictureConfig(width=40, blocks=1, size=32, crop=32))
    config = PictureConfig(blocks=1, size=32, crop=32, teacher_macs=teacher)
    chosen = student_size.choose(config, SizeSpec(target_ms=target), [np.zeros((1, 3, 32, 32))], lines.append, True)
    assert chosen.width == (width or 40)
    assert chosen.macs == student_size.student_macs(chosen) <= teacher
    assert lines
    with pytest.raises(UsageError, match=r"the smallest student with 1 blocks takes .* ms"):
        student_size.choose(config, SizeSpec(target_ms=0.01), [], lines.append, True)


def test_a_teacher_that_cannot_teach_is_refused_in_a_line(
    tmp_path: Path, pictures: Path, command: Callable[..., Any]
) -> None:
    pickled = tmp_path / "whole.pth"
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, 1, 1)), pickled)
    broken = write_foreign(tmp_path / "nan.onnx", weight=np.nan)
    two, wide = write_foreign(tmp_path / "two.onnx", inputs=2), write_foreign(tmp_path / "wide.onnx", size=(64, 128))
    image = ("--kind", "image", "--data", pictures)
    for source, arguments, message in [
        (pickled, (*image, "--input", "3xHxW"), "add --trust if you trust"),
        (broken, image, "NaN or infinite"),
        (two, image, "takes x (image), x2 (image): a student takes one picture"),
        (wide, image, "128 × 64 only"),
        (wide.with_name("theirs.onnx"), image, "does not exist"),
    ]:
        done = command("gan-compress", source, *arguments, "--out", tmp_path / "out", "--device", "cpu")
        assert done.code in (1, 2)
        assert message in done.err
        assert done.err.count("\n") == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--macs", 0.1, "--width", 8), "exclude each other"),
        (("--macs", 2), "more than 0 and below 1"),
        (("--engine", "onnxruntime"), "give that too"),
        (("--macs", 0.000001), "the smallest student has"),
        (("--crop", 16), "takes latents"),
        (("--width", 4, "--target-ms", 5), "exclude each other"),
        (("--params", 4, "--macs", 0.5), "exclude each other"),
        (("--student", "same", "--width", 8), "as large as its teacher"),
        (("--student", "same", "--width", 9), "the teacher has 8"),
        (("--student", "same", "--blocks", 1), "dcgan has none"),
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
