"""Generators of others: modules, their checkpoints in all wrappings, and checkpoints without code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ganedge.export import architectures, checkpoints, export, import_source, modules
from ganedge.export.artifact import default_path
from ganedge.export.checkpoints import load_weights
from ganedge.export.from_onnx import of_onnx, with_size
from ganedge.export.from_torch import per_picture, unwrap
from ganedge.export.source import SourceSpec
from ganedge.runtime import engines, load
from ganedge.runtime.errors import ArtifactError, GanEdgeError, UsageError
from ganedge.runtime.inputs import natural, sides
from ganedge.runtime.manifest import read_artifact
from ganedge.runtime.pictures.images import from_pixels
from ganedge.runtime.pictures.tiles import blend

Command = Callable[..., Any]
NETS = """
import torch
from torch import nn

class Generator(nn.Module):
    def __init__(self, d=4):
        super().__init__()
        self.net = nn.Sequential(
            nn.utils.spectral_norm(nn.ConvTranspose2d(6, d, 4, 1, 0)), nn.BatchNorm2d(d), nn.ReLU(True),
            nn.ConvTranspose2d(d, 3, 4, 2, 1), nn.Tanh())
    def forward(self, z):
        return self.net(z)

class Unclear(Generator):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(6, 6, 1)
        self.net = nn.Sequential(self.first, self.net)

class Noisy(Generator):
    def forward(self, z):
        return self.net(torch.bernoulli(torch.full_like(z, 0.5)) * z)

def broken():
    raise ValueError("no such thing")
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "others_nets.py"
    path.write_text(NETS)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"epoch": 3, "state_dict": {f"netG.{key}": value for key, value in state.items()}},
        lambda state: {"params": {key: value * 0 for key, value in state.items()}, "params_ema": state},
    ],
    ids=["bare", "parallel", "lightning", "average"],
)
def test_the_part_that_fits_is_found(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, empty = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save(wrap(network.state_dict()), tmp_path / "ck.pth")
    load_weights(empty, tmp_path / "ck.pth")
    assert torch.equal(network.weight, empty.weight)


def test_one_of_several_generators_is_chosen(tmp_path: Path) -> None:
    """Two directions of one architecture: the order in the file decides nothing."""
    path = tmp_path / "both.pth"
    there, back, empty = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)
    for content in (
        {"genA2B": there.state_dict(), "genB2A": back.state_dict()},
        {f"{n}.{key}": v for n, net in (("genA2B", there), ("genB2A", back)) for key, v in net.state_dict().items()},
    ):
        torch.save(content, path)
        with pytest.raises(UsageError, match=r"2 generators that fit, genA2B, genB2A: .* --part"):
            load_weights(empty, path)
        assert checkpoints.load_part(empty, list(checkpoints.parts_of(content)), path, "genB2A").name == "genB2A"
        assert torch.equal(empty.weight, back.weight)
        with pytest.raises(UsageError, match="no such part, but genA2B"):
            checkpoints.load_part(empty, list(checkpoints.parts_of(content)), path, "gen")
    torch.save({"a": there.state_dict(), "b": there.state_dict()}, path)
    load_weights(empty, path)
    assert torch.equal(empty.weight, there.weight)


