"""Tests of pictures translated by several workers with Ray Data."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from ganedge.runtime import load, scale
from ganedge.runtime.errors import InputError, MissingExtra, UsageError

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
EXAMPLE = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)[1]  # type: ignore[index]
SCRIPT = f"""
import json, ray
from dataclasses import astuple
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
{EXAMPLE}
results = [done]
results += [scale.translate("generator.onnx", "photos", "paintings", workers=2, batch=2)]
results += [scale.translate("generator.onnx", "in.parquet", "tables", workers=2, batch=2) for _ in range(2)]
print("results", json.dumps([astuple(item) for item in results]))
"""


@pytest.fixture
def negative(make: Callable[..., Path]) -> Path:
    """A generator that returns the negative of a picture."""
    return make([helper.make_node("Neg", ["x"], ["y"])])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(5):
        path = folder / ("a" if number % 2 else "b/c") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    (folder / "a" / "bad.jpg").write_bytes(b"not a picture")
    (folder / ".hidden.png").write_bytes(b"not looked at")
    return folder


def test_rows_are_translated_and_bad_ones_named(negative: Path, photos: Path) -> None:
    translator = scale.Translator(negative.read_bytes(), fmt="png")
    paths = [photos / "a" / "1.png", photos / "a" / "bad.jpg"]
    data = np.array([*(path.read_bytes() for path in paths), None, "text"], object)
    rows = translator({"bytes": data, "number": np.array([7, 8, 9, 10])})
    assert list(rows["number"]) == [7, 8, 9, 10]
    assert rows["error"][0] == ""
    assert "not a picture" in rows["error"][1]
    assert list(rows["error"][2:]) == [f"no encoded picture in column bytes: {what}" for what in ("null", "str")]
    assert list(rows["bytes"][1:]) == [b"", b"", b""]
    expected = load(negative, threads=1).translate(paths[0])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(rows["bytes"][0]))), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0}, "workers 0, threads 1, batch 8: give numbers from 1 on"),
        ({"workers": 1, "fmt": "xyz"}, "cannot tell the picture format"),
    ],
)
def test_mistakes(arguments: dict[str, object], message: str, negative: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        scale.translate(negative, str(tmp_path), str(tmp_path / "out"), **arguments)  # type: ignore[arg-type]


def test_a_missing_ray_is_named(negative: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"ganedge.runtime.scale needs ray\[data\].*ganedge\[ray\]"):
        scale.translate(negative, str(tmp_path), str(tmp_path / "out"), workers=1)


def test_sources_without_pictures_and_names_that_collide(tmp_path: Path) -> None:
    fs = pytest.importorskip("pyarrow.fs", reason="needs pyarrow: pip install 'ganedge[ray]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    with pytest.raises(InputError, match="no picture there"):
        scale._pictures(fs.LocalFileSystem(), str(tmp_path), "", "here")
    for name in ("x.png", "out/x.png", ".hidden/x.png", "y.png.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = scale._pictures(fs.LocalFileSystem(), str(tmp_path), f"{tmp_path}/out", "here")
    assert found == [{"path": f"{tmp_path}/x.png"}], "results inside the source are no sources"
    with pytest.raises(UsageError, match=r"x.jpg and x.png would both become out/x.png: rename one"):
        scale._check_names(["x.jpg", "x.png"], ["out/x.png", "out/x.png"])
    with pytest.raises(UsageError, match=r"x.png would overwrite a picture that is read"):
        scale._check_names(["x.png"], ["x.png"])
    import pyarrow as pa

    parquet.write_table(pa.table({"path": ["a"]}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match="has no column bytes: give the columns path and bytes"):
        scale._row_groups(fs.LocalFileSystem(), str(tmp_path / "in.parquet"), "", "here")


def test_a_folder_and_a_table_with_two_workers(negative: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="needs Ray Data: pip install 'ganedge[ray]'")
    import pyarrow as pa
    from pyarrow import parquet

    pictures = sorted(path for path in photos.rglob("*.*") if path.name != ".hidden.png")
    columns = {
        "path": [*(path.name for path in pictures), "null.png"],
        "bytes": [*(path.read_bytes() for path in pictures), None],
    }
    parquet.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=3)
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(negative, tmp_path / "generator.onnx")
    line = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.rpartition("results ")[2].splitlines()[0])

    # The first call does all, the second what failed in files, and nothing in tables, whose rows keep the reason.
    assert [item[:2] for item in results] == [[5, 0], [0, 5], [5, 0], [0, 7]]
    failed = [sorted(Path(path).name for path, _ in item[2]) for item in results]
    assert failed == [["bad.jpg"], ["bad.jpg"], ["bad.jpg", "null.png"], []]
    generator = load(negative, threads=1)
    written = sorted((tmp_path / "paintings").rglob("*.*"))
    assert [path.relative_to(tmp_path / "paintings").as_posix() for path in written] == [
        "a/1.png", "a/3.png", "b/c/0.png", "b/c/2.png", "b/c/4.png",
    ]  # fmt: skip
    for path in written:
        source = photos / path.relative_to(tmp_path / "paintings")
        assert np.array_equal(np.asarray(Image.open(path)), generator.translate(source))
    tables = sorted((tmp_path / "tables").iterdir())
    assert [path.name for path in tables] == [f"in-0000{number}.parquet" for number in range(3)]
    rows = [row for path in tables for row in parquet.read_table(path).to_pylist()]
    assert [row["path"] for row in rows] == columns["path"]
    assert [bool(row["bytes"]) for row in rows] == [row["path"] not in ("bad.jpg", "null.png") for row in rows]
