"""Files of weights: which part is taken, under which wrappers, and what an error says."""

from __future__ import annotations

import argparse
import doctest
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganedge.export import arguments, checkpoints, frozen, import_source, modules
from ganedge.export.checkpoints import load_weights
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import ArtifactError, GanEdgeError, UsageError

State = dict[str, Tensor]


def network(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: under("_orig_mod.module.", state),
        lambda state: under("module._orig_mod.module.", state),
        lambda state: {key.replace("0.", "0._orig_mod."): value for key, value in state.items()},
        lambda state: under("module.", state) | {"n_averaged": torch.tensor(3)},
        lambda state: {"state_dict": under("model.net.generator.", state) | {"model.net.d.weight": torch.zeros(2)}},
        lambda state: under("generator._orig_mod.module.", state) | {"critic.weight": torch.zeros(2)},
        lambda state: {"nets": [1, {"a": 2}], "ema": {"netG": state}},
    ],
    ids=["compiled", "thrice", "inner", "swa", "deep", "compiled-part", "nested"],
)
def test_wrappers_around_names(wrap: Callable[[State], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    full, empty = network(), network()
    torch.save(wrap(full.state_dict()), tmp_path / "ck.pth")
    load_weights(empty, tmp_path / "ck.pth")
    assert torch.equal(empty[0].weight, full[0].weight)


def test_a_network_with_a_submodule_called_module_is_filled(tmp_path: Path) -> None:
    full, empty = (nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)}) for _ in range(2))
    torch.save({f"_orig_mod.{key}": value for key, value in full.state_dict().items()}, tmp_path / "ck.pth")
    load_weights(empty, tmp_path / "ck.pth")
    assert torch.equal(empty["module"].weight, full["module"].weight)


@pytest.mark.parametrize("average", ["GE", "Gs", "g_ema", "netG_avg", "ema_model", "generator_swa"])
def test_the_average_is_taken_and_the_other_is_named(average: str, tmp_path: Path) -> None:
    trained, averaged, empty = network(), network(), network()
    state = under("G.", trained.state_dict()) | under(f"{average}.", averaged.state_dict())
    torch.save({"GAN": state}, tmp_path / "model.pt")
    match = checkpoints.load_part(empty, list(checkpoints.parts_of({"GAN": state})), tmp_path / "model.pt")
    assert torch.equal(empty[0].weight, averaged[0].weight)
    (note,) = match.notes(tmp_path / "model.pt")
    assert f"the part GAN.{average} of model.pt; not taken: GAN.G (choose with --part GAN.G)" in note
    match = checkpoints.load_part(empty, list(checkpoints.parts_of({"GAN": state})), tmp_path / "model.pt", "GAN.G")
    assert torch.equal(empty[0].weight, trained[0].weight)
    assert "not taken" not in match.notes(tmp_path / "model.pt")[0]


def test_a_list_of_averaged_parameters_is_taken_with_the_buffers_of_the_state_dict(tmp_path: Path) -> None:
    trained, empty = network(), network()
    trained[1].running_mean.fill_(3.0)
    averaged = [parameter.detach() * 0 + 7 for parameter in trained.parameters()]
    torch.save({"g": trained.state_dict(), "d": network(5).state_dict(), "g_ema": averaged}, tmp_path / "all.pth")
    load_weights(empty, tmp_path / "all.pth")
    assert float(empty[0].weight.detach().mean()) == 7.0
    assert float(empty[1].running_mean.mean()) == 3.0


def test_two_averages_have_to_be_chosen_from(tmp_path: Path) -> None:
    parts = {name: network().state_dict() for name in ("genA2B", "genA2B_ema", "genB2A", "genB2A_ema")}
    torch.save(parts, tmp_path / "both.pth")
    with pytest.raises(UsageError, match=r"2 generators that fit, genA2B_ema, genB2A_ema: .*--part"):
        load_weights(network(), tmp_path / "both.pth")


def test_what_a_file_holds_that_is_no_weights_is_named(tmp_path: Path) -> None:
    path = tmp_path / "n.pth"
    for protocol in (True, False):
        content = {"opt": argparse.Namespace(lr=1), "G": network().state_dict()}
        torch.save(content, path, _use_new_zipfile_serialization=protocol)
        with pytest.raises(ArtifactError, match=r"more than weights \(argparse.Namespace\).*--trust"):
            load_weights(network(), path)
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="is empty"):
        load_weights(network(), path)
    path.write_bytes(b"<!DOCTYPE html><html>Not found</html>")
    with pytest.raises(ArtifactError, match="is a web page"):
        load_weights(network(), path)


