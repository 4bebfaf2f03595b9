"""What each variant is, in full: every layer, option, data set, interface, optimizer and loss.

networks.txt beside this file holds every layer of small networks of each variant, and what they compute from weights
that follow a formula. A change there is a change of a recipe, and of which checkpoints fit; `python
tests/models/test_definitions.py` writes it anew.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganedge.models import find, noise
from ganedge.models.variant import Wants, check_given, check_types, only_with, usual
from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import Interface, Port

WRITTEN = Path(__file__).with_name("networks.txt")
NAMES = {"conditional": True, "class_names": "a,b,c"}
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("circles", {"latent": 3, "width": 4}),
    ("mlp", {"size": 4, "hidden_g": "4,6,8", "hidden_d": "6,4", "latent": 5}),
    ("mlp", {"size": 4, "hidden_g": "4,6", "hidden_d": "6", "latent": 5, "dropout": 0.3, "batchnorm": False, **NAMES}),
    ("digit", {"latent": 3}),
    ("dcgan", {"size": 32, "width": 2, "latent": 5, "channels": 1}),
    ("dcgan", {"size": 28, "width": 2, "latent": 5, **NAMES}),
    ("dcgan", {"size": 16, "width": 2, "latent": 5, "upsample": "shuffle"}),
    ("dcgan", {"size": 24, "width": 2, "latent": 5, "arch": "resnet", "upsample": "resize"}),
    ("dcgan", {"size": 24, "width": 2, "latent": 5, "arch": "resnet", "norm": "batch", "upsample": "bilinear"}),
    ("wgan", {"size": 32, "width": 2, "latent": 5, "extra_layers": 1, "channels": 1}),
    ("wgan", {"size": 16, "hidden": 3, "latent": 5, "nets": "mlp"}),
    ("pix2pix", {"size": 32, "width": 2}),
    ("pix2pix", {"size": 64, "width": 2, "norm": "batch", "upsample": "resize", "levels": 4, "dropout": 0.0}),
    ("cyclegan", {"size": 32, "width": 2, "blocks": 2}),
    ("cyclegan", {"size": 32, "width": 2, "blocks": 1, "nets": "conv"}),
    ("cyclegan", {"size": 32, "width": 2, "blocks": 0, "upsample": "shuffle", "channels": 1}),
    ("stargan", {"size": 16, "width": 2, "blocks": 1, "class_names": "a,b"}),
]


def build(name: str, **config: Any) -> Any:
    variant = find(name)
    return variant(variant.config_class(**config))


def by_formula(network: nn.Module) -> nn.Module:
    """The network with weights that do not come from a random generator, in evaluation."""
    with torch.no_grad():
        for index, weight in enumerate(network.parameters()):
            spread = torch.sin(torch.arange(weight.numel()) * 0.37 + index).view_as(weight)
            weight.copy_(spread / math.sqrt(max(weight[0].numel(), 1)) if weight.dim() > 1 else 0.5 * spread + 1)
    return network.eval()


def inputs_of(gan: Any, name: str) -> list[Tensor]:
    """Two inputs of a network, from formulas as well."""
    generators: dict[str, Interface] = gan.generators()
    interface = next(iter(generators.values()))
    ports = list(generators[name].inputs) if name in generators else [interface.output]
    labels = [port for port in interface.inputs if port.role == "label"]
    if name not in generators and labels and find("stargan") is not type(gan):
        ports += labels
    found = []
    for port in ports:
        item = [size if isinstance(size, int) else getattr(gan.config, "size", 0) for size in port.shape[1:]]
        if name == "discriminator" and type(gan) is find("pix2pix"):
            item[0] *= 2  # Input and output together.
        count = 2 * math.prod(item)
        values = torch.sin(torch.arange(count) * 0.11).view(2, *item)
        found.append(torch.arange(2) if port.role == "label" else values)
    return found


STATED = (
    *("in_features", "out_features", "in_channels", "out_channels", "num_features", "num_embeddings", "embedding_dim"),
    *("kernel_size", "stride", "padding", "output_padding", "groups", "eps", "affine", "p", "negative_slope"),
    *("scale_factor", "upscale_factor", "mode", "unflattened_size"),
)
"""What is written of a layer, where it has it: PyTorch's own words for one differ between its versions."""


