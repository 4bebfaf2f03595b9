"""Every write-up's recipe: what the losses are, written out plainly, and the numbers that are used by default."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from ganedge.export import export
from ganedge.export.artifact import ExportSpec, make
from ganedge.export.from_torch import of_run
from ganedge.models import find
from ganedge.runtime import load
from ganedge.runtime.pictures.images import to_pixels
from ganedge.train import run_folder
from ganedge.train.loop import train
from ganedge.train.settings import Settings

ADAM = {"lr": 2e-4, "betas": (0.5, 0.999)}
DEFAULTS: list[tuple[str, str | None, type, dict[str, Any], dict[str, dict[str, Any]]]] = [
    (
        "circles",
        None,
        torch.optim.RMSprop,
        {"epochs": 100, "batch": 4, "latent": 2, "objective": "bce", "real_label": 1.0, "d_steps": 1, "decay": 1.0},
        {"generator": {"lr": 1e-3}, "discriminator": {"lr": 5e-3}},
    ),
    (
        "mlp",
        "batchnorm",
        torch.optim.Adam,
        {"epochs": 200, "batch": 64, "latent": 100, "objective": "bce", "real_label": 1.0, "sample_every": 400}
        | {"noise": "normal", "dropout": 0.0, "batchnorm": True, "size": 28, "d_steps": 1, "decay": 1.0},
        {"generator": ADAM, "discriminator": ADAM},
    ),
    (
        "mlp",
        "dropout",
        torch.optim.Adam,
        {"epochs": 100, "batch": 64, "latent": 100, "objective": "bce", "real_label": 0.9, "noise": "uniform"}
        | {"dropout": 0.3, "batchnorm": False, "size": 28, "d_steps": 1, "decay": 1.0},
        {"generator": {"lr": 2e-3}, "discriminator": {"lr": 2e-3}},
    ),
    (
        "digit",
        None,
        torch.optim.RMSprop,
        {"epochs": 26, "batch": 64, "latent": 32, "objective": "bce", "digit": "5", "d_steps": 1, "decay": 1.0},
        {"generator": {"lr": 5e-3}, "discriminator": {"lr": 1e-3}},
    ),
    (
        "dcgan",
        None,
        torch.optim.Adam,
        {"size": 32, "width": 32, "latent": 100, "objective": "bce", "real_label": 1.0, "d_steps": 1, "decay": 1.0},
        {"generator": ADAM, "discriminator": ADAM},
    ),
    (
        "wgan",
        None,
        torch.optim.RMSprop,
        {"epochs": 5, "batch": 64, "size": 64, "width": 64, "latent": 100, "objective": "wgan", "d_steps": 5}
        | {"clip": 0.01, "warm_up": False, "decay": 1.0},
        {"generator": {"lr": 5e-5}, "discriminator": {"lr": 5e-5}},
    ),
    (
        "pix2pix",
        None,
        torch.optim.Adam,
        {"epochs": 200, "batch": 1, "size": 256, "uncut": 286, "decay": 0.5, "objective": "bce", "l1": 100.0},
        {"generator": ADAM, "discriminator": ADAM},
    ),
    (
        "cyclegan",
        "resnet",
        torch.optim.Adam,
        {"epochs": 200, "batch": 1, "size": 256, "decay": 0.5, "blocks": 9, "cycle": 10.0, "identity": 5.0}
        | {"halved": True, "replay": 50},
        {"generators": ADAM, "discriminator-a": ADAM, "discriminator-b": ADAM},
    ),
    (
        "cyclegan",
        "conv",
        torch.optim.Adam,
        {"size": 128, "decay": 1.0, "blocks": 6, "cycle": 10.0, "identity": 0.0, "halved": False, "replay": 0},
        {"generators": ADAM, "discriminator-a": ADAM, "discriminator-b": ADAM},
    ),
    (
        "stargan",
        "celeba",
        torch.optim.Adam,
        {"epochs": 20, "batch": 16, "size": 128, "decay": 0.5, "blocks": 6, "depth": 6, "d_steps": 5, "mirror": True}
        | {"classification": 1.0, "reconstruction": 10.0, "gp": 10.0},
        {"generator": {"lr": 1e-4, "betas": (0.5, 0.999)}, "discriminator": {"lr": 1e-4, "betas": (0.5, 0.999)}},
    ),
    (
        "augmented-cyclegan",
        "edges",
        torch.optim.Adam,
        {"epochs": 50, "batch": 32, "size": 64, "decay": 0.5, "width": 32, "blocks": 3, "latent_a": 0, "latent_b": 16}
        | {"cycle": 1.0, "cycle_z": 0.025, "uncut": 0},
        {"generators": ADAM, "discriminators": {"lr": 4e-5, "betas": (0.5, 0.999)}},
    ),
]


def build(name: str, preset: str | None = None, **given: Any) -> Any:
    variant = find(name)
    given = {"class_names": "a,b,c", **given} if name == "stargan" else given
    return variant(variant.config_class(**{**variant.presets.get(preset or "", {}), **given}))


def losses_of(gan: Any, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What each optimizer of one step minimises, without moving a weight, and what is reported."""
    minimised: dict[str, Tensor] = {}
    said = gan.step(batch, 0, lambda name, loss, keep_graph=False: minimised.update({name: loss.detach()}))
    return minimised, said


