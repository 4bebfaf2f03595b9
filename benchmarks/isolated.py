"""Competitors in their own processes, each paused outside its own turns.

    with Stage("cpu") as stage:
        failed = stage.add({"a": Recipe(partial(open_a, file), host="a"), "b": ...})
        turns = timing.interleaved(stage.timed(pool), seconds=3.0, iterations=50)

Engines keep their threads spinning after each call (ONNX Runtime for 45 ms) on cores that the next competitor needs.
Within one process we would have to wait until those threads sleep, and the load on a shared machine changes within
50 ms. A separate process can be stopped at once with all its threads, so a round of 5 ms turns finishes before the
load changes: in the same time, ratios are three to five times as precise (benchmarks/LOG.md). An engine that crashes
while it is timed ends only its own process.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ganedge.runtime import timing
from ganedge.runtime.errors import EngineError, GanEdgeError, one_line

SCRIPT = (
    "import sys; sys.path[:] = sys.argv[2:]; from ganedge.benchmarks.isolated import serve; serve(int(sys.argv[1]))"
)
"""Code of a child process. Arguments: the file descriptor of its end of the pipe, then this process's `sys.path`."""
LIMIT = 600.0
"""Seconds without an answer after which a process counts as stuck."""
STANDS = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG if hasattr(os, "waitid") else 0
"""Options of `os.waitid` that report whether a process has stopped or ended."""
POLL_SECONDS = 2e-5
"""Interval between two such checks."""
PARENT_DIED = 1
"""PR_SET_PDEATHSIG of Linux."""
Pool = Sequence[Sequence[NDArray[np.generic]]]


class Piece(Protocol):
    """Something to time, as a recipe makes it."""

    def over(self, pool: Pool) -> timing.Competitor:
        """Return a function of an iteration number that runs one call with the pool's inputs of that number."""

    @property
    def renew(self) -> Callable[[], None] | None:
        """Restarts it; None if it cannot be restarted."""

    @property
    def close(self) -> Callable[[], None]:
        """Frees its resources."""


@dataclass(frozen=True)
class Recipe:
    """How to make a competitor in another process."""

    make: Callable[[], Piece]
    """A module-level function or a `functools.partial` of one: it is pickled and sent to the process."""
    host: str
    """Recipes with the same host share a process, because their library shares its threads."""


def possible(device: str) -> bool:
    """Whether competitors can be paused by stopping their process: on a CPU, and with SIGSTOP.

    A GPU keeps computing while the process that uses it is stopped.
    """
    return device == "cpu" and hasattr(signal, "SIGSTOP")


