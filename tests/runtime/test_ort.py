"""ONNX Runtime where it is broken: said in one line, with what to do."""

from __future__ import annotations

import importlib.metadata
import sys
from types import ModuleType

import pytest

from ganedge.runtime.doctor import tiny_artifact
from ganedge.runtime.engines import ort
from ganedge.runtime.errors import EngineError


@pytest.mark.parametrize(
    ("wheels", "said"),
    [
        (("onnxruntime",), "reinstall it"),
        (("onnxruntime", "onnxruntime-gpu"), "pip uninstall onnxruntime onnxruntime-gpu"),
    ],
)
def test_one_wheel_over_another(monkeypatch: pytest.MonkeyPatch, wheels: tuple[str, ...], said: str) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    monkeypatch.setattr(importlib.metadata, "distributions", lambda name: [name] if name in wheels else [])
    with pytest.raises(EngineError, match=f"onnxruntime is installed and does not start.*{said}"):
        ort.start(tiny_artifact(), "fp32", "auto", None)
