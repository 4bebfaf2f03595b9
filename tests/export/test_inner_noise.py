"""Noise that networks draw inside: kept, the same for every item and call, in the exported graph too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ganedge.export import export
from ganedge.export.inner_noise import keep_noise
from ganedge.runtime import load

NETS = '''
import torch
from torch import nn


class Sized(nn.Module):
    """Noise of a size, for each item."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 192)

    def forward(self, z, noise=None):
        x = self.layer(z).view(-1, 3, 8, 8)
        noise = torch.randn(x.size(0), 1, 8, 8) if noise is None else noise
        return torch.tanh(x + 0.5 * noise)


class Filled(Sized):
    """Noise as StyleGAN2 draws it: a new tensor that is filled, joined by concatenation."""

    def forward(self, z):
        x = self.layer(z).view(-1, 3, 8, 8)
        batch, _, height, width = x.shape
        noise = x.new_empty(batch, 1, height, width).normal_()
        return torch.tanh(torch.cat([x[:, :2], noise], 1) + torch.rand_like(x))
'''


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


@pytest.mark.parametrize("name", ["Sized", "Filled"])
def test_it_is_drawn_once(nets: Path, tmp_path: Path, name: str) -> None:
    artifact = export(f"{nets}:{name}", input="8", kind="latent", output=tmp_path / "a.onnx")
    assert any("it draws noise inside" in note for note in artifact.notes)
    other = export(f"{nets}:{name}", input="8", kind="latent", noise_seed=1, output=tmp_path / "b.onnx")
    with load(artifact.path) as first, load(other.path) as second:
        many = first.sample(5, seed=3)
        np.testing.assert_array_equal(many, np.concatenate([first.sample(5, seed=3)[i : i + 1] for i in range(5)]))
        np.testing.assert_array_equal(many[:1], first.sample(1, seed=3), "whatever the batch")
        assert (many != second.sample(5, seed=3)).mean() > 0.3


def test_stated_as_an_input_it_is_drawn_by_the_runtime(nets: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"input": ["8", "noise=1x8x8:noise"], "kind": "latent"}
    artifact = export(f"{nets}:Sized", output=tmp_path / "a.onnx", **settings)
    assert artifact.manifest.interface.inputs[1].role == "noise"
    with load(artifact.path) as generator:
        pictures = generator.sample(2, seed=0)
        assert (pictures != generator.sample(2, seed=1)).any()
        latents, noise = generator.sample_inputs(2, seed=0)
        assert not np.array_equal(generator.run(latents, noise), generator.run(latents, noise[::-1].copy()))


def test_networks_that_draw_nothing_stay_what_they_are() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).eval()
    same, notes = keep_noise(network, [torch.zeros(2, 3)], 0)
    assert same is network
    assert notes == ()
