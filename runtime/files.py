"""Files appear whole: written beside their final name, flushed, then renamed into place.

    with whole_file(Path("grid.png")) as part:
        picture.save(part, format="PNG")

A crash or a full disk leaves at most a hidden `.grid.png.*.part` behind, never half a `grid.png`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import GanEdgeError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on a clean exit it becomes `path`, otherwise it is removed.

    Args:
        path: The final name. Its folder is made if it does not exist.

    Raises:
        GanEdgeError: the file cannot be written (no permission, a full disk, a folder of that name).
    """
    path = path.resolve()  # Through a symbolic link to the file it names, which is the one to replace.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise GanEdgeError(f"{path} is a folder: give the name of a file to write")
        if path.exists() and not path.is_file():
            raise GanEdgeError(f"{path} is not an ordinary file: give another name to write to")
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    except OSError as error:
        raise GanEdgeError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # Gone already after the rename; unreachable when the folder vanished.
            part.unlink()


def write_whole(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, whole or not at all. Raises as `whole_file` does."""
    with whole_file(path) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


def cache_folder() -> Path:
    """Where this program keeps what it can make again: below XDG_CACHE_HOME, or ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
    return Path(home) / "ganedge"