def layer(module: nn.Module) -> str:
    stated = [f"{name}={getattr(module, name)}" for name in STATED if hasattr(module, name)]
    bias = ["bias" if module.bias is not None else "no bias"] if hasattr(module, "bias") else []
    return " ".join([type(module).__name__, *stated, *bias]).replace(", ", ",")


@torch.no_grad()
def described(name: str, config: dict[str, Any]) -> Iterator[str]:
    """The layers of all networks of a variant, and mean and spread of what they compute."""
    gan = build(name, **config)
    yield f"# {name} {config}"
    for key, network in gan.networks.items():
        if not any(True for _ in network.parameters()):
            continue
        yield f"## {key}"
        yield from (
            f"{path}: {layer(module)}" for path, module in network.named_modules() if not list(module.children())
        )
        outputs = by_formula(network)(*inputs_of(gan, key))
        for output in outputs if isinstance(outputs, tuple) else (outputs,):
            yield f"= {list(output.shape)} {float(output.mean()):.6g} {float(output.std()):.6g}"


@pytest.mark.parametrize(("name", "config"), NETWORKS, ids=[f"{i}-{name}" for i, (name, _) in enumerate(NETWORKS)])
def test_every_layer_is_as_written(name: str, config: dict[str, Any]) -> None:
    head = f"# {name} {config}"
    texts = re.split(r"^(?=# )", WRITTEN.read_text("utf-8"), flags=re.MULTILINE)
    (written,) = (text.splitlines() for text in texts if text.splitlines() and text.splitlines()[0] == head)
    lines = list(described(name, config))
    assert [line for line in lines if line[0] != "="] == [line for line in written if line[0] != "="]
    for line, other in zip(lines, written, strict=True):
        if line[0] == "=":
            (shape, numbers), (same, expected) = ((part[0], part[1].split()) for part in map(_parts, (line, other)))
            assert shape == same
            assert [float(n) for n in numbers] == pytest.approx([float(n) for n in expected], rel=1e-3, abs=1e-4)


def _parts(line: str) -> tuple[str, str]:
    shape, _, numbers = line.removeprefix("= ").partition("] ")
    return shape, numbers


