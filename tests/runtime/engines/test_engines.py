"""Engine names, and what an engine's own error message becomes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganedge.runtime import load
from ganedge.runtime.doctor import tiny_artifact
from ganedge.runtime.engines import canonical, import_package
from ganedge.runtime.errors import MissingExtra, UsageError, one_line


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("ort", "onnxruntime"),
        ("ONNXRuntime", "onnxruntime"),
        ("ov", "openvino"),
        ("trt", "tensorrt"),
        ("tensorrt", "tensorrt"),
        ("auto", "auto"),
    ],
)
def test_an_engine_has_one_name_and_aliases(name: str, engine: str) -> None:
    assert canonical(name) == engine


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("magic", "unknown engine 'magic': choose auto, onnxruntime, openvino, ncnn or tensorrt"),
        ("ncnn", "ncnn and vulkan run ncnn artifacts, not .onnx: make one with gan-export --format ncnn"),
        ("trt", "engine 'tensorrt' runs .engine files"),
    ],
)
def test_an_engine_that_cannot_run_an_artifact_is_one_clear_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_artifact())
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "tiny.onnx", name)


def test_load_takes_an_alias(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(tiny_artifact())
    with load(tmp_path / "tiny.onnx", "ort") as generator:
        assert generator.engine.name == "onnxruntime"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
            "Name:'c' Status Message: /onnxruntime_src/onnxruntime/core/framework/op.cc:123 shapes differ",
            "Non-zero status code returned while running Conv node. Name:'c' Status Message: shapes differ",
        ),
        (
            "Exception from src/inference/src/cpp/core.cpp:109:\nException from src/frontends/onnx/frontend.cpp:320:\n"
            "Check 'axis < rank' failed at src/core/src/op/concat.cpp:45:\nAxis 9 is out of range",
            "Check 'axis < rank' failed Axis 9 is out of range",
        ),
        ("", "RuntimeError"),
        ("two\n  lines", "two lines"),
    ],
)
def test_the_reason_of_an_engine_is_shown_without_its_source_position(message: str, line: str) -> None:
    assert one_line(RuntimeError(message)) == line


BROKEN = {
    "import": "raise ImportError('lib.so.1: cannot open shared object file')",
    "system": "raise OSError('libhost.so: undefined symbol')",
    "half": "",
}


@pytest.mark.parametrize("state", BROKEN)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_that_does_not_import_is_one_line(tmp_path: Path, engine: str, state: str) -> None:
    """In every command that would use it; the doctor shows it beside the engines that work."""
    (tmp_path / "tiny.onnx").write_bytes(tiny_artifact())
    (tmp_path / engine).mkdir()
    (tmp_path / engine / "__init__.py").write_text(BROKEN[state] + "\n")
    for words in (
        ["verify", "tiny.onnx"],
        ["sample", "tiny.onnx", "-o", "x.png", "--engine", engine],
        ["doctor"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "ganedge.runtime", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        shown = done.stdout if words == ["doctor"] else done.stderr
        assert f"{engine} is installed and does not start (" in shown, shown
        assert "reinstall it" in shown
        assert "Traceback" not in done.stderr
        if words != ["doctor"]:
            assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_an_engine_that_is_missing_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pip install 'ganedge\[openvino\]'"):
        import_package("openvino", "Core")
