"""The config of a new run, and which settings a resumed run takes over or must not change."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from ganedge.models import Variant
from ganedge.models.variant import VariantConfig, check_given, usual
from ganedge.runtime.cli.terminal import note
from ganedge.runtime.errors import UsageError
from ganedge.train import run_folder
from ganedge.train.settings import Settings
from ganedge.train.trainer import Trainer

FIXED = (
    *("data", "seed", "classes", "attributes", "fraction", "fit"),
    *("precision", "weight_gradients", "memory_format", "compile"),
)
"""Settings that a resumed run must not change: with another value it would be another training."""
KEPT = (
    "seed",
    "classes",
    "attributes",
    "fraction",
    "fit",
    "precision",
    "weight_gradients",
    "memory_format",
    "compile",
    "steps",
    "preset",
    "init",
    "features",
    "judged",
    "tensorboard",
)
"""Settings that a resumed run takes over where they are left at their defaults."""


def fresh_config(variant: type[Variant], options: Mapping[str, Any], settings: Settings) -> VariantConfig:
    """The config of a new run: defaults, then `--config`, then `--preset`, then the options."""
    config = variant.config_class(**{**_from_file(variant, settings), **_preset(variant, settings.preset), **options})
    check_given(config, options)
    return config


def _preset(variant: type[Variant], name: str | None) -> Mapping[str, Any]:
    if name is None:
        return {}
    if name not in variant.presets:
        known = ", ".join(variant.presets) or "none, so leave it out"
        raise UsageError(f"preset is {name}: {variant.name} has {known}")
    return variant.presets[name]


def _from_file(variant: type[Variant], settings: Settings) -> Mapping[str, Any]:
    """The config values of the run that `--config` names; what its data filled in stays with its data."""
    if settings.config is None:
        return {}
    run = run_folder.read_config(settings.config)
    if run.variant.name != variant.name:
        raise UsageError(
            f"config {settings.config} is of a {run.variant.name}, not of a {variant.name}: repeat it as that"
        )
    same_data = is_same_data(run, settings)
    same = {"channels": same_data, "class_names": same_data and settings.classes == run.settings.get("classes", "")}
    filled = {item.name for item in fields(run.config) if item.default is None and not same.get(item.name, True)}
    return {name: value for name, value in asdict(run.config).items() if name not in filled}


def read_run(variant: type[Variant], options: Mapping[str, Any], settings: Settings) -> run_folder.Run | None:
    """The run to go on with, after checking that nothing given differs from it; None where it never began."""
    if not (settings.out / run_folder.CONFIG).exists():
        return None
    run = run_folder.read(settings.out)
    if run.variant.name != variant.name:
        raise UsageError(f"{settings.out} holds a {run.variant.name}, not a {variant.name}: resume it as that")
    requested = {**_from_file(variant, settings), **_preset(variant, settings.preset)} if settings.config else {}
    requested = {
        name: value for name, value in {**requested, **options}.items() if value is not None
    }  # None: as the data has.
    for name, value in requested.items():
        before = getattr(run.config, name)
        if before != value:
            raise UsageError(
                f"{name.replace('_', '-')} is {value}{'' if name in options else f' in {settings.config}'}, but "
                f"{settings.out} was trained with {'none' if before == '' else before}: "
                f"leave {'it' if name in options else '--config'} out to go on with the run, or give another --out"
            )
    return run


def take_over(settings: Settings, run: run_folder.Run, explicit: Collection[str]) -> Settings:
    """The settings to resume with: what was not given stays as the run was begun."""
    defaults = usual(Settings, KEPT)
    known = _settings_of(run)
    before = {
        name: known[name]
        for name in KEPT
        if name in known
        and (getattr(settings, name) == "auto" or (name not in explicit and getattr(settings, name) == defaults[name]))
    }
    if isinstance(before.get("init"), str):
        before["init"] = Path(before["init"])
    return replace(settings, **before)


def _settings_of(run: run_folder.Run) -> Mapping[str, Any]:
    """A run's settings, with what runs did before there was a choice."""
    im2col = run.settings.get("device") == "cpu" and not run.settings.get("compile", False)
    gradients = "im2col" if im2col else "library"
    return {"weight_gradients": gradients, "memory_format": "channels-last", **run.settings}


def check_settings(run: run_folder.Run, settings: Settings) -> None:
    """Refuse to go on with another data set, seed or arithmetic: it would be another training."""
    values, known = settings.to_json(), _settings_of(run)
    fixed = FIXED if settings.preset is None else (*FIXED, "preset")
    defaults = usual(Settings, fixed)
    for name in fixed:
        moved = name == "data" and is_same_data(run, settings)
        before = known.get(name, defaults[name])  # A run from before the setting was there.
        if values[name] != before and not moved:
            raise UsageError(
                f"{name} is {values[name]}, but {run.folder} was trained with {before}: "
                f"{'give the same' if name == 'data' else 'leave it out'} to resume"
            )
    init = run.settings.get("init")
    if settings.init is not None and (init is None or Path(str(init)).resolve() != settings.init.resolve()):
        raise UsageError(
            f"init is {settings.init}, but {run.folder} was begun from {init or 'random weights'}: "
            "leave it out to go on with the run, or give another --out"
        )


def check_processes(run: run_folder.Run, trainer: Trainer) -> None:
    """Refuse to go on with batches shared out otherwise, where BatchNorm would see that; else say what it changes."""
    before, now = run.settings.get("processes", run.settings.get("devices", 1)), trainer.fabric.world_size
    on_cpu = [device == "cpu" for device in (run.settings.get("device"), trainer.fabric.device.type)]
    shares = [count if cpu else 1 for count, cpu in zip((before, now), on_cpu, strict=True)]
    normalises = any(
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        for network in trainer.gan.networks.values()
        for module in network.modules()
    )
    if normalises and shares[0] != shares[1]:
        raise UsageError(
            f"devices is {now}, but {run.folder} was trained on {before}, and on CPUs BatchNorm sees each one's share "
            f"of the batch alone: give --devices {before} to resume"
        )
    if before != now and trainer.fabric.is_global_zero:
        note(f"{run.folder} was trained on {before} devices: on {now} it goes on the same up to rounding")


def check_items(run: run_folder.Run, count: int, memory: float) -> None:
    """Refuse to go on with a data set that has grown or shrunk; broken files count where they are read as needed."""
    before, held = run.data.get("items"), run.settings.get("memory", memory)
    if count != before:
        same = "the same data" if held == memory else f"the same data and with --memory {held}, as it was begun"
        raise UsageError(f"the data holds {count} items, but {run.folder} was trained on {before}: resume with {same}")


def is_same_data(run: run_folder.Run, settings: Settings) -> bool:
    """Whether the settings name the run's data, perhaps as another path to the same place."""
    path = data_path(settings.data)
    return settings.data == run.settings.get("data") or (path is not None and path == run.data.get("path"))


def data_path(spec: str) -> str | None:
    """The absolute path of data that is a folder or file; None for a built-in set."""
    return str(Path(spec).resolve()) if Path(spec).exists() else None
