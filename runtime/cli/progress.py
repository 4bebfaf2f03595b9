"""How far a long job is, for the person at the terminal: a bar there, a line now and then anywhere else."""

from __future__ import annotations

import math
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
    """Shows what is done, how fast, and the time left, on standard error.

    Args:
        total: Items in all; None where nobody knows.
        unit: What the items are.
        done: Items that were done before.
        label: What to put before the figures.

    Attributes:
        done: Items done.
    """

    def __init__(self, total: int | None, unit: str = "pictures", done: int = 0, label: str = "") -> None:
        self.done = done
        self._total = total
        self._unit = unit
        self._label = label
        self._before = done
        self._begin = time.monotonic()
        self._next_line = self._begin + LINE_SECONDS
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            # The bar takes what room is left; where there is little, figures matter more than it.
            console = Console(stderr=True)
            bar = [BarColumn(None)] if console.width >= NARROW else []
            columns = (TextColumn("{task.fields[count]}"), *bar, TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=console, expand=bool(bar))
            self._task = self._bar.add_task("starting", total=total, completed=done, count=self._count)

    @property
    def rate(self) -> float:
        """Items per second since the beginning."""
        return (self.done - self._before) / max(time.monotonic() - self._begin, 1e-9)

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        left = math.inf if self._total is None else max(self._total - self.done, 0) / self.rate
        self.show(self.done, "", self.rate, left)

    def show(self, done: int, text: str, rate: float, left: float, always: bool = False) -> None:
        """Say where the job is.

        Args:
            done: Items done.
            text: What to say besides.
            rate: Items per second.
            left: Seconds until the end; infinite where nobody knows.
            always: Write the line even if the last one was a moment ago.
        """
        self.done = done
        parts = [text] if text else []
        parts.append(f"{rate:.{0 if rate >= 10 else 1}f} {self._unit}/s")
        if math.isfinite(left):
            minutes, seconds = divmod(round(left), 60)
            parts.append(f"{minutes}:{seconds:02d} left")
        shown = "  ".join(parts)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=shown, count=self._count)
        elif always or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            terminal.note(f"{self._count}  {shown}")

    def say(self, text: str) -> None:
        """A line that the bar does not overwrite."""
        if self._bar is not None:
            self._bar.console.print(terminal.printable(text), markup=False, highlight=False)
        else:
            terminal.note(text)

    @property
    def _count(self) -> str:
        return f"{self._label}{self.done}/{'?' if self._total is None else self._total}"

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