def six_blocks(channels: int = 3) -> dict[str, torch.Tensor]:
    """The shapes of a generator of six residual blocks, as its repository names the weights."""
    shapes = {"1": (4, channels, 7, 7), "4": (8, 4, 3, 3), "7": (16, 8, 3, 3), "16": (16, 8, 3, 3), "19": (8, 4, 3, 3)}
    shapes |= {f"{block}.conv_block.{layer}": (16, 16, 3, 3) for block in range(10, 16) for layer in (1, 5)}
    shapes["23"] = (3, 4, 7, 7)
    state = {f"model.{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    return {**state, "model.1.bias": torch.zeros(4)}


def test_one_of_several_checkpoints_of_pictures_is_chosen(tmp_path: Path) -> None:
    """Also where the second takes other channels, so that it would not fit the first one's network."""
    states = {}
    for name, channels in (("genA2B", 3), ("genB2A", 1)):
        states[name] = architectures.build("resnet_6blocks", six_blocks(channels)).state_dict()
    torch.save({**states, "epoch": 3}, tmp_path / "both.pth")
    with pytest.raises(UsageError, match="2 generators"):
        architectures.open_checkpoint(tmp_path / "both.pth", SourceSpec(arch="resnet_6blocks"))
    opened = architectures.open_checkpoint(tmp_path / "both.pth", SourceSpec(arch="resnet_6blocks", part="genB2A"))
    assert opened.spec.input == "1xHxW"
    assert opened.notes == ("weights: the part genB2A of both.pth",)


def test_one_of_several_modules_is_chosen(tmp_path: Path) -> None:
    torch.save({"ab": nn.Linear(3, 2), "ba": nn.Linear(3, 4)}, tmp_path / "both.pth")
    with pytest.raises(UsageError, match=r"2 modules: choose one with --part ab\|ba"):
        modules.open_pickle(tmp_path / "both.pth", SourceSpec(trust=True))
    opened = modules.open_pickle(tmp_path / "both.pth", SourceSpec(trust=True, part="ba"))
    assert opened.network.out_features == 4
    with pytest.raises(UsageError, match="no such module, but ab, ba"):
        modules.open_pickle(tmp_path / "both.pth", SourceSpec(trust=True, part="abc"))
    torch.save(nn.Linear(3, 2), tmp_path / "one.pth")
    with pytest.raises(UsageError, match="is one whole module; leave it out"):
        modules.open_pickle(tmp_path / "one.pth", SourceSpec(trust=True, part="ab"))


def test_weights_of_another_kind_are_no_traceback() -> None:
    state = {"model.1.weight": torch.zeros(64), "model.1.bias": torch.zeros(64)}
    with pytest.raises(ArtifactError, match="not of resnet_9blocks"):
        architectures.build("resnet_9blocks", state)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2, 3), "bias": torch.zeros(2)}, tmp_path / "names.pth")
    with pytest.raises(ArtifactError, match="missing weight, nearest: weights"):
        load_weights(nn.Linear(3, 2), tmp_path / "names.pth")
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "shape.pth")
    with pytest.raises(ArtifactError, match=r"weight is \(2, 4\), the generator has \(2, 3\)"):
        load_weights(nn.Linear(3, 2), tmp_path / "shape.pth")


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(nn.Linear(3, 2), whole)
    with pytest.raises(ArtifactError, match="--trust"):
        load_weights(nn.Linear(3, 2), whole)
    load_weights(nn.Linear(3, 2), whole, trust=True)
    (tmp_path / "lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ArtifactError, match="Git LFS pointer"):
        load_weights(nn.Linear(3, 2), tmp_path / "lfs.pth")
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"cut off|damaged"):
        load_weights(nn.Linear(3, 2), tmp_path / "cut.pth")


def test_unwrapping_keeps_the_function() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 3, 1)),
    ).eval()
    x = torch.randn(2, 3, 8, 8)
    wanted = network(x).detach()
    plain = unwrap(nn.DataParallel(network))
    assert torch.allclose(plain(x), wanted, atol=1e-6)
    assert set(plain.state_dict()) == {f"{i}.{name}" for i in range(3) for name in ("weight", "bias")}


def test_per_picture_statistics_are_those_of_training_with_one() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    nn.init.normal_(network[1].weight)
    x = torch.randn(3, 3, 8, 8)
    wanted = torch.cat([network.train()(item[None]) for item in x])
    assert torch.allclose(per_picture(network.eval())(x), wanted, atol=1e-5)
    with pytest.raises(UsageError, match="no BatchNorm"):
        per_picture(nn.Sequential(nn.Conv2d(3, 4, 3)))


