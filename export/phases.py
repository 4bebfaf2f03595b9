"""Report the phases of an export to a listener, such as a progress bar. No torch here.

with reported_to(lambda phase: print(phase)):
    report("comparing in openvino", 3, 16)       # prints "comparing in openvino 3/16"
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """A part of an export."""

    name: str
    """The work in progress, in words."""
    done: int = 0
    """Steps of it that are done."""
    total: int = 0
    """Steps in all; 0 if unknown."""

    def __str__(self) -> str:
        """Format it as text.

        >>> str(Phase("comparing in openvino", 3, 16)), str(Phase("timing"))
        ('comparing in openvino 3/16', 'timing')
        """
        return f"{self.name} {self.done}/{self.total}" if self.total else self.name


Listener = Callable[[Phase], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def report(name: str, done: int = 0, total: int = 0) -> None:
    """Report that a phase begins, or how far it is."""
    listener = _listener.get()
    if listener is not None:
        listener(Phase(name, done, total))


@contextmanager
def reported_to(listener: Listener | None) -> Iterator[None]:
    """Call a listener with every phase that is reported inside this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
