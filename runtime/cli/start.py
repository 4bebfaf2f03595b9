"""Where the commands begin: Ctrl-C is one line and exit code 130 from here on, also while packages are imported.

Until the imports are done no work has begun, so the process simply ends; afterwards `terminal` handles Ctrl-C. At
the end the process does not take apart what it imported, which with PyTorch and two engines takes a second.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import sys
import threading

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def gan_train() -> None:
    """Entry point of `gan-train`."""
    _start("gan-train", "ganedge.train.__main__")


def gan_export() -> None:
    """Entry point of `gan-export`."""
    _start("gan-export", "ganedge.export.__main__")


def gan_compress() -> None:
    """Entry point of `gan-compress`."""
    _start("gan-compress", "ganedge.export.gan_compress")


def gan_run() -> None:
    """Entry point of `gan-run`."""
    _start("gan-run", "ganedge.runtime.__main__")


def gan_bench() -> None:
    """Entry point of `gan-bench`."""
    _start("gan-bench", "ganedge.benchmarks.__main__")


def _start(name: str, module: str) -> None:
    """Import a command, call it and end the process."""
    try:
        _call(name, module)
    except SystemExit as end:
        _leave(end.code)
        raise


def _leave(code: object) -> None:
    """End the process as Python does, after all threads that are no daemons, but free nothing.

    It returns where output cannot be written or the code is a message, which Python then reports, and where this Python
    has no such functions: it ends as usual then.
    """
    join, run_last = getattr(threading, "_shutdown", None), getattr(atexit, "_run_exitfuncs", None)
    if not isinstance(code, int) or join is None or run_last is None:
        return
    join()
    run_last()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # The reader has closed the pipe.
        return
    os._exit(code)


def _call(name: str, module: str) -> None:
    """Import a command and call it."""

    def stop(*_: object) -> None:
        with contextlib.suppress(OSError):  # Standard error is closed: print nothing.
            os.write(2, f"{name}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # Ignored, as in a background job: keep it.
        importlib.import_module(module).main()
        return
    signal.signal(signal.SIGINT, stop)
    main = importlib.import_module(module).main
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
