"""The networks of `--nets edge`: what is in them, how far they reach, and the losses of the presets `modern`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganedge.models import augment, edge, find, residual
from ganedge.models.patchgan import PatchGAN, feature_distance
from ganedge.models.translation import PatchConfig, seen_alike
from ganedge.runtime.errors import UsageError

SMALL: dict[str, dict[str, Any]] = {
    "pix2pix": {"size": 32, "width": 4, "levels": 3, "blocks": 1, "channels": 1, "augment": "translation,cutout"},
    "cyclegan": {"size": 32, "width": 4, "blocks": 1, "channels": 1, "augment": "translation"},
}


def build(name: str, **given: Any) -> Any:
    variant = find(name)
    return variant(variant.config_class(**{**variant.presets["modern"], **SMALL[name], **given}))


@pytest.mark.parametrize("name", SMALL)
def test_a_modern_generator_has_nothing_that_edge_devices_lack(name: str) -> None:
    gan = build(name)
    for key in gan.generators():
        layers = [module for module in gan.networks[key].modules() if not [*module.children()]]
        allowed = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.AvgPool2d, nn.Upsample, nn.Identity)
        assert all(isinstance(layer, allowed) for layer in layers), layers
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        assert all(max(layer.kernel_size) <= 3 and layer.padding_mode == "zeros" for layer in convolutions)
    networks = [network for key, network in gan.networks.items() if key not in gan.generators()]
    norms = (nn.InstanceNorm2d, nn.BatchNorm2d)
    assert not any(isinstance(module, norms) for network in networks for module in network.modules())


@torch.no_grad()
def test_a_network_keeps_the_scale_at_the_start() -> None:
    torch.manual_seed(0)
    network = edge.EdgeGenerator(3, 16, 3, 6, "resize")
    residual.start(network)
    maps = network.first(torch.randn(4, 3, 64, 64))
    before = float(maps.std())
    for down in network.down:
        maps = down(maps)
    assert 0.1 < float(network.body(maps).std()) / before < 10


def test_pictures_that_belong_together_are_augmented_alike() -> None:
    torch.manual_seed(0)
    a = torch.rand(8, 3, 16, 16) + 1
    first, second, third = seen_alike((a, -a, a[:, :1]), ("translation", "cutout"))
    assert torch.equal(first, -second) and torch.equal(first[:, :1], third)
    assert not torch.equal(first, a)
    assert seen_alike((a, a), ())[0] is a


@pytest.mark.parametrize(("count", "chosen"), [(400, "translation,cutout"), (10_000, "translation"), (10**6, "")])
def test_auto_depends_on_the_number_of_pictures(count: int, chosen: str) -> None:
    config = PatchConfig(augment="auto").for_items(count)
    assert isinstance(config, PatchConfig) and config.augment == chosen
    assert PatchConfig(augment="cutout").for_items(count) == PatchConfig(augment="cutout")
    latent = find("dcgan").config_class(augment="auto").for_items(count)
    assert latent.augment == augment.for_items(count)  # type: ignore[attr-defined]


def test_features_are_those_of_the_verdicts() -> None:
    torch.manual_seed(0)
    last = nn.Conv2d(16, 1, 4, 1, 1)
    judge = PatchGAN(1, (2, 2, 2, 1), nn.InstanceNorm2d, last, width=2)
    pictures = torch.rand(2, 1, 32, 32)
    verdicts, features = judge.with_features(pictures)
    torch.testing.assert_close(verdicts, judge(pictures))
    assert [each.shape[1] for each in features] == [2, 4, 8, 16]
    torch.testing.assert_close(last(features[-1]), verdicts)
    others = [each + 3 for each in features]
    assert float(feature_distance(features, others).detach()) == pytest.approx(3, rel=1e-5)


def losses_of(gan: Any, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What a step minimises with each optimizer, and what it reports, without any update."""
    minimised: dict[str, Tensor] = {}
    reported = gan.step(batch, 0, lambda name, loss, keep_graph=False: minimised.update({name: loss}))
    return minimised, {key: float(value) for key, value in reported.items()}


def test_batchnorm_of_one_pixel_is_refused() -> None:
    with pytest.raises(UsageError, match="levels is 5: give less than 5 with --norm batch"):
        build("pix2pix", levels=5)
    build("pix2pix", levels=5, norm="instance")


