"""The folder bench: files to files beside the bare engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganedge.benchmarks.studies import folder
from ganedge.export import export
from ganedge.runtime.errors import InputError, UsageError

NETS = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1), nn.Tanh())
"""


def test_both_are_timed_on_every_picture(tmp_path: Path, artifact: Path) -> None:
    pytest.importorskip("torch", reason="exports a PyTorch module")
    (tmp_path / "nets.py").write_text(NETS)
    file = export(f"{tmp_path}/nets.py:make", input="3xHxW", kind="image", output=tmp_path / "g.onnx").path
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    random = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(pictures / f"{name}.jpg")
    found = folder.measure(file, pictures, count=7, group=3, engine="onnxruntime", threads=1)
    assert found["pictures"] == 7
    assert found["shape"] == [40, 48, 3]
    assert found["ratio"] == pytest.approx(float(str(found["pictures_per_s"])) / float(str(found["bare_per_s"])))
    assert len(list(pictures.iterdir())) == 3, "results go elsewhere"
    with pytest.raises(UsageError, match="takes no pictures"):
        folder.measure(artifact, pictures, 1, 1, "onnxruntime", 1)
    Image.fromarray(random.integers(0, 256, (10, 10, 3), np.uint8)).save(pictures / "d.png")
    with pytest.raises(InputError, match="2 sizes"):
        folder.measure(file, pictures, 4, 2, "onnxruntime", 1)