LIMITS: list[tuple[str, dict[str, Any], str, list[Any], list[Any], str]] = [
    *(
        ("circles", {}, name, [1, 7], [0, -1], "1 or more")
        for name in ("epochs", "batch", "sample_every", "latent", "d_steps", "width")
    ),
    *(("circles", {}, name, [1e-9], [0, -1.0], "more than 0") for name in ("lr_g", "lr_d")),
    ("circles", {}, "ema", [0, 0.999], [-0.1, 1], "0 or more and below 1"),
    ("circles", {}, "decay", [0, 1], [-0.1, 1.1], "0 to 1"),
    ("circles", {}, "real_label", [1e-3, 1], [0, 1.01], "more than 0, up to 1"),
    ("circles", {"objective": "hinge"}, "real_label", [1], [0.9], "1, or --objective bce"),
    ("circles", {"objective": "wgan"}, "clip", [1e-9], [0, -1], "more than 0"),
    ("circles", {"objective": "wgan-gp"}, "gp", [1e-9], [0, -1], "more than 0"),
    *(("circles", {}, name, [0, 5], [-1e-9], "0 or more") for name in ("r1", "r2")),
    ("digit", {}, "grid", [1, 32], [0, 33], "1 to 32"),
    ("digit", {}, "augment", ["", "color", "cutout,color", "auto"], ["auto,color", "hue"], "names out of color"),
    *(("digit", {}, name, [1e-9], [0], "more than 0") for name in ("lr_g", "lr_d")),
    ("mlp", {}, "channels", [None, 1, 3], [0, 2, 4], "1 or 3"),
    ("mlp", {}, "size", [4], [3], "4 or more"),
    *(
        ("mlp", {}, name, ["1", "8,16"], ["", "0", "8,", "8,-1", "8, 16", "٣"], "whole numbers from 1, separated")
        for name in ("hidden_g", "hidden_d")
    ),
    ("mlp", {}, "dropout", [0, 0.99], [-0.1, 1], "0 or more and below 1"),
    ("mlp", {}, "lr", [1e-9], [0], "more than 0"),
    *(("mlp", {}, name, [0, 0.99], [-0.1, 1], "0 or more and below 1") for name in ("beta1", "beta2")),
    ("dcgan", {}, "size", [16, 20, 24, 28, 32, 48, 512], [8, 14, 15, 18, 30, 36], "4, 5, 6 or 7 doubled twice"),
    ("dcgan", {}, "width", [1], [0], "1 or more"),
    ("dcgan", {}, "ramp", [0, 1], [-1], "0 or more"),
    ("dcgan", {"ramp": 1}, "penalty_end", [0, 1], [-0.1, 1.1], "0 to 1"),
    ("dcgan", {"ramp": 1}, "lr_end", [0.1, 1], [0, 1.1], "more than 0, up to 1"),
    ("dcgan", {"ramp": 1, "decay": 0.5}, "lr_end", [1], [0.5], "1, or --decay 1: both lower the rates"),
    ("dcgan", {"ramp": 1}, "beta2_end", [None, 0, 0.99], [-0.1, 1.1], "0 or more and below 1"),
    ("wgan", {}, "size", [16, 64], [8, 24], "a power of two, 16 or more"),
    ("wgan", {}, "channels", [None, 1, 3], [2], "1 or 3"),
    *(("wgan", {}, name, [1], [0], "1 or more") for name in ("width", "hidden")),
    ("wgan", {}, "extra_layers", [0, 1], [-1], "0 or more"),
    ("wgan", {}, "lr", [1e-9], [0], "more than 0"),
    ("pix2pix", {}, "size", [32, 64], [16, 48], "a power of two, 32 or more"),
    ("pix2pix", {}, "channels", [1, 3], [2], "1 or 3"),
    ("pix2pix", {}, "width", [1], [0], "1 or more"),
    ("pix2pix", {"size": 32}, "levels", [None, 3, 5], [2, 6], "3 to 5"),
    ("pix2pix", {}, "dropout", [0, 0.99], [-0.1, 1], "0 or more and below 1"),
    ("pix2pix", {}, "l1", [0], [-0.1], "0 or more"),
    ("cyclegan", {}, "size", [32, 36, 100], [28, 34], "a multiple of 4, 32 or more"),
    ("cyclegan", {"nets": "conv"}, "size", [32, 40], [24, 36], "a multiple of 8 with --nets conv, 32 or more"),
    ("cyclegan", {"size": 36}, "load_size", [36, 40], [35, 0], "36 or more, the size of what is cut out"),
    *(("cyclegan", {}, name, [0, 2], [-1], "0 or more") for name in ("blocks", "cycle", "identity", "replay")),
]


@pytest.mark.parametrize(
    ("variant", "config", "name", "accepted", "refused", "message"), LIMITS, ids=lambda value: str(value)[:24]
)
def test_limits_of_every_option(
    variant: str, config: dict[str, Any], name: str, accepted: list[Any], refused: list[Any], message: str
) -> None:
    make = find(variant).config_class
    for value in accepted:
        assert getattr(make(**{**config, name: value}), name) == value
    for value in refused:
        option = name.replace("_", "-")
        with pytest.raises(UsageError, match=f"^{option} is {re.escape(str(value))}: give {re.escape(message)}"):
            make(**{**config, name: value})


