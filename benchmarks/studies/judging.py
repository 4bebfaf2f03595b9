"""How `--features small` orders known degradations of real pictures, and how far it is from 0 between real ones.

    python -m ganedge.benchmarks.studies.judging mnist:DIR --out judging.json

All pictures are real. One set is the reference; others, of different pictures, are degraded more and more: by noise and
blur, by leaving out classes, and by foreign classes (then the reference holds the first half of the classes). The noise
floor is what two disjoint sets of real pictures have, at several sample sizes. The idea of such a test is that of
Heusel et al. 2017 (arXiv:1706.08500), appendix A1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganedge.models.variant import Wants
from ganedge.runtime.cli import terminal
from ganedge.train.data import open_data
from ganedge.train.metrics import SmallFeatures, compare

SIZE = 28
"""Height and width of the pictures, pixels."""
SAMPLES = 2000
"""Pictures of each degraded set, and of the reference."""
FLOORS = (250, 500, 1000, 2000, 5000)
"""Sample sizes of the noise floor."""
DRAWS = 5
"""Pairs of disjoint sets for each of them."""
NOISE = (5, 10, 20, 40, 80)
"""Standard deviations of the noise, levels of 0 to 255."""
BLUR = (0.4, 0.6, 0.8, 1.2, 2.0)
"""Standard deviations of the Gaussian blur, pixels."""
FOREIGN = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of pictures of classes that the reference does not hold."""
DEVIATIONS = 3
"""Standard deviations above the mean of the noise floor from which a degradation counts as seen."""


def add_noise(pictures: Tensor, deviation: float, source: torch.Generator) -> Tensor:
    """Add Gaussian noise, uint8 `[N, C, H, W]`."""
    noise = torch.randn(pictures.shape, generator=source) * deviation
    return (pictures + noise).round().clamp(0, 255).to(torch.uint8)


