"""Measure artifacts and compare them with the generator that they came from: what `gan-bench` calls.

report = bench(["generator.onnx"], against="runs/digits", batch=[1, 8])
print(report)
report.to_html("report.html")
"""

from __future__ import annotations

import difflib
import html
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ganedge.benchmarks import latency, recommend, report
from ganedge.benchmarks.competitor import TORCH, common
from ganedge.export.source import SourceSpec
from ganedge.runtime import engines
from ganedge.runtime.cli.options import flag, option
from ganedge.runtime.errors import GanEdgeError, MissingExtra, UsageError
from ganedge.runtime.files import write_whole
from ganedge.runtime.manifest import Port

REFERENCE, DISTANCE = "Generator to compare with", "FID and KID"
"""Headings of the help."""
SOURCE_FIELDS = (
    *("kwargs", "forward_kwargs", "weights", "output_shape", "result", "arch", "norm"),
    *("range", "output_range", "mean", "std", "noise_seed", "trust"),
)
"""Fields of `SourceSpec` that describe the generator to compare with; the artifact states the others."""


class WithPath(Protocol):
    """An artifact that `export` returned."""

    @property
    def path(self) -> Path:
        """Its file."""
        ...


@dataclass(frozen=True)
class BenchSpec:
    """How to measure; each field is an option of its name.

    Raises:
        UsageError: a value that cannot be.
    """

    against: str | None = field(default=None, metadata=option(panel=REFERENCE))
    """The run, FILE.py:NAME or checkpoint that the artifacts came from; without it PyTorch is not measured."""
    torch: tuple[str, ...] = field(default=("eager",), metadata=option(panel=REFERENCE))
    """Ways of running PyTorch: all, or eager, channels-last, bf16, fp16, compile, reduce-overhead, cuda-graph."""
    batch: tuple[int, ...] | None = field(default=None, metadata=option(default="1,8"))
    """Batch sizes, with commas."""
    engine: str = "all"
    """all, auto, or some of onnxruntime, openvino, ort-tensorrt with commas."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device, the same for every competitor."""
    threads: int | None = field(default=None, metadata=option(minimum=1, default="all cores"))
    """Threads of every competitor."""
    seconds: float | None = field(default=None, metadata=option(minimum=0, default="3; with --strict 600"))
    """Time each competitor for at least this long, seconds."""
    iterations: int | None = field(default=None, metadata=option(minimum=1, default="50; with --strict 1024"))
    """Time each competitor for at least this many calls."""
    processes: int = field(default=3, metadata=option(minimum=0, maximum=100))
    """Processes started for each competitor, to measure cold start and memory; 0 skips this."""
    size: str | None = field(default=None, metadata=option(default="as trained, else 256"))
    """Height and width of input images where any size is accepted: 256 or 256x320."""
    strict: bool = False
    """MLPerf's single stream: batch 1, one competitor after the other, 600 s and 1024 calls each."""
    choose: str | None = None
    """Recommend the best one: constraints and one figure, "psnr>=35, p99"."""
    fid: bool = field(default=False, metadata=option(panel=DISTANCE))
    """Compute FID and KID between the images of each competitor and the reference's."""
    data: str | None = field(default=None, metadata=option(panel=DISTANCE))
    """Also compute them to real images, as gan-train --data takes them; implies --fid."""
    fid_pictures: int = field(default=2048, metadata=option(panel=DISTANCE))
    """Images that FID and KID are computed over."""
    features: Literal["small", "efficientnet", "inception"] = field(default="small", metadata=option(panel=DISTANCE))
    """Features that FID and KID compare; only Inception's are comparable with published figures."""
    download: bool = field(default=False, metadata=option(panel=DISTANCE))
    """Allow --data and --features inception to download."""

    def __post_init__(self) -> None:
        """Convert what is given as text."""
        ways = self.torch.split(",") if isinstance(self.torch, str) else list(self.torch)
        object.__setattr__(self, "torch", tuple(TORCH) if ways == ["all"] else tuple(dict.fromkeys(("eager", *ways))))
        object.__setattr__(self, "batch", _read_batches(self.batch))
        object.__setattr__(self, "against", None if self.against is None else os.fspath(self.against))

    @property
    def compares_distance(self) -> bool:
        """Whether FID and KID are asked for."""
        return self.fid or self.data is not None

    def settings(self) -> latency.Settings:
        """Return the settings of `latency.measure`."""
        seconds, iterations = (latency.STRICT_SECONDS, latency.STRICT_QUERIES) if self.strict else (3.0, 50)
        return latency.Settings(
            batches=self.batch or ((1,) if self.strict else (1, 8)),
            engine=self.engine,
            device=self.device,
            torch=self.torch,
            threads=self.threads,
            seconds=seconds if self.seconds is None else self.seconds,
            iterations=iterations if self.iterations is None else self.iterations,
            processes=self.processes,
            size=self.size,
            distance=self._distance(),
            strict=self.strict,
        )

    def _distance(self) -> Any:
        if not self.compares_distance:
            return None
        if not engines.installed("torch"):
            raise MissingExtra("torch", "train", "gan-bench --fid")
        from ganedge.benchmarks.distance import Distance

        return Distance(self.fid_pictures, self.features, self.data, self.download)


