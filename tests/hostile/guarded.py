"""The four commands under guard: each call in a forked process of its own, so that crashes, hangs and memory are seen.

    preload()                                             # import everything once, and run nothing
    outcome = run("gan-run", ["info", "generator.onnx"], Path("work"))
    print(outcome.code, outcome.err)

A fork costs hundredths of a second where a new interpreter that imports torch costs seconds; thousands of cases are
affordable. That is safe only while this process has no threads, so nothing may compute here: everything runs in forks.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MODULES = {
    "gan-train": "ganedge.train.__main__",
    "gan-export": "ganedge.export.__main__",
    "gan-run": "ganedge.runtime.__main__",
    "gan-bench": "ganedge.benchmarks.__main__",
}
PRELOADED = (
    *MODULES.values(),
    "ganedge.train.loop",
    "ganedge.export.artifact",
    "ganedge.export.checkpoints",
    "ganedge.export.modules",
    "ganedge.export.from_onnx",
    "ganedge.export.from_torch",
    "ganedge.benchmarks.latency",
    "ganedge.runtime.pictures.folder",
    "ganedge.runtime.pictures.translation",
    "ganedge.runtime.engines.ort",
    "ganedge.runtime.engine_file",
    "lightning_fabric",
    "onnxruntime",
    "onnxscript",
    "sklearn.datasets",
    "torchvision",
    "PIL.Image",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "torchmetrics.image.fid",
    "jinja2",
    "ganedge.benchmarks.page",
    "ganedge.export.quantize",
    "ganedge.train.examiner",
    "av",
    "ganedge.runtime.pictures.video",
    "openvino",
)
LIMIT_S = 10
"""Seconds of computing after which a call counts as hanging."""
PATIENCE = 6
"""The same in wall-clock time, as a multiple: a busy machine is no hang, a deadlock is."""
LIMIT_BYTES = 2 * 2**30
"""Memory that a call may take beyond what was loaded before."""
TRACEBACK = 70
"""Exit code that stands for an exception that no one caught."""


@dataclass(frozen=True)
class Outcome:
    """What came of one call."""

    name: str
    """The command."""
    code: int
    """Exit code; minus the number of the signal that ended it."""
    out: str
    """Standard output."""
    err: str
    """Standard error."""
    grown: int
    """Peak resident memory beyond that of this process, bytes."""
    seconds: float
    """Wall-clock time."""


def preload() -> None:
    """Import what the commands import, before any fork."""
    os.environ["OMP_NUM_THREADS"] = "1"  # Threads that wait for each other spin, and the machine may be busy.
    for name in PRELOADED:
        importlib.import_module(name)
    from PIL import Image

    Image.init()


def run(
    name: str,
    arguments: Sequence[object],
    folder: Path,
    *,
    limit_s: float = LIMIT_S,
    rlimits: dict[int, int] | None = None,
) -> Outcome:
    """Run one command to its end in `folder`; kill it after `limit_s` seconds of computing."""
    begin = time.monotonic()
    child = start(name, arguments, folder, limit_s, rlimits)
    return finish(child, name, folder, begin)


def start(
    name: str,
    arguments: Sequence[object],
    folder: Path,
    limit_s: float = 0,
    rlimits: dict[int, int] | None = None,
    first: Callable[[], None] | None = None,
) -> int:
    """Begin a command in `folder` and give its process id; what it says goes into hidden files there.

    `first` is called in the new process before the command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child:
        return child
    code = TRACEBACK
    try:
        os.setsid()
        _redirect(folder)
        os.chdir(folder)
        sys.argv = [name, *map(str, arguments)]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if limit_s:
            signal.setitimer(signal.ITIMER_PROF, limit_s)  # SIGPROF and SIGALRM end the process: nothing catches them.
            signal.setitimer(signal.ITIMER_REAL, PATIENCE * limit_s)
        for kind, value in (rlimits or {}).items():
            resource.setrlimit(kind, (value, value))
        if first is not None:
            first()
        importlib.import_module(MODULES[name]).main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:  # noqa: BLE001 - what the interpreter would have printed
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def finish(child: int, name: str, folder: Path, begin: float) -> Outcome:
    """Wait for a command that was begun."""
    _, status, used = os.wait4(child, 0)
    out, err = ((folder / part).read_text("utf-8", errors="backslashreplace") for part in (".stdout", ".stderr"))
    code = os.waitstatus_to_exitcode(status)
    return Outcome(name, code, out, err, (used.ru_maxrss - _idle()) * 1024, time.monotonic() - begin)


def complaint(outcome: Outcome, accepted: Sequence[int] = (0, 1, 2)) -> str:
    """What is wrong with how a command ended; empty where nothing is."""
    lines = outcome.err.splitlines()
    if outcome.code in (-signal.SIGALRM, -signal.SIGPROF):
        return f"hung for {outcome.seconds:.0f} s"
    if outcome.code < 0:
        return f"ended by {signal.Signals(-outcome.code).name}"
    if outcome.code == TRACEBACK or "Traceback" in outcome.err:
        return f"traceback: {lines[-1] if lines else ''}"
    if outcome.code not in accepted:
        return f"exit code {outcome.code}"
    if outcome.grown > LIMIT_BYTES:
        return f"took {outcome.grown / 2**30:.1f} GiB"
    if not all(character.isprintable() or character == "\n" for character in outcome.out + outcome.err):
        return "printed control characters"
    if outcome.code in (1, 2):
        if not lines or not lines[-1].startswith(outcome.name):
            return "gave no reason"
        if outcome.name != "gan-train" and len(lines) > 1:  # That one names pictures it cannot read first.
            return f"said {len(lines)} lines"
        if len(lines[-1]) > 1000:
            return f"said a line of {len(lines[-1])} characters"
    return ""


def in_fork(judge: Callable[[Path], str], path: Path) -> str:
    """Call a judge in a process of its own, because decoders start threads and this process may have none."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = judge(path)
        except BaseException as error:  # noqa: BLE001 - a judge that fails is a finding
            said = f"{path.name} could not be judged: {type(error).__name__} {error}"
        os.write(write, said.encode("utf-8", "replace")[:4000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


def leftovers(folder: Path) -> list[str]:
    """Files below a folder that are only half there."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*.part"))


@functools.cache
def _idle() -> int:
    """Resident memory of a fork that does nothing, KiB: what a command's own use is counted from."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    return os.wait4(child, 0)[2].ru_maxrss


def _redirect(folder: Path) -> None:
    """Send both streams to files, and crashes' own traces with them."""
    for number, part in ((1, ".stdout"), (2, ".stderr")):
        file = os.open(folder / part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    faulthandler.enable(sys.stderr)
