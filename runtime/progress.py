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


class Progress:
    """Shows pictures done, pictures per second and the time left, on standard error.

    Args:
        total: Pictures in all.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._begin = time.monotonic()
        self._next_line = self._begin + LINE_SECONDS
        self._bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total)

    @property
    def rate(self) -> float:
        """Pictures per second since the beginning."""
        return self._done / max(time.monotonic() - self._begin, 1e-9)

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        text = f"{self.rate:.1f} pictures/s"
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=text)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            terminal.note(f"{self._done}/{self._total}  {text}")

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