def test_all_shapes_that_differ_are_shown() -> None:
    with pytest.raises(ArtifactError, match=r"0.weight is \(6, 3.*; 0.bias is \(6,.*and 2 more shapes differ"):
        checkpoints.load_part(network(), [("", network(6).state_dict())], Path("w.pth"))


SCRIPT = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
    def forward(self, x):
        return self.conv(x)
class Two(Net):
    def __init__(self, width=4, depth=2, name="x"):
        super().__init__(width)
        self.body = nn.Sequential(*[nn.Conv2d(width, width, 3) for _ in range(depth)])
if __name__ == "__main__":
    torch.save(Net(3), "whole.pth")
"""


def test_a_module_pickled_in_a_script(tmp_path: Path) -> None:
    script = tmp_path / "training_script.py"
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, script.name], cwd=tmp_path, check=True)
    whole = tmp_path / "whole.pth"
    with pytest.raises(ArtifactError, match=r"__main__.Net, .*training_script.py:Net --weights .*whole.pth --trust"):
        modules.open_pickle(whole, SourceSpec(trust=True))
    loaded = modules.open_module(f"{script}:Net", SourceSpec(weights=whole, trust=True))
    assert loaded.network.conv.out_channels == 3, "it is opened with its own arguments"


def test_a_pickle_of_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_networks.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(str(tmp_path))
    import their_networks  # type: ignore[import-not-found]

    (tmp_path / "elsewhere").mkdir()
    torch.save(their_networks.Net(3), tmp_path / "elsewhere" / "whole.pth")
    monkeypatch.delitem(sys.modules, "their_networks")
    (tmp_path / "their_networks.py").unlink()
    with pytest.raises(ArtifactError, match=r"No module named 'their_networks'.*repository that saved it"):
        checkpoints.read_checkpoint(tmp_path / "elsewhere" / "whole.pth", trust=True)


def test_constructor_arguments_that_weights_imply(tmp_path: Path) -> None:
    (tmp_path / "sized_nets.py").write_text(SCRIPT)
    two = import_source.construct(f"{tmp_path}/sized_nets.py:Two", {"width": 8, "depth": 5})
    torch.save({"netG": two.state_dict()}, tmp_path / "w.pth")
    spec = SourceSpec(weights=tmp_path / "w.pth")
    loaded = modules.open_module(f"{tmp_path}/sized_nets.py:Two", spec)
    assert len(loaded.network.body) == 5
    assert """made with --kwargs '{"width": 8, "depth": 5}', as its weights imply""" in loaded.notes
    with pytest.raises(
        ArtifactError, match=r"conv.weight is .*; they fit with --kwargs '{\"width\": 8, \"depth\": 5}'"
    ):
        modules.open_module(f"{tmp_path}/sized_nets.py:Two", replace(spec, kwargs={"width": 4}))
    torch.save({"conv.weight": two.conv.weight, "conv.bias": two.conv.bias}, tmp_path / "w.pth")
    assert modules.open_module(f"{tmp_path}/sized_nets.py:Net", spec).network.conv.out_channels == 8


SHAPED = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, input_shape, num_blocks, unused):
        super().__init__()
        self.factors = torch.ones(3)
        first = nn.Conv2d(input_shape[0], 8, 3, padding=1)
        blocks = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(num_blocks)]
        self.model = nn.Sequential(first, *blocks, nn.Conv2d(8, 3, 1))
    def forward(self, x):
        return self.model(x)
class Placed(Net):
    def __init__(self, img_shape):
        super().__init__(img_shape, 5, 0)
        self.side = img_shape[1]
"""