@dataclass
class Report:
    """The result of a benchmark."""

    data: dict[str, Any]
    """The report as benchmarks/SCHEMA.md describes it, ready for JSON."""
    pictures: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """The first outputs of each competitor, by name, in the layout of `port`."""
    port: Port | None = None
    """The output of the artifacts."""
    unmet: GanEdgeError | None = None
    """Why nothing meets the constraints of `choose`."""

    @property
    def verdict(self) -> str:
        """One line: the fastest competitor that returns the same images, and how much faster it is."""
        return report.verdict(self.data)

    def table(self, verbose: bool = False) -> str:
        """The results for a terminal; with `verbose` also method, costs of a process and what was not measured."""
        return report.table(self.data, verbose)

    def __str__(self) -> str:
        """As a terminal shows it."""
        return self.table()

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """One line of JSON; written to `path` if that is given."""
        text = json.dumps(self.data, allow_nan=False)
        if path is not None:
            write_whole(Path(path), text + "\n")
        return text

    def to_markdown(self, path: str | os.PathLike[str] | None = None) -> str:
        """Markdown for a pull request; written to `path` if that is given."""
        text = report.markdown(self.data)
        if path is not None:
            write_whole(Path(path), text)
        return text

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained page with plots and images (extra `report`)."""
        from ganedge.benchmarks import page

        page.write(Path(path), self.data, self.pictures, self.port)

    def _repr_html_(self) -> str:
        """Return the table for a notebook."""
        return f"<pre>{html.escape(self.table())}</pre>"

    def check(self) -> None:
        """Raise an error if the report is partial, incomplete or shows wrong pictures.

        Raises:
            KeyboardInterrupt: measuring was interrupted.
            GanEdgeError: nothing meets the constraints, not everything could be measured, or an artifact returns other
                images than the reference.
        """
        if self.data["partial"]:
            raise KeyboardInterrupt
        if self.unmet is not None:
            raise self.unmet
        if self.data["failed"]:
            raise GanEdgeError("not all could be measured: " + "; ".join(map(report.failure, self.data["failed"])))
        # What PyTorch itself computes with fewer bits is shown, and is no artifact's fault.
        own = {name for name, costs in self.data["competitors"].items() if costs["file"] is not None}
        wrong = sorted({row["competitor"] for row in self.data["results"] if row["same"] is False} & own)
        if wrong:
            raise GanEdgeError(f"not the same pictures as {self.data['reference']}: {'; '.join(wrong)}")


def bench(artifacts: Sequence[str | os.PathLike[str] | WithPath], **settings: Any) -> Report:
    """Measure artifacts in every installed engine, and compare them with the generator in PyTorch.

    Args:
        artifacts: Files that gan-export wrote, or what `export` returned.
        settings: Fields of `BenchSpec` and of `SourceSpec`, named as the long options of gan-bench.

    Returns:
        The report. After Ctrl-C it holds what was measured until then and says that it is partial.

    Raises:
        UsageError: an unknown setting, or a value that cannot be.
        ArtifactError: a file that is no artifact, a folder that is no run.
        InputError: artifacts that take different inputs.
        MissingExtra: a package is not installed; the message says how to install it.
    """
    _check_names(settings)
    spec = BenchSpec(**{name: value for name, value in settings.items() if name not in SOURCE_FIELDS})
    source = SourceSpec(**{name: value for name, value in settings.items() if name in SOURCE_FIELDS})
    check_settings(spec, settings)
    files = [Path(artifact if isinstance(artifact, (str, os.PathLike)) else artifact.path) for artifact in artifacts]
    choice = None if spec.choose is None else recommend.read_choice(spec.choose)
    if choice is not None:
        with_torch = spec.against is not None and engines.installed("torch")
        recommend.check_figures(
            choice,
            compared=with_torch or len(files) > 1 or spec.engine == "all" or "," in spec.engine,
            eager=with_torch,
            distance=spec.compares_distance,
            data=spec.data is not None,
            processes=spec.processes > 0,
        )
    pictures: dict[str, Any] = {}
    measured = latency.measure(files, spec.against, spec.settings(), source, pictures=pictures)
    result = Report(measured, pictures, common(files).interface.output)
    if choice is not None and not measured["partial"]:
        try:
            measured["choice"] = recommend.decide(measured, choice)
            recommend.check(measured["choice"])
        except GanEdgeError as error:
            result.unmet = error
    return result


def check_settings(spec: BenchSpec, names: Collection[str]) -> None:
    """Raise UsageError for settings that would have no effect."""
    for name in sorted(set(names)):
        if name == "torch" or name in SOURCE_FIELDS:
            typed = flag(BenchSpec, name) if name == "torch" else flag(SourceSpec, name)
            if spec.against is None:
                raise UsageError(f"{typed} describes the generator to compare with: give --against too")
        if name in ("fid_pictures", "features", "download") and not spec.compares_distance:
            raise UsageError(f"{flag(BenchSpec, name)} is for FID and KID: give --fid or --data too")


def _check_names(settings: Mapping[str, Any]) -> None:
    known = [*(item.name for item in fields(BenchSpec)), *SOURCE_FIELDS]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
            raise UsageError(f"bench has no setting {name}: {hint}")


def _read_batches(value: str | int | Sequence[int] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        texts: Sequence[Any] = (
            value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
        )
        sizes = [int(part) for part in texts]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or max(sizes) > 65_536:
        raise UsageError(f"--batch is {value!r}: give whole numbers of 1 to 65536, separated by commas")
    return tuple(dict.fromkeys(sizes))
