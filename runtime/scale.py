"""Translate a folder, a bucket or a Parquet table of pictures on many cores or machines, with Ray Data.

    done = translate("monet.onnx", "s3://photos", "s3://paintings", workers=8, threads=2)
    print(done.written, done.skipped, done.failed)

Every worker is a process with a generator of its own. What was written before is skipped, so that the same call goes on
after an interruption; a picture that cannot be read is reported, and the others go on.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganedge.runtime.errors import GanEdgeError, InputError, MissingExtra, UsageError, one_line
from ganedge.runtime.pictures.images import check_format, encode
from ganedge.runtime.pictures.reader import ENDINGS

Rows = dict[str, NDArray[Any]]
"""A batch of rows: columns of equal length."""
BLOCKS = 16
"""Parts of the work for each worker: the more, the more evenly they are busy at the end."""
PART = ".part"
"""Ending of a file that is being written on a local disk."""


@dataclass(frozen=True)
class Scaled:
    """Results of `translate`."""

    written: int
    """Pictures translated."""
    skipped: int
    """Pictures whose results were there already; in tables with those that failed."""
    failed: tuple[tuple[str, str], ...]
    """Path and reason of each picture that could not be translated."""


class Translator:
    """Translates batches of rows: the class to give to `ray.data.Dataset.map_batches` in a pipeline of your own.

    Args:
        artifact: What `load` takes; or the bytes of an `.onnx` artifact, for workers that do not share a disk.
        threads: Threads of the engine.
        fmt: Ending of the picture format of the results, such as "png".
        load_options: Further arguments of `load`.
        **options: Arguments of `Generator.translate`, the same for all pictures.
    """

    def __init__(
        self,
        artifact: str | bytes,
        threads: int = 1,
        fmt: str = "png",
        load_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        from ganedge.runtime.generator import load

        self._format, self._options = check_format(Path(f"x.{fmt}")), options
        if isinstance(artifact, str):
            self._generator = load(artifact, threads=threads, **(load_options or {}))
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "generator.onnx"
            path.write_bytes(artifact)
            self._generator = load(path, threads=threads, **(load_options or {}))

    def __call__(self, rows: Rows) -> Rows:
        """Translate the column `bytes`, encoded pictures, and keep the others.

        Returns:
            The rows with the results in `bytes`, encoded, and in `error` why a picture has none; empty where it has.
        """
        results, errors = [], []
        for data in rows["bytes"]:
            stream, error = io.BytesIO(), ""
            try:
                if not isinstance(data, bytes):  # A null of a table is None.
                    raise InputError(
                        f"no encoded picture in column bytes: {'null' if data is None else type(data).__name__}"
                    )
                encode(self._generator.translate(data, **self._options), self._format, stream)
            except GanEdgeError as reason:
                stream, error = io.BytesIO(), one_line(reason)
            results.append(stream.getvalue())
            errors.append(error)
        return {**rows, "bytes": np.array(results, object), "error": np.array(errors, object)}


def translate(
    artifact: str | Path,
    source: str,
    output: str,
    *,
    workers: int,
    threads: int = 1,
    fmt: str = "png",
    batch: int = 8,
    **options: Any,
) -> Scaled:
    """Translate all pictures of a source with Ray Data: on the cluster that is connected, else on this machine.

    Args:
        artifact: What `load` takes. An `.onnx` file is sent to the workers; a folder or an engine must be at this path
            on every machine.
        source: A folder or a bucket (`s3://…`, `gs://…`, whatever PyArrow opens), with all below it; or a `.parquet`
            file or folder with the columns `path` and `bytes`, the encoded pictures.
        output: A folder or bucket, in which the structure below the source is kept; for a Parquet source each row group
            becomes a file with the columns `path`, `bytes` and `error`.
        workers: Processes.
        threads: Threads of each, and processors that Ray reserves for it.
        fmt: Ending of the results of a folder, and their format.
        batch: Pictures that a worker takes at a time.
        **options: Arguments of `Generator.translate`, the same for all pictures.

    Raises:
        MissingExtra: Ray Data is not installed.
        UsageError: a number below 1, or a format that cannot be written.
        InputError: nothing to translate at the source.
    """
    if min(workers, threads, batch) < 1:
        raise UsageError(f"workers {workers}, threads {threads}, batch {batch}: give numbers from 1 on")
    check_format(Path(f"x.{fmt}"))
    data = _ray_data()
    path = Path(artifact)
    sent = path.read_bytes() if path.is_file() and path.suffix == ".onnx" else str(path.resolve())
    arguments = {"artifact": sent, "threads": threads, "fmt": fmt, **options}

    # List what there is to do, and leave out what was done.
    files, root = _opened(source)
    target_files, target = _opened(output)
    is_table = ".parquet" in source
    inside = target if target != root and PurePosixPath(target).is_relative_to(root) else ""  # Results are no sources.
    todo = _row_groups(files, root, inside, source) if is_table else _pictures(files, root, inside, source)
    results = [f"{target}/{_result(item, root, fmt)}" for item in todo]
    _check_names([item["path"] for item in todo], results)
    present = set(_listed(target_files, target))
    items = [{**item, "result": result} for item, result in zip(todo, results, strict=True) if result not in present]
    skipped = sum(item.get("rows", 1) for item in todo) - sum(item.get("rows", 1) for item in items)
    if not items:
        return Scaled(0, skipped, ())

    # Every worker reads, translates and writes: stages of their own would need processors beside the workers'.
    size = 1 if is_table else batch
    blocks = min(-(-len(items) // size), workers * BLOCKS)
    rows = data.from_items(items, override_num_blocks=blocks).map_batches(
        _TableTranslator if is_table else _FileTranslator,
        fn_constructor_kwargs={"files": files, "target_files": target_files, **arguments},
        batch_size=size,
        compute=data.ActorPoolStrategy(size=min(workers, blocks)),
        num_cpus=threads,
    )
    done = [(row["path"], row["error"]) for row in rows.iter_rows()]
    failed = tuple((path, error) for path, error in done if error)
    return Scaled(len(done) - len(failed), skipped, failed)


def _ray_data() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise MissingExtra("ray[data]", "ray", "ganedge.runtime.scale") from error
    return ray.data


class _StoredTranslator(Translator):
    """Translates what is stored in one file system into another."""

    def __init__(self, files: Any, target_files: Any, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._files, self._target_files = files, target_files


class _FileTranslator(_StoredTranslator):
    """Translates files: rows of `path` and `result`."""

    def __call__(self, rows: Rows) -> Rows:
        """Read, translate and write; a file that cannot be read becomes an error of its row."""
        read = [self._read(path) for path in rows["path"]]
        done = super().__call__({"bytes": np.array([data for data, _ in read], object)})
        errors = [unread or error for (_, unread), error in zip(read, done["error"], strict=True)]
        for result, data, error in zip(rows["result"], done["bytes"], errors, strict=True):
            if not error:
                with _whole_file(self._target_files, result) as stream:
                    stream.write(data)
        return {"path": rows["path"], "error": np.array(errors, object)}

    def _read(self, path: str) -> tuple[bytes, str]:
        try:
            with self._files.open_input_stream(path) as stream:
                return stream.read(), ""
        except OSError as error:
            return b"", one_line(error)


class _TableTranslator(_StoredTranslator):
    """Translates row groups of Parquet files: rows of `path`, `group`, `rows` and `result`."""

    def __call__(self, rows: Rows) -> Rows:
        """Read, translate and write whole row groups; the result names every picture."""
        import pyarrow as pa
        from pyarrow import parquet

        paths: list[str] = []
        errors: list[str] = []
        for path, group, result in zip(rows["path"], rows["group"], rows["result"], strict=True):
            with self._files.open_input_file(path) as stream:
                table = parquet.ParquetFile(stream).read_row_group(int(group), columns=["path", "bytes"])
            columns = {name: np.array(table[name].to_pylist(), object) for name in ("path", "bytes")}
            done = {name: list(column) for name, column in super().__call__(columns).items()}
            with _whole_file(self._target_files, result) as stream:
                parquet.write_table(pa.table(done), stream)
            paths += done["path"]
            errors += done["error"]
        return {"path": np.array(paths, object), "error": np.array(errors, object)}


def _pictures(files: Any, root: str, without: str, source: str) -> list[dict[str, Any]]:
    paths = [path for path in _listed(files, root, without) if PurePosixPath(path).suffix.lower() in ENDINGS]
    if not paths:
        raise InputError(f"{source}: no picture there ({', '.join(sorted(ENDINGS))})")
    return [{"path": path} for path in paths]


def _row_groups(files: Any, root: str, without: str, source: str) -> list[dict[str, Any]]:
    """List the row groups of a Parquet file, or of all in a folder."""
    from pyarrow import fs, parquet

    is_file = files.get_file_info(root).type == fs.FileType.File
    groups: list[dict[str, Any]] = []
    for path in [root] if is_file else [path for path in _listed(files, root, without) if path.endswith(".parquet")]:
        with files.open_input_file(path) as stream:
            table = parquet.ParquetFile(stream)
            missing = {"path", "bytes"} - set(table.schema_arrow.names)
            if missing:
                raise InputError(
                    f"{path} has no column {' and '.join(sorted(missing))}: give the columns path and bytes"
                )
            groups += [
                {"path": path, "group": group, "rows": table.metadata.row_group(group).num_rows}
                for group in range(table.num_row_groups)
            ]
    if not groups:
        raise InputError(f"{source}: no rows there")
    return groups


def _result(item: Mapping[str, Any], root: str, fmt: str) -> str:
    """Return the path of a result in the output: of a picture, or of a row group."""
    path = PurePosixPath(item["path"])
    inside = path.relative_to(root) if item["path"] != root else PurePosixPath(path.name)
    if "group" in item:
        return str(inside.with_name(f"{inside.stem}-{item['group']:05d}.parquet"))
    return str(inside.with_suffix(f".{fmt}"))


@contextlib.contextmanager
def _whole_file(files: Any, path: str) -> Iterator[Any]:
    """Open a file that appears under its name when all of it is written."""
    from pyarrow import fs

    local = isinstance(files, fs.LocalFileSystem)  # A bucket shows an object when all of it is there.
    part = f"{path}{PART}" if local else path
    files.create_dir(str(PurePosixPath(path).parent), recursive=True)
    with files.open_output_stream(part) as stream:
        yield stream
    if local:
        files.move(part, path)


def _opened(uri: str) -> tuple[Any, str]:
    """Return the file system of a folder or bucket, and the path in it."""
    from pyarrow import fs

    if "://" in uri:
        files, path = fs.FileSystem.from_uri(uri)
        return files, path.rstrip("/")
    return fs.LocalFileSystem(), Path(uri).resolve().as_posix()


def _listed(files: Any, root: str, without: str = "") -> list[str]:
    """List the files below a folder, without hidden ones and without those below another folder."""
    from pyarrow import fs

    entries = files.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
    inside = [(entry, PurePosixPath(entry.path).relative_to(root).parts) for entry in entries]
    return sorted(
        entry.path
        for entry, parts in inside
        if entry.is_file and not any(part.startswith(".") for part in parts) and not entry.path.endswith(PART)
        if not (without and PurePosixPath(entry.path).is_relative_to(without))
    )


def _check_names(paths: Sequence[str], results: Sequence[str]) -> None:
    """Refuse two pictures that would become one file, and results over their sources."""
    sources: dict[str, str] = {}
    read = set(paths)
    for path, result in zip(paths, results, strict=True):
        if result in sources:
            raise UsageError(f"{sources[result]} and {path} would both become {result}: rename one of them")
        if result in read:
            raise UsageError(f"{result} would overwrite a picture that is read: give another output")
        sources[result] = path
