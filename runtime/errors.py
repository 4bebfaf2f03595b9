"""The errors a user of ganedge can meet: one family, one line each.

Every error that a user can fix is a `GanEdgeError`, whose message names the offending value, what is
accepted and the next step. The four commands print it as one line and exit with `exit_code`; a library user
catches the family, or one member of it. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

LONGEST_REASON = 300
"""Characters of another library's message that are quoted."""
SOURCE_POSITION = (
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |"
    r"\bException from [^\s:]+:\d+:|"
    r"(?: at)?\s[\w./+-]+\.(?:cc|cpp|cu|h|hpp):\d+:?"
)
"""Where in a library's C++ source an error was raised, and ONNX Runtime's error codes."""


class GanEdgeError(Exception):
    """Base of every error that a user can fix."""

    exit_code = 1


class UsageError(GanEdgeError, ValueError):
    """A request that makes no sense: an unknown name, options that contradict each other, a value out of range."""

    exit_code = 2


class InputError(GanEdgeError, ValueError):
    """Data that cannot be used: an array of the wrong shape, a picture that does not decode, an empty folder."""


class ArtifactError(GanEdgeError):
    """A file that is not an artifact of ours, is damaged, or is newer than this program."""


class EngineError(GanEdgeError):
    """An engine, device or precision that was asked for and cannot be had here."""


class EngineMismatch(EngineError):  # noqa: N818 - what happened, and it is an EngineError
    """A TensorRT engine of another version or for another device: it can be built again."""


class MissingExtra(GanEdgeError, ImportError):  # noqa: N818 - reads better than MissingExtraError at the raise
    """An optional package that is not installed.

    Args:
        package: The package that is missing, as pip knows it.
        extra: The extra of `ganedge` that brings it.
        purpose: What needs it, in a few words.
        advice: What to do where the extra would be wrong; by default to install it.
    """

    def __init__(self, package: str, extra: str, purpose: str, advice: str = "") -> None:
        advice = advice or f"pip install 'ganedge[{extra}]'"
        super().__init__(f"{purpose} needs {package}, which is not installed: {advice}")
        self.package = package
        self.extra = extra


class PictureWarning(UserWarning):
    """A picture file holds more than what is used of it: further frames, or more bits per channel."""


def one_line(error: BaseException) -> str:
    r"""Another library's message on one line, without its C++ file names and line numbers; the class name if empty.

    >>> one_line(RuntimeError("Exception from src/core.cpp:116:\nUnable to read the model"))
    'Unable to read the model'
    """
    import re

    text = " ".join(re.sub(SOURCE_POSITION, " ", f" {error}").split())
    return text[:LONGEST_REASON] or type(error).__name__