def blur(pictures: Tensor, deviation: float) -> Tensor:
    """Blur with a Gaussian, uint8 `[N, C, H, W]`."""
    offsets = torch.arange(-6, 7, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    flat = pictures.float().flatten(0, 1)[:, None]
    flat = F.conv2d(F.conv2d(flat, kernel[..., None], padding=(6, 0)), kernel[:, :, None], padding=(0, 6))
    return flat.reshape(pictures.shape).round().clamp(0, 255).to(torch.uint8)


class Study:
    """One data set: its pictures in a random order, and their features.

    Args:
        pictures: uint8 `[N, C, H, W]`, labelled.
        labels: `[N]`.
    """

    def __init__(self, pictures: Tensor, labels: Tensor) -> None:
        self.source = torch.Generator().manual_seed(0)
        order = torch.randperm(len(pictures), generator=self.source)
        self.pictures, self.labels = pictures[order], labels[order]
        self.classes = int(labels.max()) + 1
        self.network = SmallFeatures().eval()
        self.samples = min(SAMPLES, len(pictures) // 2)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Features, `[N, 512]`."""
        chunks = torch.split(pictures.expand(-1, 3, -1, -1), 250)
        return torch.cat([self.network(chunk) for chunk in chunks])

    def of_classes(self, chosen: Sequence[int], count: int, begin: int) -> Tensor:
        """`count` pictures of some classes out of those from `begin` on, repeated where there are fewer."""
        places = torch.isin(self.labels[begin:], torch.tensor(chosen)).nonzero()[:, 0] + begin
        return self.pictures[places[torch.arange(count) % len(places)]]

    def floors(self) -> list[dict[str, Any]]:
        """FID, precision and recall between disjoint real sets, for each sample size that the data allow."""
        rows = []
        for count in FLOORS:
            draws = min(DRAWS, len(self.pictures) // (2 * count))
            if draws < 2:
                continue
            own = self.features(self.pictures[: 2 * draws * count])
            pairs = [
                compare(own[begin : begin + count], own[begin + count : begin + 2 * count])
                for begin in range(0, 2 * draws * count, 2 * count)
            ]
            row: dict[str, Any] = {"samples": count, "draws": draws}
            for name in ("fid", "kid", "precision", "recall"):
                values = [pair[name] for pair in pairs]
                row |= {name: statistics.mean(values), f"{name}_deviation": statistics.stdev(values)}
            rows.append(row)
        return rows

    def degraded(self) -> Iterator[tuple[str, float, Tensor, Tensor]]:
        """Name, strength, reference and degraded pictures of each degradation."""
        count = self.samples
        reference, others = self.pictures[:count], self.pictures[count : 2 * count]
        for deviation in NOISE:
            yield "noise", deviation, reference, add_noise(others, deviation, self.source)
        for width in BLUR:
            yield "blur", width, reference, blur(others, width)
        for left_out in sorted({1, 2, self.classes // 2, self.classes - 2, self.classes - 1}):
            yield "classes left out", left_out, reference, self.of_classes(range(left_out, self.classes), count, count)
        half = self.classes // 2
        own = self.of_classes(range(half), 2 * count, 0)
        foreign = self.of_classes(range(half, self.classes), count, 0)
        for share in FOREIGN:
            taken = round(share * count)
            yield "foreign classes", share, own[:count], torch.cat((own[count : 2 * count - taken], foreign[:taken]))


def run(study: Study) -> dict[str, Any]:
    """The noise floors, each degradation with its figures, and whether its strengths are ordered and seen."""
    floors = study.floors()
    floor = min(floors, key=lambda row: abs(row["samples"] - study.samples))
    least = floor["fid"] + DEVIATIONS * floor["fid_deviation"]
    rows: dict[str, list[dict[str, Any]]] = {}
    kept: tuple[Tensor, Tensor] | None = None
    for name, strength, reference, pictures in study.degraded():
        if kept is None or kept[0] is not reference:  # Features of a reference are computed once.
            kept = (reference, study.features(reference))
        figures = compare(kept[1], study.features(pictures))
        row = {"strength": strength, **figures, "seen": figures["fid"] > least}
        rows.setdefault(name, []).append(row)
        print(f"{name} {strength:g}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()), flush=True)
    degradations = {
        name: {"ordered": [row["fid"] for row in degraded] == sorted(row["fid"] for row in degraded), "rows": degraded}
        for name, degraded in rows.items()
    }
    return {"samples": study.samples, "threshold": least, "floors": floors, "degradations": degradations}


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = ["| real pictures compared | FID | deviation | precision | recall |", "|---|---|---|---|---|"]
    for row in report["floors"]:
        figures = f"{row['fid']:.2f} | {row['fid_deviation']:.2f} | {row['precision']:.2f} | {row['recall']:.2f}"
        lines.append(f"| {row['samples']} | {figures} |")
    lines += ["", "| degradation | strength | FID | KID | precision | recall | seen |", "|---|---|---|---|---|---|---|"]
    for name, degraded in report["degradations"].items():
        for row in degraded["rows"]:
            figures = f"{row['fid']:.2f} | {row['kid']:.4f} | {row['precision']:.2f} | {row['recall']:.2f}"
            lines.append(f"| {name} | {row['strength']:g} | {figures} | {'yes' if row['seen'] else 'no'} |")
    return "\n".join(lines)


@terminal.one_line_errors("judging", "train")
def main() -> None:
    """Measure one data set; prints the tables and writes the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", help="digits, or mnist:DIR")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    begun = time.process_time()
    items = open_data(arguments.data, Wants("images", SIZE, 1, labels=True))
    taken = items.sources[0].take(torch.arange(len(items)))
    report = {"data": arguments.data.partition(":")[0], "features": "small"}
    report |= run(Study(taken["images"], taken["labels"]))
    report["cpu_seconds"] = round(time.process_time() - begun)
    print(table(report))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
