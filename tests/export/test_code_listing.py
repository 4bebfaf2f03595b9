"""Python files and notebooks without :NAME, names that are misspelt, and code that does more than define networks."""

from __future__ import annotations

import doctest
import json
import sys
from pathlib import Path

import pytest

from ganedge.export import code_listing, import_source
from ganedge.export.code_listing import networks_in
from ganedge.export.open_source import open_source
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import GanEdgeError, UsageError

NETS = """
import torch
from torch import nn
class Discriminator(nn.Module):
    def forward(self, x):
        return x
class Base(nn.Module):
    def forward(self, z):
        return self.net(z)
class ListedGenerator(Base):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 12)
class Options:
    pass
def define_G(width):
    return 1
def pair():
    return ListedGenerator()
def train_model():
    pass
def load_image(path):
    return 1
"""


def test_a_file_of_code_lists_its_networks(tmp_path: Path) -> None:
    path = tmp_path / "listed.py"
    path.write_text(NETS)
    assert networks_in(path) == ["ListedGenerator", "Base", "Discriminator", "define_G", "pair"]
    with pytest.raises(UsageError, match=r"listed.py:ListedGenerator; it defines ListedGenerator, Base"):
        open_source(str(path), SourceSpec(), {"kind"})
    with pytest.raises(UsageError, match=r"no class with forward"):
        (tmp_path / "none.py").write_text("x = 1\n")
        open_source(str(tmp_path / "none.py"), SourceSpec())


def test_a_notebook_lists_its_networks(tmp_path: Path) -> None:
    code = [
        "!pip install x\n",
        "%matplotlib inline\n",
        "class Gen(Module):\n",
        "    def forward(self, x):\n",
        "        x",
    ]
    cells = [{"cell_type": "markdown", "source": ["class Not:"]}, {"cell_type": "code", "source": code}]
    (tmp_path / "nb.ipynb").write_text(json.dumps({"cells": cells}))
    with pytest.raises(UsageError, match=r"is a notebook: name what to export, .*nb.ipynb:Gen; it defines Gen"):
        open_source(str(tmp_path / "nb.ipynb"), SourceSpec())
    with pytest.raises(UsageError, match=r"nb.ipynb has no Generator \(it defines Gen\)"):
        open_source(f"{tmp_path}/nb.ipynb:Generator", SourceSpec())


def test_a_misspelt_name_suggests_the_near_one(tmp_path: Path) -> None:
    (tmp_path / "listed.py").write_text(NETS)
    with pytest.raises(UsageError, match=r"has no Listedgenerator \(.*\): did you mean .*listed.py:ListedGenerator\?"):
        import_source.construct(f"{tmp_path}/listed.py:Listedgenerator", None)


MAKE = "def make():\n    import torch\n    return torch.nn.Linear(N, 2)\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import argparse\np = argparse.ArgumentParser()\np.add_argument('--n', required=True)\nN = p.parse_args().n\n",
         r"arguments are required: --n, line 4.* put that under if __name__"),
        ("N = input('size? ')\n", r"reads arguments or the keyboard.*EOFError, line 1"),
        ("from module_that_nobody_has.deep import N\n",
         r"needs the Python module module_that_nobody_has, imported at odd.py:1, which is not here: install the"),
        ("class G(:\n", r"SyntaxError: invalid syntax \(odd.py, line 1\)"),
    ],
)  # fmt: skip
def test_code_that_cannot_be_imported(code: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(code + MAKE)
    with pytest.raises(GanEdgeError, match=message):
        import_source.construct(f"{tmp_path}/odd.py:make", None)


def test_a_parser_with_defaults_does_not_see_our_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parsed.py").write_text(
        "import argparse\nfrom torch import nn\np = argparse.ArgumentParser()\n"
        "p.add_argument('--n', type=int, default=5)\nopt = p.parse_args()\n"
        "def make():\n    return nn.Linear(opt.n, 2)\n"
    )
    monkeypatch.setattr(sys, "argv", ["gan-export", "parsed.py:make", "--kind", "latent"])
    assert import_source.construct(f"{tmp_path}/parsed.py:make", None).in_features == 5
    assert sys.argv[-1] == "latent"


def test_a_module_that_is_not_here() -> None:
    with pytest.raises(GanEdgeError, match=r"no module nowhere_at_all here: run this in the folder that holds it"):
        import_source.construct("nowhere_at_all.nets:G", None)


def test_examples_run() -> None:
    assert doctest.testmod(code_listing).failed == 0
