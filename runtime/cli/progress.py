"""Show the progress of a long job: a bar on a terminal, a line at intervals in a log."""

from __future__ import annotations

import math
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from . import terminal

if TYPE_CHECKING:
    from types import TracebackType

LINE_SECONDS = 10.0
"""Time between two lines where there is no terminal, seconds."""
FIRST_SECONDS = 1.0
"""Time before anything is shown of a job in steps, seconds."""
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

            # The bar gets the remaining width; on a narrow terminal the figures are more important.
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
        """Count one more item as done."""
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
        """Print a line that the bar does not overwrite."""
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


class Steps:
    """Shows the current step of a job and the time since its start: a moving line, or a line every 10 s in a log.

    Nothing is shown of a job that is done within `FIRST_SECONDS`.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._text = "starting"
        self._share: float | None = None
        self._bar: Any = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ganedge-steps", daemon=True)
        self._lock = threading.Lock()

    def show(self, step: object, done: int = 0, total: int = 0) -> None:
        """Show the current step.

        Args:
            step: What to show.
            done: Parts of it that are done.
            total: Parts in all; 0 if unknown.
        """
        with self._lock:
            self._text, self._share = str(step), done / total if total else None
            if self._bar is not None:
                self._draw()

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            if self._bar is not None:
                self._bar.console.print(terminal.printable(text), markup=False, highlight=False, soft_wrap=True)
            else:
                terminal.note(text)

    def _watch(self) -> None:
        """Start the moving line after `FIRST_SECONDS`; without a terminal, write a line every `LINE_SECONDS`."""
        shows = sys.stderr.isatty()
        while not self._stop.wait(FIRST_SECONDS if shows else LINE_SECONDS):
            with self._lock:
                if self._stop.is_set():
                    return
                if shows:
                    self._open()
                    return
                terminal.note(f"{time.monotonic() - self._begin:.0f} s: {self._text}")

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        bar = [BarColumn(20)] if console.width >= NARROW else []
        columns = (SpinnerColumn(), TimeElapsedColumn(), *bar, TextColumn("{task.description}", markup=False))
        self._bar = Bar(*columns, console=console, transient=True)
        self._task = self._bar.add_task(self._text, total=None)
        self._bar.tasks[0].start_time = self._bar.get_time() - (time.monotonic() - self._begin)
        self._draw()
        self._bar.start()

    def _draw(self) -> None:
        total = None if self._share is None else 1.0
        self._bar.update(
            self._task, description=terminal.printable(self._text), total=total, completed=self._share or 0
        )

    def __enter__(self) -> Steps:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        with self._lock:
            bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()
