"""What the four commands share: one-line errors with the right exit code, and text that is safe to print.

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 some of several items failed, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from ganedge.runtime.errors import GanEdgeError, MissingExtra, PictureWarning

from .start import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST = 800
"""Characters of an error line that are shown; the middle of a longer one is left out."""

PIP_NAMES = {"google": "protobuf", "PIL": "pillow", "sklearn": "scikit-learn"}
"""Packages whose name for pip differs from the module that is imported."""

# Typer carries click within itself since 0.26 and depends on it before: either way these are BadParameter's parents.
_TyperUsageError: Any = typer.BadParameter.__mro__[1]
_TyperError: Any = typer.BadParameter.__mro__[2]


def app(summary: str) -> typer.Typer:
    """Make a command with the settings that all four share."""
    return typer.Typer(
        help=summary,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def run(build: Callable[[], typer.Typer], name: str, extra: str) -> NoReturn:
    """Build a command, run it and exit: 0, or one line on standard error and the error's exit code.

    Args:
        build: Imports what the command needs and gives it.
        name: The command's name, as people type it.
        extra: The extra of `ganedge` that brings what the command imports.
    """
    # A process started with closed streams has None for them.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - open as long as the process
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    # Pillow's warnings about damaged pictures; our own error names the picture.
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    _show_picture_warnings()
    with one_line_errors(name, extra):
        code = typer.main.get_command(build()).main(prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    if code == INTERRUPTED:  # Typer has caught the interrupt and returns the code only.
        _fail(name, "interrupted", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def one_line_errors(name: str, extra: str) -> Iterator[None]:
    """End the process with one line on standard error, and the right exit code, if what is done fails.

    Args:
        name: The command's name, as people type it.
        extra: The extra of `ganedge` that brings what the command imports.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "a package").partition(".")[0]
        if package == "ganedge":
            raise
        _fail(name, str(MissingExtra(PIP_NAMES.get(package, package), extra, name)), 1)
    except GanEdgeError as error:
        _fail(name, str(error), error.exit_code)
    except _TyperUsageError as error:
        _usage(name, error)
    except _TyperError as error:
        _fail(name, error.format_message(), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail(name, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has closed the pipe: avoid Python's error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        _fail(name, "out of memory: ask for less at a time", 1)
    except OSError as error:
        _fail(name, f"{error.filename or 'the system'}: {error.strerror or error}", 1)


def _show_picture_warnings() -> None:
    """Print each warning of the picture reader as one line, and only once."""
    show = warnings.showwarning

    def shown(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, PictureWarning):
            note(str(message))
        else:
            show(message, category, *rest, **more)

    warnings.showwarning = shown
    warnings.simplefilter("once", PictureWarning)


def note(text: str) -> None:
    """Print a message on standard error, so that standard output contains data only."""
    sys.stderr.write(printable(text) + "\n")


def printable(text: str) -> str:
    """Return the text with control characters, and characters that the terminal's encoding lacks, escaped."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return safe.encode(encoding, "backslashreplace").decode(encoding)


def _usage(name: str, error: Any) -> NoReturn:
    """Print one line for wrong usage. Without arguments Typer has already shown the help, and the message is empty."""
    message = error.format_message().strip()
    if not message:
        sys.exit(2)
    context = error.ctx.command_path if error.ctx is not None else name
    message += _given(error)
    unknown = message.startswith("No such command") and error.ctx is not None
    accepted = f" Choose {', '.join(error.ctx.command.list_commands(error.ctx))}." if unknown else ""
    _fail(context, f"{message.rstrip('.')}.{accepted} Try {context} --help", 2)


def _given(error: Any) -> str:
    """Return the refused value as it was typed, because Typer's message does not always contain it."""
    options = getattr(getattr(error, "param", None), "opts", ())
    for index, word in enumerate(sys.argv):
        option, equals, value = word.partition("=")
        if option in options and isinstance(error, typer.BadParameter):
            value = value if equals else " ".join(sys.argv[index + 1 : index + 2])
            return "" if value in error.message else f" ({value!r} was given)"
    return ""


def _fail(name: str, message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    if len(line) > LONGEST:  # A value from a damaged file may be a million characters.
        line = f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
    try:
        note(f"{name}: {line}")
    finally:
        sys.exit(code)