class Stage:
    """The processes of all competitors; at most one runs at a time, the others are stopped.

    Args:
        device: Where competitors compute. On a GPU they stay in this process: its work cannot be stopped, and each
            process would take some hundred megabytes of its memory.
    """

    def __init__(self, device: str) -> None:
        self.able = possible(device)
        """Whether recipes are made in other processes rather than in this process."""
        self._hosts: list[_Host] = []
        self._timed: dict[str, timing.Timed] = {}
        self._here: dict[str, Piece] = {}
        self._made: list[Piece] = []

    def __enter__(self) -> Stage:
        """Start nothing yet."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End all processes and close what was made here."""
        for host in self._hosts:
            host.kill()  # Kill all before waiting for any of them, so that none stays behind if a wait is interrupted.
        for host in self._hosts:
            host.end()
        for piece in self._made:
            piece.close()

    def add(self, competitors: Mapping[str, Recipe | Piece]) -> dict[str, Exception]:
        """Start the processes and make competitors in them, all at the same time.

        Args:
            competitors: By name: recipes, or finished competitors that stay in this process.

        Returns:
            The errors of the competitors that could not be made, by name.
        """
        failed: dict[str, Exception] = {}
        by_host: dict[str, dict[str, Callable[[], Piece]]] = {}
        for name, competitor in competitors.items():
            if not isinstance(competitor, Recipe):
                self._here[name] = competitor
            elif self.able:
                by_host.setdefault(competitor.host, {})[name] = competitor.make
            else:
                here = _made(name, competitor.make, failed)
                if here is not None:
                    self._here[name] = here
                    self._made.append(here)
        started = [(host, makers) for makers in by_host.values() if (host := self._started(makers, failed)) is not None]
        for host, makers in started:
            host.begin(makers)
        for host, makers in started:
            try:
                can_renew, errors = host.answer()
            except (EngineError, MemoryError) as error:
                can_renew, errors = set(), dict.fromkeys(makers, str(error))
            failed |= {name: EngineError(why) for name, why in errors.items()}
            if len(errors) == len(makers):
                host.end()
            for name in [name for name in makers if name not in errors]:
                renew = partial(host.ask, "renew", name) if name in can_renew else None
                self._timed[name] = timing.Timed(partial(host.ask, "turn", name), renew)
        return failed

    def _started(self, names: Collection[str], failed: dict[str, Exception]) -> _Host | None:
        """Start a process for these competitors; if that fails, note the error in `failed` for each of them."""
        try:
            self._hosts.append(_Host())
        except OSError as error:
            failed |= {name: EngineError(f"could not start its process: {error.strerror}") for name in names}
            return None
        return self._hosts[-1]

    def timed(self, pool: Pool) -> dict[str, timing.Timed]:
        """All competitors, ready to take turns with these inputs.

        Args:
            pool: Batches, each with one array per input. They are written to files that the processes share.

        Raises:
            GanEdgeError: the disk has no room for the files.
        """
        if any(host.lives for host in self._hosts):
            try:
                with tempfile.TemporaryDirectory(prefix="gan-bench-") as folder:
                    paths = _written(pool, Path(folder))
                    for host in self._hosts:
                        with suppress(EngineError):  # Reported when the competitor takes its turn, like those below.
                            host.tell(("pool", paths, len(pool)))
                    for host in self._hosts:
                        with suppress(EngineError, MemoryError):
                            host.answer()
            except OSError as error:
                folder = tempfile.gettempdir()
                raise GanEdgeError(
                    f"cannot write inputs for other processes in {folder} ({error.strerror}): free some room there, or "
                    "set TMPDIR to another folder"
                ) from error
        return self._timed | {name: timing.here(piece.over(pool), piece.renew) for name, piece in self._here.items()}

    def used(self) -> float:
        """Processor time that the processes have used, seconds."""
        return sum(host.used() for host in self._hosts if host.lives)


