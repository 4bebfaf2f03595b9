"""Bind the server's socket and run the server until it is stopped.

    listen(generator, Address(port=8000), Limits(queue=32), print)

On Ctrl-C or SIGTERM it accepts no new request, answers those in progress, and ends.
"""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import logging
import signal
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ganedge.runtime.cli.options import option
from ganedge.runtime.errors import GanEdgeError, MissingExtra, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ganedge.runtime.generator import Generator

    from .limits import Limits

GRACE_SECONDS = 30
"""Time to finish running requests after the signal to stop."""
BACKLOG = 1024
"""Connections that may wait to be accepted."""


LOCAL = frozenset(("localhost", "127.0.0.1", "[::1]"))
"""Host names accepted by a server that only this machine can reach."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of this machine's, without authentication."""
    port: int = field(default=8000, metadata=option(minimum=0, maximum=65535))
    """Port to listen on; 0 takes a free one."""


def listen(generator: Generator, address: Address, limits: Limits, ready: Callable[[str], None]) -> int:
    """Serve until Ctrl-C or SIGTERM. Must be called from the main thread.

    Args:
        generator: What to serve.
        address: Where to listen.
        limits: What to accept.
        ready: Called with the URL once the server answers.

    Returns:
        Requests answered.

    Raises:
        MissingExtra: the extra `serve` is not installed.
        UsageError: a host that is not an address of this machine.
        GanEdgeError: the port is in use, or may not be used.
    """
    for package in ("starlette", "uvicorn", "python-multipart"):
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            raise MissingExtra(package, "serve", "gan-run serve")
    import uvicorn

    for name in ("python_multipart", "PIL"):  # Malformed requests are reported to the client, not logged.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    from .server import Server

    with _bind(address.host, address.port) as sock:
        # A server on loopback accepts local host names only, against DNS rebinding by pages of other sites.
        local = ipaddress.ip_address(sock.getsockname()[0]).is_loopback
        server = Server(generator, limits, LOCAL if local else None)
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
        sock.listen(BACKLOG)
        ready(_url(sock))
        # Uvicorn catches both signals while it runs and raises them again at its end, when there is nothing left to do.
        before = {sign: signal.signal(sign, lambda *_: None) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            running.run(sockets=[sock])
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)
    return server.answered


def _bind(host: str, port: int) -> socket.socket:
    """Bind a socket to the address, so that a wrong address fails before anything is computed."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"host {host!r} is not known: give an address of this machine, such as 127.0.0.1") from error
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} on {host} is in use: stop what listens there, or choose another with --port"
            raise GanEdgeError(text) from error
        if error.errno == errno.EACCES:
            raise GanEdgeError(f"port {port} is reserved: choose one from 1024 on with --port") from error
        raise UsageError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
    return sock


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
