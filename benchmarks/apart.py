"""Competitors in processes of their own, of which one works at a time while the others stand still.

    with Stage("cpu") as stage:
        failed = stage.add({"a": Recipe(partial(open_a, file), host="a"), "b": ...})
        turns = timing.interleaved(stage.timed(pool), seconds=3.0, iterations=50)

Engines keep their threads spinning for a while after each call, ONNX Runtime's for 45 ms, on the cores that the next
competitor needs. In one process all that helps is to wait until they sleep, and by then the machine is another: what
neighbours do to shared cores changes within 50 ms. A process can be stopped at once, threads and all, so that a round
of turns of 5 ms is over before that. In the same time, ratios are known three to five times as well
(benchmarks/LOG.md). A crash of one engine ends its own process alone.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ganedge.benchmarks import timing
from ganedge.runtime.errors import EngineError

SCRIPT = "import sys; from ganedge.benchmarks.apart import serve; serve(int(sys.argv[1]))"
"""What a process runs; the number is its end of a pipe."""
LIMIT = 600.0
"""Seconds after which one that opens its competitors counts as stuck."""
PARENT_DIED = 1
"""PR_SET_PDEATHSIG of Linux."""
Pool = Sequence[Sequence[NDArray[np.generic]]]


class Piece(Protocol):
    """What a recipe makes."""

    def over(self, pool: Pool) -> timing.Competitor:
        """A function of a number that calls it with the inputs of that number."""

    @property
    def renew(self) -> Callable[[], None] | None:
        """Starts it anew; None where it cannot be."""


@dataclass(frozen=True)
class Recipe:
    """How to make a competitor in another process."""

    make: Callable[[], Piece]
    """A function of a module, or a `functools.partial` of one: it is sent there."""
    host: str
    """Those of one host share a process: one library, whose threads are the same for all."""


def possible(device: str) -> bool:
    """Whether processes can be stopped here, and nothing goes on outside them meanwhile, as it does on a GPU."""
    return device == "cpu" and hasattr(signal, "SIGSTOP")


class Stage:
    """The processes; all are stopped but while one of them is asked for something.

    Args:
        device: Where competitors compute. On a GPU they stay in this process: what it does cannot be stopped, and each
            process would take some hundred megabytes of its memory.
    """

    def __init__(self, device: str) -> None:
        self.able = possible(device)
        """Whether recipes are made in other processes; in this one otherwise."""
        self._hosts: list[_Host] = []
        self._timed: dict[str, timing.Timed] = {}
        self._here: dict[str, Piece] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="gan-bench-")
        self._given = 0

    def __enter__(self) -> Stage:
        """Start nothing yet."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End all."""
        for host in self._hosts:
            if host.lives:
                host.end()
        self._folder.cleanup()

    def add(self, competitors: Mapping[str, Recipe | Piece]) -> dict[str, Exception]:
        """Start processes and make competitors in them, all at the same time.

        Args:
            competitors: By name: how to make them, or such as are made and stay here.

        Returns:
            The errors of those that could not be made.
        """
        failed: dict[str, Exception] = {}
        by_host: dict[str, dict[str, Callable[[], Piece]]] = {}
        for name, one in competitors.items():
            if not isinstance(one, Recipe):
                self._here[name] = one
            elif self.able:
                by_host.setdefault(one.host, {})[name] = one.make
            else:
                here = _made(name, one.make, failed)
                self._here |= {} if here is None else {name: here}
        started = []
        for makers in by_host.values():
            host = _Host()
            self._hosts.append(host)
            host.begin(makers)
            started.append((host, list(makers)))
        for host, names in started:
            try:
                can_renew, errors = host.answer(LIMIT)
            except EngineError as error:
                can_renew, errors = set(), dict.fromkeys(names, str(error))
            failed |= {name: EngineError(why) for name, why in errors.items()}
            for name in names:
                if name not in errors:
                    renew = partial(host.ask, "renew", name) if name in can_renew else None
                    self._timed[name] = timing.Timed(partial(host.ask, "turn", name), renew)
        return failed

    def timed(self, pool: Pool) -> dict[str, timing.Timed]:
        """All, ready to take turns with these inputs.

        Args:
            pool: Batches, each an array for each input. They lie in files that the processes share.
        """
        if any(host.lives for host in self._hosts):
            self._given += 1
            paths = []
            for number in range(len(pool[0])):
                paths.append(str(Path(self._folder.name) / f"{self._given}-{number}.npy"))
                np.save(paths[-1], np.concatenate([arrays[number] for arrays in pool]))
            for act in (partial(_Host.tell, what=("pool", paths, len(pool))), _Host.answer):
                for host in self._hosts:
                    with suppress(EngineError):  # It is said when its turn comes.
                        act(host)
            for path in paths:
                Path(path).unlink()  # They have it open.
        return self._timed | {name: timing.here(one.over(pool), one.renew) for name, one in self._here.items()}

    def used(self) -> float:
        """Seconds of processor time that the processes have used."""
        return sum(host.used() for host in self._hosts if host.lives)