@pytest.mark.parametrize(("name", "preset", "kind", "fields", "optimizers"), DEFAULTS)
def test_the_defaults_are_the_write_ups(
    name: str, preset: str | None, kind: type, fields: dict[str, Any], optimizers: dict[str, dict[str, Any]]
) -> None:
    gan = build(name, preset)
    assert {field: getattr(gan.config, field) for field in fields} == fields
    assert list(gan.optimizers) == list(optimizers)
    for key, wanted in optimizers.items():
        assert type(gan.optimizers[key]) is kind
        (group,) = gan.optimizers[key].param_groups
        assert {option: group[option] for option in wanted} == wanted
    slopes = {module.negative_slope for net in gan.networks.values() for module in net.modules() if is_leaky(module)}
    leaky = name in ("mlp", "dcgan", "wgan", "pix2pix", "augmented-cyclegan") or preset == "resnet"
    assert slopes == ({0.01} if name == "stargan" else {0.2} if leaky else set())


def is_leaky(module: nn.Module) -> bool:
    return isinstance(module, nn.LeakyReLU)


@pytest.mark.parametrize("preset", ["batchnorm", "dropout"])
def test_the_losses_of_mlp(preset: str) -> None:
    torch.manual_seed(0)
    gan = build("mlp", preset, size=8, dropout=0.0)
    real, fake = torch.rand(2, 6, 1, 8, 8) * 2 - 1
    gan.draw = lambda count, labels, device: fake
    minimised, said = losses_of(gan, {"images": real})
    of_real, of_fake = (gan.networks["discriminator"](items).detach() for items in (real, fake))
    ones, zeros = torch.ones(6, 1), torch.zeros(6, 1)
    wanted = (bce(of_real, ones) + bce(of_fake, zeros)) / 2
    if preset == "dropout":
        wanted = bce(of_real, 0.9 * ones) + bce(of_fake, zeros)
    torch.testing.assert_close(minimised["discriminator"], wanted)
    torch.testing.assert_close(said["loss_d"], wanted)
    torch.testing.assert_close(minimised["generator"], bce(of_fake, ones))


@pytest.mark.parametrize("objective", ["bce", "lsgan"])
def test_the_losses_of_pix2pix(objective: str) -> None:
    torch.manual_seed(0)
    gan = build("pix2pix", size=32, width=2, dropout=0.0, objective=objective)
    source, target = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    minimised, said = losses_of(gan, {"input": source, "target": target})
    with torch.no_grad():
        output = gan.generator(source)
        of_real, of_fake = (gan.discriminator(torch.cat((source, each), 1)) for each in (target, output))
    against = bce if objective == "bce" else nn.functional.mse_loss
    ones, zeros = torch.ones_like(of_real), torch.zeros_like(of_real)
    torch.testing.assert_close(minimised["discriminator"], against(of_real, ones) + against(of_fake, zeros))
    distance = (output - target).abs().mean()
    torch.testing.assert_close(minimised["generator"], against(of_fake, ones) + 100 * distance)
    torch.testing.assert_close((said["loss_g"], said["l1"]), (against(of_fake, ones), distance))


