"""What a person sees while training: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

LINE_SECONDS = 10.0
"""Time between two lines where there is no terminal, seconds."""


class TrainingProgress:
    """Shows step, losses, throughput and time left.

    Args:
        done: Steps done before.
        total: Steps to do in all.
    """

    def __init__(self, done: int, total: int) -> None:
        self._total = total
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._next_line = 0.0
        if sys.stderr.isatty():
            columns = (
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(None),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True), expand=True)
            self._task = self._bar.add_task("starting", total=total, completed=done)

    def report(self, step: int, losses: Mapping[str, float], rate: float, seconds_left: float) -> None:
        """Show where training is.

        Args:
            step: Steps done.
            losses: By name.
            rate: Items per second.
            seconds_left: Until the end, by the present rate.
        """
        shown = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
        minutes, seconds = divmod(round(seconds_left), 60)
        text = f"{shown}  {rate:.0f} images/s  {minutes}:{seconds:02d} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        elif time.monotonic() >= self._next_line or step == self._total:
            self._next_line = time.monotonic() + LINE_SECONDS
            print(f"step {step}/{self._total}  {text}", file=sys.stderr, flush=True)

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
