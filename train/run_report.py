"""Report on a run: what its generator draws compared with the data, and one page with curves, samples and settings.

    report(Path("runs/faces"), ReportSpec())      # writes runs/faces/report.html

FID, KID, precision and recall are those of `metrics.py`. For generators that draw from latents, the nearest real
pictures of what they draw are shown too, which shows whether they memorised their data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from ganedge.models.variant import Translator, check_types, require
from ganedge.runtime.cli import page as shared
from ganedge.runtime.cli.options import option
from ganedge.runtime.cli.terminal import note
from ganedge.runtime.errors import UsageError
from ganedge.runtime.files import write_whole
from ganedge.train import data, neighbours, run_folder, run_page
from ganedge.train.metrics import FEWEST, Name
from ganedge.train.neighbours import Neighbours
from ganedge.train.settings import Device, Settings

JUDGED = 2000
"""Pictures that are compared where neither the user nor the run says how many."""


@dataclass(frozen=True, kw_only=True)
class ReportSpec:
    """What a report holds. A field's docstring is its help text on the command line."""

    out: Path | None = field(default=None, metadata=option(default="RUN/report.html"))
    """Page to write."""
    checkpoint: str = "last"
    """Weights to judge: last, best (of a run with --features), or the step of a checkpoint."""
    data: str = field(default="", metadata=option(default="as in training"))
    """Data to compare with, where they are no longer where they were."""
    features: Literal["", Name] = field(default="", metadata=option(default="as in training, or small"))
    """Network whose features are compared; only figures of the same network can be compared."""
    judged: int | None = field(default=None, metadata=option(default="as in training with --features, or 2000"))
    """Pictures that are compared."""
    searched: int = 100_000
    """Pictures of the data in which the nearest are searched, evenly spread where there are more."""
    device: Device = "auto"
    """Where to draw and compare: auto takes CUDA where there is one."""
    download: bool = False
    """Fetch a built-in data set, or Inception's weights, from the internet if they are not here."""
    only_records: bool = False
    """Show what the run recorded only: no FID, precision, recall and neighbours of the final weights, for which the
    data are needed."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        check_types(self)
        require(self.judged is None or self.judged >= FEWEST, "judged", self.judged, f"{FEWEST} or more")
        require(self.searched >= FEWEST, "searched", self.searched, f"{FEWEST} or more")


@dataclass(frozen=True)
class RunReport:
    """A report that was written. It can be used as its path."""

    path: Path
    """The page."""
    figures: Mapping[str, float]
    """`fid`, `kid`, `precision`, `recall` (of several generators also with their names), and `copied`; empty where
    nothing was measured."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


def report(folder: Path, spec: ReportSpec) -> RunReport:
    """Measure a run's generators and write the page.

    Args:
        folder: The run folder.
        spec: What the report holds.

    Raises:
        ArtifactError: not a run, or one without weights.
        UsageError: data or weights that are not there, or a page that cannot be written there.
        MissingExtra: matplotlib, jinja2 or torchmetrics is not installed.
    """
    shared.require("gan-train report")
    run = run_folder.read(folder)
    gan = run.variant(run.config)
    trained = {name: run.generator(name, spec.checkpoint) for name in gan.generators()}
    measured = "Only what the run recorded is shown (--only-records)."
    figures: dict[str, float] = {}
    near: Neighbours | None = None
    if not spec.only_records:
        kind = run.variant.wants(run.config).kind
        if kind in ("points", "latents"):
            measured = "No figures: this run " + (
                "draws points." if kind == "points" else "learned without real pictures."
            )
        else:
            networks = {name: network for name, (network, _) in trained.items()}
            measured, figures, near = _measure(run, networks, spec)
    step = max(source.step for _, source in trained.values())
    html = run_page.render(run, step, figures, measured, near)
    path = spec.out or folder / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, html)
    return RunReport(path, figures | ({"copied": near.copied} if near is not None else {}))


def _measure(
    run: run_folder.Run, networks: Mapping[str, nn.Module], spec: ReportSpec
) -> tuple[str, dict[str, float], Neighbours | None]:
    """Compare the generators with the data: how it was measured, the figures, and neighbours where it has latents."""
    from ganedge.train.examiner import Examiner  # Here, because torchmetrics takes seconds to import.

    gan = run.variant(run.config)
    given = {"data": spec.data} if spec.data else {}
    settings = Settings.repeat(run.folder, out=run.folder, download=spec.download, **given)
    try:
        items = data.open_data(settings.data, run.variant.wants(run.config), settings.opening)
    except UsageError as error:
        raise UsageError(f"{error}; or add --only-records for a page without what needs the data") from error
    targets = gan.targets.values() if isinstance(gan, Translator) else ["images"]
    if not {*targets} <= {key for source in items.sources for key in source.keys}:
        return "No figures: this run learned from another generator, not from pictures.", {}, None
    is_cuda = spec.device == "cuda" or (spec.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if is_cuda else "cpu")
    features = spec.features or settings.features or "small"
    judged = spec.judged or (settings.judged if settings.features else JUDGED)
    for network in networks.values():
        network.to(device)
    note(f"comparing {judged} pictures with the data in the features of the network {features}")
    examiner = Examiner(gan, items, features, judged, device, spec.download)
    how = f"Features of the network {features}, {judged} pictures at most."
    figures = examiner(networks)
    if isinstance(gan, Translator):
        return how, figures, None
    return how, figures, neighbours.search(examiner, items, networks, spec.searched)
