"""The size of the pictures that are measured: asked for, or the training's, and always told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ganedge.benchmarks import size
from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import Interface, Manifest, Port, Source

PICTURE = Port("input", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1, 1), multiple=4)
TRANSLATOR = Manifest(Interface("image-to-image", (PICTURE,), (replace(PICTURE, name="output"),)), "fp32", "instance")


def _of(shape: tuple[Any, ...] = PICTURE.shape, **config: Any) -> Manifest:
    port = replace(PICTURE, shape=shape)
    interface = replace(TRANSLATOR.interface, inputs=(port,))
    return replace(TRANSLATOR, interface=interface, source=Source(config=config))


@pytest.mark.parametrize(
    ("manifest", "asked", "wanted", "why"),
    [
        (_of(), None, (256, 256), "nothing says another"),
        (_of(size=128), None, (128, 128), "as trained"),
        (_of(size=128), "64", (64, 64), "as asked"),
        (_of(), "96x128", (96, 128), "as asked"),
        (_of(size="128"), None, (256, 256), "nothing says another"),
        (_of(("batch", 3, 48, 64)), None, (48, 64), "the only one it takes"),
        (_of(("batch", 3, 48, 64)), "48x64", (48, 64), "the only one it takes"),
        (_of(("batch", 3, 48, "width")), None, (48, 256), "nothing says another"),
    ],
)
def test_which_size(manifest: Manifest, asked: str | None, wanted: tuple[int, int], why: str) -> None:
    interface, told = size.settled(manifest, asked)
    assert interface.inputs[0].sides == wanted
    assert told == why
    assert interface.outputs == manifest.interface.outputs


@pytest.mark.parametrize(
    ("manifest", "asked", "said"),
    [
        (_of(), "66", "multiples of 4, and its height would be 66: give 6"),
        (_of(), "64x2", "its width would be 2: give 4"),
        (_of(("batch", 3, 48, 64)), "64", "takes a height of 48 and nothing else"),
        (_of(), "dynamic", "--size 'dynamic': give 256, or 256x320"),
        (_of(), "0", "--size '0'"),
        (_of(), "-64", "--size '-64'"),
        (_of(), "64x64x3", "--size '64x64x3'"),
        (_of(), "99999", "of 1 to 16384"),
    ],
)
def test_sizes_that_cannot_be(manifest: Manifest, asked: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        size.settled(manifest, asked)


def test_latents_have_no_size(command: Callable[..., Any], artifact: Path) -> None:
    done = command("gan-bench", artifact, "--size", "64", "--processes", 0)
    assert (done.code, "part of its weights" in done.err) == (2, True)


NETS = """
from torch import nn

class Halves(nn.Module):
    # As published code often is: several results, of which the first is the picture.
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 4, 2, 1), nn.ConvTranspose2d(4, 3, 4, 2, 1)

    def forward(self, x):
        features = self.down(x).relu()
        return self.up(features).tanh(), features

class Labelled(nn.Module):
    # A class as a vector with a one.
    def __init__(self):
        super().__init__()
        self.latent, self.label = nn.Linear(5, 48), nn.Linear(4, 48)

    def forward(self, z, label):
        return (self.latent(z) + self.label(label)).tanh().view(-1, 3, 4, 4)
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of modules that start with the same weights whenever they are made."""
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "nets.py"
    path.write_text(NETS.replace("super().__init__()", "super().__init__(); import torch; torch.manual_seed(0)"))
    return path


def test_the_size_is_measured_and_told(command: Callable[..., Any], nets: Path, tmp_path: Path) -> None:
    made = tmp_path / "halves.onnx"
    done = command("gan-export", f"{nets}:Halves", "--kind", "image", "--input", "3xHxW", "--io", "uint8",
                   "--range", "-2,2", "-o", made)  # fmt: skip
    assert done.code == 0, done.err
    done = command(
        "gan-bench", made, "--against", f"{nets}:Halves", "--range", "-2,2", "--size", "32x48", "--batch", 1,
        "--engine", "onnxruntime", "--seconds", 0.02, "--iterations", 2, "--processes", 1,
        "--json", tmp_path / "out.json", "--markdown", tmp_path / "out.md", "--html", tmp_path / "out.html",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["inputs"] == [{"name": "input", "role": "image", "dtype": "uint8", "shape": [32, 48, 3]}]
    assert found["size"] == "as asked"
    assert [row["same"] for row in found["results"]] == [None, True]
    macs = 4 * 16 * 24 * 3 * 16 + 4 * 16 * 24 * 3 * 16  # Down, and up again, 4 × 4 kernels at half the size.
    assert {costs["macs"] for costs in found["competitors"].values()} == {macs}
    assert all(costs["cold_start_s"] > 0 for costs in found["competitors"].values()), found["warnings"]
    assert "32 × 48 × 3 (as asked)" in done.out.splitlines()[0]
    assert all("32 × 48 × 3 (as asked)" in (tmp_path / name).read_text() for name in ("out.md", "out.html"))


def test_a_class_vector_is_made_as_in_export(command: Callable[..., Any], nets: Path, tmp_path: Path) -> None:
    made = tmp_path / "labelled.onnx"
    spec = f"{nets}:Labelled"
    done = command("gan-export", spec, "--kind", "latent", "--input", 5, "--classes", 4, "-o", made)
    assert done.code == 0, done.err
    done = command("gan-bench", made, "--against", spec, "--batch", 2, "--engine", "onnxruntime", "--seconds", 0.02,
                   "--iterations", 2, "--processes", 0, "--json", "-")  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["results"][1]["same"] is True


def test_super_resolution_is_recognised_as_in_export(command: Callable[..., Any], tmp_path: Path) -> None:
    """A tiny ESRGAN of spandrel's own classes; `auto` finds it by its weights, and its values are 0 to 1."""
    esrgan = pytest.importorskip("spandrel.architectures.ESRGAN", reason="needs spandrel: ganedge[sr]")
    torch.manual_seed(0)
    torch.save(esrgan.ESRGAN(num_filters=8, num_blocks=1, scale=2).state_dict(), tmp_path / "x2.pth")
    made = tmp_path / "x2.onnx"
    done = command("gan-export", tmp_path / "x2.pth", "--arch", "auto", "--io", "uint8", "-o", made)
    assert done.code == 0, done.err
    done = command("gan-bench", made, "--against", tmp_path / "x2.pth", "--arch", "auto", "--size", 16, "--batch", 1,
                   "--engine", "onnxruntime", "--seconds", 0.02, "--iterations", 2, "--processes", 0,
                   "--json", "-")  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["results"][1]["same"] is True
    done = command("gan-bench", made, "--against", tmp_path / "x2.pth", "--size", 16, "--processes", 0)
    assert (done.code, "--arch auto" in done.err) == (2, True), done.err