@pytest.mark.parametrize(
    ("name", "config", "wants"),
    [
        ("circles", {}, Wants("points")),
        ("digit", {}, Wants("images", 28, 1, (0.0, 1.0), classes=("5",), option="digit")),
        ("digit", {"digit": ""}, Wants("images", 28, 1, (0.0, 1.0), option="digit")),
        ("mlp", {"size": 8, "channels": 3}, Wants("images", 8, 3)),
        ("mlp", {"size": 8, **NAMES}, Wants("images", 8, labels=True)),
        ("dcgan", {"size": 16, "channels": 1}, Wants("images", 16, 1)),
        ("dcgan", {"size": 16, **NAMES}, Wants("images", 16, labels=True)),
        ("wgan", {"size": 16}, Wants("images", 16)),
        *((name, {"size": 16, "mirror": True}, Wants("images", 16, flip=True)) for name in ("mlp", "dcgan", "wgan")),
        ("digit", {"mirror": True}, Wants("images", 28, 1, (0.0, 1.0), classes=("5",), option="digit", flip=True)),
        ("pix2pix", {"size": 64}, Wants("pairs", 64, 3, load_size=72, flip=True)),
        ("pix2pix", {"direction": "b2a", "jitter": False, "channels": 1}, Wants("pairs", 256, 1, reverse=True)),
        ("cyclegan", {"size": 64}, Wants("unpaired", 64, 3, load_size=72, flip=True)),
        ("cyclegan", {"size": 64, "jitter": False, "channels": 1}, Wants("unpaired", 64, 1)),
        ("cyclegan", {"size": 64, "load_size": 143}, Wants("unpaired", 64, 3, load_size=143, flip=True)),
    ],
)
def test_the_data_of_each_variant(name: str, config: dict[str, Any], wants: Wants) -> None:
    variant = find(name)
    assert variant.wants(variant.config_class(**config)) == wants


def drawn(channels: int, size: int, latent: int = 100, **given: Any) -> Interface:
    label = (Port("label", "label", "int64", ("batch",), "N"),) if "classes" in given else ()
    bounds = given.pop("bounds", (-1.0, 1.0))
    return Interface(
        "latent-to-image",
        (Port("latent", "latent", "float32", ("batch", latent), "NC"), *label),
        (Port("image", "image", "float32", ("batch", channels, size, size), "NCHW", bounds),),
        given.get("noise", "normal"),
        given.get("classes", ()),
    )


def translated(channels: int, multiple: int) -> Interface:
    shape = ("batch", channels, "height", "width")
    ports = [Port(name, "image", "float32", shape, "NCHW", (-1.0, 1.0), multiple) for name in ("input", "output")]
    return Interface("image-to-image", (ports[0],), (ports[1],))


@pytest.mark.parametrize(
    ("name", "config", "interfaces"),
    [
        ("digit", {"latent": 3}, {"generator": drawn(1, 28, 3, bounds=(0.0, 1.0))}),
        ("mlp", {"size": 8, "noise": "uniform"}, {"generator": drawn(1, 8, noise="uniform")}),
        ("dcgan", {"size": 16, "width": 2, **NAMES}, {"generator": drawn(3, 16, classes=(*"abc",))}),
        ("dcgan", {"size": 16, "width": 2, "channels": 1}, {"generator": drawn(1, 16)}),
        ("wgan", {"size": 16, "width": 2}, {"generator": drawn(3, 16)}),
        ("pix2pix", {"size": 32, "width": 2, "channels": 1}, {"generator": translated(1, 32)}),
        ("pix2pix", {"size": 32, "width": 2, "levels": 3}, {"generator": translated(3, 8)}),
        *(
            ("cyclegan", {"size": 32, "width": 2, "blocks": 0, "nets": nets},
             dict.fromkeys(("generator-a2b", "generator-b2a"), translated(3, multiple)))
            for nets, multiple in (("resnet", 4), ("conv", 8))
        ),
    ],
)  # fmt: skip
def test_the_interface_of_each_variant(name: str, config: dict[str, Any], interfaces: dict[str, Interface]) -> None:
    assert build(name, **config).generators() == interfaces


@pytest.mark.parametrize(
    ("name", "config", "method", "rates"),
    [
        ("circles", {}, torch.optim.RMSprop, {"generator": 1e-3, "discriminator": 5e-3}),
        ("digit", {}, torch.optim.RMSprop, {"generator": 5e-3, "discriminator": 1e-3}),
        ("wgan", {"size": 16, "width": 1}, torch.optim.RMSprop, {"generator": 5e-5, "discriminator": 5e-5}),
        ("mlp", {"size": 4}, torch.optim.Adam, {"generator": 2e-4, "discriminator": 2e-4}),
        ("dcgan", {"size": 16, "width": 1}, torch.optim.Adam, {"generator": 2e-4, "discriminator": 2e-4}),
        ("pix2pix", {"size": 32, "width": 1}, torch.optim.Adam, {"generator": 2e-4, "discriminator": 2e-4}),
        ("cyclegan", {"size": 32, "width": 1, "blocks": 0}, torch.optim.Adam,
         {"generators": 2e-4, "discriminator-a": 2e-4, "discriminator-b": 2e-4}),
    ],
)  # fmt: skip
def test_the_optimizers_of_each_variant(
    name: str, config: dict[str, Any], method: type, rates: dict[str, float]
) -> None:
    more = {"beta1": 0.25, "beta2": 0.75} if method is torch.optim.Adam else {}
    gan = build(name, **config, **more)
    assert {key: each.defaults["lr"] for key, each in gan.optimizers.items()} == rates
    held = {id(p): key for key, each in gan.optimizers.items() for p in each.param_groups[0]["params"]}
    for key, network in gan.networks.items():
        owner = "generators" if key.startswith("generator-") else key
        assert {held[id(p)] for p in network.parameters()} <= {owner}
    for each in gan.optimizers.values():
        assert type(each) is method
        if more:
            assert (each.defaults["betas"], each.defaults["fused"]) == ((0.25, 0.75), True)


