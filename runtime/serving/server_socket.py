"""The socket a server answers on, from the first request to the last.

    listen(generator, "127.0.0.1", 8000, print, queue=32)

Stopping is graceful: on Ctrl-C or SIGTERM no new request is taken, those in work are answered, and then it ends.
"""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import logging
import signal
import socket
from typing import TYPE_CHECKING, Any

from ganedge.runtime.errors import GanEdgeError, MissingExtra, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ganedge.runtime.generator import Generator

GRACE_SECONDS = 30
"""Time that requests in work have when the server is told to stop."""
BACKLOG = 1024
"""Connections that may wait to be accepted."""


LOCAL = frozenset(("localhost", "127.0.0.1", "[::1]"))
"""Names of this machine, for a server that nobody else can reach."""


def listen(generator: Generator, host: str, port: int, ready: Callable[[str], None], **limits: Any) -> int:
    """Serve until Ctrl-C or SIGTERM. Must be called from the main thread.

    Args:
        generator: What to serve.
        host: A name or an address of this machine.
        port: 0 takes a free one.
        ready: Is told the address once it answers.
        **limits: The fields of `server.Limits`.

    Returns:
        Requests answered.

    Raises:
        MissingExtra: the extra `serve` is not installed.
        UsageError: a limit out of range, or a host that is none of this machine.
        GanEdgeError: the port is in use, or may not be used.
    """
    for package in ("starlette", "uvicorn", "python-multipart"):
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            raise MissingExtra(package, "serve", "gan-run serve")
    import uvicorn

    for name in ("python_multipart", "PIL"):  # What is wrong with a stranger's request is his to hear.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    from .server import Limits, Server

    asked = Limits(**limits)
    with _socket(host, port) as place:
        # A page of another site can make its own name mean this machine, and then ask as if it came from here.
        local = ipaddress.ip_address(place.getsockname()[0]).is_loopback
        server = Server(generator, asked, LOCAL if local else None)
        server.warm_up()
        running = uvicorn.Server(
            uvicorn.Config(
                server.application(),
                lifespan="on",
                log_level="critical",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        place.listen(BACKLOG)
        ready(_url(place))
        # Uvicorn catches both signals while it runs and raises them again at its end, when there is nothing left to do.
        before = {sign: signal.signal(sign, lambda *_: None) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            running.run(sockets=[place])
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)
    return server.answered


def _socket(host: str, port: int) -> socket.socket:
    """A socket bound to the address, so that what is wrong with it is said before anything is computed."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"host {host!r} is not known: give an address of this machine, such as 127.0.0.1") from error
    place = socket.socket(family, kind, protocol)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
    except OSError as error:
        place.close()
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} on {host} is in use: stop what listens there, or choose another with --port"
            raise GanEdgeError(text) from error
        if error.errno == errno.EACCES:
            raise GanEdgeError(f"port {port} is reserved: choose one from 1024 on with --port") from error
        raise UsageError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    return place


def _url(place: socket.socket) -> str:
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
