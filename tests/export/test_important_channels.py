"""The channels that a narrower network starts from: those that count, wherever they are coupled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganedge.export.important_channels import important_channels
from ganedge.export.to_onnx import example_inputs
from ganedge.models import find
from ganedge.runtime.errors import GanEdgeError

DIGITS = {"size": 28, "conditional": True, "class_names": "a,b", "channels": 1}
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...], dict[str, int]]] = {
    "residual blocks": ("cyclegan", {"size": 32, "blocks": 2}, ("21.",), {}),
    "depth to space": (
        "cyclegan",
        {"nets": "conv", "size": 32, "blocks": 1, "upsample": "shuffle"},
        ("18.",),
        {"10.": 4, "14.": 4},
    ),
    "linear to maps": ("dcgan", DIGITS, ("layers.4.",), {"project.": 49}),
    "concatenated": ("pix2pix", {"size": 32}, ("up.0.",), {}),
}
"""Variant, config, names of the last layer's weights, and how many features become one channel."""


def generator(name: str, width: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    variant: Any = find(CASES[name][0])
    gan = variant(variant.config_class(width=width, **CASES[name][1]))
    key, interface = next(iter(gan.generators().items()))
    return gan.networks[key].eval(), example_inputs(interface, 2, (32, 32) if interface.inputs[0].is_picture else None)


def silence_odd_channels(network: nn.Module, last: tuple[str, ...], blocks: dict[str, int]) -> None:
    """Set every second channel of all layers but the last to zero."""
    for name, module in network.named_modules():
        weights = [getattr(module, key, None) for key in ("weight", "bias")]
        if isinstance(module, nn.Embedding) or f"{name}.".startswith(last):
            continue
        for weight in weights:
            if weight is None:
                continue
            axis = 1 if isinstance(module, nn.ConvTranspose2d) and weight.ndim > 1 else 0
            block = next((size for prefix, size in blocks.items() if f"{name}.".startswith(prefix)), 1)
            odd = torch.arange(weight.shape[axis]) // block % 2 == 1
            weight.data.index_fill_(axis, odd.nonzero().flatten(), 0)


@pytest.mark.parametrize("name", CASES)
def test_a_student_of_all_channels_that_count_is_its_teacher(name: str) -> None:
    torch.manual_seed(0)
    (teacher, example), (student, _) = generator(name, 8), generator(name, 4)
    for module in teacher.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)  # Results that vary.
    silence_odd_channels(teacher, *CASES[name][2:])
    student.load_state_dict(important_channels(teacher, student, example))
    with torch.no_grad():
        expected, made = teacher(*example), student(*example)
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-5)


def test_fewer_blocks_keep_the_first_ones() -> None:
    torch.manual_seed(0)
    variant: Any = find("cyclegan")
    nets = [variant(variant.config_class(width=4, blocks=blocks, size=32)) for blocks in (3, 1)]
    teacher, student = (each.networks["generator-a2b"].eval() for each in nets)
    example = (torch.randn(1, 3, 32, 32),)
    student.load_state_dict(important_channels(teacher, student, example))
    for block in [child for child in teacher if type(child).__name__ == "Residual"][1:]:
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.weight)
    with torch.no_grad():
        torch.testing.assert_close(student(*example), teacher(*example))


def test_what_cannot_be_followed_is_said() -> None:
    nets = [nn.Sequential(nn.Conv2d(4, width, 3, groups=2), nn.Conv2d(width, 3, 1)) for width in (8, 4)]
    with pytest.raises(GanEdgeError, match="convolutions in groups"):
        important_channels(nets[0], nets[1], (torch.zeros(1, 4, 8, 8),))
