"""What a network takes, inferred: several inputs and results, one size only, lists, None, and named latents."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganedge.export import modules
from ganedge.export.checkpoints import LoadedModule
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import GanEdgeError, UsageError


def finished(net: nn.Module, arguments: dict[str, Any] | None = None, **settings: Any) -> Any:
    return modules.finish(LoadedModule(net, SourceSpec(**settings), "nets.py:G", "", arguments=arguments or {}))


class Pair(nn.Module):
    """Returns an image and a score, of images of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.score = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3 * 32 * 32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute."""
        y = self.conv(x)
        return y, self.score(y.flatten(1))


def test_an_image_of_one_size_and_several_results() -> None:
    model = finished(Pair())
    assert model.interface.inputs[0].shape == ("batch", 3, 32, 32)
    assert any("0 is taken" in note for note in model.notes)


class Classed(nn.Module):
    """A latent beside an embedding: its first linear layer takes both."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(4, 3), nn.Linear(5 + 3, 16 * 16)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Compute."""
        flat: Tensor = self.fc(torch.cat((noise, self.embed(labels)), 1))
        return flat.view(-1, 1, 16, 16)


def test_a_latent_is_named_by_the_constructor() -> None:
    model = finished(Classed(), {"latent_dim": 5})
    assert model.interface.inputs[0].shape == ("batch", 5)
    assert len(model.interface.classes) == 4


class Styled(nn.Module):
    """Takes a list of latents, as StyleGAN2 does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 16 * 16)

    def forward(self, styles: list[Tensor]) -> Tensor:
        """Compute."""
        flat: Tensor = self.fc(torch.stack(list(styles)).mean(0)) if isinstance(styles, list) else styles.fail
        return flat.view(-1, 1, 16, 16)


def test_a_list_of_latents() -> None:
    model = finished(Styled())
    assert model.interface.inputs[0].shape == ("batch", 6)
    assert any("takes a list" in note for note in model.notes)


class Unused(Styled):
    """Has a class that changes nothing."""

    def forward(self, z: Tensor, c: Tensor) -> Tensor:  # type: ignore[override]
        """Compute."""
        flat: Tensor = self.fc(z)
        return flat.view(-1, 1, 16, 16)


def test_a_class_without_effect_is_left_out() -> None:
    model = finished(Unused(), input="6", kind="latent")
    assert len(model.interface.inputs) == 1
    assert any("c has no effect: None is passed" in note for note in model.notes)


class Changing(nn.Module):
    """Changes its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        return x.mul_(2).add_(1)


def test_a_network_that_changes_its_input_leaves_ours_alone() -> None:
    model = finished(Changing(), input="3x8x8", kind="image")
    x = torch.rand(1, 3, 8, 8).numpy()
    before = x.copy()
    assert (model.reference([x]) == before * 2 + 1).all()
    assert (x == before).all()


class Dropping(nn.Module):
    """Drops values in evaluation mode too."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        return nn.functional.dropout(x, 0.5)


def test_dropout_in_evaluation_mode_is_named() -> None:
    with pytest.raises(GanEdgeError, match=r"calls dropout in evaluation mode too.*training=self.training"):
        finished(Dropping(), input="3x8x8", kind="image")


def test_why_nothing_was_inferred_is_told() -> None:
    class Broken(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no such thing")

    with pytest.raises(UsageError, match=r"is not known.*\(tried image 3xHxW: ValueError: no such thing\)"):
        finished(Broken(3, 3, 3))


class Deep(nn.Module):
    """Takes images of 64 pixels and more, at any multiple of 64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute."""
        if x.shape[-1] % 64:
            raise ValueError("a multiple of 64 pixels")
        return self.conv(x)


def test_a_dynamic_size_is_tried_at_several_sizes() -> None:
    spec, reason = modules.infer_input(Deep().eval(), SourceSpec(size="dynamic"), {})
    assert (spec.kind, spec.input, reason) == ("image", "3xHxW", "")


class LateFirst(nn.Module):
    """Registers a head before the layers that an image goes through first, as U-GAT-IT does."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the features by the head."""
        features = self.conv(x)
        return (features * self.head.weight[:, :, None, None]).sum(1, keepdim=True)


def test_the_first_convolution_of_an_image_counts_wherever_it_is_registered() -> None:
    spec, reason = modules.infer_input(LateFirst().eval(), SourceSpec(), {})
    assert (spec.kind, spec.input, reason) == ("image", "3xHxW", "")


class Unconditional(nn.Module):
    """Made for classes, trained without: its second input is required and ignored; it keeps its latent's length."""

    def __init__(self) -> None:
        super().__init__()
        self.z_dim, self.weight = 6, nn.Parameter(torch.randn(6, 3 * 8 * 8))

    def forward(self, z: Tensor, c: Tensor, truncation_psi: float = 1) -> Tensor:
        """Compute."""
        return (z @ self.weight * truncation_psi).reshape(-1, 3, 8, 8)


@pytest.mark.parametrize("constants", [None, {"c": None, "truncation_psi": 0.5}])
def test_classes_that_are_ignored_are_none(constants: dict[str, Any] | None) -> None:
    model = finished(Unconditional(), forward_kwargs=constants)
    assert [port.shape for port in model.interface.inputs] == [("batch", 6)]
    assert any("c has no effect" in note for note in model.notes) == (constants is None)
