"""How far an output pixel sees: what the graph says is what NaN in one column of the input shows, or no claim."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor, nn

from ganedge.export.from_torch import eager, of_network
from ganedge.export.receptive_field import find_reach
from ganedge.export.source_model import SourceModel
from ganedge.models import find
from ganedge.models.student import PictureConfig, PictureStudent
from ganedge.models.upsample import Upsampling
from ganedge.runtime.manifest import Interface, Port, Source
from ganedge.runtime.pictures import images, tiles

SIDE = 96


def ports(channels: int = 3) -> Interface:
    shape = ("batch", channels, "height", "width")
    taken, given = (Port(name, "image", "float32", shape, "NCHW", (-1.0, 1.0)) for name in ("x", "y"))
    return Interface("image-to-image", (taken,), (given,))


def seen(network: nn.Module, interface: Interface) -> int:
    """Pixels from the column that is NaN to the furthest one that it turns into NaN, in input pixels."""
    multiple, channels = interface.inputs[0].multiple, interface.inputs[0].channels
    furthest = 0
    with torch.no_grad():
        size = network.eval()(torch.zeros(1, channels, SIDE, SIDE)).shape[-1]
    scale = max(1, round(size / SIDE))
    border = (scale * SIDE - size) // 2
    for column in range(SIDE // 2 // multiple * multiple, SIDE // 2 // multiple * multiple + multiple):
        picture = torch.zeros(1, channels, SIDE, SIDE)
        picture[..., column] = torch.nan
        with torch.no_grad():
            changed = network.eval()(picture).isnan().any(1)[0].any(0).nonzero().flatten()
        first, last = ((int(each) + border) // scale for each in (changed.min(), changed.max()))
        furthest = max(furthest, column - first, last - column)
    return furthest


class Focus(nn.Module):
    """Squares of four pixels as channels, cut out by slices."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        parts = [x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return torch.cat(parts, 1)


def students(**given: Any) -> tuple[nn.Module, Interface]:
    gan = PictureStudent(PictureConfig(width=4, blocks=1, **given))
    return gan.generator, gan.generators()["generator"]


def translators(nets: str = "conv", **given: Any) -> tuple[nn.Module, Interface]:
    variant: Any = find("cyclegan")
    gan = variant(variant.config_class(nets=nets, width=4, blocks=1, size=32, **given))
    return gan.networks["generator-a2b"], gan.generators()["generator-a2b"]


def plain(*layers: nn.Module) -> tuple[nn.Module, Interface]:
    return nn.Sequential(*layers), ports()


BOUNDED: dict[str, Callable[[], tuple[nn.Module, Interface]]] = {
    "student that enlarges": lambda: students(size=32, crop=32, stride=2, scale=4),
    "transposed convolutions": lambda: translators(),
    "reflection and dilation": lambda: plain(nn.ReflectionPad2d(4), nn.Conv2d(3, 3, 3, dilation=4), nn.Tanh()),
    "pooling and slices": lambda: plain(nn.AvgPool2d(2), Focus(), nn.Conv2d(12, 48, 3, 1, 1), nn.PixelShuffle(4)),
    **{f"edge, {way}": partial(translators, "edge", upsample=way) for way in get_args(Upsampling)},
    "no padding": lambda: plain(nn.Conv2d(3, 4, 5), nn.LeakyReLU(), nn.Conv2d(4, 3, 3)),
}


STATED = {"edge, bilinear": 2}
"""By how much more is stated: where an interpolation ends depends on the pixel, and its furthest counts for all."""


@functools.cache
def exported(name: str) -> tuple[nn.Module, SourceModel]:
    """A network and its graph, with weights that make its results vary."""
    torch.manual_seed(0)
    network, interface = BOUNDED[name]()
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, a=1)
    return network, of_network(network, interface, Source())


@pytest.mark.parametrize("name", BOUNDED)
def test_the_reach_is_what_a_column_of_nan_shows(name: str) -> None:
    network, original = exported(name)
    assert original.interface.reach == seen(network, original.interface) + STATED.get(name, 0)


