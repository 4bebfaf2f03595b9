"""Tiles that share the statistics of the whole picture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganedge.export.artifact import Wanted, export
from ganedge.export.foreign import Foreign, of_module
from ganedge.runtime import load
from ganedge.runtime.engines import start
from ganedge.runtime.errors import ArtifactError, InputError, MissingExtra, UsageError
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.shared_norm import SharedNorm

Command = Callable[..., Any]
NETS = """
from torch import nn

def make():
    # Two normalisations, the first with weights of its own, on full and half resolution.
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 8, 4, 2, 1),
        nn.InstanceNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh())
"""


@pytest.fixture(scope="module")
def normalising(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with InstanceNorm, any size."""
    import torch

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("shared")
    (folder / "nets.py").write_text(NETS)
    original = of_module(f"{folder}/nets.py:make", Foreign(input="3xHxW", kind="image"))
    return export(original, Wanted(), folder / "g.onnx")[0]


def landscape(height: int, width: int) -> Any:
    """Dark on the left and bright on the right, so that every tile has statistics of its own."""
    y, x = np.mgrid[:height, :width]
    levels = 20 + 200 * x / width + 15 * np.sin(y / 9) + 15 * np.sin((x + y) / 5)
    return np.clip(np.stack([levels, levels * 0.8, 255 - levels], -1), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_with_its_own_statistics_it_is_the_same_generator(normalising: Path, engine: str) -> None:
    pytest.importorskip(engine, reason="needs this engine")
    manifest, model = read_artifact(normalising)
    shared = SharedNorm(model, lambda data: start(data, manifest.precision, engine, "cpu", 1))
    random = np.random.default_rng(0)
    with load(normalising, engine=engine) as generator:
        for shape in ((1, 3, 32, 48), (1, 3, 64, 20)):
            picture = random.uniform(-1, 1, shape).astype(np.float32)
            np.testing.assert_allclose(shared.of(picture)(picture), generator.run(picture), atol=2e-5)
    shared.close()


def test_tiles_come_close_to_the_whole(normalising: Path) -> None:
    picture = landscape(500, 900)
    with load(normalising, engine="onnxruntime") as generator:
        whole = generator.translate(picture).astype(float)
        memory = 20_000_000
        with pytest.raises(InputError, match="--tiles shared"):
            generator.translate(picture, memory=memory)
        errors = {
            how: np.abs(generator.translate(picture, memory=memory, tiles=how) - whole).mean()  # type: ignore[arg-type]
            for how in ("shared", "always")
        }
    assert errors["shared"] < 3
    assert errors["always"] > 4 * errors["shared"]


def test_what_cannot_be_shared(
    normalising: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    picture = landscape(500, 900)
    copy = tmp_path / "g.onnx"
    copy.write_bytes(normalising.read_bytes())
    with load(copy) as generator:
        copy.write_bytes(copy.read_bytes()[:-4])
        with pytest.raises(ArtifactError):
            generator.translate(picture, memory=20_000_000, tiles="shared")
    model = read_artifact(normalising)[1].replace(b"InstanceNormalization", b"InstanceMoralization!")
    with pytest.raises(UsageError, match="no InstanceNorm"):
        SharedNorm(model, lambda data: start(data, "fp32", "onnxruntime", "cpu", 1))
    Image.fromarray(picture).save(tmp_path / "in.png")
    out = tmp_path / "out.png"
    done = command(
        "gan-run", "translate", normalising, tmp_path / "in.png", "-o", out, "--memory", "20M", "--tiles", "shared"
    )
    assert done.code == 0, done.err
    with Image.open(out) as written:
        assert written.size == (900, 500)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"ganedge\[tiles\]"):
        SharedNorm(b"", lambda data: start(data, "fp32", "onnxruntime", "cpu", 1))