def losses_of(gan: Any, batch: dict[str, Tensor], step: int = 0) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What a step minimises with each optimizer, and what it reports, without any update."""
    minimised: dict[str, Tensor] = {}
    reported = gan.step(batch, step, lambda name, loss, keep_graph=False: minimised.update({name: loss}))
    assert not any(value.requires_grad for value in reported.values())
    return minimised, {key: float(value) for key, value in reported.items()}


@pytest.mark.parametrize("objective", ["bce", "lsgan"])
def test_the_losses_of_pix2pix(objective: str) -> None:
    """Isola et al. 2017, equations 1 to 4: the adversarial loss of both, and l1 times the distance."""
    torch.manual_seed(0)
    gan = build("pix2pix", size=32, width=2, objective=objective, l1=3.0, dropout=0.0)
    source, target = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    minimised, reported = losses_of(gan, {"input": source, "target": target})
    output = gan.generator(source)
    real, fake = (gan.discriminator(torch.cat((source, each), 1)) for each in (target, output))
    if objective == "bce":
        judged = F.softplus(-real).mean() + F.softplus(fake).mean()
        fooled = F.softplus(-fake).mean()
    else:
        judged = (real - 1).square().mean() + fake.square().mean()
        fooled = (fake - 1).square().mean()
    torch.testing.assert_close(minimised["discriminator"], judged)
    distance = (output - target).abs().mean()
    torch.testing.assert_close(minimised["generator"], fooled + 3 * distance)
    expected = {"loss_d": judged, "loss_g": fooled, "l1": distance}
    assert reported == pytest.approx({key: float(value.detach()) for key, value in expected.items()}, rel=1e-4)
    given, made, wished = gan.strips("generator", {"generator": gan.generator}, {"input": source, "target": target})
    assert given is source
    assert wished is target
    torch.testing.assert_close(made, output)


@pytest.mark.parametrize(("halved", "identity"), [(True, 5.0), (False, 0.0)])
def test_the_losses_of_cyclegan(halved: bool, identity: float) -> None:
    """Zhu et al. 2017, equations 1 to 3 with least squares, and the identity of section 5.2."""
    torch.manual_seed(0)
    gan = build("cyclegan", size=32, width=2, blocks=0, halved=halved, identity=identity, cycle=3.0, replay=0)
    a, b = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    minimised, reported = losses_of(gan, {"a": a, "b": b})
    half = 0.5 if halved else 1.0
    fake_b, fake_a = gan.a2b(a), gan.b2a(b)
    of_a, of_b = gan.discriminator_a, gan.discriminator_b
    fooled = half * ((of_b(fake_b) - 1).square().mean() + (of_a(fake_a) - 1).square().mean())
    cycle = half * ((gan.b2a(fake_b) - a).abs().mean() + (gan.a2b(fake_a) - b).abs().mean())
    same = half * ((gan.b2a(a) - a).abs().mean() + (gan.a2b(b) - b).abs().mean())
    torch.testing.assert_close(minimised["generators"], fooled + 3 * cycle + identity * same)
    expected = {"loss_g": fooled, "cycle": cycle, **({"identity": same} if identity else {})}
    for side, judge, real, fake in (("a", of_a, a, fake_a), ("b", of_b, b, fake_b)):
        loss = half * ((judge(real) - 1).square().mean() + judge(fake.detach()).square().mean())
        torch.testing.assert_close(minimised[f"discriminator-{side}"], loss)
        expected[f"loss_d_{side}"] = loss
    assert reported == pytest.approx({key: float(value.detach()) for key, value in expected.items()}, rel=1e-4)
    batch = {"a": a, "b": b}
    for name, source, there, back in (("generator-a2b", a, gan.a2b, gan.b2a), ("generator-b2a", b, gan.b2a, gan.a2b)):
        strip = gan.strips(name, gan.networks, batch)
        torch.testing.assert_close(strip, (source, there(source), back(there(source))))


def test_a_full_replay_buffer_exchanges_half_of_the_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a random slot, below ½; what is kept until it is full is shown at once."""
    replay = build("cyclegan", size=32, width=1, blocks=0, replay=3).replay_a
    drawn = torch.tensor([[0.0, 0.9]] * 3 + [[0.49, 0.34], [0.5, 0.99], [0.2, 0.99], [0.9, 0.0], [0.1, 0.4]])
    monkeypatch.setattr(torch, "rand", lambda *shape: drawn[: shape[0]])
    pictures = torch.arange(1.0, 9.0).view(8, 1, 1, 1).expand(8, 3, 32, 32)
    seen = replay(pictures.clone().requires_grad_())
    assert not seen.requires_grad
    assert seen[:, 0, 0, 0].tolist() == [1, 2, 3, 2, 5, 3, 7, 4]
    assert replay.pictures[:, 0, 0, 0].tolist() == [1, 8, 6]
    assert (replay.pictures.shape, int(replay.count)) == ((3, 3, 32, 32), 3)
    empty = build("cyclegan", size=32, width=1, blocks=0, replay=0).replay_b
    assert torch.equal(empty(pictures), pictures)
    assert not empty(pictures.clone().requires_grad_()).requires_grad


