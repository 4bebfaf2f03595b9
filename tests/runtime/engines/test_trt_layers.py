"""What an engine's inspector tells is read in the layouts of TensorRT 10 and 11, and asked for in the right order."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from ganedge.runtime.engine_file import EngineIdentity
from ganedge.runtime.engines import EngineInfo, trt, trt_builder, trt_layers
from ganedge.runtime.errors import ArtifactError


def layer(kind: str, *types: str, key: str = "Format/Datatype") -> dict[str, Any]:
    return {"Name": "conv", "LayerType": kind, "Inputs": [{"Name": "x", key: text} for text in types], "Outputs": []}


LAYERS = [
    layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format"),
    layer("CaskConvolution", "Int8", "Half"),
    layer("kgen", "Row major linear FP16 format", "Float"),
    layer("gemm", "FP32", key="DataType"),
    layer("Reformat", "Row major linear FP32"),
    layer("NoOp", "Int8"),
    layer("shape_call", "Int32"),
    layer("kgen", "Int32", "BFloat16"),
    layer("kgen"),
]


def test_layers_are_counted_by_what_they_read() -> None:
    counts = trt_layers.count(json.dumps({"Layers": LAYERS, "Bindings": ["x"]}))
    assert counts == {"int8": 2, "fp16": 1, "fp32": 1, "bf16": 1}
    assert trt_layers.line(counts, "int8") == "layers of the engine: 2 in int8, 1 in fp16, 1 in fp32, 1 in bf16"
    assert trt_layers.line({"fp16": 5}, "int8") == "NO layer of the engine runs in int8: 5 in fp16"


@pytest.mark.parametrize("text", ["", "none", "[]", '{"Layers": ["conv + relu"]}', '{"Layers": [{"LayerType": "x"}]}'])
def test_an_engine_that_does_not_say_is_no_error(text: str) -> None:
    """Without detailed verbosity there are names alone."""
    assert trt_layers.count(text) == {}


@pytest.mark.parametrize("says", [True, False])
def test_the_inspector_is_made_and_asked_for_json(says: bool) -> None:
    calls: list[Any] = []
    inspector = SimpleNamespace(
        get_engine_information=lambda form: (calls.append(("ask", form)), json.dumps({"Layers": LAYERS[:1]}))[1]
    )
    engine = SimpleNamespace(create_engine_inspector=lambda: (calls.append("make"), inspector if says else None)[1])
    package = SimpleNamespace(LayerInformationFormat=SimpleNamespace(JSON="json", ONELINE="line"))
    running = trt.TensorRt(engine, package, None, EngineInfo("tensorrt", "10.3", "CUDA", "cuda", "int8"))
    assert running.layers() == ({"int8": 1} if says else {})
    assert calls == (["make", ("ask", "json")] if says else ["make"])


def test_an_engine_is_built_with_what_the_inspector_needs() -> None:
    """Detailed verbosity is set on the configuration that is built with, before it is handed out."""
    config = SimpleNamespace(add_optimization_profile=lambda _: 0, clear_flag=lambda _: None)
    builder = SimpleNamespace(
        create_builder_config=lambda: config,
        create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *_: None),
    )
    monitor = type("IProgressMonitor", (), {"__init__": lambda _: None})
    package = SimpleNamespace(
        BuilderFlag=SimpleNamespace(TF32="tf32"),
        ProfilingVerbosity=SimpleNamespace(DETAILED="all", LAYER_NAMES_ONLY="names"),
        IProgressMonitor=monitor,
    )
    made = trt_builder._config("tensorrt", package, builder, {}, trt_builder.Recipe(), ())
    assert made is config
    assert made.profiling_verbosity == "all"


def test_the_identity_keeps_only_counts() -> None:
    assert EngineIdentity("tensorrt", "10.3", "sm87", (), layers={"int8": 3}).layers == {"int8": 3}
    for wrong in ({"int8": 0}, {"int8": "3"}, {"a b": 1}):
        with pytest.raises(ArtifactError, match="layers"):
            EngineIdentity("tensorrt", "10.3", "sm87", (), layers=wrong)  # type: ignore[arg-type]
