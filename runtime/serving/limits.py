"""Limits of what a server accepts from its clients."""

from __future__ import annotations

from dataclasses import dataclass, field

from ganedge.runtime.cli.options import from_text, option
from ganedge.runtime.errors import UsageError
from ganedge.runtime.memory import parse, parse_pixels


@dataclass(frozen=True)
class Limits:
    """Limits of one server; requests beyond them are refused."""

    batch: int | None = field(default=None, metadata=option(minimum=1))
    """Items in one engine call at most; by the size of an item by default."""
    wait: float = 0.0
    """Milliseconds to wait for a batch to fill."""
    queue: int = 32
    """Requests processed at once; further requests get 429."""
    max_items: int = 64
    """Items of one request."""
    max_body: int = field(default=16_000_000, metadata=option(type=str, default="16M"))
    """Size of one request, such as 16M. In Python: bytes."""
    max_pixels: int = field(default=4_200_000, metadata=option(type=str, default="4.2"))
    """Refuse larger pictures before they are decoded: millions of pixels. In Python: pixels."""
    memory: int | None = field(default=None, metadata=option(type=str))
    """Memory for the computation of one picture, such as 500M; larger pictures are cut into tiles. In Python: bytes."""
    resize: bool = False
    """Scale pictures to the one size that the generator takes, and the result back."""
    seconds: float = field(default=30.0, metadata=option(hidden=True))
    """Seconds in which a client has to send its request."""

    def __post_init__(self) -> None:
        """Check the values; the command line gives amounts as text."""
        from_text(self, max_body=parse, max_pixels=parse_pixels, memory=parse)
        for name in ("queue", "max_items", "max_body", "max_pixels"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}: give 1 or more")
        if not 0 <= self.wait <= 10_000:
            raise UsageError(f"wait is {self.wait:g} milliseconds: give 0 to 10000")
