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
FP32, COLUMNS, BF16 = (
    Way(precision, gradients, "channels-last")  # type: ignore[arg-type]
    for precision, gradients in (("fp32", "library"), ("fp32", "im2col"), ("bf16", "library"))
)
CONTIGUOUS = [way._replace(memory_format="contiguous") for way in (FP32, COLUMNS, BF16)]
PROCESSORS = {
    name: dict(zip((FP32, COLUMNS, BF16, *CONTIGUOUS), seconds, strict=True))
    for name, seconds in {
        "no bf16": (0.2, 0.1, 3.0, 0.21, 0.12, 2.0),
        "AVX512-BF16": (0.2, 0.23, 0.1, 0.2, 0.23, 0.13),
        "AMX": (0.2, 0.15, 0.05, 0.2, 0.15, 0.06),
        "AVX2": (0.3, 0.4, 3.0, 0.2, 0.22, 3.0),
        "all alike": (0.1, 0.098, 0.101, 0.098, 0.099, 0.1),
    }.items()
}
"""Seconds that a turn takes there."""
FASTEST = {"no bf16": COLUMNS, "AVX512-BF16": BF16, "AMX": BF16, "AVX2": CONTIGUOUS[0], "all alike": FP32}


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


def _way(settings: Settings) -> Way:
    return Way(settings.precision, settings.weight_gradients, settings.memory_format)