class _Host:
    """Handle of one child process."""

    def __init__(self) -> None:
        self._pipe, there = Pipe()
        line = [sys.executable, "-c", SCRIPT, str(there.fileno()), *sys.path]
        quiet = subprocess.DEVNULL  # Results come through the pipe; messages that libraries print are dropped.
        self._process = subprocess.Popen(  # noqa: S603 - our own
            line, pass_fds=(there.fileno(),), stdin=quiet, stdout=quiet, stderr=quiet
        )
        there.close()
        self.lives = True
        """Whether the process is still alive."""

    def begin(self, makers: Mapping[str, Callable[[], Piece]]) -> None:
        """Send the recipes; `answer` waits until they are made."""
        with suppress(OSError):  # The process has ended; `answer` reports it.
            self._pipe.send_bytes(pickle.dumps(makers))

    def ask(self, *request: Any) -> Any:
        """Resume the process, send a request, and stop the process again when its answer has arrived.

        Raises:
            EngineError: the request failed, or the process has ended.
            MemoryError: the process ran out of memory.
        """
        self.tell(request)
        return self.answer()

    def tell(self, request: tuple[Any, ...]) -> None:
        """Send a request and resume the process."""
        if not self.lives:
            raise EngineError("its process has ended")
        try:
            self._pipe.send(request)  # Before resuming: the running process could keep this one from a core.
            os.kill(self._process.pid, signal.SIGCONT)
        except OSError as error:
            raise self._gone() from error

    def answer(self) -> Any:
        """Wait for the answer to the last request, then stop the process."""
        if not self.lives:
            raise EngineError("its process has ended")
        try:
            if not self._pipe.poll(LIMIT):
                self.end()
                raise EngineError(f"its process gave no answer within {LIMIT:g} s")
            done, result = self._pipe.recv()
            self._stop()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if done:
            return result
        raise MemoryError(result) if result.startswith("MemoryError") else EngineError(result)

    def _stop(self) -> None:
        """Stop the process, and return when all of its threads have stopped."""
        os.kill(self._process.pid, signal.SIGSTOP)
        while hasattr(os, "waitid") and not os.waitid(os.P_PID, self._process.pid, STANDS):
            time.sleep(POLL_SECONDS)  # The process needs a core in order to stop.
            os.kill(self._process.pid, signal.SIGSTOP)  # Again: a shell resumes it after Ctrl-Z and fg.

    def used(self) -> float:
        """Processor time used, seconds; 0 if the system does not report it."""
        try:
            parts = Path(f"/proc/{self._process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(map(int, parts[11:13])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """Send SIGKILL, which also reaches a stopped process."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process and wait until it has ended."""
        self.kill()
        self._process.wait()
        self._pipe.close()
        self.lives = False

    def _gone(self) -> EngineError:
        """The error for a process that ended by itself."""
        with suppress(subprocess.TimeoutExpired):  # The pipe closes a moment before the process has ended.
            self._process.wait(1.0)
        self.end()
        code = self._process.returncode
        return EngineError(f"its process ended with {signal.strsignal(-code) if code < 0 else f'code {code}'}")


def serve(pipe: int) -> None:
    """Run in the child process: make competitors, then answer requests until the pipe is closed.

    Args:
        pipe: File descriptor of this end of the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent handles Ctrl-C.
    if sys.platform == "linux":  # Without this, a stopped child would stay for ever if the parent were killed.
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGKILL)
    os.set_inheritable(pipe, False)
    link: Connection[Any, Any] = Connection(pipe)
    with suppress(EOFError, BrokenPipeError):
        try:
            makers: Mapping[str, Callable[[], Piece]] = pickle.loads(link.recv_bytes())  # noqa: S301 - our own parent's
        except (ImportError, AttributeError, pickle.UnpicklingError) as error:
            link.send((False, line(error)))
            return
        errors: dict[str, Exception] = {}
        pieces = {name: piece for name, make in makers.items() if (piece := _made(name, make, errors)) is not None}
        can_renew = {name for name, piece in pieces.items() if piece.renew is not None}
        link.send((True, (can_renew, {name: str(error) for name, error in errors.items()})))
        worker = _Worker(pieces)
        while True:
            method, *arguments = link.recv()
            try:
                answer = True, getattr(worker, method)(*arguments)
            except Exception as error:  # noqa: BLE001 - the parent decides what to do with it
                answer = False, line(error)
            link.send(answer)


def _written(pool: Pool, folder: Path) -> list[str]:
    """Write the arrays of each input to one file, one after the other, so that they are never in memory twice."""
    paths = []
    for number, first in enumerate(pool[0]):
        path = folder / f"{number}.npy"
        header = {
            "descr": np.lib.format.dtype_to_descr(first.dtype),
            "fortran_order": False,
            "shape": (len(pool) * len(first), *first.shape[1:]),
        }
        with path.open("wb") as file:
            np.lib.format.write_array_header_2_0(file, header)
            for arrays in pool:
                file.write(np.ascontiguousarray(arrays[number]).data)
        paths.append(str(path))
    return paths


class _Worker:
    """The requests that a child process answers."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        self._pieces = pieces
        self._calls: dict[str, timing.Competitor] = {}

    def pool(self, paths: Sequence[str], count: int) -> None:
        """Load the inputs from files: `count` batches."""
        self._calls = {}
        arrays = [np.asarray(np.load(path, mmap_mode="c")) for path in paths]
        for array in arrays:
            # Load all pages, so that no timed call waits for one.
            array.reshape(-1).view(np.uint8)[:: os.sysconf("SC_PAGE_SIZE")].max()
        batch = len(arrays[0]) // count
        pool = [[array[i * batch : (i + 1) * batch] for array in arrays] for i in range(count)]
        self._calls = {name: piece.over(pool) for name, piece in self._pieces.items()}

    def turn(self, name: str, first: int, least: float, wakes: bool) -> NDArray[np.float64]:
        """Take one turn; return the time of each call, seconds."""
        if name not in self._calls:
            raise EngineError("it could not take the inputs: there may be too little memory for all processes")
        return timing.take_turn(self._calls[name], first, least, wakes)

    def renew(self, name: str) -> float:
        """Restart a competitor; return how long that took, seconds."""
        renew = self._pieces[name].renew
        assert renew is not None, "this competitor cannot be restarted"
        return timing.renewed(renew, self._calls[name])


def _made(name: str, make: Callable[[], Piece], failed: dict[str, Exception]) -> Piece | None:
    """Make a competitor; if that fails, note the error in `failed` and return None."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - engines raise any type; the parent decides what to do with it
        failed[name] = EngineError(line(error))
        return None


def line(error: Exception) -> str:
    """The message of an error in one line, with its type if it is not a GanEdgeError."""
    text = one_line(error)
    known = isinstance(error, GanEdgeError)
    return text if known and text else f"{type(error).__name__}: {text}" if text else type(error).__name__
