"""Training in reduced precision: a network is always used with the weights that it has at that moment."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ganedge.models import find
from ganedge.models.latent import clip_weights
from ganedge.train import data, devices, loop
from ganedge.train.settings import Settings

CASES: dict[str, dict[str, Any]] = {
    "wgan": {"size": 16, "width": 4, "batch": 4, "d_steps": 2, "lr": 1e-2},
    "pix2pix": {"size": 32, "width": 4, "dropout": 0.0, "lr": 1e-2},
}


@pytest.mark.parametrize("name", CASES)
def test_the_generator_meets_the_updated_discriminator(tmp_path: Path, name: str) -> None:
    (tmp_path / "pairs").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "pairs" / "0.png")
    spec = "digits" if name == "wgan" else str(tmp_path / "pairs")
    settings = Settings(data=spec, out=tmp_path, device="cpu", precision="bf16", steps=2, fraction=0.01)
    variant = find(name)
    config = variant.config_class(**CASES[name])
    items = data.open_data(spec, variant.wants(config), settings.opening)
    trainer = loop.Trainer(
        devices.make_fabric(settings), variant, loop._fill(config, items.facts, len(items)), settings, items
    )
    apart: list[float] = []

    def judge_anew(network: nn.Module, given: Any, output: torch.Tensor) -> None:
        anew = copy.deepcopy(network).forward(*given)
        apart.append(float((anew - output).detach().abs().max()))

    trainer.gan.networks["discriminator"].register_forward_hook(judge_anew)
    for _ in range(2):
        trainer.advance()
    assert len(apart) >= 5
    assert apart == [0.0] * len(apart)


def test_clipped_weights_are_used_at_once() -> None:
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(4.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 1)).item() == 4
        clip_weights(layer, 0.5)
        assert layer(torch.ones(1, 1)).item() == 0.5