def test_image_shapes_and_numbers_of_blocks_are_found(tmp_path: Path) -> None:
    (tmp_path / "shaped_nets.py").write_text(SHAPED)
    layers = [nn.Conv2d(1, 8, 3), *(nn.Conv2d(8, 8, 3) for _ in range(5)), nn.Conv2d(8, 3, 1)]
    torch.save(
        {f"model.{key}": value for key, value in nn.Sequential(*layers).state_dict().items()}, tmp_path / "w.pth"
    )
    loaded = modules.open_module(f"{tmp_path}/shaped_nets.py:Net", SourceSpec(weights=tmp_path / "w.pth"))
    assert loaded.arguments["input_shape"][0] == 1
    assert loaded.arguments["num_blocks"] == 5
    with pytest.raises(GanEdgeError, match=r'"img_shape": \[1, 256, 256\]}\', where they do not tell img_shape'):
        modules.open_module(f"{tmp_path}/shaped_nets.py:Placed", SourceSpec(weights=tmp_path / "w.pth"))


ARGUED = """
from torch import nn
class Net(nn.Module):
    def __init__(self, ngpu, width, heads, bias=True, name="x"):
        super().__init__()
        self.heads = heads
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=bias)
    def forward(self, x):
        return self.conv(x) * self.heads
"""


def test_arguments_that_weights_do_not_tell_are_asked_for_or_taken_from_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "argued_nets.py").write_text(ARGUED)
    state = {"conv.weight": torch.ones(8, 3, 3, 3)}
    spec = SourceSpec(weights=tmp_path / "w.pth")
    torch.save(state, tmp_path / "w.pth")
    shown = r"'{\"ngpu\": 1, \"width\": 8, \"heads\": 1, \"bias\": false}'"
    with pytest.raises(GanEdgeError, match=rf"the weights fit with --kwargs {shown}, where they do not tell heads"):
        modules.open_module(f"{tmp_path}/argued_nets.py:Net", spec)
    torch.save({"state_dict": state, "hyper_parameters": {"heads": 4, "lr": 0.1}}, tmp_path / "w.pth")
    network = modules.open_module(f"{tmp_path}/argued_nets.py:Net", spec).network
    assert (network.heads, network.conv.bias) == (4, None)


def test_a_file_in_a_repository_imports_from_its_root(tmp_path: Path) -> None:
    package = tmp_path / "basicnets_for_test" / "archs"
    package.mkdir(parents=True)
    (tmp_path / "tools_for_test.py").write_text("WIDTH = 5\n")
    (package.parent / "shared.py").write_text("from tools_for_test import WIDTH\n")
    (package / "arch.py").write_text(
        "from torch import nn\nfrom basicnets_for_test.shared import WIDTH\n"
        "def make():\n    return nn.Conv2d(3, WIDTH, 3)\n"
    )
    assert import_source.construct(f"{package}/arch.py:make", None).out_channels == 5


def test_a_file_named_as_its_package_imports_from_it(tmp_path: Path) -> None:
    package = tmp_path / "samename_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "width.py").write_text("WIDTH = 7\n")
    (package / "samename_for_test.py").write_text(
        "from torch import nn\nfrom samename_for_test.width import WIDTH\n"
        "def make():\n    return nn.Conv2d(3, WIDTH, 3)\n"
    )
    assert import_source.construct(f"{package}/samename_for_test.py:make", None).out_channels == 7


def test_a_name_that_is_missing_lists_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "listed_nets.py").write_text(SCRIPT)
    with pytest.raises(UsageError, match=r"has no Generator \(it defines Net, Two\)"):
        import_source.construct(f"{tmp_path}/listed_nets.py:Generator", None)


@pytest.mark.parametrize(
    ("layers", "kind", "input_shape", "output"),
    [
        ([nn.ConvTranspose2d(6, 3, 4), nn.Tanh()], "latent", ("batch", 6, 1, 1), ("batch", 3, 4, 4)),
        ([nn.Linear(6, 784)], "latent", ("batch", 6), ("batch", 1, 28, 28)),
        ([nn.Linear(6, 2)], "latent", ("batch", 6), ("batch", 2)),
        ([nn.Conv2d(3, 3, 3, padding=1)], "image", ("batch", 3, "height", "width"), ("batch", 3, "height", "width")),
    ],
)
def test_the_input_is_read_from_the_first_layer(
    layers: list[nn.Module], kind: str, input_shape: tuple[Any, ...], output: tuple[Any, ...]
) -> None:
    model = modules.finish(checkpoints.LoadedModule(nn.Sequential(*layers), SourceSpec(), "nets.py:G", ""))
    assert model.interface.inputs[0].role == kind
    assert model.interface.inputs[0].shape == input_shape
    assert model.interface.output.shape == output
    assert any("read from its first layer" in note for note in model.notes)


