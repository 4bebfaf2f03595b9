"""Residual networks: their start values, and what trains them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from ganedge.models import augment, residual
from ganedge.models.dcgan import DCGAN, MODERN, Config
from ganedge.models.upsample import Upsampling
from ganedge.runtime.errors import UsageError
from ganedge.train.loop import train
from ganedge.train.settings import Settings

TINY: dict[str, Any] = {"size": 16, "width": 4, "channels": 1, "augment": ""}


@pytest.mark.parametrize("way", get_args(Upsampling))
def test_a_block_begins_as_its_skip(way: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(residual.Up(8, 4, way), residual.Down(4, 6))
    residual.start(network)
    features = torch.randn(2, 8, 4, 4)
    assert network(features).shape == (2, 6, 4, 4)
    up, down = network
    torch.testing.assert_close(network(features), down.skip(up.skip(features)))
    assert (up.change[1].weight != 0).all(), "the first convolution learns at once, when the last has moved"


@pytest.mark.parametrize("way", get_args(Upsampling))
def test_a_normalised_block_begins_as_a_plain_one(way: Any) -> None:
    torch.manual_seed(0)
    block = residual.normed_up(8, 4, way)
    residual.start(block)
    features = torch.randn(2, 8, 4, 4)
    enlarged = block(features)
    assert enlarged.shape == (2, 4, 8, 8)
    torch.testing.assert_close(enlarged, torch.relu(block.first(features)))
    enlarged.square().sum().backward()
    assert float(block.change[-1].weight.grad.abs().max()) > 0, "the change begins to learn at once"


def test_the_scale_is_kept_from_latents_to_logits() -> None:
    """Deviations stay between a third and three through ten blocks, where nothing is normalised."""
    torch.manual_seed(0)
    gan = DCGAN(Config(size=128, width=8, arch="resnet", upsample="resize"))
    with torch.no_grad():
        drawn = torch.atanh(gan.generator(torch.randn(16, 100)).clamp(-0.9999, 0.9999))
        logits = gan.discriminator(torch.rand(16, 3, 128, 128) * 2 - 1)
    assert 0.3 < float(drawn.std()) < 3
    assert float(logits.abs().max()) < 10


def test_no_picture_is_normalised_alone_and_no_network_transposed() -> None:
    norms = {nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.ConvTranspose2d}
    for norm, allowed in (("batch", {nn.BatchNorm2d}), ("none", set())):
        gan = DCGAN(Config(**{**MODERN, **TINY, "norm": norm}))
        for network in gan.networks.values():
            assert {type(module) for module in network.modules()} & norms == allowed


def test_the_ramp_is_a_function_of_the_step() -> None:
    config = Config(**{**MODERN, **TINY, "ramp": 100, "r1": 2.0})
    gan = DCGAN(config)
    seen: list[tuple[float, float, float]] = []

    def update(name: str, loss: torch.Tensor, keep_graph: bool = False) -> None:
        group = gan.optimizers[name].param_groups[0]
        seen.append((gan.penalty_share, group["lr"], group["betas"][1]))

    batch = {"images": torch.rand(2, 1, 16, 16) * 2 - 1}
    for step in (0, 50, 100, 5000, 0):
        gan.step({**batch}, step, update)
    begin, middle, end = (1.0, 2e-4, 0.99), (0.55, 2e-4 * 0.625, 0.9945), (0.1, 5e-5, 0.999)
    for figures, expected in zip(seen[::2], (begin, middle, end, end, begin), strict=True):
        assert figures == pytest.approx(expected)
    assert seen[::2] == seen[1::2], "both networks alike"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ramp": 5, "lr_end": 0.0}, "lr-end is 0.0: give more than 0"),
        ({"ramp": 5, "lr_end": 0.5, "decay": 0.5}, "lr-end is 0.5: give 1, or --decay 1"),
        ({"ramp": 5, "beta2_end": 1.0}, "beta2-end is 1.0"),
        ({"ramp": -1}, "ramp is -1"),
        ({"augment": "color", "augment_ramp": -1}, "augment-ramp is -1: give 0 or more"),
        ({"augment": "blur"}, "augment is blur: give names out of color,translation,cutout, .* or auto"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Config(**given)


def test_a_preset_gives_way_to_options_that_switch_its_parts_off(tmp_path: Path) -> None:
    """What needs the part that is off has no effect then, and is not refused, as nobody gave it."""
    off = {"blur": 0.0, "ramp": 0, "r1": 0.0, "r2": 0.0, "augment": ""}
    tiny = {"size": 16, "width": 4, "batch": 4, "channels": 1, **off}
    run = train(DCGAN, tiny, Settings(data="digits", preset="modern", out=tmp_path / "run", steps=2, device="cpu"))
    assert (run / "generator.safetensors").exists()


def test_a_training_that_never_sees_sharp_pictures_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = {"size": 16, "width": 4, "batch": 4, "blur": 0.1}
    for steps, minutes, said in ((2, None, "all 2 steps"), (3, None, ""), (3, 1e-9, "all 0 steps")):
        settings = Settings(
            data="digits", out=tmp_path / f"{steps}-{minutes}", steps=steps, max_minutes=minutes, device="cpu"
        )
        train(DCGAN, {**tiny, "blur_steps": 2}, settings)
        heard = capsys.readouterr().err
        warning = f"{said} blur the pictures: train for more than --blur-steps 2"
        assert heard.count("blur the pictures") == bool(said) and (not said or warning in heard)


def test_augmentation_by_the_number_of_pictures(tmp_path: Path) -> None:
    assert [augment.for_items(count) for count in (100, augment.FEW)] == ["color,translation,cutout"] * 2
    assert augment.for_items(augment.FEW + 1) == augment.for_items(augment.MANY) == "color,translation"
    assert augment.for_items(augment.MANY + 1) == ""
    tiny = {"size": 16, "width": 4, "batch": 4, "augment": "auto"}
    run = train(DCGAN, tiny, Settings(data="digits", out=tmp_path / "run", steps=1, device="cpu"))
    written = json.loads((run / "config.json").read_text())["config"]
    assert written["augment"] == "color,translation,cutout"
    assert written["augment_ramp"] == 50 * 1797 // 4, "fifty passes over the digits"
    assert Config(augment="auto", augment_ramp=7).for_items(100).augment_ramp == 7  # type: ignore[attr-defined]
    assert Config(augment="color").for_items(100) == Config(augment="color")
