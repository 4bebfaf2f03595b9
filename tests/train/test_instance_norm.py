"""The gradients of networks with InstanceNorm, in the memory layout of training, are those of double precision."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ganedge.models import find
from ganedge.train import instance_norm
from ganedge.train.data import open_data
from ganedge.train.devices import make_fabric
from ganedge.train.settings import Settings
from ganedge.train.trainer import Trainer


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_gradient_of_a_layer(affine: bool, autocast: bool, count: int) -> None:
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(4, affine=affine)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    exact = copy.deepcopy(norm).double()
    instance_norm.correct_gradients(norm)
    assert list(norm.state_dict()) == list(exact.state_dict())
    pictures, pull = (torch.randn(count, 4, 6, 8, dtype=torch.float64) for _ in range(2))

    def gradients(layer: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> list[torch.Tensor]:
        x = pictures.to(dtype).contiguous(memory_format=layout).requires_grad_()
        y = nn.functional.leaky_relu(layer(x), 0.2, inplace=True)  # As what follows it often is.
        return [y, *torch.autograd.grad(y, [x, *layer.parameters()], pull.to(y.dtype).contiguous(memory_format=layout))]

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = gradients(norm, torch.bfloat16 if autocast else torch.float32, torch.channels_last)
    wanted = gradients(exact, torch.float64, torch.contiguous_format)
    for one, other in zip(found, wanted, strict=True):
        distance = (one.double() - other).norm() / other.norm()
        assert distance < (2e-2 if autocast else 1e-5)


STEPS: list[tuple[str, str | None, int, dict[str, Any]]] = [
    ("pix2pix", None, 1, {"size": 32, "width": 4, "jitter": False, "dropout": 0.0}),
    ("cyclegan", "resnet", 1, {"size": 32, "width": 4, "blocks": 1, "jitter": False}),
    ("cyclegan", "conv", 1, {"size": 32, "width": 4, "blocks": 1}),
    (
        "stargan",
        "celeba",
        1,
        {"size": 32, "channels": 1, "width": 4, "blocks": 1, "d_steps": 1, "class_names": ",".join("0123456789")},
    ),
    ("digit", None, 1, {}),
    ("dcgan", None, 2, {"size": 16, "width": 4}),
    ("wgan", None, 2, {"size": 16, "width": 4, "d_steps": 1}),
    ("wgan", None, 1, {"size": 16, "width": 4, "d_steps": 1, "objective": "wgan-gp"}),
]


@pytest.mark.parametrize(("name", "preset", "count", "given"), STEPS)
def test_the_gradients_of_a_training_step(
    tmp_path: Path, picture_pairs: dict[str, str], name: str, preset: str | None, count: int, given: dict[str, Any]
) -> None:
    variant = find(name)
    config = variant.config_class(**{**variant.presets.get(preset or "", {}), **given})
    spec = picture_pairs.get(name, "digits")
    settings = Settings(data=spec, out=tmp_path / "run", device="cpu", precision="fp32")
    items = open_data(settings.data, variant.wants(config))
    config = dataclasses.replace(config, **{key: 1 for key in ("channels",) if spec == "digits" and name != "digit"})
    gan: Any = Trainer(make_fabric(settings), variant, config, settings, items).gan
    exact: Any = variant(config)
    for key, network in exact.networks.items():
        network.load_state_dict(gan.networks[key].state_dict())
        network.double()
    batch = items.batch(torch.arange(count), torch.device("cpu"))
    noise = torch.randn(count, getattr(config, "latent", 1))

    def gradients(gan: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        gan.draw = lambda count, labels, device: gan.networks["generator"](noise.to(dtype))

        def update(name: str, loss: torch.Tensor, keep_graph: bool = False) -> None:
            parameters = [p for group in gan.optimizers[name].param_groups for p in group["params"]]
            parts = torch.autograd.grad(loss, parameters, retain_graph=True)
            found[name] = torch.cat([part.double().flatten() for part in parts])

        torch.manual_seed(0)
        gan.step({key: value if key == "labels" else value.to(dtype) for key, value in batch.items()}, 0, update)
        return found

    found = gradients(gan, torch.float32)
    for key, wanted in gradients(exact, torch.float64).items():
        assert (found[key] - wanted).norm() / wanted.norm() < 1e-3, key


@pytest.fixture
def picture_pairs(tmp_path: Path) -> dict[str, str]:
    """A place to find data for each of the two."""
    from PIL import Image

    for folder in ("pairs", "sets/trainA", "sets/trainB"):
        (tmp_path / folder).mkdir(parents=True)
        for index in range(2):
            pixels = torch.randint(0, 256, (32, 64, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    return {"pix2pix": str(tmp_path / "pairs"), "cyclegan": str(tmp_path / "sets")}
