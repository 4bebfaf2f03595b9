"""Open an artifact for a command, measuring the installed engines first where nothing is known of it here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ganedge.runtime import tuning
from ganedge.runtime.generator import Generator, load
from ganedge.runtime.manifest import read_artifact

from . import terminal

if TYPE_CHECKING:
    from pathlib import Path

    from ganedge.runtime.engines import EngineOptions


def open_generator(file: Path, options: EngineOptions, batch: int | None = None) -> Generator:
    """Open an artifact in the engine that the options name. Raises as `load` does."""
    automatic = (options.engine, options.device) == ("auto", "auto")
    if options.tune and automatic and file.suffix == ".onnx":
        manifest, model = read_artifact(file)
        fastest = tuning.tune_once(model, manifest, options.threads)
        if fastest is not None:
            terminal.note(
                f"fastest engine for this file here: {fastest.choice.name}, {fastest.milliseconds:.2f} ms "
                "a call; remembered (--no-tune skips this)"
            )
    return load(file, options.engine, options.device, options.threads, batch)
