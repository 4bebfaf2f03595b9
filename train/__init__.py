"""How a GAN is trained: data, loop, run folders, previews. Knows no variant by name.

from ganedge.train import train
run = train("dcgan", data="digits", out="runs/digits", steps=2000)
print(run.path, run.last_metrics)
"""

from __future__ import annotations

import difflib
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganedge.train.run_report import RunReport
    from ganedge.train.trained_run import TrainedRun

__all__ = ["report", "train"]


def train(variant: str, **options: Any) -> TrainedRun:
    """Train a GAN into a run folder.

        run = train("circles", out="runs/circles", steps=20)
        run = train("circles", out="runs/circles", steps=40, resume=True)

    Args:
        variant: One of those that `gan-train --list` names.
        options: Fields of `Settings` and of the variant's config, named as the long options of gan-train; `data` may
            be left out where there is one data set only. With `config`, settings that are left out are that run's.

    Returns:
        The run: its `path` and metrics; it can be handed to `ganedge.export.export`.

    Raises:
        UsageError: an unknown variant or option, or a value, data set or run folder that cannot be used.
        EngineError: a device that this machine does not have.
        GanEdgeError: a loss that is not finite, a generator that collapsed, or a disk that is full.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    from ganedge.models import find
    from ganedge.runtime.errors import UsageError
    from ganedge.train import loop
    from ganedge.train.builtin import CIRCLES
    from ganedge.train.settings import Settings
    from ganedge.train.trained_run import TrainedRun

    # Sort the options into the trainer's and the variant's.
    network = find(variant)
    own = {item.name for item in fields(Settings)}
    known = own | {item.name for item in fields(network.config_class)}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"did you mean {near[0]}?" if near else f"gan-train {variant} --help lists all"
            raise UsageError(f"{variant} has no option {name}: {hint}")
    settings = {name: _converted(name, value) for name, value in options.items() if name in own}
    config = {name: value for name, value in options.items() if name not in own}
    if "out" not in settings:
        raise UsageError("no out: give the run folder to write")

    # Train, with the only data set there is where none is named.
    if not ({"data", "config"} & settings.keys()) and network.wants(network.config_class()).kind == "points":
        settings["data"] = CIRCLES
    made = Settings.repeat(**settings) if settings.get("config") is not None else Settings(**settings)
    return TrainedRun(loop.train(network, config, made, settings))


def report(run: str | os.PathLike[str], **options: Any) -> RunReport:
    """Write one self-contained HTML page about a run: curves, samples, FID, precision, recall, neighbours, settings.

        made = report("runs/digits", judged=500)
        print(made.path, made.figures)

    Args:
        run: The run folder.
        options: Fields of `run_report.ReportSpec`, named as the long options of `gan-train report`.

    Returns:
        The report: its `path` and what was measured, `figures`.

    Raises:
        ArtifactError: not a run, or one without weights.
        UsageError: an unknown option or value, data that are not there, or a page that cannot be written there.
        MissingExtra: matplotlib, jinja2 or torchmetrics is not installed.
    """
    from ganedge.runtime.errors import UsageError
    from ganedge.train.run_report import ReportSpec
    from ganedge.train.run_report import report as write

    unknown = sorted(options.keys() - {item.name for item in fields(ReportSpec)})
    if unknown:
        raise UsageError(f"report has no option {unknown[0]}: gan-train report --help lists all")
    return write(Path(run), ReportSpec(**{name: _converted(name, value) for name, value in options.items()}))


def _converted(name: str, value: Any) -> Any:
    """Paths given as text, and data given as a path, as `Settings` holds them."""
    if name in ("out", "config", "init") and isinstance(value, str):
        return Path(value)
    return str(value) if name == "data" and isinstance(value, Path) else value
