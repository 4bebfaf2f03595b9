"""Training through torch.compile: the same training up to rounding, and one line where there is no compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganedge.models import find
from ganedge.runtime.errors import EngineError
from ganedge.train import checkpoint, compiling, run_folder
from ganedge.train.loop import train
from ganedge.train.settings import Settings

TINY: dict[str, Any] = {"size": 16, "width": 4, "latent": 6, "batch": 8}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "circles": ("circles", {}),
    "mlp": ("mlp", {"size": 8, "batch": 16}),
    "digit": ("digit", {"batch": 4}),
    "dcgan": ("dcgan", TINY),
    "dcgan, without an average": ("dcgan", {**TINY, "ema": 0.0}),
    "dcgan, of classes": ("dcgan", {**TINY, "conditional": True}),
    "dcgan, whose gradient is differentiated": ("dcgan", {**TINY, "r1": 1.0, "spectral_norm": True}),
    "dcgan, in pairs": ("dcgan", {**TINY, "objective": "rpgan"}),
    "dcgan, in pairs with penalties": ("dcgan", {**TINY, "objective": "rpgan", "r1": 1.0, "r2": 1.0}),
    "wgan": ("wgan", {"size": 16, "width": 4, "batch": 8, "d_steps": 2}),
    "wgan, with a penalty": ("wgan", {"size": 16, "width": 4, "batch": 8, "d_steps": 2, "objective": "wgan-gp"}),
    "pix2pix": ("pix2pix", {"size": 32, "width": 4, "dropout": 0.0}),
    "cyclegan": ("cyclegan", {"size": 32, "width": 4, "blocks": 1}),
    "stargan": ("stargan", {"size": 16, "width": 4, "blocks": 1, "batch": 4, "d_steps": 2}),
    "augmented-cyclegan": ("augmented-cyclegan", {"size": 16, "width": 4, "blocks": 0, "batch": 2, "latent_a": 0}),
    "cyclegan, conv": ("cyclegan", {"nets": "conv", "size": 32, "width": 4, "blocks": 1}),
}


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that computes the captured graphs as they are: what a faster one makes of them is PyTorch's matter."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def _data(kind: str, folder: Path) -> str:
    """A place to find data of a kind."""
    if kind in ("images", "points"):
        return "digits" if kind == "images" else "circles"
    random = np.random.default_rng(0)
    for place in ("pairs", "sets/trainA", "sets/trainB"):
        (folder / place).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(random.integers(0, 256, (40, 80, 3), np.uint8)).save(folder / place / f"{index}.png")
    return str(folder / ("pairs" if kind == "pairs" else "sets"))


def _weights(run: Path) -> dict[str, torch.Tensor]:
    """All weights of all networks that learn."""
    found = checkpoint.load_latest(run)
    assert found is not None
    return {
        f"{name}.{key}": tensor
        for name, state in found[1]["networks"].items()
        for key, tensor in state.items()
        if tensor.is_floating_point() and not name.startswith("replay")
    }


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_same_training(tmp_path: Path, case: str) -> None:
    name, config = CASES[case]
    variant = find(name)
    spec = _data(variant.wants(variant.config_class(**config)).kind, tmp_path)

    def weights(out: str, steps: int, **given: Any) -> dict[str, torch.Tensor]:
        settings = Settings(data=spec, out=tmp_path / out, device="cpu", precision="fp32", steps=steps, **given)
        return _weights(train(variant, config, settings))

    first, plain, compiled = weights("first", 1), weights("plain", 4), weights("compiled", 4, compile=True)
    assert list(compiled) == list(plain)
    moved, alike = (torch.cat([(one[key] - first[key]).flatten() for key in first]) for one in (plain, compiled))
    assert moved.norm() > 0
    # Steps of Adam and RMSprop are as long for a gradient that is all rounding, so that some weights part.
    assert float((moved - alike).norm() / moved.norm()) < 0.05


@pytest.mark.usefixtures("uncompiled")
def test_resuming_is_bit_for_bit(tmp_path: Path) -> None:
    def settings(out: str, steps: int, **given: Any) -> Settings:
        return Settings(data="digits", out=tmp_path / out, device="cpu", steps=steps, **given)

    variant = find("dcgan")
    whole = _weights(train(variant, TINY, settings("whole", 5, compile=True)))
    parts = train(variant, TINY, settings("parts", 2, compile=True))
    assert run_folder.read(parts).settings["compile"] is True
    train(variant, {}, settings("parts", 5, resume=True))
    assert run_folder.read(parts).settings["compile"] is True
    torch.testing.assert_close(_weights(parts), whole, rtol=0, atol=0)


def test_a_run_from_before_the_setting_goes_on(tmp_path: Path) -> None:
    variant = find("circles")
    settings = Settings(data="circles", out=tmp_path / "run", device="cpu", steps=2)
    run = train(variant, {}, settings)
    file = run / run_folder.CONFIG
    text = file.read_text().replace('"compile": false,', "")
    assert "compile" not in text
    file.write_text(text)
    train(variant, {}, Settings(data="circles", out=run, device="cpu", steps=3, resume=True))
    assert checkpoint.steps(run)[-1] == 3


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(compiling, "BACKEND", fail)
    settings = Settings(data="circles", out=tmp_path / "run", device="cpu", steps=2, compile=True)
    with pytest.raises(EngineError, match=r"cannot compile this here \(.*no C\+\+ compiler found.*without --compile"):
        train(find("circles"), {}, settings)
