"""Black and white are the range that the last layers give the result, unless the user states others."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from ganedge.export import export
from ganedge.export.bounds import output_bounds
from ganedge.export.from_onnx import of_onnx
from ganedge.export.source import SourceSpec
from ganedge.runtime import load


class Ends(nn.Module):
    """A convolution, and an end."""

    def __init__(self, end: str) -> None:
        super().__init__()
        self.first, self.end = nn.Conv2d(3, 12, 3, padding=1), end
        self.register_buffer("scales", torch.tensor([0.2, 0.3, 0.4]).reshape(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the end of this name."""
        x = self.first(x)
        return {
            "sigmoid": lambda: torch.sigmoid(x[:, :3]),
            "tanh": lambda: torch.tanh(x[:, :3]),
            "half tanh": lambda: (torch.tanh(x[:, :3]) + 1) / 2,
            "255": lambda: 255 * torch.sigmoid(x[:, :3]),
            "turned": lambda: 1 - torch.sigmoid(x[:, :3]),
            "clamp": lambda: x[:, :3].clamp(0, 1),
            "shuffled": lambda: nn.functional.pixel_shuffle(torch.tanh(x), 2),
            "resized": lambda: nn.functional.interpolate(torch.sigmoid(x[:, :3]), scale_factor=2, mode="nearest"),
            "joined": lambda: torch.cat([torch.sigmoid(x[:, :1]), torch.tanh(x[:, 1:3])], 1),
            "masked": lambda: torch.sigmoid(x[:, :1]) * torch.tanh(x[:, 1:4]),
            "none": lambda: x[:, :3],
            "floor": lambda: x[:, :3].relu(),
            "cubic": lambda: nn.functional.interpolate(torch.tanh(x[:, :3]), scale_factor=2, mode="bicubic"),
            "residual": lambda: torch.tanh(x[:, :3]) + x[:, 3:6],
            "channels": lambda: torch.sigmoid(x[:, :3]) * self.get_buffer("scales"),
        }[self.end]()


@pytest.mark.parametrize(
    ("end", "bounds"),
    [
        ("sigmoid", (0, 1)),
        ("tanh", (-1, 1)),
        ("half tanh", (0, 1)),
        ("255", (0, 255)),
        ("turned", (0, 1)),
        ("clamp", (0, 1)),
        ("shuffled", (-1, 1)),
        ("resized", (0, 1)),
        ("joined", (-1, 1)),
        ("masked", (-1, 1)),
        ("none", None),
        ("floor", None),
        ("cubic", None),
        ("residual", None),
        ("channels", None),
    ],
)
def test_what_bounds_a_result(end: str, bounds: tuple[float, float] | None) -> None:
    data = io.BytesIO()
    torch.onnx.export(Ends(end).eval(), (torch.rand(1, 3, 8, 8),), data, dynamo=False)
    model = onnx.load_from_string(data.getvalue())
    assert output_bounds(model, model.graph.output[0].name) == bounds


COPY = """
from torch import nn

class Copy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        nn.init.dirac_(self.first.weight)
        nn.init.zeros_(self.first.bias)

    def forward(self, x):
        return self.first(x).clamp(0, 1)
"""
"""A generator for values of 0 to 1 that gives its picture back."""


def test_a_picture_keeps_its_dark_half(tmp_path: Path) -> None:
    """Nobody states that its black is 0: taken for -1, everything below the middle became black."""
    (tmp_path / "nets.py").write_text(COPY)
    made = export(f"{tmp_path / 'nets.py'}:Copy", output=tmp_path / "a.onnx")
    assert any("between 0 and 1" in note for note in made.notes)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert (np.asarray(load(tmp_path / "a.onnx").translate(Image.fromarray(pixels))) == pixels).all()

    # Bytes go in and out with the same black and white, and what is stated counts.
    export(f"{tmp_path / 'nets.py'}:Copy", io="uint8", output=tmp_path / "bytes.onnx")
    assert (np.asarray(load(tmp_path / "bytes.onnx").translate(Image.fromarray(pixels))) == pixels).all()
    stated = export(f"{tmp_path / 'nets.py'}:Copy", range="-1,1", output=tmp_path / "b.onnx")
    assert stated.manifest.interface.output.range == (-1.0, 1.0)


def test_a_foreign_graph_too(tmp_path: Path) -> None:
    torch.onnx.export(Ends("sigmoid").eval(), (torch.rand(1, 3, 8, 8),), tmp_path / "a.onnx", dynamo=False)
    model = of_onnx(tmp_path / "a.onnx", SourceSpec(kind="image"))
    assert (model.interface.inputs[0].range, model.interface.output.range) == ((0.0, 1.0), (0.0, 1.0))
    normalised = of_onnx(tmp_path / "a.onnx", SourceSpec(kind="image", mean="0.5", std="0.2"))
    assert normalised.interface.output.range == (0.0, 1.0)
    assert of_onnx(tmp_path / "a.onnx", SourceSpec(output_range=(-1, 1))).interface.output.range == (-1.0, 1.0)
