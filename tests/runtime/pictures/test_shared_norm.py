"""Tiles that share the statistics of the whole picture."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganedge.export import export
from ganedge.runtime import load
from ganedge.runtime.engines import start
from ganedge.runtime.errors import ArtifactError, InputError, MissingExtra, UsageError
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.pictures.shared_norm import SharedNorm

Command = Callable[..., Any]
MEMORY = 60_000_000
"""Bytes that the tests' pictures do not fit, and their tiles do."""
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
    torch = pytest.importorskip("torch", reason="exports a PyTorch module")
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("shared")
    (folder / "nets.py").write_text(NETS)
    return export(f"{folder}/nets.py:make", input="3xHxW", kind="image", output=folder / "g.onnx").path


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
            noise = random.uniform(-1, 1, shape).astype(np.float32)
            # On a page that is nearly white, the mean of the squares and the square of the mean are nearly one number.
            for picture in (noise, (0.98 + 0.01 * noise).astype(np.float32)):
                np.testing.assert_allclose(shared.of(picture)(picture), generator.run(picture), atol=2e-3)
    shared.close()


def test_tiles_come_close_to_the_whole(normalising: Path) -> None:
    picture = landscape(1000, 1300)
    with load(normalising, engine="onnxruntime") as generator:
        whole = generator.translate(picture).astype(float)
    errors = {}
    for how in ("shared", "always"):
        with load(normalising, engine="onnxruntime") as generator:
            if how == "shared":
                with pytest.raises(InputError, match="--tiles shared"):
                    generator.translate(picture, memory=MEMORY)
            done = generator.translate(picture, memory=MEMORY, tiles=how)  # type: ignore[arg-type]
            errors[how] = np.abs(done - whole).mean()
    assert errors["shared"] < 3
    assert errors["always"] > 4 * errors["shared"]


def test_what_cannot_be_shared(
    normalising: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    picture = landscape(1000, 1300)
    copy = tmp_path / "g.onnx"
    copy.write_bytes(normalising.read_bytes())
    with load(copy) as generator:
        copy.write_bytes(copy.read_bytes()[:-4])
        with pytest.raises(ArtifactError):
            generator.translate(picture, memory=MEMORY, tiles="shared")
    model = read_artifact(normalising)[1].replace(b"InstanceNormalization", b"InstanceMoralization!")
    with pytest.raises(UsageError, match="no InstanceNorm to share"):
        SharedNorm(model, lambda data: start(data, "fp32", "onnxruntime", "cpu", 1))
    Image.fromarray(picture).save(tmp_path / "in.png")
    out = tmp_path / "out.png"
    done = command(
        "gan-run", "translate", normalising, tmp_path / "in.png", "-o", out, "--memory", "60M", "--tiles", "shared"
    )
    assert done.code == 0, done.err
    with Image.open(out) as written:
        assert written.size == (1300, 1000)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"ganedge\[tiles\]"):
        SharedNorm(b"", lambda data: start(data, "fp32", "onnxruntime", "cpu", 1))


def test_memory_is_kept(normalising: Path) -> None:
    """In a process of its own, as another test's freed memory would hide what this takes."""
    code = (
        "import sys; import numpy as np; from ganedge.runtime import load, memory\n"
        "picture = np.random.default_rng(8).integers(0, 256, (1500, 1500, 3), np.uint8)\n"
        "with load(sys.argv[1], engine='onnxruntime', threads=2) as generator:\n"
        "    import onnx\n"
        "    before = memory.resident()\n"
        "    with memory.Peak() as peak:\n"
        "        generator.translate(picture, memory=80_000_000, tiles='shared')\n"
        "print(peak.bytes - before - picture.nbytes)"
    )
    done = subprocess.run([sys.executable, "-c", code, normalising], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 80_000_000


@pytest.mark.parametrize("kind", ["group", "by hand"])
def test_other_normalisations_over_the_picture_are_known(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("torch", reason="exports a PyTorch module")
    norm = "nn.GroupNorm(2, 8)" if kind == "group" else "Own()"
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "class Own(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-3)\n"
        "def make():\n"
        f"    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), {norm}, nn.Conv2d(8, 3, 3, 1, 1), nn.Tanh())\n"
    )
    artifact = export(f"{tmp_path}/nets.py:make", input="3xHxW", kind="image", output=tmp_path / "g.onnx")
    assert artifact.manifest.norm_mode == "instance"
    with load(artifact.path) as generator, pytest.raises(UsageError, match="tiles 'shared': this generator"):
        generator.translate(landscape(1000, 1300), memory=MEMORY, tiles="shared")


def test_half_precision_is_shared_too(normalising: Path) -> None:
    """A normalisation in FP16, as others export it, takes its statistics in FP32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(onnx.load(normalising), keep_io_types=True, op_block_list=[])
    shared = SharedNorm(half.SerializeToString(), lambda data: start(data, "fp16", "onnxruntime", "cpu", 1))
    assert all(norm.half for norm in shared._norms)
    picture = np.random.default_rng(0).uniform(-1, 1, (1, 3, 32, 48)).astype(np.float32)
    with load(normalising, engine="onnxruntime") as generator:
        np.testing.assert_allclose(shared.of(picture)(picture), generator.run(picture), atol=0.02)
    shared.close()