@pytest.mark.parametrize("processor", PROCESSORS, indirect=True)
def test_the_fastest_way_of_each_processor_is_taken(
    processor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settled = _settle(_settings(tmp_path, 10_000))
    assert _way(settled) == FASTEST[processor]
    assert f"computing in {FASTEST[processor]}: measured here, images/s: " in capsys.readouterr().err


@pytest.mark.parametrize("processor", ["no bf16"], indirect=True)
def test_a_hopeless_way_is_tried_twice_and_measuring_stays_below_its_share(
    processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Way] = []
    pretend = arithmetic.Probe._time
    monkeypatch.setattr(arithmetic.Probe, "_time", lambda probe, way: (turns.append(way), pretend(probe, way))[1])
    for steps in (1200, 1300, 5000):
        turns.clear()
        (arithmetic.cache_file()).unlink(missing_ok=True)
        _settle(_settings(tmp_path, steps))
        assert (turns.count(BF16), turns.count(BF16._replace(memory_format="contiguous"))) == (1, 0), processor
        assert 4 * 4 + 1 <= len(turns) <= steps * arithmetic.SHARE


@pytest.mark.parametrize(("plain", "longest"), [(0.5, 60), (5.0, 130), (14.0, 330)])
def test_measuring_ends_in_time(plain: float, longest: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a turn takes what is said: bf16 takes fifteen times as long, and one turn may be too many."""
    now = [0.0]

    def pretend(_probe: arithmetic.Probe, way: Way) -> float:
        taken = plain * (15 if way.precision == "bf16" else 1)
        now[0] += taken
        return taken

    monkeypatch.setattr(arithmetic.Probe, "_time", pretend)
    monkeypatch.setattr(arithmetic.time, "perf_counter", lambda: now[0])
    _settle(_settings(tmp_path, 100_000))
    assert now[0] <= longest


def test_measuring_leaves_the_scale_of_losses_alone(
    processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(tmp_path, 10_000)
    config = Config(**TINY)  # type: ignore[arg-type]
    fabric, state = devices.make_fabric(settings), {"scale": 8.0}
    monkeypatch.setattr(fabric._precision, "state_dict", lambda: state)
    monkeypatch.setattr(fabric._precision, "load_state_dict", state.update)
    real = arithmetic.Probe._time
    monkeypatch.setattr(arithmetic.Probe, "_time", lambda *given: (state.update(scale=4.0), real(*given))[1])
    items = data.open_data("digits", DCGAN.wants(config), settings.opening)
    arithmetic.settle(fabric, DCGAN, config, settings, items)
    assert state == {"scale": 8.0}, processor


def test_of_long_turns_one_is_enough(
    processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns: list[Way] = []
    pretend = arithmetic.Probe._time

    def longer(probe: arithmetic.Probe, way: Way) -> float:
        turns.append(way)
        return 50 * pretend(probe, way)

    monkeypatch.setattr(arithmetic.Probe, "_time", longer)
    assert _way(_settle(_settings(tmp_path, 600))) == BF16, processor
    assert len(turns) == 2 * 6
    arithmetic.cache_file().unlink()
    turns.clear()
    assert _way(_settle(_settings(tmp_path, 599))) == FP32
    assert "no time to measure 5 more in 2 %" in capsys.readouterr().err and not turns


def test_a_short_training_takes_fp32_and_says_so(
    processor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _way(_settle(_settings(tmp_path, 1199))) == FP32, processor
    said = capsys.readouterr().err
    assert f"computing in {FP32}: no time to measure 5 more in 2 % of this training; --precision, --weight-" in said
    assert _way(_settle(_settings(tmp_path, 10_000, max_minutes=0.1))) == FP32  # Turns of a fifth of a second.
    assert not arithmetic.cache_file().exists()


def test_it_is_remembered_for_trainings_alike(
    processor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _settle(_settings(tmp_path, 10_000))
    assert list(json.loads(arithmetic.cache_file().read_text()).values()) == [[*BF16]], processor
    for name in PROCESSORS["AMX"]:
        monkeypatch.setitem(PROCESSORS["AMX"], name, 0.1)
    assert _settle(_settings(tmp_path, 20)).precision == "bf16"
    assert "computing in bf16, channels-last, the fastest here when it was measured" in capsys.readouterr().err
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
    contiguous = CONTIGUOUS[0]
    assert _way(_settle(_settings(tmp_path, 10_000, **contiguous._asdict()))) == contiguous, processor
    fixed = {"memory_format": "channels-last"}
    assert _settle(_settings(tmp_path, 10_000, precision="bf16", **fixed)).weight_gradients == "library"
    assert _settle(_settings(tmp_path, 10_000, weight_gradients="im2col", **fixed)).precision == "fp32"
    assert _way(_settle(_settings(tmp_path, 10_000, compile=True))) == FP32
    monkeypatch.setattr(Config, "trains_in_bf16", False)
    monkeypatch.setattr(arithmetic.im2col, "CHANNELS", 1000)
    assert _settle(_settings(tmp_path, 10_000, **fixed)).precision == "fp32"


def test_networks_without_feature_maps_have_one_layout(tmp_path: Path) -> None:
    mlp = find("mlp")
    config = mlp.config_class(size=8, channels=1)  # type: ignore[call-arg]
    settings = _settings(tmp_path, 10_000, precision="fp32")
    assert arithmetic._ways(mlp, config, settings, torch.device("cpu")) == [FP32]


def test_measuring_changes_neither_weights_nor_random_numbers(processor: str, tmp_path: Path) -> None:
    measured, fixed = tmp_path / "measured", tmp_path / "fixed"
    few = {"checkpoint_every": 3, "max_minutes": None}
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    settled = _settle(_settings(measured, 10_000))
    assert torch.equal(torch.rand(3), drawn), processor
    asked = _settings(fixed, 3, precision="bf16", memory_format="channels-last")
    for out, settings in ((measured, replace(settled, steps=3)), (fixed, asked)):
        train(DCGAN, TINY, replace(settings, **few))
        assert run_folder.read(out).settings["precision"] == "bf16"
    states = [checkpoint.load(out, 3)["networks"] for out in (measured, fixed)]
    for name, state in states[0].items():
        assert all(torch.equal(tensor, states[1][name][key]) for key, tensor in state.items())


def test_the_choice_is_written_and_resumed(
    processor: str, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "SHARE", 12.0)
    line = ("gan-train", "dcgan", "--data", "digits", "--fraction", 0.05, "--device", "cpu")
    line += tuple(part for name, value in TINY.items() for part in (f"--{name}", value))
    done = command(*line, "--out", tmp_path / "run", "--steps", 2)
    assert (done.code, "computing in bf16, channels-last: measured here" in done.err) == (0, True), done.err + processor
    whole = command(*line, "--out", tmp_path / "whole", "--steps", 4)
    assert whole.code == 0
    monkeypatch.setattr(arithmetic, "Probe", None)
    arithmetic.cache_file().unlink()
    for given in ((), ("--precision", "auto", "--weight-gradients", "auto", "--memory-format", "auto")):
        steps = 3 if not given else 4
        assert command(*line, "--out", tmp_path / "run", "--steps", steps, "--resume", *given).code == 0
    states = [checkpoint.load(tmp_path / name, 4)["networks"]["generator"] for name in ("run", "whole")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for given, message in (
        ({"weight_gradients": "im2col"}, r"weight.gradients is im2col, but .* was trained with library"),
        ({"memory_format": "contiguous"}, r"memory.format is contiguous, but .* was trained with channels-last"),
    ):
        with pytest.raises(UsageError, match=message):
            train(DCGAN, {}, _settings(tmp_path / "run", 5, resume=True, **given), ("fraction",))


def test_a_run_from_before_there_was_a_choice_goes_on_as_it_was(tmp_path: Path) -> None:
    out = train(DCGAN, TINY, _settings(tmp_path / "run", 2, precision="fp32", weight_gradients="im2col"))
    content = json.loads((out / "config.json").read_text())
    del content["training"]["weight_gradients"], content["training"]["memory_format"]
    (out / "config.json").write_text(json.dumps(content))
    train(DCGAN, {}, _settings(out, 3, resume=True))
    settings = run_folder.read(out).settings
    assert (settings["weight_gradients"], settings["memory_format"]) == ("im2col", "channels-last")


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
