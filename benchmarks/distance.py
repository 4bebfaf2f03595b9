"""FID and KID of the images of each competitor, to the reference's and to real ones.

    examiner = Examiner(Distance(pictures=2048, data="digits"), interface, batch=8)
    found = examiner(competitors, judge)        # {"generator.onnx, openvino": {"fid": 0.02, "data_fid": 31.4, …}, …}

PSNR says how far single pictures are apart, and these how far the whole sets are: an INT8 generator may lose decibels
and still draw as well. Needs torch and torchmetrics; it runs after the timing and takes none of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganedge.benchmarks.competitor import Competitor
from ganedge.models.variant import Wants
from ganedge.runtime import engines
from ganedge.runtime.cli.terminal import note
from ganedge.runtime.errors import EngineError, MissingExtra, UsageError
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import Interface
from ganedge.runtime.pictures.images import to_pixels
from ganedge.train import metrics
from ganedge.train.data import Options, describe_skipped, open_data

SEED = 7
"""Seed of the latents."""
FIGURES = ("fid", "kid")


@dataclass(frozen=True)
class Distance:
    """How to compute distances between sets of pictures."""

    pictures: int = 2048
    """Pictures that each competitor generates, and that are taken from the data if there are as many. The default is
    four times the number of small features, enough to estimate their covariance."""
    features: metrics.Name = "small"
    """The feature network."""
    data: str | None = None
    """Real pictures, as `gan-train --data` takes them; None compares only with the reference's."""
    download: bool = False
    """Whether data and Inception's weights may be downloaded."""

    def __post_init__(self) -> None:
        """Check the number of pictures."""
        if not metrics.FEWEST <= self.pictures <= 100_000:
            raise UsageError(f"--fid-pictures {self.pictures}: give {metrics.FEWEST} to 100000")


class Examiner:
    """Measures competitors; everything that it needs is downloaded and opened when it is made.

    Args:
        wanted: What to measure.
        interface: Of the generators.
        batch: Items in one call.

    Raises:
        UsageError: a generator that draws no pictures from latents, data or features that cannot be had.
        MissingExtra: torchmetrics, or what the feature network needs, is not installed.
    """

    def __init__(self, settings: Distance, interface: Interface, batch: int) -> None:
        if interface.kind != "latent-to-image" or interface.output.channels not in (1, 3):
            raise UsageError(
                f"--fid is for generators that draw grey or colour pictures from latents; this one is "
                f"{interface.kind}, {interface.output.channels or 'no'} channels: leave --fid and --data out"
            )
        if not engines.installed("torchmetrics"):
            raise MissingExtra("torchmetrics", "train", "gan-bench --fid")
        self.settings, self._interface, self._batch = settings, interface, batch
        self._network = metrics.feature_network(settings.features, settings.download)
        self._real = None if settings.data is None else self._of_data(settings)

    @property
    def method(self) -> dict[str, object]:
        """Description of the method, for the report."""
        return {
            "features": self.settings.features,
            "pictures": self._count,
            "data": self.settings.data,
            "data_pictures": None if self._real is None else len(self._real),
        }

    @property
    def _count(self) -> int:
        """Number of generated pictures: whole batches, because some artifacts have a fixed batch size."""
        return -(-self.settings.pictures // self._batch) * self._batch

    def __call__(
        self,
        competitors: Sequence[Competitor],
        reference: Competitor | None,
        failed: Callable[[str, Exception], object],
    ) -> dict[str, dict[str, float]]:
        """Measure each.

        Args:
            competitors: What draws.
            reference: Whose pictures the others' are compared with; None leaves that out.
            failed: Told of one that raised an error.

        Returns:
            By name: `fid` and `kid` to the judge's pictures (none for itself), `data_fid` and `data_kid` to real ones.
        """
        distances: dict[str, dict[str, float]] = {}
        first: Tensor | None = None
        for competitor in sorted(competitors, key=lambda other: other is not reference):  # The judge is first.
            figures: dict[str, float] = {}
            try:
                own = self._features(competitor)
                if competitor is reference:
                    first = own
                elif first is not None:
                    figures |= _apart(first, own, "")
                if self._real is not None:
                    figures |= _apart(self._real, own, "data_")
            except Exception as error:  # noqa: BLE001 - PyTorch's own too, where memory ends: what was timed is kept
                failed(competitor.name, error)
                continue
            distances[competitor.name] = figures
        return distances

    def _features(self, competitor: Competitor) -> Tensor:
        """Return the features `[N, F]` of all pictures that a competitor generates; the pictures are not kept."""
        inputs = real_inputs(self._interface, self._count, SEED)
        parts = []
        for begin in range(0, self._count, self._batch):
            output = competitor.run([array[begin : begin + self._batch] for array in inputs])
            if not np.isfinite(output).all():
                raise EngineError(f"{competitor.name} draws NaN or infinite values")
            parts.append(self._of_pictures(self._levels(output)))
        return torch.cat(parts)

    def _levels(self, output: NDArray[np.generic]) -> Tensor:
        """Convert to uint8 `[N, C, H, W]`, rounded as in the runtime."""
        port = self._interface.output
        assert port.range is not None
        return torch.from_numpy(to_pixels(output, port.range, port.layout)).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def _of_pictures(self, levels: Tensor) -> Tensor:
        features: Tensor = self._network(levels.expand(-1, 3, -1, -1)).float()
        return features

    def _of_data(self, settings: Distance) -> Tensor:
        """Return the features of real pictures, taken at even intervals from the data."""
        assert settings.data is not None
        port = self._interface.output
        height, width = (port.shape[2:] if port.layout == "NCHW" else port.shape[1:3])[:2]
        if not isinstance(height, int) or height != width:
            raise UsageError(
                f"--data {settings.data}: real pictures are brought to squares, this draws {height} × {width}"
            )
        data = open_data(settings.data, Wants("images", height, port.channels), Options(download=settings.download))
        for line in describe_skipped(data.skipped):
            note(line)
        held = len(data)
        if held < metrics.FEWEST:
            raise UsageError(
                f"--data {settings.data}: {held} pictures have no statistics, give {metrics.FEWEST} or more"
            )
        places = torch.linspace(0, held - 1, min(settings.pictures, held)).long()
        chunks = torch.split(places, metrics.CHUNK)
        return torch.cat([self._of_pictures(data.pictures("images", chunk)) for chunk in chunks])


def _apart(real: Tensor, drawn: Tensor, prefix: str) -> dict[str, float]:
    distances = metrics.compare(real, drawn)
    return {prefix + name: distances[name] for name in FIGURES}