def test_each_of_several_processes_sees_its_part_of_what_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_are_several", lambda: True)
    monkeypatch.setattr(noise.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(noise.dist, "get_world_size", lambda: 2)

    def all_gather(parts: list[Tensor], own: Tensor) -> None:
        for rank, part in enumerate(parts):
            part.copy_(own if rank == 1 else own - 2)

    monkeypatch.setattr(noise.dist, "all_gather", all_gather)
    replay = build("cyclegan", size=32, width=1, blocks=0, replay=4).replay_a
    own = torch.tensor([3.0, 4.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32)
    assert replay(own)[:, 0, 0, 0].tolist() == [3, 4]
    assert replay.pictures[:, 0, 0, 0].tolist() == [1, 2, 3, 4], "it keeps those of both"


def test_the_losses_of_smoothed_labels_and_of_a_factor() -> None:
    torch.manual_seed(0)
    gan = build("mlp", size=4, hidden_g="4", hidden_d="4", latent=3, real_label=0.75, halve_d=True)
    real = torch.rand(8, 1, 4, 4) * 2 - 1
    torch.manual_seed(1)
    minimised, reported = losses_of(gan, {"images": real})
    torch.manual_seed(1)
    judge = gan.networks["discriminator"]
    of_fake, of_real = (judge(each) for each in (gan.draw(8, None, real.device), real))
    judged = 0.75 * F.softplus(-of_real).mean() + 0.25 * F.softplus(of_real).mean() + F.softplus(of_fake).mean()
    torch.testing.assert_close(minimised["discriminator"], 0.5 * judged)
    assert reported["loss_d"] == pytest.approx(float(0.5 * judged.detach()))
    assert reported["accuracy_d"] == pytest.approx(
        float(torch.cat((of_real > 0, of_fake <= 0)).float().mean()), abs=1e-6
    )


def test_the_losses_of_a_wasserstein_critic_with_its_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gulrajani et al. 2017, algorithm 1; and R1 and R2 beside it, as a share of their weights."""
    torch.manual_seed(0)
    config = {"objective": "wgan-gp", "gp": 7.0, "r1": 2.0, "r2": 4.0, "latent": 3, "width": 4}
    gan = build("circles", **config)
    monkeypatch.setattr(type(gan), "penalty_share", 0.25)
    points = torch.rand(6, 2)
    torch.manual_seed(1)
    minimised, reported = losses_of(gan, {"points": points.clone()})
    torch.manual_seed(1)
    judge = gan.networks["discriminator"]
    x, y = points.clone().requires_grad_(), gan.draw(6, None, points.device).detach().requires_grad_()
    mix = torch.rand(6, 1)
    between = (mix * x + (1 - mix) * y).detach().requires_grad_()

    def slopes(items: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(judge(items).sum(), items)
        return slope.norm(dim=1)

    adversarial = judge(y).mean() - judge(x).mean()
    fixed = adversarial + 0.25 * (slopes(x).square().mean() + 2 * slopes(y).square().mean())
    penalty = 7 * (slopes(between) - 1).square().mean()
    torch.testing.assert_close(minimised["discriminator"], fixed + penalty)
    torch.testing.assert_close(minimised["generator"], -judge(y).mean())
    assert reported["loss_d"] == pytest.approx(float(adversarial.detach()), rel=1e-4)
    assert reported["real_d"] == pytest.approx(float(judge(x).mean().detach()), rel=1e-4)
    assert reported["fake_d"] == pytest.approx(float(judge(y).mean().detach()), rel=1e-4)


def test_lazy_penalties_have_the_same_weight_on_average() -> None:
    """Karras et al. 2020 (arXiv:1912.04958), section 3.1."""
    batch = torch.rand(6, 2)
    losses: dict[tuple[int, int], Tensor] = {}
    for every in (1, 4):
        gan = build("circles", objective="bce", r1=2.0, r2=3.0, penalty_every=every, latent=3, width=4)
        for step in (0, 1):
            torch.manual_seed(0)
            for network in gan.networks.values():
                for parameter in network.parameters():
                    torch.nn.init.normal_(parameter)
            minimised, reported = losses_of(gan, {"points": batch.clone()}, step)
            losses[every, step] = minimised["discriminator"].detach() - reported["loss_d"]
    assert losses[1, 0] > 0 and losses[4, 1] == 0, "none between"
    torch.testing.assert_close(losses[4, 0], 4 * losses[1, 1])


def test_a_penalty_is_drawn_where_the_items_are() -> None:
    gan = build("circles", objective="wgan-gp")
    for network in gan.networks.values():
        network.to("meta")
    items, scores = (torch.zeros(4, size, device="meta") for size in (2, 1))
    loss, _ = gan.discriminator_loss(items, items.clone(), scores, scores, None)
    assert loss.device.type == "meta"


def test_labels_go_to_both_networks() -> None:
    torch.manual_seed(0)
    gan = build("dcgan", size=16, width=2, channels=1, latent=3, conditional=True, class_names="a,b")
    seen: list[list[Any]] = []
    for network in gan.networks.values():
        network.register_forward_pre_hook(lambda _, given: seen.append([*given]))
    labels = torch.tensor([1, 0, 1, 1])
    losses_of(gan, {"images": torch.rand(4, 1, 16, 16), "labels": labels})
    assert [len(given) for given in seen] == [2, 2, 2]
    assert all(given[1] is labels for given in seen)


@pytest.mark.parametrize(
    ("step", "share", "beta2", "lr"),
    [(0, 1.0, 0.5, 1.0), (5, 0.6, 0.7, 0.625), (10, 0.2, 0.9, 0.25), (99, 0.2, 0.9, 0.25)],
)
def test_what_a_ramp_reaches(step: int, share: float, beta2: float, lr: float) -> None:
    ends = {"penalty_end": 0.2, "lr_end": 0.25, "beta2_end": 0.9}
    gan = build("dcgan", size=16, width=1, channels=1, ramp=10, lr=1.0, beta1=0.1, beta2=0.5, **ends)
    losses_of(gan, {"images": torch.zeros(2, 1, 16, 16)}, step)
    assert gan.penalty_share == pytest.approx(share)
    for optimizer in gan.optimizers.values():
        (group,) = optimizer.param_groups
        assert (*group["betas"], group["lr"]) == pytest.approx((0.1, beta2, lr))
    plain = build("dcgan", size=16, width=1, channels=1, ramp=10, lr=1.0, beta2=0.5)
    for optimizer in plain.optimizers.values():
        optimizer.param_groups[0]["lr"] = 0.5  # As --decay does.
    losses_of(plain, {"images": torch.zeros(2, 1, 16, 16)}, step)
    assert {(*o.param_groups[0]["betas"], o.param_groups[0]["lr"]) for o in plain.optimizers.values()} == {
        (0.5, 0.5, 0.5)
    }


@pytest.mark.parametrize(
    ("name", "config", "fast"),
    [
        ("dcgan", {}, True),
        ("dcgan", {"r1": 1.0}, True),
        ("dcgan", {"r2": 1.0}, False),
        ("dcgan", {"objective": "rpgan"}, False),
        ("dcgan", {"objective": "wgan-gp"}, False),
        ("dcgan", dict(find("dcgan").presets["modern"]), True),
        ("dcgan", {**find("dcgan").presets["modern"], "objective": "wgan-gp"}, False),
        ("dcgan", {**find("dcgan").presets["modern"], "norm": "none"}, False),
        ("wgan", {}, True),
        ("wgan", {"objective": "hinge"}, False),
        ("wgan", {"r1": 1.0}, False),
        ("wgan", {"r2": 1.0}, False),
        ("cyclegan", {}, True),
        ("mlp", {}, False),
        ("circles", {}, False),
    ],
)
def test_where_bf16_was_measured_to_keep_the_quality(name: str, config: dict[str, Any], fast: bool) -> None:
    assert find(name).config_class(**config).trains_in_bf16 is fast


def test_classes_of_a_conditional_variant() -> None:
    make: Any = find("mlp").config_class
    assert make().classes == ()
    assert make(conditional=True, class_names="a,b").classes == ("a", "b")
    for names in (None, "", "a"):
        with pytest.raises(UsageError, match=f"^class-names is {names}: give two classes or more, separated by commas"):
            _ = make(conditional=True, class_names=names).classes
    assert make(augment="color,,cutout").policy == ("color", "cutout")


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("epochs", "3", "int"),
        ("epochs", 3.0, "int"),
        ("epochs", True, "int"),
        ("ema", "high", "float"),
        ("ema", True, "float"),
        ("ema", math.inf, "float"),
        ("ema", None, "float"),
        ("channels", 1.5, "int or NoneType"),
        ("batchnorm", 1, "bool"),
        ("noise", "cauchy", "normal, uniform"),
        ("class_names", 3, "str or NoneType"),
    ],
)
def test_values_of_the_wrong_type(name: str, value: Any, accepted: str) -> None:
    with pytest.raises(UsageError, match=f"^{name.replace('_', '-')} is {value}: give {accepted}$"):
        find("mlp").config_class(**{name: value})
    check_types(find("mlp").config_class(ema=0, batchnorm=False, channels=None))


def test_options_that_need_another() -> None:
    config = find("mlp").config_class(class_names="a,b")
    check_given(config, {"size", "hidden_g"})
    with pytest.raises(
        UsageError,
        match=r"^class-names is a,b, but has an effect with --conditional only: leave it out, or add that$",
    ):
        check_given(config, {"class_names"})
    with pytest.raises(UsageError, match="with --objective wgan-gp only: leave"):
        check_given(config, {"gp"})
    check_given(find("mlp").config_class(conditional=True, class_names="a,b"), {"class_names"})

    @dataclass(frozen=True, kw_only=True)
    class Wide(find("dcgan").config_class):  # type: ignore[misc]
        """With an option whose name has two words, as has that which it needs."""

        more_or_less: int = only_with("r_and_d", 3, 1)
        r_and_d: int = 2

    check_given(Wide(r_and_d=3), {"more_or_less"})
    message = r"^more-or-less is 1, but has an effect with --r-and-d 3 only: leave it out, or add that$"
    with pytest.raises(UsageError, match=message):
        check_given(Wide(), {"more_or_less"})
    made = only_with("nets", "conv", 64)
    assert (made.default, made.metadata) == (64, {"with": (("nets",), "conv")})
    assert usual(find("mlp").config_class, ("size", "grid")) == {"size": 28, "grid": 5}


if __name__ == "__main__":
    WRITTEN.write_text("".join(f"{line}\n" for each in NETWORKS for line in described(*each)), "utf-8")