def finished(net: nn.Module, **settings: Any) -> Any:
    return modules.finish(checkpoints.LoadedModule(net, SourceSpec(**settings), "nets.py:G", ""))


@pytest.mark.parametrize("shape", ["3x4x4", "1x8x24", "3xHxW"])
def test_an_output_shape_that_is_wrong_is_refused(shape: str) -> None:
    net = nn.Sequential(nn.ConvTranspose2d(6, 3, 8))
    with pytest.raises(UsageError, match=f"--output-shape {shape}: "):
        finished(net, input="6x1x1", kind="latent", output_shape=shape)


def test_images_are_normalised_by_mean_and_deviation() -> None:
    net = nn.Conv2d(3, 3, 1)
    model = finished(net, input="3x8x8", kind="image", mean="0.5,0.4,0.3", std="0.2,0.3,0.4", range="0,1")
    assert model.interface.inputs[0].range == (0.0, 1.0)
    image = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    expected = net((image - mean) / std).detach().numpy()
    assert abs(model.reference([image.numpy()]) - expected).max() < 1e-6
    model = finished(net, input="3x8x8", kind="image", range="0,255", output_range="-1,1")
    assert (model.interface.inputs[0].range, model.interface.output.range) == ((0.0, 255.0), (-1.0, 1.0))
    with pytest.raises(UsageError, match=r"--std 0\.0"):
        SourceSpec(std="0")
    with pytest.raises(UsageError, match="--mean a,b"):
        SourceSpec(mean="a,b")
    with pytest.raises(UsageError, match="one value for each"):
        SourceSpec(mean="1,2", std="1,2,3")


class Merging(nn.Module):
    """Two convolutions merged into one at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 3, 1), nn.Parameter(torch.full((3, 1, 1, 1), 2.0))
        self.merged = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Merge, then compute."""
        self.merged.weight.data = self.conv.weight.data * self.scale.data
        self.merged.bias.data = self.conv.bias.data
        return self.merged(x)


class Counting(nn.Module):
    """A weight that never settles."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Count, then compute."""
        self.calls = self.calls + 1
        return x * self.calls


def test_a_network_that_merges_its_convolutions_is_frozen() -> None:
    net = Merging().eval()
    x = torch.randn(2, 3, 8, 8)
    model = finished(net, input="3x8x8", kind="image")
    assert "changes its own weights when it runs (merged.weight" in model.notes[-1]
    expected = torch.nn.functional.conv2d(x, net.conv.weight * 2, net.conv.bias).detach().numpy()
    assert abs(model.reference([x.numpy()]) - expected).max() < 1e-6


def test_a_network_whose_weights_never_settle_is_refused() -> None:
    with pytest.raises(GanEdgeError, match=r"changes its own weights at each call \(calls\)"):
        finished(Counting(), input="3x8x8", kind="image")


def test_waiting_for_weights_to_settle_is_bounded_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "SECONDS", 0.0)
    net = Counting()
    with pytest.raises(GanEdgeError, match=r"still changes by 20.0% after 4 calls"):
        frozen.freeze(net, [torch.zeros(1, 3)])
    assert float(net.calls) < 10


class Rotating(nn.Module):
    """A power iteration between two singular values that are nearly equal: its vectors turn for thousands of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1, bias=False)
        self.first.weight.data = torch.diag(torch.tensor([1.0, 0.9999, 0.5]))[..., None, None]
        self.register_buffer("u", torch.tensor([0.3, 0.8, 0.5]))

    def forward(self, x: Tensor) -> Tensor:
        """Continue the iteration, then compute."""
        matrix = self.first.weight.reshape(3, 3)
        self.u = torch.nn.functional.normalize(matrix @ self.u, dim=0)
        return torch.nn.functional.conv2d(x, self.first.weight / (self.u @ matrix @ self.u))


def test_vectors_that_still_turn_do_not_matter_where_the_result_is_steady() -> None:
    model = finished(Rotating().eval(), input="3x8x8", kind="image")
    assert "changes the result by 0.00%" in " ".join(model.notes)


@pytest.mark.parametrize("module", [checkpoints, arguments, frozen, modules])
def test_examples_run(module: Any) -> None:
    assert doctest.testmod(module).failed == 0