def test_a_module_as_a_user_exports_it(command: Command, nets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "g.onnx"
    done = command(
        "gan-export", f"{nets}:Generator", "--kwargs", '{"d": 8}', "--input", "6x1x1", "--kind", "latent", "-o", out
    )
    assert done.code == 0, done.err
    manifest, _ = read_artifact(out)
    assert manifest.interface.inputs[0].shape == ("batch", 6, 1, 1)
    assert manifest.interface.output.shape == ("batch", 3, 8, 8)
    assert len(manifest.parity) == sum(map(engines.installed, ("onnxruntime", "openvino")))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("Missing", (), "has no Missing"),
        ("broken", (), "no such thing at others_nets.py:"),
        ("Generator", ("--kwargs", '{"wrong": 1}'), "--kwargs"),
        ("Generator", ("--kwargs", "{"), "not JSON"),
        ("Unclear", (), "--kind"),
        ("Generator", ("--input", "7x1x1", "--kind", "latent"), "does not take 7×1×1"),
        ("Generator", ("--input", "axb", "--kind", "latent"), "give sizes"),
        ("Noisy", ("--input", "6x1x1", "--kind", "latent"), "random numbers of its own"),
        ("Generator", ("--weights", "nowhere.pth"), "nowhere.pth does not exist"),
    ],
)
def test_mistakes_get_one_line(command: Command, nets: Path, name: str, options: tuple[str, ...], said: str) -> None:
    done = command("gan-export", f"{nets}:{name}", *options, "-o", nets.parent / "g.onnx")
    assert done.code in (1, 2)
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (nets.parent / "g.onnx").exists()


def test_the_known_format_reads_its_own_weights() -> None:
    state = six_blocks()
    network = architectures.build("resnet_6blocks", state)
    keys = list(network.state_dict())
    assert keys[0] == "model.1.weight"
    assert "model.10.conv_block.5.weight" in keys
    assert keys[-1] == "model.23.bias"
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)
    old = {
        **network.state_dict(),
        "model.2.running_mean": torch.zeros(4),
        "model.2.num_batches_tracked": torch.zeros(()),
    }
    checkpoints.load_part(network, [("", old)], Path("old.pth"))
    with pytest.raises(ArtifactError, match="not of unet_256"):
        architectures.build("unet_256", state)
    with pytest.raises(UsageError, match="unknown architecture"):
        architectures.build("resnet_3blocks", state)


def test_a_checkpoint_of_pictures_with_dynamic_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = architectures.build("resnet_6blocks", six_blocks())
    torch.save(network.state_dict(), tmp_path / "6_net_G_A.pth")
    original = modules.of_source(str(tmp_path / "6_net_G_A.pth"), SourceSpec(arch="resnet_6blocks"))
    port = original.interface.inputs[0]
    assert port.shape == ("batch", 3, "height", "width")
    assert port.multiple == 4
    assert original.source.size == 128, "what that architecture is trained on, so that the proof looks at such pictures"
    assert original.norm_mode == "instance"
    kinds = [node.op_type for node in original.model.graph.node]
    assert kinds.count("InstanceNormalization") == 17
    assert "BatchNormalization" not in kinds
    assert original.reference is not None
    assert original.reference([np.zeros((2, 3, 20, 24), np.float32)]).shape == (2, 3, 20, 24)


def test_nan_weights_are_refused(nets: Path) -> None:
    network = import_source.construct(f"{nets}:Generator", None)
    for parameter in network.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(GanEdgeError, match="NaN"):
        modules.finish(
            checkpoints.LoadedModule(network, SourceSpec(input="6x1x1", kind="latent"), "nets.py:Generator", "")
        )


