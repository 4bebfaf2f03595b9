"""How far a long job is, for the person at the terminal: a bar there, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from . import terminal

if TYPE_CHECKING:
    from types import TracebackType

LINE_SECONDS = 10.0
"""Time between two lines where there is no terminal, seconds."""
NARROW = 60
"""Columns of a terminal below which the bar itself is left out, so that the time left is not cut."""


class Progress:
    """Shows items done, items per second and the time left, on standard error.

    Args:
        total: Items in all; None where nobody knows.
        unit: What the items are.

    Attributes:
        done: Items done.
    """

    def __init__(self, total: int | None, unit: str = "pictures") -> None:
        self.done = 0
        self._total = "?" if total is None else total
        self._unit = unit
        self._begin = time.monotonic()
        self._next_line = self._begin + LINE_SECONDS
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            # The bar takes what room is left; where there is little, figures matter more than it.
            wide = Console(stderr=True).width >= NARROW
            columns = (
                MofNCompleteColumn(),
                *([BarColumn()] if wide else []),
                TextColumn("{task.description}"),
                TimeRemainingColumn(compact=not wide),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total)

    @property
    def rate(self) -> float:
        """Items per second since the beginning."""
        return self.done / max(time.monotonic() - self._begin, 1e-9)

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        text = f"{self.rate:.1f} {self._unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=text)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            terminal.note(f"{self.done}/{self._total}  {text}")

    def say(self, text: str) -> None:
        """A line that the bar does not overwrite."""
        if self._bar is not None:
            self._bar.console.print(terminal.printable(text), markup=False, highlight=False)
        else:
            terminal.note(text)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