class _Host:
    """One process, from this side."""

    def __init__(self) -> None:
        self._pipe, there = Pipe()
        line = [sys.executable, "-c", SCRIPT, str(there.fileno())]
        quiet = subprocess.DEVNULL  # What it has to say comes through the pipe; what libraries print twice, does not.
        self._process = subprocess.Popen(  # noqa: S603 - our own
            line, pass_fds=(there.fileno(),), stdin=quiet, stdout=quiet, stderr=quiet
        )
        there.close()
        self.lives = True
        """Whether it has not ended."""

    def begin(self, makers: Mapping[str, Callable[[], Piece]]) -> None:
        """Send what to make; `answer` waits for it."""
        with suppress(OSError):  # It has ended; the answer says so.
            self._pipe.send(sys.path)  # Where what it is to make may come from.
            self._pipe.send_bytes(pickle.dumps(makers))

    def ask(self, *what: Any) -> Any:
        """Let it go on, ask for something, and stop it again when the answer is there.

        Raises:
            EngineError: it could not, or it has ended.
            MemoryError: it has not enough.
        """
        self.tell(what)
        return self.answer()

    def tell(self, what: tuple[Any, ...]) -> None:
        """Let it go on, and ask for something."""
        if not self.lives:
            raise EngineError("its process has ended")
        os.kill(self._process.pid, signal.SIGCONT)
        try:
            self._pipe.send(what)
        except OSError as error:
            raise self._gone() from error

    def answer(self, limit: float | None = None) -> Any:
        """Wait for what it was asked for, and stop it."""
        if not self.lives:
            raise EngineError("its process has ended")
        try:
            if limit is not None and not self._pipe.poll(limit):
                self.end()
                raise EngineError(f"its process was not ready within {limit:g} s")
            done, found = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        os.kill(self._process.pid, signal.SIGSTOP)
        if hasattr(os, "waitid"):  # Until all of its threads stand still.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if done:
            return found
        raise MemoryError(found) if found.startswith("MemoryError") else EngineError(found)

    def used(self) -> float:
        """Seconds of processor time; 0 where the system does not tell."""
        try:
            parts = Path(f"/proc/{self._process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(map(int, parts[11:13])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End it: a process that is stopped hears nothing but this."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()
        self.lives = False

    def _gone(self) -> EngineError:
        """What to say of one that has ended by itself."""
        self.end()
        code = self._process.returncode
        return EngineError(f"its process ended with {signal.strsignal(-code) if code < 0 else f'code {code}'}")


def serve(pipe: int) -> None:
    """The other side: make competitors, then do what is asked until the pipe is closed.

    Args:
        pipe: File descriptor of this end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks.
    if sys.platform == "linux":  # What stands still would stay for ever if that one were killed.
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGKILL)
    link: Connection[Any, Any] = Connection(pipe)
    with suppress(EOFError, BrokenPipeError):
        sys.path[:] = link.recv()
        makers: Mapping[str, Callable[[], Piece]] = pickle.loads(link.recv_bytes())  # noqa: S301 - our own parent's
        errors: dict[str, Exception] = {}
        pieces = {name: piece for name, make in makers.items() if (piece := _made(name, make, errors)) is not None}
        can_renew = {name for name, piece in pieces.items() if piece.renew is not None}
        link.send((True, (can_renew, {name: str(error) for name, error in errors.items()})))
        worker = _Worker(pieces)
        while True:
            what, *arguments = link.recv()
            try:
                answer = True, getattr(worker, what)(*arguments)
            except Exception as error:  # noqa: BLE001 - the one that asks decides
                answer = False, _line(error)
            link.send(answer)


class _Worker:
    """What can be asked for."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        self._pieces = pieces
        self._calls: dict[str, timing.Competitor] = {}

    def pool(self, paths: Sequence[str], count: int) -> None:
        """Take inputs from files: `count` batches."""
        arrays = [np.asarray(np.load(path, mmap_mode="c")) for path in paths]
        for array in arrays:
            array.reshape(-1).view(np.uint8)[:: os.sysconf("SC_PAGE_SIZE")].max()  # No call waits for a page.
        batch = len(arrays[0]) // count
        pool = [[array[i * batch : (i + 1) * batch] for array in arrays] for i in range(count)]
        self._calls = {name: piece.over(pool) for name, piece in self._pieces.items()}

    def turn(self, name: str, first: int, least: float) -> NDArray[np.float64]:
        """One turn's times."""
        return timing.take_turn(self._calls[name], first, least)

    def renew(self, name: str) -> float:
        """Start it anew; the seconds that took."""
        renew = self._pieces[name].renew
        assert renew is not None, "it was said that it could not be"
        return timing.renewed(renew, self._calls[name])


def _made(name: str, make: Callable[[], Piece], failed: dict[str, Exception]) -> Piece | None:
    """What a recipe makes, or else a line in `failed`."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - an engine's own, of any kind; the one that asks decides
        failed[name] = EngineError(_line(error))
        return None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    known = isinstance(error, EngineError)
    return text if known and text else f"{type(error).__name__}: {text}" if text else type(error).__name__
