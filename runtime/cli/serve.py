"""gan-run serve: a generator behind HTTP."""

from __future__ import annotations

from pathlib import Path

from ganedge.runtime.engines import EngineOptions
from ganedge.runtime.serving import server_socket
from ganedge.runtime.serving.limits import Limits
from ganedge.runtime.serving.server_socket import Address

from . import terminal
from .opening import open_generator
from .options import argument


def serve(file: Path, address: Address, limits: Limits, engine: EngineOptions) -> None:
    """Answer requests over HTTP, with a page to try it on, until Ctrl-C or SIGTERM."""
    with open_generator(file, engine, limits.batch) as generator:

        def ready(url: str) -> None:
            terminal.note(f"{url} answers with {generator.engine}: open it in a browser; Ctrl-C stops it")

        answered = server_socket.listen(generator, address, limits, ready)
    terminal.note(f"stopped after {answered} requests")


COMMANDS = {"serve": (serve, (argument("file", Path, "An artifact that gan-export wrote."),))}
