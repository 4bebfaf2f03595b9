"""What a training computes in is measured on the machine at hand, and measuring never changes the training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ganedge.models import find
from ganedge.models.dcgan import Config
from ganedge.runtime.errors import UsageError
from ganedge.train import arithmetic, checkpoint, data, devices, run_folder
from ganedge.train.arithmetic import Way
from ganedge.train.im2col import ColumnConv2d
from ganedge.train.loop import train
from ganedge.train.settings import Settings
from ganedge.train.trainer import Trainer

DCGAN = find("dcgan")
TINY = {"size": 16, "width": 4, "batch": 4, "channels": 1}
FP32, COLUMNS, BF16 = Way("fp32", "library"), Way("fp32", "im2col"), Way("bf16", "library")
PROCESSORS = {
    "no bf16": {FP32: 2.0, COLUMNS: 1.0, BF16: 30.0},
    "AVX512-BF16": {FP32: 2.0, COLUMNS: 2.3, BF16: 1.0},
    "AMX": {FP32: 2.0, COLUMNS: 1.5, BF16: 0.5},
    "all alike": {FP32: 1.0, COLUMNS: 0.98, BF16: 1.01},
}
"""Seconds that a turn takes there."""
FASTEST = {"no bf16": COLUMNS, "AVX512-BF16": BF16, "AMX": BF16, "all alike": FP32}


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, networks for which every way is open, and turns whose time is not looked at by chance."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Config, "trains_in_bf16", True)
    monkeypatch.setattr(arithmetic.im2col, "CHANNELS", 4)


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A processor on which turns take what `PROCESSORS` says; the steps are really done."""
    name: str = getattr(request, "param", "AMX")
    real = arithmetic.Probe._time

    def pretend(probe: arithmetic.Probe, way: Way) -> float:
        real(probe, way)
        return PROCESSORS[name][way]

    monkeypatch.setattr(arithmetic.Probe, "_time", pretend)
    return name


def _settings(out: Path, steps: int, **given: Any) -> Settings:
    return Settings(data="digits", out=out, steps=steps, device="cpu", fraction=0.05, **given)


def _settle(settings: Settings, config: Config | None = None) -> Settings:
    """What `auto` comes to."""
    config = config or Config(**TINY)  # type: ignore[arg-type]
    items = data.open_data("digits", DCGAN.wants(config), settings.opening)
    return arithmetic.settle(devices.make_fabric(settings), DCGAN, config, settings, items)


