"""Files that people download, and the cache folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from ganedge.runtime import ArtifactError, load
from ganedge.runtime.files import cache_folder, read_file


@pytest.mark.parametrize("name", ["generator.onnx", "generator.bin"])
def test_a_git_lfs_pointer_is_recognised(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ArtifactError, match="is a Git LFS pointer, not the model: run git lfs pull"):
        load(path) if path.suffix == ".onnx" else read_file(path)


def test_the_cache_lies_below_xdg_cache_home_and_never_in_a_folder_called_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "ganedge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # A user without a home folder.
    assert cache_folder() == Path(tempfile.gettempdir()) / "ganedge"
