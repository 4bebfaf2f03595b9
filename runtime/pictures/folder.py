"""Files, folders and patterns of pictures through a generator, into files again.

    done = translate_files(generator, plan([Path("photos")], Path("paintings")), skip_existing=True)

Decoding, computing and encoding overlap. A picture that cannot be done is named and counted, and the others go on.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.cli.progress import Progress
from ganedge.runtime.errors import GanEdgeError, InputError, UsageError
from ganedge.runtime.files import whole_file

from . import images
from .pipeline import ordered
from .reader import ENDINGS, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ganedge.runtime.generator import Generator
    from ganedge.runtime.manifest import Port


@dataclass(frozen=True)
class Job:
    """One picture to do."""

    source: Path
    """Where it is."""
    target: Path
    """Where its result goes."""
    extras: Mapping[str, Path] = field(default_factory=dict)
    """Where the outputs beside it go, by name."""


@dataclass(frozen=True)
class Done:
    """Results of a set of jobs."""

    written: int
    """Results written."""
    skipped: int
    """Results that were there already."""
    failed: int
    """Pictures that could not be done."""
    rate: float
    """Pictures per second, those that were there already left out."""


def plan(sources: Sequence[Path], output: Path, fmt: str | None = None) -> list[Job]:
    """Say which file becomes which.

    Args:
        sources: Files, folders (with all below them, but no hidden files), or patterns such as `photos/**/*.jpg`.
        output: For one file: a file, or a folder that exists. Otherwise a folder, in which the structure below each
            source is kept.
        fmt: The ending of all results, such as "png"; None keeps each picture's own where it can be written, and
            takes png where it cannot.

    Raises:
        UsageError: a format that cannot be written, two results with one name, a result over its own source.
        InputError: no such file, or nothing in it.
    """
    if fmt is not None:
        images.check_format(Path(f"x.{fmt.lstrip('.')}"))
    if len(sources) == 1 and sources[0].is_file() and not output.is_dir() and output.suffix:
        images.check_format(output)
        jobs = [Job(sources[0], output)]
    else:
        pairs = [pair for source in sources for pair in _expand(source, output)]
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is a file: give a folder for the results")
        jobs = [Job(path, _target(output / relative, fmt)) for path, relative in pairs]
    _check(jobs)
    return jobs


def translate_files(
    generator: Generator,
    jobs: Sequence[Job],
    *,
    skip_existing: bool = False,
    save_outputs: bool = False,
    **options: Any,
) -> Done:
    """Do all jobs, with a progress bar, and say which could not be done.

    Args:
        generator: What to take the pictures through.
        jobs: From `plan`.
        skip_existing: Leave jobs alone whose result is there: a folder that was interrupted goes on.
        save_outputs: Write the outputs beside the result too, as `beside` names their files.
        **options: As `Generator.translate` takes them.

    Raises:
        UsageError: `save_outputs` where the artifact has no further outputs, or two files of one name.
    """
    extras = extras_of(generator) if save_outputs else ()
    if extras:
        jobs = [replace(job, extras=beside(job.target, extras)) for job in jobs]
        _check([*jobs, *(Job(job.source, path) for job in jobs for path in job.extras.values())])
    todo = [job for job in jobs if not (skip_existing and job.target.exists())]
    many = generator.translate_many_outputs if extras else generator.translate_many
    results = many((job.source for job in todo), errors="yield", depth="source", **options)
    failed = 0
    with Progress(len(todo)) as progress:
        for job, error in ordered(zip(todo, results, strict=True), _write):
            if error is not None:
                failed += 1
                progress.say(str(error) if str(job.source) in str(error) else f"{job.source}: {error}")
            progress.step()
        return Done(len(todo) - failed, len(jobs) - len(todo), failed, progress.rate)


def _write(item: tuple[Job, Any]) -> tuple[Job, GanEdgeError | None]:
    """Encode one result; give the job and what went wrong."""
    job, result = item
    if isinstance(result, GanEdgeError):
        return job, result
    try:
        if isinstance(result, dict):  # The result is written last, when all others are there.
            result, *values = result.values()
            for path, value in zip(job.extras.values(), values, strict=True):
                save_output(value, path)
        images.save(result, job.target)
    except GanEdgeError as error:
        return job, error
    return job, None


def extras_of(generator: Generator) -> tuple[Port, ...]:
    """The outputs beside the result. Raises UsageError where there are none."""
    extras = generator.manifest.interface.extras
    if not extras:
        raise UsageError("--save-outputs: this artifact has its result alone; export it again with --keep-outputs")
    return extras


def beside(target: Path, extras: Sequence[Port]) -> dict[str, Path]:
    """The files of the outputs beside a result: `photo.mask.png` of pictures and masks, `photo.w.npy` of others."""
    files = {}
    for port in extras:
        shown = port.is_picture and port.channels in (1, 3, 4)
        ending = ".npy" if not shown else ".png" if port.role == "mask" else target.suffix
        name = re.sub(r"[^\w.-]", "_", port.name)
        files[port.name] = target.with_name(f"{target.stem}.{name}{ending}")
    return files


def save_output(values: Any, path: Path) -> None:
    """Write an output beside the result: pixels as a picture, other values as a NumPy array."""
    if path.suffix != ".npy":
        images.save(values, path)
        return
    with whole_file(path) as part, part.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)


def _expand(source: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    """The pictures that a source stands for, each with its path relative to the output folder."""
    if source.is_file():
        yield source, Path(source.name)
        return
    if source.is_dir():
        inside = [path for path in listed(source) if not _within(path, output) or _within(source, output)]
        if not inside:
            raise InputError(f"{source}: no picture in this folder ({', '.join(sorted(ENDINGS))})")
        yield from ((path, path.relative_to(source)) for path in inside)
        return
    matches = sorted(Path(path) for path in glob.glob(str(source), recursive=True))  # noqa: PTH207 - may be absolute
    files = [path for path in matches if path.is_file()]
    if not files:
        pattern = any(sign in str(source) for sign in "*?[")
        raise InputError(f"{source}: {'nothing matches this pattern' if pattern else 'no such file or folder'}")
    root = Path(os.path.commonpath([path.parent for path in files]))
    yield from ((path, path.relative_to(root)) for path in files)


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _target(path: Path, fmt: str | None) -> Path:
    if fmt is not None:
        return path.with_suffix(f".{fmt.lstrip('.')}")
    return path if path.suffix.lower() in images.FORMATS else path.with_suffix(".png")


def _check(jobs: Sequence[Job]) -> None:
    """Refuse what would write one file twice, or over a picture that is still to be read."""
    targets: dict[Path, Path] = {}
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        target = job.target.resolve()
        if target in targets:
            raise UsageError(
                f"{targets[target]} and {job.source} would both become {job.target}: give one format a folder, "
                "or translate them apart"
            )
        if target in sources:
            raise UsageError(f"{job.target} would overwrite a picture that is read: give another output")
        targets[target] = job.source
