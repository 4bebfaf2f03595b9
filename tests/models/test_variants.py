"""Every variant and preset: the shapes of its write-up, its interface, and training that resumes bit for bit."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ganedge.models import VARIANTS, find
from ganedge.models.cyclegan import Replay
from ganedge.models.objectives import OBJECTIVES
from ganedge.models.upsample import ResizeConv
from ganedge.models.variant import ON, check_given
from ganedge.models.wgan import is_last_critic_step
from ganedge.runtime.errors import UsageError
from ganedge.train import checkpoint
from ganedge.train.loop import train
from ganedge.train.settings import Settings

SMALL: dict[str, dict[str, Any]] = {
    "circles": {},
    "mlp": {"size": 8, "batch": 16},
    "digit": {"batch": 4},
    "dcgan": {"size": 16, "width": 4, "batch": 8},
    "wgan": {"size": 16, "width": 4, "batch": 8, "d_steps": 2},
    "pix2pix": {"size": 32, "width": 4},
    "cyclegan": {"size": 32, "width": 4, "blocks": 1},
    "stargan": {"size": 16, "width": 4, "blocks": 1, "batch": 4, "d_steps": 2},
    "augmented-cyclegan": {"size": 16, "width": 4, "blocks": 1, "batch": 2, "latent_b": 3},
}
CASES = [(variant.name, preset) for variant in VARIANTS for preset in (*variant.presets, None)]


def build(name: str, **given: Any) -> Any:
    variant = find(name)
    return variant(variant.config_class(**given))


def named(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """A config with the class names that the data would have filled in."""
    return {**config, "class_names": "even,odd"} if config.get("conditional") or name == "stargan" else config


def shapes(network: nn.Module) -> list[tuple[Any, ...]]:
    """What each layer with weights is: fully connected, convolution (kernel, stride), transposed, normalisation."""
    found: list[tuple[Any, ...]] = []
    for module in network.modules():
        if isinstance(module, nn.Linear):
            found.append((module.in_features, module.out_features))
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            kind = "up" if isinstance(module, nn.ConvTranspose2d) else "conv"
            size = (module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0])
            found.append((kind, *size, "bias" if module.bias is not None else "plain"))
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d)):
            found.append(("norm", module.num_features))
    return found


def kinds(network: nn.Module, *types: type[nn.Module]) -> int:
    return sum(isinstance(module, types) for module in network.modules())


@pytest.fixture
def every_data(tmp_path: Path) -> dict[str, str]:
    """A place to find data of each kind."""
    random = np.random.default_rng(0)
    for folder in ("pairs", "sets/trainA", "sets/trainB"):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(3):
            pixels = random.integers(0, 256, (40, 80, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    return {
        "images": "digits",
        "points": "circles",
        "pairs": str(tmp_path / "pairs"),
        "unpaired": str(tmp_path / "sets"),
    }


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_it_trains_and_resumes_bit_for_bit(
    every_data: dict[str, str], tmp_path: Path, name: str, preset: str | None
) -> None:
    variant = find(name)
    config = {**variant.presets.get(preset or "", {}), **SMALL[name]}
    spec = every_data[variant.wants(variant.config_class(**config)).kind]

    def settings(out: str, **given: Any) -> Settings:
        return Settings(data=spec, out=tmp_path / out, device="cpu", preset=preset, **given)

    train(variant, SMALL[name], settings("whole", steps=5))
    train(variant, SMALL[name], settings("parts", steps=2))
    train(variant, {}, settings("parts", steps=5, resume=True))
    whole, parts = (checkpoint.load_latest(tmp_path / out) for out in ("whole", "parts"))
    assert whole is not None
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    first = checkpoint.load_latest(train(variant, SMALL[name], settings("first", steps=1)))
    assert first is not None
    for network in (key for key in whole[1]["networks"] if not key.startswith("replay")):
        moved = any(
            not torch.equal(tensor, first[1]["networks"][network][key])
            for key, tensor in whole[1]["networks"][network].items()
        )
        assert moved, f"{network} did not learn"
    generators = variant(variant.config_class(**named(name, config))).generators()
    for generator in generators:
        assert (tmp_path / "whole" / f"{generator}.safetensors").is_file()
        assert (tmp_path / "whole" / "samples" / f"{generator}-00000005.png").is_file()
    assert (tmp_path / "whole" / "samples" / "losses.png").is_file()


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("mlp", "batchnorm", "dropout"),
        ("cyclegan", "resnet", "conv"),
        ("stargan", "celeba", "rafd"),
        ("augmented-cyclegan", "both", "edges"),
    ],
)
def test_the_default_preset_undoes_the_other(name: str, one: str, other: str) -> None:
    variant = find(name)
    assert set(variant.presets[one]) == set(variant.presets[other])
    both = {**variant.presets[other], **variant.presets[one]}
    assert variant.config_class(**both) == variant.config_class()
    assert variant.config_class(**variant.presets[other]) != variant.config_class()


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_a_generator_does_what_its_interface_says(name: str, preset: str | None) -> None:
    variant = find(name)
    gan = build(name, **named(name, {**variant.presets.get(preset or "", {}), **SMALL[name]}))
    for key, interface in gan.generators().items():
        multiple = interface.inputs[0].multiple

        def shape(port: Any, multiple: int = multiple) -> tuple[int, ...]:
            dynamic = {"batch": 3, "height": max(32, multiple), "width": max(64, 2 * multiple)}
            return tuple(dynamic[size] if isinstance(size, str) else size for size in port.shape)

        inputs = [
            torch.arange(3) % 2 if port.role == "label" else torch.randn(shape(port)) for port in interface.inputs
        ]
        with torch.no_grad():
            output = gan.networks[key].eval()(*inputs)
        assert output.shape == shape(interface.output)
        if interface.output.range is not None:
            low, high = interface.output.range
            assert low <= output.min()
            assert output.max() <= high


@pytest.mark.parametrize("name", ["mlp", "dcgan"])
def test_classes(name: str, tmp_path: Path) -> None:
    variant = find(name)
    small = {**SMALL[name], "conditional": True}
    settings = Settings(data="digits", out=tmp_path / "run", steps=3, device="cpu", classes="1,2,8")
    train(variant, small, settings)
    gan = build(name, **small, class_names="1,2,8", channels=1)
    interface = gan.generators()["generator"]
    assert interface.classes == ("1", "2", "8")
    assert [port.role for port in interface.inputs] == ["latent", "label"]
    latent = torch.randn(1, 100).expand(3, -1)
    generator = gan.networks["generator"].eval()
    drawn = generator(latent, torch.arange(3))
    assert not torch.equal(drawn[0], drawn[1]), "a label changes the picture"
    with pytest.raises(UsageError, match="class-names is 1,2"):
        train(variant, {**small, "class_names": "1,2"}, Settings(data="digits", out=tmp_path / "other", device="cpu"))


@pytest.mark.parametrize("name", SMALL)
def test_it_trains_in_bf16(every_data: dict[str, str], tmp_path: Path, name: str) -> None:
    variant = find(name)
    spec = every_data[variant.wants(variant.config_class(**SMALL[name])).kind]
    settings = Settings(data=spec, out=tmp_path / "run", steps=2, device="cpu", precision="bf16")
    said = json.loads((train(variant, SMALL[name], settings) / "metrics.jsonl").read_text().splitlines()[-1])
    losses = [value for key, value in said.items() if "_" in key]
    assert len(losses) >= 3
    assert np.isfinite(losses).all()


def test_translators_start_from_networks_alone(every_data: dict[str, str], tmp_path: Path) -> None:
    def settings(out: str, **given: Any) -> Settings:
        return Settings(data=every_data["unpaired"], out=tmp_path / out, device="cpu", steps=1, **given)

    small = {**SMALL["cyclegan"], "replay": 2}
    first = train(find("cyclegan"), small, settings("first"))
    second = {**small, "size": 64, "replay": 1, "lr": 1e-30}
    last = checkpoint.load_latest(train(find("cyclegan"), second, settings("second", init=first)))
    begun = checkpoint.load_latest(first)
    assert begun is not None
    assert last is not None
    for name, network in begun[1]["networks"].items():
        if not name.startswith("replay"):
            torch.testing.assert_close(last[1]["networks"][name], network, rtol=0, atol=1e-6)
    assert last[1]["networks"]["replay-a"]["pictures"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", ["circles", "mlp", "digit", "dcgan", "wgan"])
def test_every_objective_on_every_latent_variant(name: str, objective: str, autocast: bool) -> None:
    torch.manual_seed(0)
    extra = {} if name == "circles" else {"augment": "color,translation,cutout"}
    gan = build(name, **{**SMALL[name], "objective": objective, "r1": 1.0, "r2": 1.0, "spectral_norm": True, **extra})
    before = {key: [p.detach().clone() for p in network.parameters()] for key, network in gan.networks.items()}

    def update(key: str, loss: torch.Tensor, keep_graph: bool = False) -> None:
        optimizer = gan.optimizers[key]
        optimizer.zero_grad()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        loss.backward(retain_graph=keep_graph, inputs=parameters)  # type: ignore[no-untyped-call]
        optimizer.step()

    wants = gan.wants(gan.config)
    shape = (8, 2) if name == "circles" else (8, *gan.generators()["generator"].output.item_shape)
    for step in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = gan.step({gan.real_key: torch.rand(shape) * 2 - 1}, step, update)
        assert all(value.dtype == torch.float32 for value in losses.values())
        assert all(torch.isfinite(value) for value in losses.values()), wants
    for key, network in gan.networks.items():
        moved = [not torch.equal(a, b) for a, b in zip(network.parameters(), before[key], strict=True)]
        assert any(moved), key


@pytest.mark.parametrize("name", ["dcgan", "wgan"])
def test_the_gradient_penalty_is_each_pictures_own(name: str) -> None:
    torch.manual_seed(0)
    gan = build(name, **{**SMALL[name], "objective": "wgan-gp"})
    pictures = torch.rand(4, 3, 16, 16, requires_grad=True)
    (of_first,) = torch.autograd.grad(gan.discriminate(pictures, None)[0].sum(), pictures)
    assert (of_first != 0).flatten(1).any(1).tolist() == [True, False, False, False]
    assert kinds(gan.networks["generator"], nn.BatchNorm2d), "the generator keeps its own"
    assert kinds(build(name, **SMALL[name]).networks["discriminator"], nn.BatchNorm2d), "as do other objectives"


def test_spectral_norm_makes_the_norm_one() -> None:
    torch.manual_seed(0)
    judge = build("dcgan", **SMALL["dcgan"], spectral_norm=True).networks["discriminator"]
    for _ in range(30):  # One power iteration each.
        judge(torch.rand(2, 3, 16, 16))
    judge.eval()
    layers = [module for module in judge.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 3
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("dcgan", {"gp": 10.0}, "gp is 10.0, but has an effect with --objective wgan-gp only"),
        ("wgan", {"clip": 0.1, "objective": "hinge"}, "clip is 0.1, but has an effect with --objective wgan only"),
        ("wgan", {"hidden": 8}, "hidden is 8, but has an effect with --nets mlp only"),
        ("wgan", {"width": 8, "nets": "mlp"}, "width is 8, but has an effect with --nets conv only"),
        ("wgan", {"extra_layers": 1, "nets": "mlp"}, "extra-layers is 1"),
        ("mlp", {"class_names": "a,b"}, "class-names is a,b, but has an effect with --conditional only"),
        ("dcgan", {"penalty_every": 4}, "penalty-every is 4, but has an effect with --r1 or --r2 only"),
        ("dcgan", {"penalty_end": 0.5}, "penalty-end is 0.5, but has an effect with --ramp only"),
        ("dcgan", {"lr_end": 0.5}, "lr-end is 0.5, but has an effect with --ramp only"),
        ("dcgan", {"beta2_end": 0.5}, "beta2-end is 0.5, but has an effect with --ramp only"),
        ("dcgan", {"augment_ramp": 5}, "augment-ramp is 5, but has an effect with --augment only"),
        ("dcgan", {"blur_steps": 5}, "blur-steps is 5, but has an effect with --blur only"),
    ],
)
def test_an_option_without_effect_is_refused(tmp_path: Path, name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        train(find(name), given, Settings(data="digits", out=tmp_path / "run", device="cpu"))
    assert not (tmp_path / "run").exists()


MORE: dict[str, dict[str, Any]] = {"conditional": {"class_names": "a,b"}, "blur": {"blur_steps": 1}}
"""What some options cannot do without."""
SOME: dict[str, Any] = {"augment": "color"}
"""Values of options that no number is one of."""


def test_every_condition_names_a_field_and_a_value_it_takes() -> None:
    for variant in VARIANTS:
        for item in fields(variant.config_class):
            if "with" in item.metadata:
                others, value = item.metadata["with"]
                for other in others:
                    more = MORE.get(other, {})
                    config = variant.config_class(**{other: SOME.get(other, 1) if value is ON else value, **more})
                    check_given(config, {item.name})


def test_circles_shapes() -> None:
    gan = build("circles")
    assert shapes(gan.networks["generator"]) == [(2, 8), (8, 8), (8, 2)]
    assert shapes(gan.networks["discriminator"]) == [(2, 8), (8, 8), (8, 1)]
    assert [gan.optimizers[key].defaults["lr"] for key in ("generator", "discriminator")] == [1e-3, 5e-3]
    assert (gan.config.batch, gan.config.epochs) == (4, 100)


def test_mlp_shapes() -> None:
    gan = build("mlp")
    generator = [(100, 128), (128, 256), ("norm", 256), (256, 512), ("norm", 512), (512, 1024), ("norm", 1024)]
    assert shapes(gan.networks["generator"]) == [*generator, (1024, 784)]
    assert shapes(gan.networks["discriminator"]) == [(784, 512), (512, 256), (256, 1)]
    assert {m.eps for m in gan.networks["generator"].modules() if isinstance(m, nn.BatchNorm1d)} == {0.8}
    gan = build("mlp", **find("mlp").presets["dropout"])
    assert shapes(gan.networks["generator"]) == [(100, 32), (32, 64), (64, 128), (128, 784)]
    assert shapes(gan.networks["discriminator"]) == [(784, 128), (128, 64), (64, 32), (32, 1)]
    for network in gan.networks.values():
        assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.3] * 3
    assert gan.generators()["generator"].noise == "uniform"
    assert gan.draw(64, None, torch.device("cpu")).min() >= -1


def test_digit_shapes() -> None:
    gan = build("digit")
    generator = [(32, 32 * 14 * 14), ("up", 32, 32, 3, 2, "bias"), ("conv", 32, 1, 3, 1, "bias")]
    assert shapes(gan.networks["generator"]) == generator
    judge = [("conv", 1, 8, 3, 1, "bias"), ("conv", 8, 16, 3, 1, "bias"), (784, 32), (32, 8), (8, 1)]
    assert shapes(gan.networks["discriminator"]) == judge
    assert [gan.optimizers[key].defaults["lr"] for key in ("generator", "discriminator")] == [5e-3, 1e-3]


def test_wgan_shapes() -> None:
    gan = build("wgan", extra_layers=1)
    up = [("up", 100, 512, 4, 1, "plain"), ("norm", 512)]
    for wide in (512, 256, 128):
        up += [("up", wide, wide // 2, 4, 2, "plain"), ("norm", wide // 2)]
    up += [("conv", 64, 64, 3, 1, "plain"), ("norm", 64), ("up", 64, 3, 4, 2, "plain")]
    assert shapes(gan.networks["generator"]) == up
    down: list[tuple[Any, ...]] = [("conv", 3, 64, 4, 2, "plain"), ("conv", 64, 64, 3, 1, "plain"), ("norm", 64)]
    for wide in (64, 128, 256):
        down += [("conv", wide, 2 * wide, 4, 2, "plain"), ("norm", 2 * wide)]
    assert shapes(gan.networks["discriminator"]) == [*down, ("conv", 512, 1, 4, 1, "plain")]
    order = [type(module) for module in gan.networks["generator"].layers]
    assert all(order[place - 1] is nn.ReLU for place, kind in enumerate(order) if kind is nn.BatchNorm2d)


def test_wgan_signs_and_clipping() -> None:
    torch.manual_seed(0)
    gan = build("wgan", **SMALL["wgan"], nets="mlp", hidden=8)
    real = torch.rand(8, 3, 16, 16)
    seen: dict[str, torch.Tensor] = {}
    critic = gan.networks["discriminator"]
    losses = gan.step({"images": real}, 0, lambda name, loss, keep_graph=False: seen.update({name: loss.detach()}))
    assert "loss_g" not in losses, "one generator step for two of the critic"
    assert max(float(p.detach().abs().max()) for p in critic.parameters()) <= 0.01
    losses |= gan.step({"images": real}, 1, lambda name, loss, keep_graph=False: seen.update({name: loss.detach()}))
    torch.testing.assert_close(losses["real_d"], critic(real).mean().detach())
    torch.testing.assert_close(losses["loss_d"], losses["real_d"] - losses["fake_d"])
    torch.testing.assert_close(losses["loss_g"], losses["fake_d"])  # C(G(z)): nothing moved in between.


def test_a_wgan_that_learns_gives_low_numbers_to_real_pictures(tmp_path: Path) -> None:
    config = {"size": 16, "batch": 8, "d_steps": 2, "nets": "mlp", "hidden": 16, "lr": 1e-3}
    out = train(find("wgan"), config, Settings(data="digits", out=tmp_path / "run", steps=40, device="cpu"))
    said = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert said["real_d"] < said["fake_d"]
    assert said["loss_d"] == pytest.approx(said["real_d"] - said["fake_d"], abs=1e-6)


@pytest.mark.parametrize("warm_up", [False, True])
def test_the_generator_follows_a_whole_round_of_the_critic(warm_up: bool) -> None:
    gan = build("wgan", size=16, width=1, nets="mlp", hidden=2, d_steps=3, warm_up=warm_up)
    taken: list[str] = []
    steps = 201 if warm_up else 6
    for step in range(steps):
        gan.step({"images": torch.zeros(2, 3, 16, 16)}, step, lambda name, loss, keep_graph=False: taken.append(name))
    round_of = [*["discriminator"] * (100 if warm_up else 3), "generator"]
    assert taken == [*round_of, *round_of, *["discriminator"] * warm_up]


def test_one_pass_of_the_fakes_serves_both_networks() -> None:
    torch.manual_seed(0)
    gan = build("dcgan", size=16, width=4, channels=1)
    real = torch.rand(8, 1, 16, 16) * 2 - 1
    got: dict[str, list[torch.Tensor]] = {}

    def update(name: str, loss: torch.Tensor, keep_graph: bool = False) -> None:
        parameters = list(gan.networks[name].parameters())
        loss.backward(retain_graph=keep_graph, inputs=parameters)  # type: ignore[no-untyped-call]
        got[name] = [p.grad for p in parameters if p.grad is not None]
        with torch.no_grad():
            for parameter in parameters:
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad  # The generator's step comes first, and must not touch D's.
                parameter.grad = None

    random = torch.get_rng_state()
    start = copy.deepcopy(dict(gan.networks))
    gan.step({"images": real}, 0, update)

    # The same by judging the fakes twice.
    torch.set_rng_state(random)
    fake = start["generator"](torch.randn(8, gan.settings.latent))
    judge = start["discriminator"]
    loss_g = F.softplus(-judge(fake)).mean()
    loss_d = F.softplus(-judge(real)).mean() + F.softplus(judge(fake.detach())).mean()
    for name, loss in {"generator": loss_g, "discriminator": loss_d}.items():
        wanted = torch.autograd.grad(loss, list(start[name].parameters()))
        torch.testing.assert_close(got[name], list(wanted))


def test_the_longer_warm_up() -> None:
    wanted: list[int] = []
    for generator_step in range(1100):
        long = generator_step < 25 or generator_step % 500 == 0
        wanted += [0] * ((100 if long else 5) - 1) + [1]
    assert [int(is_last_critic_step(step, 5)) for step in range(len(wanted))] == wanted


def test_pix2pix_shapes() -> None:
    gan = build("pix2pix")
    generator = gan.networks["generator"]
    downs = [shape[1:3] for shape in shapes(generator.down) if shape[0] == "conv"]
    assert downs == [(3, 64), (64, 128), (128, 256), (256, 512), *[(512, 512)] * 4]
    ups = [shape[1:3] for shape in shapes(generator.up) if shape[0] == "up"]
    assert ups == [(128, 3), (256, 64), (512, 128), (1024, 256), (1024, 512), (1024, 512), (1024, 512), (512, 512)]
    dropped = [kinds(level, nn.Dropout) for level in generator.up]
    assert dropped == [0, 0, 0, 0, 1, 1, 1, 0]
    pair = torch.zeros(1, 6, 256, 256)
    assert gan.networks["discriminator"](pair).shape == (1, 1, 30, 30), "70×70 patches"
    inputs = torch.zeros(1, 6, 256, 256, requires_grad=True)
    gan.networks["discriminator"].eval()
    for module in gan.networks["discriminator"].modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.forward = lambda x: x  # type: ignore[method-assign]
    gan.networks["discriminator"](inputs)[0, 0, 15, 15].backward()
    assert inputs.grad is not None
    seen = inputs.grad[0].abs().sum(0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


def test_cyclegan_shapes() -> None:
    gan = build("cyclegan")
    generator = shapes(gan.networks["generator-a2b"])
    assert generator[0] == ("conv", 3, 64, 7, 1, "bias")
    assert generator[2:6:2] == [("conv", 64, 128, 3, 2, "bias"), ("conv", 128, 256, 3, 2, "bias")]
    assert generator.count(("conv", 256, 256, 3, 1, "bias")) == 18
    assert generator[-1] == ("conv", 64, 3, 7, 1, "bias")
    assert kinds(gan.networks["generator-a2b"], ResizeConv) == 2
    assert not [p for m in gan.a2b.modules() if isinstance(m, nn.InstanceNorm2d) for p in m.parameters()]
    judge = gan.networks["discriminator-a"]
    assert judge(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 16, 16), "H/16 × W/16 verdicts"
    assert [shape[0] for shape in shapes(judge)] == ["conv", *["conv", "norm"] * 3, "conv"]
    assert len(gan.optimizers) == 3

    gan = build("cyclegan", **find("cyclegan").presets["conv"])
    generator = shapes(gan.networks["generator-b2a"])
    ends = [shape for shape in generator if shape[0] != "norm" and shape[3] == 4]
    assert [shape[1:3] for shape in ends] == [(3, 64), (64, 128), (128, 256), (256, 128), (128, 64), (64, 3)]
    assert generator.count(("conv", 256, 256, 3, 1, "plain")) == 12
    judge = gan.networks["discriminator-b"]
    assert [shape[1:3] for shape in shapes(judge) if shape[0] == "conv"][-1] == (512, 1)
    assert kinds(judge, nn.LeakyReLU) == 0
    assert all(module.bias is None for module in judge.modules() if isinstance(module, nn.Conv2d))


def test_stargan_shapes() -> None:
    gan = build("stargan", class_names="a,b,c,d,e")
    generator = shapes(gan.generator)
    assert generator[0] == ("conv", 3 + 5, 64, 7, 1, "plain")
    assert generator[2:6:2] == [("conv", 64, 128, 4, 2, "plain"), ("conv", 128, 256, 4, 2, "plain")]
    assert generator.count(("conv", 256, 256, 3, 1, "plain")) == 12
    ups = [shape for shape in generator if shape[0] == "up"]
    assert ups == [("up", 256, 128, 4, 2, "plain"), ("up", 128, 64, 4, 2, "plain")]
    assert generator[-1] == ("conv", 64, 3, 7, 1, "plain")
    norms = [module for module in gan.generator.modules() if isinstance(module, nn.InstanceNorm2d)]
    assert len(norms) == 3 + 12 + 2
    assert all(norm.affine for norm in norms)
    downs = [("conv", 64 << level >> 1 if level else 3, 64 << level, 4, 2, "bias") for level in range(6)]
    heads = [("conv", 2048, 1, 3, 1, "plain"), ("conv", 2048, 5, 2, 1, "plain")]
    assert shapes(gan.discriminator) == [*downs, *heads]
    verdict, logits = gan.discriminator(torch.zeros(2, 3, 128, 128))
    assert (verdict.shape, logits.shape) == ((2, 1, 2, 2), (2, 5))


def test_a_domain_of_stargan_may_be_a_combination_of_attributes() -> None:
    given = {**SMALL["stargan"], "attribute_names": "Blond,Male", "class_names": "Blond,Blond+Male,Male,none"}
    gan = build("stargan", **given)
    assert gan.generator.codes.tolist() == [[1, 0], [1, 1], [0, 1], [0, 0]]
    assert gan.generators()["generator"].classes == ("Blond", "Blond+Male", "Male", "none")
    logits = torch.tensor([[2.0, -1.0]])
    wanted = F.softplus(torch.tensor([-2.0, -1.0])).sum()
    torch.testing.assert_close(gan.classification_loss(logits, torch.tensor([0])), wanted)
    with pytest.raises(UsageError, match="class-names is Blond,Grey: give combinations of Blond, Male"):
        build("stargan", attribute_names="Blond,Male", class_names="Blond,Grey")
    with pytest.raises(UsageError, match="class-names is one: give two domains or more"):
        build("stargan", class_names="one")


def test_augmented_cyclegan_shapes() -> None:
    gan = build("augmented-cyclegan", latent_a=0)
    generator = shapes(gan.a2b)
    assert [shape for shape in generator if len(shape) == 2 and shape[0] != "norm"] == [
        (16, 2 * features) for features in (32, 64, 128, *[128] * 6, 64, 32)
    ]
    convolutions = [
        ("conv", 3, 32, 7, 1),
        ("conv", 32, 64, 3, 1),
        ("conv", 64, 128, 3, 2),
        *[("conv", 128, 128, 3, 1)] * 6,
    ]
    convolutions += [("up", 128, 64, 4, 2), ("conv", 64, 32, 3, 1), ("conv", 32, 3, 7, 1)]
    for network in (gan.a2b, gan.b2a):
        assert [shape[:5] for shape in shapes(network) if len(shape) == 6] == convolutions
    norms = {
        side: [m.affine for m in net.modules() if isinstance(m, nn.InstanceNorm2d)]
        for side, net in (("a", gan.a2b), ("b", gan.b2a))
    }
    assert norms == {"a": [False] * 11, "b": [True] * 11}
    assert list(gan.networks) == [
        "generator-a2b",
        "generator-b2a",
        "encoder-b",
        "discriminator-a",
        "discriminator-b",
        "discriminator-z-b",
    ]
    encoder = [shape[:5] for shape in shapes(gan.networks["encoder-b"]) if shape[0] == "conv"]
    assert encoder[:4] == [
        ("conv", 6, 32, 3, 2),
        ("conv", 32, 64, 3, 2),
        ("conv", 64, 128, 3, 2),
        ("conv", 128, 256, 3, 2),
    ]
    assert encoder[4:] == [("conv", 256, 256, 4, 1), ("conv", 256, 16, 1, 1)]
    assert shapes(gan.networks["discriminator-z-b"]) == [(16, 64), (64, 64), (64, 64), (64, 1)]
    assert gan.networks["discriminator-b"](torch.zeros(1, 3, 64, 64)).shape == (1, 1, 13, 13)


def test_each_side_of_an_augmented_cyclegan_may_have_a_latent() -> None:
    gan = build("augmented-cyclegan", **SMALL["augmented-cyclegan"])
    lengths = {name: [port.shape for port in each.inputs[1:]] for name, each in gan.generators().items()}
    assert lengths == {"generator-a2b": [("batch", 3)], "generator-b2a": [("batch", 16)]}
    pictures = torch.rand(2, 3, 16, 16)
    (_, *results) = gan.strips("generator-a2b", gan.networks, {"a": pictures, "b": pictures})
    assert len(results) == 6
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(results))
    one_way = build("augmented-cyclegan", **{**SMALL["augmented-cyclegan"], "latent_a": 0})
    assert len(one_way.strips("generator-b2a", one_way.networks, {"a": pictures, "b": pictures})) == 2
    with pytest.raises(UsageError, match="latent-b is 0: give 1 or more, or 0 where --latent-a is more"):
        build("augmented-cyclegan", latent_a=0, latent_b=0)


def test_the_discriminator_of_latents_sees_their_mean() -> None:
    torch.manual_seed(0)
    discriminator = build("augmented-cyclegan", **SMALL["augmented-cyclegan"]).networks["discriminator-z-b"]
    latents = torch.randn(64, 3)
    with torch.no_grad():
        verdicts, shifted = discriminator(latents), discriminator(latents + 3)
        alone = torch.cat([discriminator(latents[i : i + 1]) for i in range(64)])
    assert torch.allclose(verdicts, alone, atol=1e-6), (
        "a verdict depends on its own latent, not on the batch's statistics"
    )
    assert (shifted - verdicts).abs().mean() > 0.1 * verdicts.std()


def test_the_replay_buffer() -> None:
    torch.manual_seed(0)
    replay = Replay(2, (1, 1, 1))
    given = torch.arange(20.0).reshape(20, 1, 1, 1)
    seen = torch.cat([replay(given[index : index + 1]) for index in range(20)]).flatten().tolist()
    assert seen[:2] == [0, 1]
    assert any(value < index for index, value in enumerate(seen)), "some are older"
    assert any(value == index for index, value in enumerate(seen[2:], 2)), "some are new"
    copy = Replay(2, (1, 1, 1))
    copy.load_state_dict(replay.state_dict())
    assert torch.equal(copy.pictures, replay.pictures)
    assert int(copy.count) == 2


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("mlp", {"hidden_g": "8,x"}, "hidden-g is 8,x"),
        ("mlp", {"dropout": 1.0}, "dropout is 1.0"),
        ("mlp", {"real_label": 0.9, "objective": "hinge"}, "real-label is 0.9"),
        ("dcgan", {"penalty_every": 0}, "penalty-every is 0: give 1 or more"),
        ("digit", {"augment": "colour"}, "augment is colour: give names out of color"),
        ("wgan", {"size": 48}, "size is 48"),
        ("circles", {"lr_d": 0}, "lr-d is 0"),
        ("pix2pix", {"size": 100}, "size is 100"),
        ("pix2pix", {"levels": 9}, "levels is 9"),
        ("cyclegan", {"size": 33}, "size is 33"),
        ("cyclegan", {"size": 100, "nets": "conv"}, "size is 100: give a multiple of 8 with --nets conv, 32 or more"),
        ("cyclegan", {"decay": 2}, "decay is 2"),
        ("augmented-cyclegan", {"size": 30}, "size is 30: give a multiple of 4, 16 or more"),
        ("augmented-cyclegan", {"lr_d": 0}, "lr-d is 0: give more than 0"),
        ("stargan", {"size": 30}, "size is 30: give a multiple of 4, 16 or more"),
        ("stargan", {"size": 48, "d_layers": 5}, "d-layers is 5: give 1 to 4: so often does 48 halve evenly"),
    ],
)
def test_a_config_that_cannot_work_names_the_option(name: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find(name).config_class(**given)
