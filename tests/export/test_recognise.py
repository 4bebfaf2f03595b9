"""Weights without code: networks of ours and of public repositories, recognised by names and shapes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganedge.export import published
from ganedge.export.architectures import build, open_checkpoint
from ganedge.export.recognise import recognise
from ganedge.export.source import SourceSpec
from ganedge.models import augmented_cyclegan, cyclegan, dcgan, digit, mlp, pix2pix, stargan, wgan
from ganedge.runtime.errors import UsageError

LATENT, IMAGE = torch.randn(2, 6), torch.randn(1, 3, 32, 32)
LABELS = {"conditional": True, "class_names": "a,b,c"}
AUGMENTED = augmented_cyclegan.Config(width=4, blocks=2)
Make = Callable[[], nn.Module]
OURS: dict[str, Make] = {
    "dcgan": lambda: dcgan.Generator(dcgan.Config(latent=6, width=4, size=16, channels=1)),
    "dcgan of 28": lambda: dcgan.Generator(dcgan.Config(latent=6, width=4, size=28)),
    "dcgan of classes": lambda: dcgan.Generator(dcgan.Config(latent=6, width=4, size=32, **LABELS)),  # type: ignore[arg-type]
    "wgan": lambda: wgan.Generator(wgan.Config(latent=6, width=4, size=32)),
    "wgan with more layers": lambda: wgan.Generator(wgan.Config(latent=6, width=4, size=16, extra_layers=2)),
    "wgan --nets mlp": lambda: wgan.MLPGenerator(wgan.Config(latent=6, size=16, nets="mlp", hidden=8)),
    "mlp": lambda: mlp.Generator(mlp.Config(latent=6, hidden_g="4,8,8")),
    "mlp of classes": lambda: mlp.Generator(mlp.Config(latent=6, hidden_g="4,8", **LABELS)),  # type: ignore[arg-type]
    "mlp with dropout": lambda: mlp.Generator(mlp.Config(latent=6, hidden_g="4,8,8", batchnorm=False, dropout=0.3)),
    "digit": lambda: digit.Generator(digit.Config(latent=6)),
    "pix2pix": lambda: pix2pix.Generator(pix2pix.Config(width=4, size=32)),
    "pix2pix with BatchNorm": lambda: pix2pix.Generator(pix2pix.Config(width=4, size=32, norm="batch", levels=4)),
    "cyclegan": lambda: cyclegan.ResnetGenerator(cyclegan.Config(width=4, blocks=2, size=32)),
    "cyclegan --nets conv": lambda: cyclegan.ConvGenerator(cyclegan.Config(width=4, blocks=2, size=32, nets="conv")),
    "stargan of classes": lambda: stargan.Generator(stargan.Config(width=4, blocks=2, class_names="a,b,c")),
    "augmented-cyclegan": lambda: augmented_cyclegan.Generator(AUGMENTED, 5),
    "augmented-cyclegan --latent-a 0": lambda: augmented_cyclegan.Generator(AUGMENTED, 0),
    "augmented-cyclegan with resize": lambda: augmented_cyclegan.Generator(replace(AUGMENTED, upsample="resize"), 5),
    "augmented-cyclegan with shuffle": lambda: augmented_cyclegan.Generator(replace(AUGMENTED, upsample="shuffle"), 5),
}


def varied(network: nn.Module) -> nn.Module:
    """With statistics that are not those of a new network."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.2, 1.5)  # type: ignore[union-attr]
    return network.eval()


def computed(network: nn.Module, name: str) -> Tensor:
    image = any(word in name for word in ("cyclegan", "pix2pix", "stargan"))
    inputs: tuple[Tensor, ...] = (IMAGE,) if image else (LATENT,)
    inputs = (*inputs, LATENT[:1, :5]) if "augmented" in name and "0" not in name else inputs
    inputs = (*inputs, torch.tensor([0, 2])[-len(inputs[0]) :]) if "classes" in name else inputs
    with torch.no_grad():
        result: Tensor = network(*inputs)
    return result


@pytest.mark.parametrize("name", OURS)
def test_our_generators_are_recognised(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = varied(OURS[name]())
    torch.save({"generator": network.state_dict(), "step": 3}, tmp_path / "g.pth")
    loaded = open_checkpoint(tmp_path / "g.pth", SourceSpec(arch="auto"))
    assert torch.equal(computed(loaded.network.eval(), name), computed(network, name))
    assert any(f"recognised: {'resnet' if name == 'cyclegan' else name.split()[0]}" in note for note in loaded.notes)
    further = [(item.name, item.shape, item.distribution) for item in loaded.spec.further if item.role != "label"]
    assert further == ([("latent", (5,), "normal")] if "augmented" in name and "0" not in name else [])
    assert loaded.spec.classes == (("0", "1", "2") if "classes" in name else ())
    assert loaded.spec.noise == ("uniform" if "dropout" in name else "normal")


def test_old_names_and_class_names(tmp_path: Path) -> None:
    network = OURS["dcgan of classes"]()
    old = {key.replace("layers.", "draw."): value for key, value in network.state_dict().items()}
    torch.save(old, tmp_path / "g.pth")
    loaded = open_checkpoint(tmp_path / "g.pth", SourceSpec(arch="auto", classes=("a", "b", "c")))
    assert loaded.spec.classes == ("a", "b", "c")
    with pytest.raises(UsageError, match="have 3 classes, not 2"):
        open_checkpoint(tmp_path / "g.pth", SourceSpec(arch="auto", classes=("a", "b")))
    with pytest.raises(UsageError, match="is part of its weights"):
        open_checkpoint(tmp_path / "g.pth", SourceSpec(arch="auto", size="64"))


class Residual(nn.Module):
    """x + f(x), its layers under the name of a repository."""

    def __init__(self, name: str, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.name = name
        first = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), norm(width), nn.ReLU()]
        self.add_module(name, nn.Sequential(*first, nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), norm(width)))

    def forward(self, x: Tensor) -> Tensor:
        """Add the change."""
        return x + self.get_submodule(self.name)(x)