def test_the_line_that_cannot_be_exported_is_named(command: Command, tmp_path: Path) -> None:
    """Control flow on data, in a module inside the one that is exported: one line, not the exporter's own."""
    (tmp_path / "nets.py").write_text(
        "import torch\n"
        "class Inner(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        if x.sum() > 0:\n"
        "            x = x * 2\n"
        "        return x\n"
        "class Outer(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.first, self.inner = torch.nn.Linear(6, 48), Inner()\n"
        "    def forward(self, z):\n"
        "        return self.inner(self.first(z)).reshape(-1, 3, 4, 4)\n"
    )
    out = tmp_path / "g.onnx"
    done = command("gan-export", f"{tmp_path}/nets.py:Outer", "--input", "6", "--kind", "latent", "-o", out)
    assert done.code == 1
    assert "at nets.py:4 (Inner.forward)" in done.err
    assert done.err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("shape", "size", "wanted"),
    [("3x96x96", "dynamic", 96), ("3xHxW", "32,64,128", 64), ("3xHxW", "dynamic", None), ("3x40x48", None, 48)],
)
def test_the_size_that_was_said_is_the_one_to_prove_at(shape: str, size: str | None, wanted: int | None) -> None:
    said = SourceSpec(input=shape, kind="image", size=size)
    original = modules.finish(checkpoints.LoadedModule(nn.Conv2d(3, 3, 3, padding=1), said, "nets.py:G", ""))
    assert original.source.size == wanted
    if wanted is not None and size is not None:
        assert sides(original.interface.inputs[0], original.source.size)[0] == (wanted, wanted)


def test_artifacts_of_different_sources_and_forms_have_different_names(tmp_path: Path) -> None:
    said = SourceSpec(input="3x8x8", kind="image", part="nets.genB2A")
    opened = checkpoints.LoadedModule(nn.Conv2d(3, 3, 3, padding=1), said, "nets.py:G", "", stem="latest_net_G")
    original = modules.finish(opened)
    assert default_path(original, "fp32", "onnx") == Path("latest_net_G-nets-genB2A.onnx")
    torch.save(nn.Conv2d(3, 3, 3).state_dict(), tmp_path / "netG.pth")
    (tmp_path / "nets.py").write_text("from torch import nn\ndef make():\n    return nn.Conv2d(3, 3, 3)\n")
    assert modules.open_module(f"{tmp_path}/nets.py:make", SourceSpec()).stem == "make"
    assert modules.open_module(f"{tmp_path}/nets.py:make", SourceSpec(weights=tmp_path / "netG.pth")).stem == "netG"
    names = [default_path(original, "int8", "onnx", target).name for target in ("onnxruntime", "openvino", None)]
    assert [name.removeprefix("latest_net_G-nets-genB2A-") for name in names] == [
        "int8-onnxruntime.onnx",
        "int8-openvino.onnx",
        "int8.onnx",
    ]
    made = replace(original, stem="g-int8-ort", precision="int8")
    assert default_path(made, "int8", "engine").name == "g-int8-ort.engine"


VALID = """
import torch
from torch import nn

class Valid(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3)
    def forward(self, x):
        return torch.tanh(self.b(torch.relu(self.a(x))))
"""


def test_convolutions_without_padding_at_any_size_and_in_tiles(tmp_path: Path) -> None:
    (tmp_path / "valid.py").write_text(VALID)
    artifact = export(f"{tmp_path / 'valid.py'}:Valid", kind="image", input="3xHxW", output=tmp_path / "v.onnx")
    interface = artifact.manifest.interface
    assert interface.output.shape == ("batch", 3, "height-4", "width-4")
    with load(artifact.path) as generator:
        picture = natural(1, 150, 221, 3, 0)[0]
        whole = generator.translate(picture)
        assert whole.shape == (146, 217, 3)
        part = generator.translate(picture[30:90, 50:140])
        assert np.abs(part.astype(int) - whole[30:86, 50:136]).max() <= 1
        blended = blend(
            picture,
            lambda pixels: generator.compute(from_pixels(pixels, interface.inputs[0])),
            interface.inputs[0],
            interface.output,
            side=64,
            context=2,
        )
        assert np.abs(blended.astype(int) - whole).max() <= 1
    fixed = with_size(of_onnx(artifact.path), 64, 48)
    assert fixed.interface.output.shape == ("batch", 3, 60, 44)