@pytest.mark.parametrize("preset", ["resnet", "conv"])
def test_the_losses_of_cyclegan(preset: str) -> None:
    torch.manual_seed(0)
    gan = build("cyclegan", preset, size=32, width=2, blocks=1)
    a, b = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    start = copy.deepcopy(gan)  # BatchNorm counts what it sees, so the same networks anew.
    minimised, said = losses_of(gan, {"a": a, "b": b})
    mse = nn.functional.mse_loss

    def distance(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().mean()

    with torch.no_grad():
        fake_b, fake_a = start.a2b(a), start.b2a(b)
        of = {key: judge(items) for key, judge, items in (
            ("real a", start.discriminator_a, a), ("fake a", start.discriminator_a, fake_a),
            ("real b", start.discriminator_b, b), ("fake b", start.discriminator_b, fake_b),
        )}  # fmt: skip
        cycle = distance(start.b2a(fake_b), a) + distance(start.a2b(fake_a), b)
        identity = distance(start.b2a(a), a) + distance(start.a2b(b), b)
    ones, zeros = torch.ones_like(of["real a"]), torch.zeros_like(of["real a"])
    fooled = mse(of["fake a"], ones) + mse(of["fake b"], ones)
    total = (fooled + 10 * cycle + 5 * identity) / 2 if preset == "resnet" else fooled + 10 * cycle
    torch.testing.assert_close(minimised["generators"], total)
    for side in ("a", "b"):
        told = (mse(of[f"real {side}"], ones) + mse(of[f"fake {side}"], zeros)) / (2 if preset == "resnet" else 1)
        torch.testing.assert_close(minimised[f"discriminator-{side}"], told)
        torch.testing.assert_close(said[f"loss_d_{side}"], told)
    (both,) = gan.optimizers["generators"].param_groups
    wanted = [*gan.a2b.parameters(), *gan.b2a.parameters()]
    assert [id(parameter) for parameter in both["params"]] == [id(parameter) for parameter in wanted]


@pytest.mark.parametrize("attributes", [None, "x,y"])
def test_the_losses_of_stargan(attributes: str | None) -> None:
    names = "x,x+y,y" if attributes else "a,b,c"
    gan = build("stargan", size=16, width=2, blocks=1, d_steps=1, attribute_names=attributes, class_names=names)
    real, source = torch.rand(4, 3, 16, 16) * 2 - 1, torch.tensor([0, 1, 2, 2])
    torch.manual_seed(3)
    minimised, said = losses_of(gan, {"images": real, "labels": source})
    torch.manual_seed(3)
    target, mix = source[torch.randperm(4)], torch.rand(4, 1, 1, 1)
    fake = gan.generator(real, target)
    verdicts = {key: gan.discriminator(items) for key, items in {"real": real, "fake": fake}.items()}
    between = (mix * real + (1 - mix) * fake.detach()).requires_grad_()
    (gradient,) = torch.autograd.grad(gan.discriminator(between)[0].sum(), between)
    penalty = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()

    def classified(logits: Tensor, labels: Tensor) -> Tensor:
        if attributes is None:
            return nn.functional.cross_entropy(logits, labels)
        wanted = torch.tensor([[1.0, 0], [1, 1], [0, 1]])[labels]
        return bce(logits, wanted, reduction="none").sum(1).mean()

    of_real, of_fake = verdicts["real"][0].mean(), verdicts["fake"][0].mean()
    loss_d = of_fake - of_real + classified(verdicts["real"][1], source) + 10 * penalty
    torch.testing.assert_close(minimised["discriminator"], loss_d.detach())
    back = (gan.generator(fake, source) - real).abs().mean()
    loss_g = -of_fake + classified(verdicts["fake"][1], target) + 10 * back
    torch.testing.assert_close(minimised["generator"], loss_g.detach())
    torch.testing.assert_close((said["loss_d"], said["reconstruction"]), ((of_fake - of_real).detach(), back.detach()))


def test_stargans_generator_follows_five_steps_of_the_discriminator() -> None:
    gan = build("stargan", size=16, width=2, blocks=0)
    batch = {"images": torch.zeros(2, 3, 16, 16), "labels": torch.tensor([0, 1])}
    taken: list[str] = []
    for step in range(10):
        gan.step(batch, step, lambda name, loss, keep_graph=False: taken.append(name))
    assert taken == [*["discriminator"] * 5, "generator"] * 2


@pytest.mark.parametrize("preset", ["both", "edges"])
def test_the_losses_of_augmented_cyclegan(preset: str) -> None:
    """Equations 3 to 7 of the paper, written out; with the preset `edges` those of the side B alone."""
    gan = build("augmented-cyclegan", preset, size=16, width=2, blocks=1, latent_b=3)
    both = preset == "both"
    a, b = torch.rand(2, 4, 3, 16, 16) * 2 - 1
    torch.manual_seed(3)
    minimised, said = losses_of(gan, {"a": a, "b": b})
    torch.manual_seed(3)
    z_a = [torch.randn(4, 16)] if both else []
    z_b = torch.randn(4, 3)
    mse = nn.functional.mse_loss

    def distance(one: Tensor, other: Tensor) -> Tensor:
        return (one - other).abs().mean()

    def judged(name: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Half of what the discriminator minimises, and what its fakes cost the generators."""
        of_real, of_fake = (gan.networks[f"discriminator-{name}"](items) for items in (real, fake))
        ones = torch.ones_like(of_real)
        return (mse(of_real, ones) + mse(of_fake, 0 * ones)) / 2, mse(of_fake, ones)

    with torch.no_grad():
        fake_b, fake_a = gan.a2b(a, z_b), gan.b2a(b, *z_a)
        inferred_b = gan.encoders["b"](fake_a, b)
        inferred_a = [gan.encoders["a"](a, fake_b)] if both else []
        cycle = distance(gan.b2a(fake_b, *inferred_a), a) + distance(gan.a2b(fake_a, inferred_b), b)
        cycle_z = distance(gan.encoders["b"](a, fake_b), z_b)
        terms = [judged("a", a, fake_a), judged("b", b, fake_b), judged("z-b", z_b, inferred_b)]
        if both:
            cycle_z = cycle_z + distance(gan.encoders["a"](fake_a, b), z_a[0])
            terms.append(judged("z-a", z_a[0], inferred_a[0]))
    torch.testing.assert_close(minimised["discriminators"], torch.stack([loss for loss, _ in terms]).sum())
    fooled = torch.stack([loss for _, loss in terms]).sum()
    torch.testing.assert_close(minimised["generators"], fooled + cycle + 0.025 * cycle_z)
    torch.testing.assert_close((said["cycle"], said["cycle_z"]), (cycle, cycle_z))


def test_a_strip_shows_what_the_artifact_makes_of_a_picture_for_each_seed(tmp_path: Path) -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="it exports what it trained: the extras export and cpu are not installed")
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (4, 16, 16, 3), np.uint8)
    for folder in ("trainA", "trainB"):
        (tmp_path / folder).mkdir()
        for index, pixels in enumerate(pictures):
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    small = {"size": 16, "width": 4, "blocks": 1, "batch": 2, "lr": 1e-2, "ema": 0.0}
    settings = Settings(data=str(tmp_path), out=tmp_path / "run", steps=2, device="cpu", precision="fp32")
    variant = find("augmented-cyclegan")
    out = train(variant, small, settings)
    opened = run_folder.read(out)
    gan: Any = variant(opened.config)
    batch = {"b": torch.from_numpy(pictures[:1]).permute(0, 3, 1, 2) / 127.5 - 1}
    with torch.no_grad():
        (_, *columns) = gan.strips("generator-b2a", {"generator-b2a": opened.generator("generator-b2a")[0]}, batch)
    strip = [to_pixels(column.numpy(), (-1.0, 1.0), "NCHW")[0].astype(int) for column in columns]
    (tmp_path / "b2a.onnx").write_bytes(make(of_run(out, "b2a"), ExportSpec(engines=("onnxruntime",))).data)
    with load(tmp_path / "b2a.onnx", "onnxruntime") as generator:
        results = [generator.translate(pictures[0], seed=seed).astype(int) for seed in range(len(strip))]
    assert all(np.abs(one - other).max() <= 1 for one, other in zip(strip, results, strict=True))
    assert all(np.abs(one - other).max() > 1 for one, other in itertools.combinations(results, 2)), "they differ"


@pytest.mark.parametrize("name", ["mlp", "dcgan"])
def test_a_label_chooses_what_the_artifact_draws(name: str, tmp_path: Path) -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="it exports what it trained: the extras export and cpu are not installed")
    small = {"size": 8, "hidden_g": "16,16", "hidden_d": "16"} if name == "mlp" else {"size": 16, "width": 2}
    settings = Settings(data="digits", out=tmp_path / "run", steps=30, device="cpu", precision="fp32")
    out = train(find(name), {**small, "batch": 32, "conditional": True, "ema": 0.0}, settings)
    with load(export(out).path, "onnxruntime") as generator:
        seven, again, three = (generator.sample(4, seed=5, label=label) for label in (7, 7, 3))
    assert np.array_equal(seven, again)
    assert all(not np.array_equal(one, other) for one, other in zip(seven, three, strict=True))
