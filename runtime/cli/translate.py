"""gan-run translate: pictures, folders, videos and cameras through an image-to-image generator."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import typer

from ganedge.runtime.engines import EngineOptions
from ganedge.runtime.errors import UsageError
from ganedge.runtime.pictures.translation import Options

from . import terminal
from .opening import open_generator
from .options import argument, option, values


@dataclass(frozen=True)
class Target:
    """What to write."""

    output: Path = field(metadata=option(short="-o"))
    """A file for one picture or video; otherwise a folder, which keeps the structure of the input."""
    camera: int | None = field(default=None, metadata=option(minimum=0))
    """Record this camera, 0 for the first, until Ctrl-C."""
    format: str | None = None
    """Ending of the results, such as png; that of each input by default."""
    skip_existing: bool = False
    """Skip pictures whose result exists, to continue an interrupted folder."""
    save_outputs: bool = False
    """Write the outputs that the export kept beside each result too: PHOTO.mask.png, PHOTO.latents.npy."""


def translate(
    file: Path, target: Target, options: Options, engine: EngineOptions, inputs: list[Path] | None = None
) -> None:
    """Translate pictures at their own size. Exit code 3: some failed, and were named."""
    from ganedge.runtime.pictures.video import is_video

    if bool(inputs) == (target.camera is not None):
        raise UsageError("give pictures, folders, a pattern or a video, or else --camera with its number")
    inputs = inputs or []
    if target.camera is None and not (len(inputs) == 1 and is_video(inputs[0]) and not inputs[0].is_dir()):
        _pictures(file, inputs, target, options, engine)
        return
    if target.format is not None or target.skip_existing:
        raise UsageError("--format and --skip-existing are for pictures, not for videos and cameras")
    if target.save_outputs:
        raise UsageError("--save-outputs is for pictures, not for videos and cameras: translate its frames")
    _film(file, inputs, target, options, engine)


def _film(file: Path, inputs: list[Path], target: Target, options: Options, engine: EngineOptions) -> None:
    from ganedge.runtime.pictures.video import translate_camera, translate_video

    output = target.output
    with open_generator(file, engine) as generator:
        if target.camera is not None:
            film = translate_camera(generator, target.camera, output, **values(options))
        else:
            path = output / inputs[0].name if output.is_dir() else output
            film = translate_video(generator, inputs[0], path, **values(options))
        terminal.note(f"{output}: {film.frames} frames, {film.sound}, {film.rate:.1f} frames/s with {generator.engine}")


def _pictures(file: Path, inputs: list[Path], target: Target, options: Options, engine: EngineOptions) -> None:
    from ganedge.runtime.pictures.folder import plan, translate_files

    jobs = plan(inputs, target.output, target.format)
    with open_generator(file, engine) as generator:
        settings = {"skip_existing": target.skip_existing, "save_outputs": target.save_outputs}
        done = translate_files(generator, jobs, **settings, **values(options))
        skipped = f", {done.skipped} there already" if done.skipped else ""
        failed = f", {done.failed} could not be done" if done.failed else ""
        terminal.note(
            f"{target.output}: {done.written} written{skipped}{failed}, {done.rate:.1f} pictures/s "
            f"with {generator.engine}"
        )
    if done.failed:
        if len(jobs) > 1:
            terminal.note("next: replace or remove the failed inputs, then run it again with --skip-existing")
        raise typer.Exit(3)


COMMANDS = {
    "translate": (
        translate,
        (
            argument("file", Path, "An artifact that gan-export wrote."),
            argument(
                "inputs",
                list[Path],
                "Pictures, folders, quoted patterns, or one video.",
                required=False,
                metavar="[INPUT]...",
            ),
        ),
    ),
}