@pytest.mark.parametrize(
    ("name", "norm", "count"),
    [("pix2pix", "instance", 0), ("pix2pix", "batch", 14), ("cyclegan", "none", 0), ("cyclegan", "batch", 10)],
)
def test_an_edge_generator_has_batchnorm_or_none(name: str, norm: str, count: int) -> None:
    gan = build(name, norm=norm)
    network = gan.networks[next(iter(gan.generators()))]
    norms = [each for each in network.modules() if isinstance(each, (nn.InstanceNorm2d, nn.BatchNorm2d))]
    assert len(norms) == count, "two in each block: 3 + 1 + 3, and 2 + 1 + 2"


@pytest.mark.parametrize("given", [{"nets": "edge", "norm": "batch"}, {"nets": "conv"}])
def test_the_identity_loss_leaves_the_statistics_of_batchnorm_alone(given: dict[str, Any]) -> None:
    """They are of pictures of the generator's input: real ones, and those made by the other generator."""
    torch.manual_seed(0)
    gan = build("cyclegan", augment="", matching=0.0, identity=5.0, **given)
    a, b = torch.rand(2, 1, 32, 32) - 1, torch.rand(2, 1, 32, 32)
    alike = copy.deepcopy(gan)
    losses_of(gan, {"a": a, "b": b})
    alike.a2b(a)
    alike.a2b(alike.b2a(b))
    norms, wanted = (_norms(each.a2b) for each in (gan, alike))
    for one, other in zip(norms, wanted, strict=True):
        torch.testing.assert_close(one.running_mean, other.running_mean)
        torch.testing.assert_close(one.running_var, other.running_var)
        assert one.momentum == other.momentum == 0.1


def _norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_the_losses_of_a_modern_pix2pix() -> None:
    """Mao et al. 2017, eq. 9, and Wang et al. 2018 (arXiv:1711.11585), eq. 4; without augmentation to repeat them."""
    torch.manual_seed(0)
    gan = build("pix2pix", augment="", l1=3.0, matching=7.0, spectral_norm=False)
    source, target = torch.rand(2, 2, 1, 32, 32) * 2 - 1
    minimised, reported = losses_of(gan, {"input": source, "target": target})
    output = gan.generator(source)
    fake, ours = gan.discriminator.with_features(torch.cat((source, output), 1))
    real, theirs = gan.discriminator.with_features(torch.cat((source, target), 1))
    matching = sum(F.l1_loss(a, b) for a, b in zip(ours, theirs, strict=True)) / 4
    expected = (fake - 1).square().mean() + 3 * F.l1_loss(output, target) + 7 * matching
    torch.testing.assert_close(minimised["generator"], expected)
    torch.testing.assert_close(minimised["discriminator"], (real - 1).square().mean() + fake.square().mean())
    assert reported["matching"] == pytest.approx(float(matching.detach()))


def test_the_losses_of_a_modern_cyclegan() -> None:
    """Zhu et al. 2017, eq. 3, with the cycle loss of Wang & Lin 2024 (arXiv:2408.15374), section 3.1."""
    torch.manual_seed(0)
    gan = build("cyclegan", augment="", cycle=3.0, matching=7.0, identity=0.0, halved=False, spectral_norm=False)
    a, b = torch.rand(2, 2, 1, 32, 32) * 2 - 1
    minimised, reported = losses_of(gan, {"a": a, "b": b})
    fake_a, fake_b = gan.b2a(b), gan.a2b(a)
    there = [(gan.discriminator_a, gan.b2a(fake_b), a), (gan.discriminator_b, gan.a2b(fake_a), b)]
    matching = sum(feature_distance(judge.with_features(x)[1], judge.with_features(y)[1]) for judge, x, y in there)
    cycle = sum(F.l1_loss(x, y) for _, x, y in there)
    adversarial = (gan.discriminator_b(fake_b) - 1).square().mean() + (gan.discriminator_a(fake_a) - 1).square().mean()
    torch.testing.assert_close(minimised["generators"], adversarial + 3 * cycle + 7 * matching)
    assert reported["matching"] == pytest.approx(float(torch.as_tensor(matching).detach()))
