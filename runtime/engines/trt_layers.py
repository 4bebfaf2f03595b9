"""The layers of a TensorRT engine by the precision that they run in, as its inspector tells.

    counts = read(tensorrt, engine)          # {"int8": 18, "fp16": 5}
    print(line(counts, "int8"))              # layers of the engine: 18 in int8, 5 in fp16

An engine keeps what the inspector needs where it was built with detailed profiling verbosity. A layer runs in the type
of what it reads; copies between formats are no layers.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TYPES = (
    ("int8", ("int8",)),
    ("fp8", ("fp8", "float8")),
    ("bf16", ("bf16", "bfloat16")),
    ("fp16", ("fp16", "half", "float16")),
    ("fp32", ("fp32", "float")),
)
"""Our names of types, and what TensorRT calls them in its descriptions; the first that occurs counts."""
NO_LAYERS = ("reformat", "noop", "constant", "shape", "signal", "wait", "copy")
"""Beginnings of the types of what computes nothing."""


def read(trt: Any, engine: Any) -> dict[str, int]:
    """Layers of an engine by precision, the most frequent first; empty where the engine does not say.

    Args:
        trt: Its TensorRT.
        engine: An `ICudaEngine`.
    """
    inspector = engine.create_engine_inspector()
    if inspector is None:
        return {}
    return count(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def count(information: str) -> dict[str, int]:
    """The same from the inspector's JSON; what is no such JSON tells nothing."""
    try:
        layers = json.loads(information)["Layers"]
        known = [_precision(layer) for layer in layers if isinstance(layer, dict) and not _is_copy(layer)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return dict(Counter(name for name in known if name).most_common())


def line(counts: Mapping[str, int], precision: str) -> str:
    """What to tell of them: first of all where no layer runs in the engine's own precision."""
    shown = ", ".join(f"{number} in {name}" for name, number in counts.items())
    if precision in counts:
        return f"layers of the engine: {shown}"
    return f"NO layer of the engine runs in {precision}: {shown}"


def _is_copy(layer: Mapping[str, Any]) -> bool:
    return str(layer.get("LayerType", "")).lower().startswith(NO_LAYERS)


def _precision(layer: Mapping[str, Any]) -> str:
    """The type of the first tensor that a layer reads; empty where that is no number that layers compute with."""
    for tensor in layer["Inputs"]:
        # "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format" in 10.x, "DataType" in 11.x.
        text = " ".join(str(value) for key, value in tensor.items() if "datatype" in key.lower()).lower()
        for name, words in TYPES:
            if any(word in text for word in words):
                return name
    return ""
