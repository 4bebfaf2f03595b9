"""FID and KID of what each competitor draws: to the reference's pictures of the same latents, and to real ones.

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
"""Of the latents."""
FIGURES = ("fid", "kid")


@dataclass(frozen=True)
class Distance:
    """What to compare sets of pictures with, and how."""

    pictures: int = 2048
    """Drawn by each competitor, and taken of the data where there are as many: four times the small features, so that
    their covariance is no mere shadow."""
    features: metrics.Name = "small"
    """The feature network."""
    data: str | None = None
    """Real pictures, as `gan-train --data` takes them; None compares with the reference's alone."""
    download: bool = False
    """Whether data and Inception's weights may be fetched."""

    def __post_init__(self) -> None:
        """Refuse what has no statistics."""
        if not metrics.FEWEST <= self.pictures <= 100_000:
            raise UsageError(f"--fid-pictures {self.pictures}: give {metrics.FEWEST} to 100000")


class Examiner:
    """Measures competitors, with everything it needs fetched beforehand.

    Args:
        wanted: What to measure.
        interface: Of the generators.
        batch: Items in one call.

    Raises:
        UsageError: a generator that draws no pictures from latents, data or features that cannot be had.
        MissingExtra: torchmetrics, or what the feature network needs, is not installed.
    """

    def __init__(self, wanted: Distance, interface: Interface, batch: int) -> None:
        if interface.kind != "latent-to-image" or interface.output.channels not in (1, 3):
            raise UsageError(
                f"--fid is for generators that draw grey or colour pictures from latents; this one is "
                f"{interface.kind}, {interface.output.channels or 'no'} channels: leave --fid and --data out"
            )
        if not engines.installed("torchmetrics"):
            raise MissingExtra("torchmetrics", "train", "gan-bench --fid")
        self.wanted, self._interface, self._batch = wanted, interface, batch
        self._network = metrics.feature_network(wanted.features, wanted.download)
        self._real = None if wanted.data is None else self._of_data(wanted)

    @property
    def said(self) -> dict[str, object]:
        """How it is measured, as the report holds it."""
        return {
            "features": self.wanted.features,
            "pictures": self._count,
            "data": self.wanted.data,
            "data_pictures": None if self._real is None else len(self._real),
        }

    @property
    def _count(self) -> int:
        """Pictures drawn: whole batches, as some artifacts take nothing else."""
        return -(-self.wanted.pictures // self._batch) * self._batch

    def __call__(
        self, competitors: Sequence[Competitor], judge: Competitor | None, failed: Callable[[str, Exception], object]
    ) -> dict[str, dict[str, float]]:
        """Measure each.

        Args:
            competitors: What draws.
            judge: Whose pictures the others' are compared with; None leaves that out.
            failed: Told of one that raised an error.

        Returns:
            By name: `fid` and `kid` to the judge's pictures (none for itself), `data_fid` and `data_kid` to real ones.
        """
        found: dict[str, dict[str, float]] = {}
        first: Tensor | None = None
        for one in sorted(competitors, key=lambda other: other is not judge):  # The judge is first.
            figures: dict[str, float] = {}
            try:
                own = self._features(one)
                if one is judge:
                    first = own
                elif first is not None:
                    figures |= _apart(first, own, "")
                if self._real is not None:
                    figures |= _apart(self._real, own, "data_")
            except Exception as error:  # noqa: BLE001 - PyTorch's own too, where memory ends: what was timed is kept
                failed(one.name, error)
                continue
            found[one.name] = figures
        return found

    def _features(self, one: Competitor) -> Tensor:
        """Of everything it draws, `[N, F]`; the pictures themselves are not kept."""
        inputs = real_inputs(self._interface, self._count, SEED)
        parts = []
        for begin in range(0, self._count, self._batch):
            output = one.run([array[begin : begin + self._batch] for array in inputs])
            if not np.isfinite(output).all():
                raise EngineError(f"{one.name} draws NaN or infinite values")
            parts.append(self._of_pictures(self._levels(output)))
        return torch.cat(parts)

    def _levels(self, output: NDArray[np.generic]) -> Tensor:
        """uint8 `[N, C, H, W]`, as the runtime rounds them."""
        port = self._interface.output
        assert port.range is not None
        return torch.from_numpy(to_pixels(output, port.range, port.layout)).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def _of_pictures(self, levels: Tensor) -> Tensor:
        found: Tensor = self._network(levels.expand(-1, 3, -1, -1)).float()
        return found

    def _of_data(self, wanted: Distance) -> Tensor:
        """Features of real pictures, taken evenly over the data."""
        assert wanted.data is not None
        port = self._interface.output
        height, width = (port.shape[2:] if port.layout == "NCHW" else port.shape[1:3])[:2]
        if not isinstance(height, int) or height != width:
            raise UsageError(
                f"--data {wanted.data}: real pictures are brought to squares, this draws {height} × {width}"
            )
        data = open_data(wanted.data, Wants("images", height, port.channels), Options(download=wanted.download))
        for line in describe_skipped(data.skipped):
            note(line)
        held = len(data)
        if held < metrics.FEWEST:
            raise UsageError(f"--data {wanted.data}: {held} pictures have no statistics, give {metrics.FEWEST} or more")
        places = torch.linspace(0, held - 1, min(wanted.pictures, held)).long()
        chunks = torch.split(places, metrics.CHUNK)
        return torch.cat([self._of_pictures(data.pictures("images", chunk)) for chunk in chunks])


def _apart(real: Tensor, drawn: Tensor, prefix: str) -> dict[str, float]:
    found = metrics.compare(real, drawn)
    return {prefix + name: found[name] for name in FIGURES}
