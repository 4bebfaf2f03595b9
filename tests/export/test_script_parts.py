"""Tests that a network is taken out of a script or notebook that trains, without running the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ganedge.export import import_source
from ganedge.export.modules import open_module
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import GanEdgeError, UsageError

TUTORIAL = """
from __future__ import annotations
import argparse, os
import torch, torch.nn as nn
import a_package_that_nobody_has.loggers as loggers

parser = argparse.ArgumentParser()
parser.add_argument("--latent", type=int, default=6)
opt = parser.parse_args()
opt.side = 4
os.makedirs(FOLDER)
data = loggers.read("/nowhere")
for x in data:
    print(x)

def block(width):
    x = nn.Linear(opt.latent, width)
    return [x, nn.Tanh()]

class Base(nn.Module):
    scale = 2.0

class Generator(Base):
    def __init__(self, channels=3):
        super().__init__()
        self.model = nn.Sequential(*block(channels * opt.side**2))

    def forward(self, x):
        data = self.model(x) * self.scale
        return data.view(-1, 3, opt.side, opt.side)

netG = Generator()
netG.eval()
"""
LOOP = """
for epoch in range(9):
    loss = netG(torch.randn(2, opt.latent)).mean()
    loss.backward()
    open(MARK, "w")
"""
CALL = """
class Trainer:
    def step(self):
        netG(torch.randn(2, opt.latent)).mean().backward()
    def fit(self):
        open(MARK, "w")
        self.step()
Trainer().fit()
"""


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / f"train_{abs(hash(text)) % 10**8}.py"
    path.write_text(
        text.replace("MARK", repr(str(tmp_path / "trained"))).replace("FOLDER", repr(str(tmp_path / "made")))
    )
    return path


@pytest.mark.parametrize("training", ["", LOOP, CALL, 'if __name__ == "__main__":' + LOOP.replace("\n", "\n    ")])
@pytest.mark.parametrize("name", ["Generator", "netG"])
def test_a_network_of_a_script_that_trains(name: str, training: str, tmp_path: Path) -> None:
    path = script(tmp_path, TUTORIAL + training)
    loaded = open_module(f"{path}:{name}", SourceSpec())
    assert loaded.network(torch.zeros(2, 6)).shape == (2, 3, 4, 4)
    assert loaded.network.scale == 2.0
    assert not (tmp_path / "made").exists()
    assert not (tmp_path / "trained").exists()
    why = "trains when it is imported" if training in (LOOP, CALL) else "cannot be imported as a whole (ModuleNotFound"
    assert why in loaded.notes[0]
    assert f"of it, {name} and the " in loaded.notes[0]


def test_its_weights_are_loaded(tmp_path: Path) -> None:
    path = script(tmp_path, TUTORIAL + LOOP)
    torch.save({"model.0.weight": torch.ones(48, 6), "model.0.bias": torch.zeros(48)}, tmp_path / "netG.pth")
    loaded = open_module(f"{path}:Generator", SourceSpec(weights=tmp_path / "netG.pth"))
    assert torch.equal(loaded.network.model[0].weight, torch.ones(48, 6))


def test_what_is_set_under_the_main_guard_is_known(tmp_path: Path) -> None:
    guarded = 'import torch.nn as nn\nif __name__ == "__main__":\n    size = 5\n    train()\n'
    path = script(tmp_path, guarded + "class G(nn.Linear):\n    width = size\n")
    assert import_source.lookup(f"{path}:G").value.width == 5


def test_a_network_of_a_notebook(tmp_path: Path) -> None:
    cells = [
        ["!pip install something\n", "import torch.nn as nn\n"],
        ["size = 5\n"],
        ["%matplotlib inline\n", "not python at all\n"],
        ["class Generator(nn.Linear):\n", "    def __init__(self):\n", "        super().__init__(size, 2)\n"],
        ["for data in loader:\n", "    loss.backward()\n"],
    ]
    notebook = {"cells": [{"cell_type": "code", "source": cell} for cell in cells]}
    (tmp_path / "gan.ipynb").write_text(json.dumps(notebook))
    loaded = open_module(f"{tmp_path}/gan.ipynb:Generator", SourceSpec())
    assert loaded.network.in_features == 5
    assert "gan.ipynb is a notebook: of it, Generator and the 2 statements that it needs ran" in loaded.notes[0]


def test_what_the_part_needs_and_lacks_is_the_error(tmp_path: Path) -> None:
    path = script(
        tmp_path, "import torch.nn as nn\nsize = open('/nowhere/at/all').read()\nclass G(nn.Linear): s = size\n"
    )
    with pytest.raises(GanEdgeError, match=r"cannot be made: FileNotFoundError.*at train_\d+.py:2"):
        import_source.lookup(f"{path}:G")
    other = script(tmp_path, "class Net:\n    def forward(self): pass\nloss.backward()\n")
    with pytest.raises(UsageError, match=r"has no Generator \(it defines Net\)"):
        import_source.lookup(f"{other}:Generator")
