"""Competitors in their own processes, each paused outside its own turns.

    with Stage("cpu") as stage:
        failed = stage.add({"a": Recipe(partial(open_a, file), host="a"), "b": ...})
        turns = timing.interleaved(stage.timed(pool), seconds=3.0, iterations=50)

Engines keep their threads spinning for a while after each call, ONNX Runtime's for 45 ms, on the cores that the next
competitor needs. In one process all that helps is to wait until they sleep, and by then the machine is another: what
neighbours do to shared cores changes within 50 ms. A process can be stopped at once, threads and all, so that a round
of turns of 5 ms is over before that. In the same time, ratios are known three to five times as well
(benchmarks/LOG.md). An engine that crashes while it is timed ends its own process alone.
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
"""What a process runs; the number is its end of a pipe, and the rest is where modules come from, as here."""
LIMIT = 600.0
"""Seconds without an answer after which a process counts as stuck."""
STANDS = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG if hasattr(os, "waitid") else 0
"""To ask whether a process has stopped, or ended."""
POLL_SECONDS = 2e-5
"""Between two such questions."""
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

    @property
    def close(self) -> Callable[[], None]:
        """Lets it go."""


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
    """The processes; while turns are taken, all but one are stopped.

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
        self._made: list[Piece] = []

    def __enter__(self) -> Stage:
        """Start nothing yet."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """End all."""
        for host in self._hosts:
            host.kill()  # All of them before any is waited for: one that is stopped would stay.
        for host in self._hosts:
            host.end()
        for piece in self._made:
            piece.close()

    def add(self, competitors: Mapping[str, Recipe | Piece]) -> dict[str, Exception]:
        """Start processes and make competitors in them, all at the same time.

        Args:
            competitors: By name: how to make them, or such as are made and stay here.

        Returns:
            The errors of those that could not be made.
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
        """A process for these, or a line in `failed` for each of them."""
        try:
            self._hosts.append(_Host())
        except OSError as error:
            failed |= {name: EngineError(f"no process for it: {error.strerror}") for name in names}
            return None
        return self._hosts[-1]

    def timed(self, pool: Pool) -> dict[str, timing.Timed]:
        """All, ready to take turns with these inputs.

        Args:
            pool: Batches, each an array for each input. They lie in files that the processes share.

        Raises:
            GanEdgeError: there is no room for them.
        """
        if any(host.lives for host in self._hosts):
            try:
                with tempfile.TemporaryDirectory(prefix="gan-bench-") as folder:
                    paths = _written(pool, Path(folder))
                    for host in self._hosts:
                        with suppress(EngineError):  # It is said when its turn comes, here as below.
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
        """Seconds of processor time that the processes have used."""
        return sum(host.used() for host in self._hosts if host.lives)


class _Host:
    """One process, from this side."""

    def __init__(self) -> None:
        self._pipe, there = Pipe()
        line = [sys.executable, "-c", SCRIPT, str(there.fileno()), *sys.path]
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
        try:
            self._pipe.send(what)  # First: what goes on would keep this one from a core for a while.
            os.kill(self._process.pid, signal.SIGCONT)
        except OSError as error:
            raise self._gone() from error

    def answer(self) -> Any:
        """Wait for what it was asked for, and stop it."""
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
        """Stop it, and come back when all of its threads stand still."""
        os.kill(self._process.pid, signal.SIGSTOP)
        while hasattr(os, "waitid") and not os.waitid(os.P_PID, self._process.pid, STANDS):
            time.sleep(POLL_SECONDS)  # It needs a core to stop.
            os.kill(self._process.pid, signal.SIGSTOP)  # Somebody may have let it go on: the shell, after Ctrl-Z.

    def used(self) -> float:
        """Seconds of processor time; 0 where the system does not tell."""
        try:
            parts = Path(f"/proc/{self._process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(map(int, parts[11:13])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """What a process that is stopped hears too."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, and wait for it."""
        self.kill()
        self._process.wait()
        self._pipe.close()
        self.lives = False

    def _gone(self) -> EngineError:
        """What to say of one that has ended by itself."""
        with suppress(subprocess.TimeoutExpired):  # Its pipe is closed a moment before it has ended.
            self._process.wait(1.0)
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
            what, *arguments = link.recv()
            try:
                answer = True, getattr(worker, what)(*arguments)
            except Exception as error:  # noqa: BLE001 - the one that asks decides
                answer = False, line(error)
            link.send(answer)


def _written(pool: Pool, folder: Path) -> list[str]:
    """Each input's arrays in one file, one after the other: never twice in memory."""
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
    """What can be asked for."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        self._pieces = pieces
        self._calls: dict[str, timing.Competitor] = {}

    def pool(self, paths: Sequence[str], count: int) -> None:
        """Take inputs from files: `count` batches."""
        self._calls = {}
        arrays = [np.asarray(np.load(path, mmap_mode="c")) for path in paths]
        for array in arrays:
            array.reshape(-1).view(np.uint8)[:: os.sysconf("SC_PAGE_SIZE")].max()  # No call waits for a page.
        batch = len(arrays[0]) // count
        pool = [[array[i * batch : (i + 1) * batch] for array in arrays] for i in range(count)]
        self._calls = {name: piece.over(pool) for name, piece in self._pieces.items()}

    def turn(self, name: str, first: int, least: float, wakes: bool) -> NDArray[np.float64]:
        """One turn's times."""
        if name not in self._calls:
            raise EngineError("it could not take the inputs: there may be too little memory for all processes")
        return timing.take_turn(self._calls[name], first, least, wakes)

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
        failed[name] = EngineError(line(error))
        return None


def line(error: Exception) -> str:
    """What an error says, in one line, with its kind where it is not one of ours."""
    text = one_line(error)
    known = isinstance(error, GanEdgeError)
    return text if known and text else f"{type(error).__name__}: {text}" if text else type(error).__name__