class Whole(nn.Module):
    """Subtracts the mean of each picture."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x - x.mean((2, 3), keepdim=True)


class Everywhere(nn.Module):
    """Knows where a pixel is."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.rand(1, 1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x * self.map


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.InstanceNorm2d(3)),
        Whole(),
        nn.Conv2d(3, 3, 3, padding=257, dilation=257),
    ],
    ids=["normalised", "mean", "further than tiles overlap"],
)
def test_no_claim_where_there_is_no_bound(network: nn.Module) -> None:
    assert of_network(network, ports(), Source()).interface.reach is None


def test_no_claim_where_a_pixel_knows_its_position() -> None:
    fixed = ports().at_size(8, 8)
    fixed = replace(fixed, outputs=(replace(fixed.output, shape=fixed.inputs[0].shape),))
    assert of_network(Everywhere(), fixed, Source()).interface.reach is None


def graph(nodes: list[Any], **weights: NDArray[Any]) -> ModelProto:
    values = [helper.make_tensor_value_info(name, 1, ["batch", 3, "height", "width"]) for name in ("x", "y")]
    kept = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], kept)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize(
    ("nodes", "multiple", "expected"),
    [
        ([helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear")], 1, 1),
        ([helper.make_node("Resize", ["x", "", "s"], ["y"], mode="cubic")], 1, None),
        (
            [helper.make_node("Resize", ["x", "", "s"], ["y"], coordinate_transformation_mode="align_corners")],
            1,
            None,
        ),
        ([helper.make_node("Pad", ["x", "p"], ["y"], mode="wrap")], 1, None),
        ([helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER")], 1, None),
        ([helper.make_node("Conv", ["x", "w"], ["y"], domain="elsewhere")], 1, None),
        ([helper.make_node("SpaceToDepth", ["x"], ["a"], blocksize=2)], 1, None),
        ([helper.make_node("SpaceToDepth", ["x"], ["a"], blocksize=2)], 2, 1),
    ],
)
def test_operators_whose_reach_depends_on_their_attributes(
    nodes: list[Any], multiple: int, expected: int | None
) -> None:
    doubled = nodes[0].op_type in ("Resize",)
    if nodes[0].op_type == "SpaceToDepth":
        nodes = [*nodes, helper.make_node("DepthToSpace", ["a"], ["y"], blocksize=2)]
    scales, pads = np.array([1, 1, 2, 2], np.float32), np.array([0, 0, 1, 1] * 2)
    model = graph(nodes, s=scales, p=pads, w=np.zeros((3, 3, 3, 3), np.float32))
    interface = ports()
    shape = ("batch", 3, "2*height", "2*width") if doubled else interface.output.shape
    interface = replace(
        interface,
        inputs=(replace(interface.inputs[0], multiple=multiple),),
        outputs=(replace(interface.output, shape=shape),),
    )
    assert find_reach(model, interface) == expected


@pytest.mark.parametrize("name", ["student that enlarges", "transposed convolutions"])
def test_tiles_equal_the_whole_picture_in_float_outputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, original = exported(name)
    port, output = original.interface.inputs[0], original.interface.output
    reach, run = original.interface.reach, eager(network)
    results: list[NDArray[Any]] = []

    def keep(tensor: NDArray[Any], *_: object) -> NDArray[Any]:
        results.append(tensor.copy())
        return tensor

    monkeypatch.setattr(tiles, "to_pixels", keep)
    picture = np.random.default_rng(0).integers(0, 256, (310, 206, 3), np.uint8)

    def compute(pixels: NDArray[Any]) -> NDArray[np.generic]:
        return run([images.from_pixels(pixels, port)])[0]

    def difference(overlap: int) -> float:
        results.clear()
        tiles.blend(picture, compute, port, output, side, overlap)
        joined = np.concatenate([part[0] for part in results]).transpose(2, 0, 1)
        return float(np.abs(joined - whole[:, : joined.shape[1], : joined.shape[2]]).max())

    assert reach is not None
    whole = compute(tiles.padded(picture, *(tiles.up(size, port.multiple) for size in (310, 206))))[0]
    side = tiles.up(2 * reach + 64, port.multiple)
    assert side < 206, "it is cut into tiles"
    assert difference(reach) < 1e-5
    assert difference(reach // 4) > 1e-3, "a smaller overlap shows, or the test sees nothing"