def translator(residual: str, norm: Callable[[int], nn.Module], halvings: int = 2, repeated: bool = False) -> nn.Module:
    """As the repositories of CycleGAN and pix2pixHD have it, small."""
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, 4, 7), norm(4), nn.ReLU()]
    for level in range(halvings):
        width = 4 << level
        layers += [nn.Conv2d(width, 2 * width, 3, 2, 1), norm(2 * width), nn.ReLU()]
    layers += [Residual(residual, 4 << halvings, norm) for _ in range(3)]
    for level in reversed(range(halvings)):
        width = 4 << level
        if repeated:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, width, 3, 1, 1), norm(width), nn.ReLU()]
        else:
            layers += [nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), norm(width), nn.ReLU()]
    return nn.Sequential(
        OrderedDict(model=nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(4, 3, 7), nn.Tanh()))
    )


def affine(width: int) -> nn.Module:
    return nn.InstanceNorm2d(width, affine=True)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.BatchNorm2d, affine])
@pytest.mark.parametrize(
    ("residual", "halvings", "repeated"), [("conv_block", 2, False), ("conv_block", 4, False), ("block", 2, True)]
)
def test_translators_of_others_are_recognised(
    residual: str, halvings: int, repeated: bool, norm: Callable[[int], nn.Module]
) -> None:
    network = varied(translator(residual, norm, halvings, repeated))
    state = {key.removeprefix("model."): value for key, value in network.state_dict().items()}
    candidate = recognise(state)
    assert candidate is not None
    assert ("BatchNorm" in candidate.name) == (norm is nn.BatchNorm2d)
    candidate.network.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(candidate.network.eval()(IMAGE), network(IMAGE))


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.BatchNorm2d, affine])
def test_named_architectures_take_their_normalisation_from_the_weights(norm: Callable[[int], nn.Module]) -> None:
    shapes = {"model.model.0.weight": (4, 3, 4, 4), "model.model.3.weight": (8, 3, 4, 4)}
    state = {key: torch.zeros(shape) for key, shape in shapes.items()}
    if norm is not nn.InstanceNorm2d:
        state["model.model.1.model.2.weight"] = torch.zeros(8)
    if norm is nn.BatchNorm2d:
        state["model.model.1.model.2.running_mean"] = torch.zeros(8)
    network = build("unet_128", state)
    made = [module for module in network.modules() if isinstance(module, (nn.InstanceNorm2d, nn.BatchNorm2d))]
    assert {type(module) for module in made} == {type(norm(1))}
    assert {module.affine for module in made} == {norm is not nn.InstanceNorm2d}
    candidate = recognise(network.state_dict())
    assert candidate is not None
    assert candidate.name.startswith("unet_128")


def example(width: int = 4) -> nn.Module:
    layers = [nn.ConvTranspose2d(6, width * 2, 4, 1, 0, bias=False), nn.BatchNorm2d(width * 2), nn.ReLU(True)]
    layers += [nn.ConvTranspose2d(width * 2, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
    layers += [nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(OrderedDict(main=nn.Sequential(*layers)))


def test_the_dcgans_of_others_are_recognised(tmp_path: Path) -> None:
    network = varied(example())
    torch.save({"netG": network.state_dict(), "netD": nn.Conv2d(3, 4, 4).state_dict()}, tmp_path / "all.pth")
    loaded = open_checkpoint(tmp_path / "all.pth", SourceSpec(arch="auto"))
    latents = LATENT[..., None, None]
    assert torch.equal(loaded.network.eval()(latents), network(latents))
    assert (loaded.spec.input, loaded.spec.kind) == ("6x1x1", "latent")
    repeated = published.Upsampling(
        {
            "l1.0.weight": torch.zeros(8 * 16, 6),
            "conv_blocks.0.weight": torch.zeros(8),
            "conv_blocks.6.weight": torch.zeros(4, 8, 3, 3),
            "conv_blocks.9.weight": torch.zeros(1, 4, 3, 3),
        }
    )
    candidate = recognise(repeated.state_dict())
    assert candidate is not None
    assert candidate.name == "DCGAN of PyTorch-GAN"
    assert candidate.network(LATENT).shape == (2, 1, 16, 16)


def test_unknown_weights_are_not_recognised() -> None:
    states: list[dict[str, Any]] = [{}, {"x": torch.zeros(3)}, nn.Linear(3, 2).state_dict()]
    states += [nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()]
    larger = example().state_dict()
    larger["main.0.weight"] = torch.zeros(6, 8, 5, 5)
    assert [recognise(state) for state in [*states, larger]] == [None] * 5
