"""The nearest real pictures of generated ones: whether a generator memorised its data.

near = search(examiner, items, {"generator": network}, searched=100_000)
print(near.copied, near.copied_real)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ganedge.runtime.cli.terminal import note
from ganedge.train.metrics import copied, nearest

if TYPE_CHECKING:
    from ganedge.train.data import Data
    from ganedge.train.examiner import Examiner

SHOWN = 6
"""Generated pictures that are shown with their neighbours: as many of the most suspicious, and as many others."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest real pictures of generated ones."""

    copied: float
    """Share of the generated pictures that are copies of a real one, 0 to 1, see `metrics.copied`."""
    copied_real: float
    """The same of as many real pictures, each compared with all others: what the data set has of itself."""
    equal: int
    """Generated pictures at distance 0 from a real one."""
    drawn: int
    """Generated pictures."""
    searched: int
    """Real pictures that were searched."""
    items: int
    """Real pictures that there are."""
    rows: tuple[tuple[float, Tensor], ...]
    """For some pictures, the most suspicious first: their distance to the nearest as a share of that to the next, and
    uint8 `[3, C, H, W]`: the picture, its nearest and its next nearest."""

    @property
    def is_suspicious(self) -> bool:
        """Whether more pictures are copies than the data's own likeness and chance explain (two standard errors)."""
        share = max(self.copied_real, 1 / self.drawn)
        return bool(self.equal) or self.copied > self.copied_real + 2 * (share * (1 - share) / self.drawn) ** 0.5


def search(examiner: Examiner, items: Data, networks: Mapping[str, nn.Module], searched: int) -> Neighbours:
    """Search the data for the nearest pictures of what the generator draws.

    Args:
        examiner: Draws the pictures, and compares them in the features of its network.
        items: The data.
        networks: The generator, by name.
        searched: Pictures of the data to search at most, evenly spread.
    """
    (name,) = networks
    judge, count = examiner.judges[name], items.count("images")
    drawn = examiner.draw(name, networks, judge.count)
    chosen = torch.linspace(0, count - 1, min(searched, count)).long()
    note(f"searching {len(chosen)} pictures for the nearest ones")
    real = torch.cat([judge.features(items.pictures("images", part)) for part in torch.split(chosen, 500)])
    distances, indices = nearest(judge.features(drawn), real)

    # What the data have of themselves, as a measure.
    own = torch.linspace(0, len(real) - 1, min(len(drawn), len(real))).long()
    between, _ = nearest(real[own], real, itself=own)

    ratios = (distances[:, 0] / distances[:, 1].clamp(min=1e-12)).cpu()
    suspicious = ratios.argsort()[:SHOWN].tolist()
    others = [index for index in range(len(drawn)) if index not in suspicious][:SHOWN]
    rows = []
    for index in (*suspicious, *others):
        near = items.pictures("images", chosen[indices[index].cpu()])
        rows.append((float(ratios[index]), torch.cat((drawn[index][None], near.cpu()))))
    return Neighbours(
        copied=float(copied(distances).float().mean()),
        copied_real=float(copied(between).float().mean()),
        equal=int((distances[:, 0] == 0).sum()),
        drawn=len(drawn),
        searched=len(chosen),
        items=count,
        rows=tuple(rows),
    )
