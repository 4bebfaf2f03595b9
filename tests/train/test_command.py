"""gan-train as a user runs it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ganedge.models import VARIANTS, find
from ganedge.runtime.cli import options
from ganedge.train.settings import Settings

Command = Callable[..., Any]
TINY = ("--size", 16, "--width", 8, "--latent", 6, "--batch", 8, "--steps", 3, "--device", "cpu")


def test_train_from_a_folder_and_resume(command: Command, pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.png").write_text("x")
    out = tmp_path / "run"
    done = command("gan-train", "dcgan", "--data", pictures, "--out", out, *TINY)
    assert done.code == 0, done.err
    assert "broken.png" in done.err
    assert "step 3/3" in done.err
    assert (out / "generator.safetensors").exists()
    again = command("gan-train", "dcgan", "--data", pictures, "--out", out, "--steps", 5, "--resume", "--device", "cpu")
    assert again.code == 0, again.err
    assert "step 5/5" in again.err


def test_pairs_and_penalties_resume_bit_for_bit(command: Command, tmp_path: Path) -> None:
    options = ("gan-train", "dcgan", "--data", "digits", "--precision", "bf16", "--objective", "rpgan")
    penalties = ("--r1", 0.5, "--r2", 0.5, "--d-steps", 2)
    for out, steps, more in (("whole", 6, ()), ("parts", 3, ()), ("parts", 6, ("--resume",))):
        done = command(*options, *penalties, "--out", tmp_path / out, *TINY, "--steps", steps, *more)
        assert done.code == 0, done.err
    whole, parts = (safetensors.torch.load_file(tmp_path / out / "generator.safetensors") for out in ("whole", "parts"))
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    config = json.loads((tmp_path / "parts" / "config.json").read_text())["config"]
    assert (config["objective"], config["r1"], config["r2"]) == ("rpgan", 0.5, 0.5)
    last = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["accuracy_d"] <= 1


def test_list_and_help(command: Command) -> None:
    listed = command("gan-train", "--list")
    assert [line.split()[0] for line in listed.out.splitlines()] == [variant.name for variant in VARIANTS]
    for variant in VARIANTS:
        shown = command("gan-train", variant.name, "--help")
        assert shown.code == 0
        for name in options.docstrings(variant.config_class):
            assert f"--{name.replace('_', '-')}" in shown.out


def test_a_default_of_zero_is_shown() -> None:
    item = next(item for item in dataclasses.fields(find("mlp").config_class) if item.name == "dropout")
    assert item.default == 0
    shown = {parameter.name: parameter.default for parameter in options.parameters(find("mlp").config_class, "")}
    assert shown["dropout"].show_default == "0.0"
    assert shown["batchnorm"].show_default == "True"
    assert not shown["conditional"].show_default
    assert not shown["augment"].show_default


def test_every_field_has_its_line() -> None:
    for cls in (Settings, *(variant.config_class for variant in VARIANTS)):
        assert set(options.docstrings(cls)) == set(cls.__dataclass_fields__)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("dcgam", "--data", "digits"), 2, "dcgan"),
        (("dcgan", "--out", "x"), 2, "--data"),
        (("dcgan", "--data", "digts", "--out", "x"), 2, "digits, mnist"),
        (("dcgan", "--data", ".", "--out", "x"), 1, "no pictures"),
        (("dcgan", "--data", "digits", "--out", "x", "--size", "33"), 2, "size is 33: give 4, 5, 6 or 7 doubled"),
        (("dcgan", "--data", "digits", "--out", "x", "--lr", "fast"), 2, "fast"),
        (("dcgan", "--data", "digits", "--out", "x", "--steps", "0"), 2, "steps is 0"),
        (("dcgan", "--data", "digits", "--out", "note.txt"), 1, "note.txt"),
        (("dcgan", "--data", "digits", "--out", "x", "--judged", "40"), 2, "judged is 40: give --features too"),
        (
            ("dcgan", "--data", "digits", "--out", "x", "--class-names", "a,b"),
            2,
            "class-names is a,b, but has an effect with --conditional only",
        ),
        (
            ("digit", "--data", "digits", "--out", "x", "--digit", "3", "--classes", "7"),
            2,
            "classes is 7, but an option",
        ),
        (("circles", "--data", "circles", "--out", "x", "--classes", "7"), 2, "classes is 7: only single pictures"),
    ],
)
def test_mistakes_get_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("x")
    done = command("gan-train", *arguments)
    assert done.code == code, done.err
    assert said in done.err
    assert done.err.count("\n") == 1, done.err
    assert [path.name for path in tmp_path.rglob("*")] == ["note.txt"]


def test_presets_init_and_config(command: Command, tmp_path: Path) -> None:
    small = ("--size", 8, "--batch", 16, "--device", "cpu")
    one = tmp_path / "one"
    mlp = ("gan-train", "mlp", "--data", "digits")
    done = command(*mlp, "--preset", "dropout", "--dropout", 0.1, *small, "--steps", 3, "--seed", 5, "--out", one)
    assert done.code == 0, done.err
    said = json.loads((one / "config.json").read_text())
    assert (said["config"]["hidden_g"], said["config"]["dropout"]) == ("32,64,128", 0.1)
    two = tmp_path / "two"
    again = command("gan-train", "mlp", "--config", one, "--out", two)
    assert again.code == 0, again.err
    assert (two / "generator.safetensors").read_bytes() == (one / "generator.safetensors").read_bytes()
    three = tmp_path / "three"
    tuned = command(*mlp, "--config", one / "config.json", "--init", one, "--steps", 1, "--out", three)
    assert tuned.code == 0, tuned.err
    for wrong, text in (
        (("--preset", "drop", *small), "preset is drop: mlp has batchnorm, dropout"),
        (("--init", tmp_path / "none", *small), "no checkpoint and no weights"),
        (("--init", one, *small), "does not fit"),
        (("--config", tmp_path / "none"), "does not exist"),
        (("--d-steps", 0), "d-steps is 0"),
    ):
        refused = command(*mlp, "--out", tmp_path / "wrong", *wrong)
        assert refused.code in (1, 2)
        assert text in refused.err
        assert refused.err.count("\n") == 1, refused.err
        (tmp_path / "wrong" / "config.json").unlink(missing_ok=True)


def test_a_switch_can_be_turned_off(command: Command, tmp_path: Path) -> None:
    base = ("gan-train", "mlp", "--data", "digits", "--size", 8, "--steps", 1, "--device", "cpu")
    command(*base, "--no-batchnorm", "--out", tmp_path / "off")
    command(*base, "--batchnorm", "--out", tmp_path / "on")
    said = [json.loads((tmp_path / run / "config.json").read_text())["config"] for run in ("off", "on")]
    assert [config["batchnorm"] for config in said] == [False, True]


def test_what_a_preset_or_a_run_turned_on_can_be_turned_off(command: Command, tmp_path: Path) -> None:
    def conditional(run: str) -> bool:
        return bool(json.loads((tmp_path / run / "config.json").read_text())["config"]["conditional"])

    mnist = ("gan-train", "dcgan", "--data", "digits", "--preset", "mnist", *TINY)
    assert command(*mnist, "--steps", 1, "--out", tmp_path / "on").code == 0
    assert command(*mnist, "--steps", 1, "--no-conditional", "--out", tmp_path / "off").code == 0
    again = ("gan-train", "dcgan", "--config", tmp_path / "on", "--no-conditional", "--out", tmp_path / "again")
    assert command(*again).code == 0
    assert [conditional(run) for run in ("on", "off", "again")] == [True, False, False]


def test_two_devices_train_as_one(command: Command, tmp_path: Path) -> None:
    small = (
        "--size=8",
        "--batch=16",
        "--hidden-g=16",
        "--hidden-d=16",
        "--no-batchnorm",
        "--dropout=0.3",
        "--steps=6",
    )
    options = ("mlp", "--data=digits", "--device=cpu", "--precision=fp32", *small)
    done = command("gan-train", *options, f"--out={tmp_path / '1'}")
    assert done.code == 0, done.err
    run = [sys.executable, "-m", "ganedge.train", *options, "--devices=2", f"--out={tmp_path / '2'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two_at_once = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert two_at_once.returncode == 0, two_at_once.stderr
    one, two = (safetensors.torch.load_file(tmp_path / run / "generator.safetensors") for run in ("1", "2"))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)
