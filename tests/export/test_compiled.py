"""TorchScript archives and programs of torch.export, and networks that take one item or ask for a GPU."""

from __future__ import annotations

import doctest
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import cpp_extension

from ganedge.export import compiled, import_source, modules, on_cpu
from ganedge.export.checkpoints import LoadedModule, load_weights
from ganedge.export.open_source import open_source
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import ArtifactError, GanEdgeError


class Drawing(nn.Module):
    """A small generator with a batch size in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.up = nn.Linear(6, 64), nn.ConvTranspose2d(4, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Draw."""
        images: Tensor = torch.tanh(self.up(self.fc(z).view(z.size(0), 4, 4, 4)))
        return images


def compiled_file(tmp_path: Path, form: str) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    network = Drawing().eval()
    path = tmp_path / ("g.pt2" if form.startswith("export") else "g.pt")
    example = torch.randn(2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if form == "traced":
            torch.jit.trace(network, example).save(str(path))  # type: ignore[no-untyped-call]
        elif form == "scripted":
            torch.jit.script(network).save(str(path))
        else:
            batch = {0: torch.export.Dim("batch")} if form == "exported" else None
            example = example if batch else example[:1]
            torch.export.save(torch.export.export(network, (example,), dynamic_shapes=(batch,)), path)
    return network, path


@pytest.mark.parametrize("form", ["traced", "scripted", "exported", "exported for one"])
def test_a_compiled_generator_is_exported(form: str, tmp_path: Path) -> None:
    network, path = compiled_file(tmp_path, form)
    with pytest.raises(ArtifactError, match=r"is a (TorchScript archive|program of torch.export).*add --trust"):
        open_source(str(path), SourceSpec())
    model = open_source(str(path), SourceSpec(trust=True))
    assert model.interface.inputs[0].shape == (1 if form == "exported for one" else "batch", 6)
    z = torch.randn(3, 6)
    assert model.reference is not None
    assert np.abs(model.reference([z.numpy()]) - network(z).detach().numpy()).max() < 1e-6


def test_weights_are_taken_from_a_compiled_generator(tmp_path: Path) -> None:
    network, path = compiled_file(tmp_path, "traced")
    empty = Drawing()
    load_weights(empty, path, trust=True)
    assert torch.equal(empty.fc.weight, network.get_parameter("fc.weight"))


def test_a_script_that_the_exporter_does_not_follow_is_one_line(tmp_path: Path) -> None:
    class Unusual(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.freeze(torch.jit.script(Unusual().eval())).save(str(tmp_path / "g.pt"))
    with pytest.raises(GanEdgeError, match=r"cannot be exported to ONNX.*give its source, FILE.py:NAME"):
        open_source(str(tmp_path / "g.pt"), SourceSpec(trust=True, input="3x8x8", kind="image"))


class OnGpu(nn.Module):
    """A generator written for a GPU and one item."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(6, 3, 4).cuda()
        self.scale = torch.full((1,), 2.0, device="cuda")

    def forward(self, z: Tensor) -> Tensor:
        """Draw one image on a GPU."""
        moved = z.to("cuda").view(1, 6, 1, 1)
        images: Tensor = self.up(moved) * self.scale + torch.ones(1, device=torch.device("cuda:0"))
        return images


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, on which such code runs")
def test_code_that_asks_for_a_gpu_runs_on_the_cpu(tmp_path: Path) -> None:
    with on_cpu.on_cpu():
        network = OnGpu()
    model = modules.finish(LoadedModule(network, SourceSpec(input="6", kind="latent"), "nets.py:G", ""))
    assert any("asks for a GPU" in note for note in model.notes)
    assert any("one input at a time" in note for note in model.notes)
    assert model.interface.inputs[0].shape == (1, 6)
    z = torch.randn(2, 6)
    expected = network.up(z.view(2, 6, 1, 1)) * 2 + 1
    assert model.reference is not None
    assert np.abs(model.reference([z.numpy()]) - expected.detach().numpy()).max() < 1e-6
    (tmp_path / "gpu_nets.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Linear(2, 3).cuda()\n"
        "def late():\n    torch.cuda.synchronize()\n"
    )
    made: Any = import_source.construct(f"{tmp_path}/gpu_nets.py:make", None)
    assert made.weight.device.type == "cpu"
    with pytest.raises(GanEdgeError, match="this machine has no GPU"):
        import_source.construct(f"{tmp_path}/gpu_nets.py:late", None)


def test_operators_that_cannot_be_compiled_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise IndexError("list index out of range")

    fails.__code__ = fails.__code__.replace(co_filename="torch/utils/cpp_extension.py")
    monkeypatch.setattr(cpp_extension, "load", fails)
    (tmp_path / "own_op.py").write_text(
        "from torch.utils.cpp_extension import load\nfused = load('fused', sources=['fused.cu'])\n"
        "def act(x):\n    return fused.act(x) if x.is_cuda else x.relu()\n"
    )
    (tmp_path / "style_nets.py").write_text(
        "from torch import nn\nfrom own_op import act, fused\nclass Net(nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(2, 3)\n"
        "    def forward(self, x):\n        return act(super().forward(x))\n"
        "def late():\n    fused.act(1)\n"
    )
    loaded = modules.open_module(f"{tmp_path}/style_nets.py:Net", SourceSpec())
    assert loaded.network(torch.ones(1, 2)).shape == (1, 3)
    assert loaded.notes == (import_source.NO_OPERATORS,)
    with pytest.raises(GanEdgeError, match="act is a compiled operator, which could not be built on this machine"):
        import_source.construct(f"{tmp_path}/style_nets.py:late", None)
    assert cpp_extension.load is fails


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, on which such code runs")
def test_weights_that_code_loads_from_a_gpu_are_put_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "on_gpu.pth")
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "on_gpu.pth")
    for options in ("", ", 'cuda'", ", map_location='cuda:0', weights_only=True"):
        code = f"state = torch.load('{tmp_path}/on_gpu.pth'{options})\n"
        code = f"import torch\nnet = torch.nn.Linear(2, 3)\n{code}net.load_state_dict(state)\n"
        path = tmp_path / f"loads_{len(options)}.py"
        path.write_text(code)
        assert import_source.construct(f"{path}:net", None).in_features == 2
    with on_cpu.on_cpu(), ThreadPoolExecutor(1) as other, pytest.raises(RuntimeError, match="CUDA"):
        other.submit(torch.load, tmp_path / "on_gpu.pth").result()
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "on_gpu.pth")


@pytest.mark.parametrize("module", [compiled, on_cpu])
def test_examples_run(module: Any) -> None:
    assert doctest.testmod(module).failed == 0