@pytest.mark.parametrize("processor", PROCESSORS, indirect=True)
def test_the_fastest_way_of_each_processor_is_taken(
    processor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settled = _settle(_settings(tmp_path, 10_000))
    assert (settled.precision, settled.weight_gradients) == FASTEST[processor]
    assert f"computing in {FASTEST[processor]}: measured here, images/s: " in capsys.readouterr().err


@pytest.mark.parametrize("processor", ["no bf16"], indirect=True)
def test_a_hopeless_way_is_tried_twice_and_measuring_stays_below_its_share(
    processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Way] = []
    pretend = arithmetic.Probe._time
    monkeypatch.setattr(arithmetic.Probe, "_time", lambda probe, way: (turns.append(way), pretend(probe, way))[1])
    for steps in (600, 700, 5000):
        turns.clear()
        (arithmetic.cache_file()).unlink(missing_ok=True)
        _settle(_settings(tmp_path, steps))
        assert turns.count(BF16) == 2, processor
        assert 3 * 4 - 2 <= len(turns) <= steps * arithmetic.SHARE


def test_a_short_training_takes_fp32_and_says_so(
    processor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settled = _settle(_settings(tmp_path, 599))
    assert (settled.precision, settled.weight_gradients) == FP32, processor
    assert "too short a training to measure bf16 and fp32 with im2col; --precision, --weight" in capsys.readouterr().err
    settled = _settle(_settings(tmp_path, 10_000, max_minutes=0.1))  # Turns of two seconds.
    assert settled.precision == "fp32"
    assert not arithmetic.cache_file().exists()


def test_it_is_remembered_for_trainings_alike(
    processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _settle(_settings(tmp_path, 10_000))
    assert list(json.loads(arithmetic.cache_file().read_text()).values()) == [["bf16", "library"]], processor
    for name in PROCESSORS["AMX"]:
        monkeypatch.setitem(PROCESSORS["AMX"], name, 1.0)
    assert _settle(_settings(tmp_path, 20)).precision == "bf16"
    assert "computing in bf16, the fastest here when it was measured" in capsys.readouterr().err
    others = [{"width": 8}, {"batch": 8}, {"d_steps": 2}, {"r1": 1.0}, {"r2": 1.0}, {"size": 20}]
    for other in others:
        config = Config(**{**TINY, **other})  # type: ignore[arg-type]
        assert _settle(_settings(tmp_path, 10_000), config).precision == "fp32"
    assert len(json.loads(arithmetic.cache_file().read_text())) == 1 + len(others)
    monkeypatch.setattr(arithmetic, "processor", lambda: "another")
    assert _settle(_settings(tmp_path, 10_000)).precision == "fp32"
    arithmetic.cache_file().write_text("[broken")
    assert _settle(_settings(tmp_path, 10_000)).precision == "fp32"


def test_what_is_named_is_not_measured(processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "Probe", None)
    settled = _settle(_settings(tmp_path, 10_000, precision="fp32", weight_gradients="library"))
    assert (settled.precision, settled.weight_gradients) == FP32, processor
    assert _settle(_settings(tmp_path, 10_000, precision="bf16")).weight_gradients == "library"
    assert _settle(_settings(tmp_path, 10_000, weight_gradients="im2col")).precision == "fp32"
    assert _settle(_settings(tmp_path, 10_000, compile=True)).precision == "fp32"
    monkeypatch.setattr(Config, "trains_in_bf16", False)
    monkeypatch.setattr(arithmetic.im2col, "CHANNELS", 1000)
    assert _settle(_settings(tmp_path, 10_000)).precision == "fp32"


def test_measuring_changes_neither_weights_nor_random_numbers(processor: str, tmp_path: Path) -> None:
    measured, fixed = tmp_path / "measured", tmp_path / "fixed"
    few = {"checkpoint_every": 3, "max_minutes": None}
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    settled = _settle(_settings(measured, 10_000))
    assert torch.equal(torch.rand(3), drawn), processor
    for out, settings in ((measured, replace(settled, steps=3)), (fixed, _settings(fixed, 3, precision="bf16"))):
        train(DCGAN, TINY, replace(settings, **few))
        assert run_folder.read(out).settings["precision"] == "bf16"
    states = [checkpoint.load(out, 3)["networks"] for out in (measured, fixed)]
    for name, state in states[0].items():
        assert all(torch.equal(tensor, states[1][name][key]) for key, tensor in state.items())


def test_the_choice_is_written_and_resumed(
    processor: str, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "SHARE", 10.0)
    line = ("gan-train", "dcgan", "--data", "digits", "--fraction", 0.05, "--device", "cpu")
    line += tuple(part for name, value in TINY.items() for part in (f"--{name}", value))
    done = command(*line, "--out", tmp_path / "run", "--steps", 2)
    assert (done.code, "computing in bf16: measured here" in done.err) == (0, True), done.err + processor
    whole = command(*line, "--out", tmp_path / "whole", "--steps", 4)
    assert whole.code == 0
    monkeypatch.setattr(arithmetic, "Probe", None)
    arithmetic.cache_file().unlink()
    for given in ((), ("--precision", "auto", "--weight-gradients", "auto")):
        steps = 3 if not given else 4
        assert command(*line, "--out", tmp_path / "run", "--steps", steps, "--resume", *given).code == 0
    states = [checkpoint.load(tmp_path / name, 4)["networks"]["generator"] for name in ("run", "whole")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(UsageError, match=r"weight.gradients is im2col, but .* was trained with library"):
        train(DCGAN, {}, _settings(tmp_path / "run", 5, resume=True, weight_gradients="im2col"), ("fraction",))


def test_a_run_from_before_there_was_a_choice_goes_on_as_it_was(tmp_path: Path) -> None:
    out = train(DCGAN, TINY, _settings(tmp_path / "run", 2, precision="fp32", weight_gradients="im2col"))
    content = json.loads((out / "config.json").read_text())
    del content["training"]["weight_gradients"]
    (out / "config.json").write_text(json.dumps(content))
    train(DCGAN, {}, _settings(out, 3, resume=True))
    assert run_folder.read(out).settings["weight_gradients"] == "im2col"


def test_im2col_without_effect_is_refused(tmp_path: Path) -> None:
    for given in ({"compile": True}, {"precision": "bf16"}):
        settings = _settings(tmp_path / "run", 2, weight_gradients="im2col", **given)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="weight-gradients is im2col: give it in fp32 on a CPU without --compile"):
            train(DCGAN, TINY, settings, ("weight_gradients",))


def test_ways_change_the_steps_that_follow(tmp_path: Path) -> None:
    settings = _settings(tmp_path, 10)
    config = Config(**TINY)  # type: ignore[arg-type]
    items = data.open_data("digits", DCGAN.wants(config), settings.opening)
    trainer = Trainer(devices.make_fabric(settings), DCGAN, config, settings, items)
    discriminator = trainer.gan.networks["discriminator"]
    seen: list[torch.dtype] = []
    convolution = discriminator.get_submodule("features.2")
    convolution.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    for way, kind in ((FP32, torch.nn.Conv2d), (COLUMNS, ColumnConv2d), (BF16, torch.nn.Conv2d)):
        trainer.compute(*way)
        assert type(convolution) is kind
        trainer.learn(trainer.fetch())
    assert seen == [torch.float32] * 4 + [torch.bfloat16] * 2
