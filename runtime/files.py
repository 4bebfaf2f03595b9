"""Write files atomically: under a temporary name beside the final one, flushed, then renamed.

    with whole_file(Path("grid.png")) as part:
        picture.save(part, format="PNG")

A crash or a full disk leaves at most a hidden `.grid.png.*.part` behind, never half a `grid.png`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ArtifactError, GanEdgeError

if TYPE_CHECKING:
    from collections.abc import Iterator

LFS_POINTER = b"version https://git-lfs"
"""First bytes of a Git LFS pointer, which stands in place of a large file that was not downloaded."""


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


def read_file(path: Path, content: str = "the model") -> bytes:
    """Read a file that people download.

    Args:
        path: The file.
        content: What the file holds, for the error message.

    Raises:
        ArtifactError: it cannot be read, or it is a Git LFS pointer.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    if data.startswith(LFS_POINTER):
        raise ArtifactError(f"{path} is a Git LFS pointer, not {content}: run git lfs pull, or download the file")
    return data


def cache_folder() -> Path:
    """The folder for downloads and other files that can be made again: ganedge in $XDG_CACHE_HOME, or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - never raises
    if base.startswith("~"):  # This user has no home folder.
        import tempfile

        base = tempfile.gettempdir()
    return Path(base) / "ganedge"
