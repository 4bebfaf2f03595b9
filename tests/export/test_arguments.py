"""Constructor and forward arguments: found from weights, and given where weights do not tell them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganedge.export import modules
from ganedge.export.arguments import fitting_arguments
from ganedge.export.checkpoints import LoadedModule
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import GanEdgeError, UsageError


class Translator(nn.Module):
    """Takes its normalisation as a class, as the ResNet generators of image translation do."""

    def __init__(self, input_nc: int, output_nc: int, ngf: int = 64, blocks: int = 9, norm_layer: Any = nn.BatchNorm2d):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ngf, 3, padding=1), norm_layer(ngf)]
        for _ in range(blocks):
            layers += [nn.Conv2d(ngf, ngf, 3, padding=1), norm_layer(ngf), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Conv2d(ngf, output_nc, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        result: Tensor = self.model(x)
        return result


@pytest.mark.parametrize(
    ("layer", "text"),
    [(nn.InstanceNorm2d, "nn.InstanceNorm2d"), (nn.BatchNorm2d, None), (nn.GroupNorm, None)],
)
def test_the_class_of_a_normalisation_is_found(layer: Any, text: str | None) -> None:
    if layer is nn.GroupNorm:  # Weights with the names of InstanceNorm with an affine map.
        layer, text = lambda size: nn.InstanceNorm2d(size, affine=True), "nn.InstanceNorm2d(affine=True)"
    fit = fitting_arguments(Translator, {}, Translator(3, 1, 8, 3, layer).state_dict())
    assert fit is not None
    stated = {"input_nc": 3, "output_nc": 1, "ngf": 8, "blocks": 3}
    assert {name: value for name, value in fit.arguments.items() if name != "norm_layer"} == stated
    assert fit.arguments.get("norm_layer") == text


def loads_others(norm_layer: Any, width: int = 64, pretrained: bool = True) -> nn.Module:
    """Make a network as repositories do whose constructor reads a backbone's weights from a file."""
    if pretrained:
        raise FileNotFoundError("backbone.pth")
    return Translator(3, 3, width, 2, norm_layer)


def test_weights_that_would_be_replaced_are_not_loaded() -> None:
    state = Translator(3, 3, 8, 2, lambda size: nn.InstanceNorm2d(size, track_running_stats=True)).state_dict()
    fit = fitting_arguments(loads_others, {}, state)
    assert fit is not None
    layer = "nn.InstanceNorm2d(track_running_stats=True)"
    assert fit.arguments == {"pretrained": False, "norm_layer": layer, "width": 8}


class Batched(nn.Module):
    """Takes a size that it does not use, and has a part called `module`, as copies of an old spectral norm do."""

    def __init__(self, batch_size: int, z_dim: int = 100) -> None:
        super().__init__()
        self.first = nn.Sequential()
        self.first.module = nn.Linear(z_dim, 16)

    def forward(self, z: Tensor) -> Tensor:
        """Compute."""
        result: Tensor = self.first.module(z)  # type: ignore[operator]
        return result.reshape(-1, 1, 4, 4)


def test_a_part_called_module_is_no_wrapper() -> None:
    fit = fitting_arguments(Batched, {}, Batched(1, 12).state_dict())
    assert fit is not None
    assert (fit.arguments["z_dim"], fit.undetermined) == (12, ())
    assert fitting_arguments(Batched, {}, nn.DataParallel(Batched(1, 12)).state_dict()) == fit


TABLE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, h, norm=nn.BatchNorm2d):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(h.channels, h["sizes"][0], 1), norm(h.inner.width), nn.Conv2d(8, 3, 1))

    def forward(self, x):
        return self.model(x)
"""


def test_tables_and_classes_are_arguments(tmp_path: Path) -> None:
    (tmp_path / "table_nets.py").write_text(TABLE)
    kwargs: dict[str, Any] = {"h": {"channels": 3, "sizes": [8], "inner": {"width": 8}}, "norm": "nn.InstanceNorm2d"}
    source = f"{tmp_path / 'table_nets.py'}:Net"
    loaded = modules.open_module(source, SourceSpec(kwargs=kwargs))
    assert isinstance(loaded.network.model[1], nn.InstanceNorm2d)
    with pytest.raises(UsageError, match=r"torch\.nn has no class InstanceNrom2d"):
        modules.open_module(source, SourceSpec(kwargs={**kwargs, "norm": "torch.nn.InstanceNrom2d"}))
    with pytest.raises(UsageError, match="give settings by name"):
        modules.open_module(source, SourceSpec(kwargs={**kwargs, "norm": "nn.InstanceNorm2d(print())"}))
    with pytest.raises(GanEdgeError, match="the settings have no inner"):
        modules.open_module(source, SourceSpec(kwargs={"h": {"channels": 3, "sizes": [8]}}))


class Progressive(nn.Module):
    """Generates at the size of a step, from a latent beside an embedded class."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first = nn.Embedding(10, 4), nn.Conv2d(16, 3, 1)

    def forward(self, z: Tensor, label: Tensor, step: int = 0, alpha: float = -1.0) -> Tensor:
        """Compute."""
        small = self.first(torch.cat([z, self.embed(label)], 1)[..., None, None])
        result: Tensor = nn.functional.interpolate(small, scale_factor=2.0 ** (2 + step)) * alpha
        return result


def finished(**settings: Any) -> Any:
    return modules.finish(LoadedModule(Progressive(), SourceSpec(**settings), "nets.py:G", ""))


def test_arguments_of_forward_are_kept_constant() -> None:
    plain = finished()
    assert plain.interface.output.shape == ("batch", 3, 4, 4)
    assert plain.interface.inputs[0].shape == ("batch", 12)
    assert "forward's step=0 and alpha=-1.0 stay what they are by default" in " ".join(plain.notes)

    fourth = finished(forward_kwargs='{"step": 3, "alpha": 1}')
    assert fourth.interface.output.shape == ("batch", 3, 32, 32)
    assert not any("by default" in note for note in fourth.notes)
    with pytest.raises(UsageError, match="forward takes z, label, step, alpha, and no depth"):
        finished(forward_kwargs={"depth": 3})


def test_a_map_of_classes_is_refused_by_its_channels() -> None:
    with pytest.raises(UsageError, match="an image has 1 to 8 channels; maps of more"):
        modules.finish(LoadedModule(nn.Conv2d(36, 3, 1), SourceSpec(), "nets.py:G", ""))
