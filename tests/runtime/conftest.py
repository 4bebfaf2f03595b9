"""Small image-to-image artifacts, written node by node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ganedge.runtime.manifest import Interface, Manifest, NormMode, Port, write_artifact

Make = Callable[..., Path]


def port(name: str, channels: int, size: tuple[int | str, int | str], multiple: int = 1, kind: str = "float32") -> Port:
    shape = ("batch", channels, *size) if kind == "float32" else ("batch", *size, channels)
    return Port(
        name,
        "image",
        kind,
        shape,
        "NCHW" if kind == "float32" else "NHWC",
        (-1.0, 1.0) if kind == "float32" else (0.0, 255.0),
        multiple,
    )


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write an artifact of one small graph: `nodes` lead from x to y; weights are given by name."""

    def write(
        nodes: list[object],
        weights: dict[str, np.ndarray] | None = None,
        channels: int = 3,
        size: tuple[int | str, int | str] = ("height", "width"),
        multiple: int = 1,
        norm: NormMode = "none",
        kind: str = "float32",
        out: tuple[int | str, int | str] | None = None,
    ) -> Path:
        given = port("x", channels, size, multiple, kind)
        taken = port("y", channels, out or size, 1, kind)
        element = TensorProto.FLOAT if kind == "float32" else TensorProto.UINT8
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", element, given.shape)],
            [helper.make_tensor_value_info("y", element, taken.shape)],
            [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        manifest = Manifest(Interface("image-to-image", (given,), (taken,)), "fp32", norm)
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx"
        path.write_bytes(write_artifact(model.SerializeToString(), manifest))
        return path

    return write
