"""Quality of trainings that draw pictures from latents, and whether a discriminator has won.

    gan-train dcgan --data faces/train --size 64 --preset modern --max-minutes 60 --out runs/modern
    python -m ganedge.benchmarks.studies.generation runs/modern runs/dcgan --data faces/train --held-out faces/test \
        --features small efficientnet

FID, KID, precision and recall compare what the averaged generator draws with the pictures of `--data`, in the features
of one network after the other. `pairs` is the share of pairs of a held-out picture and a drawn one in which the last
discriminator gives the held-out one the higher value: 0.5 is a guess, and 1 a discriminator that has won. The drawn
ones come from the generator that it was trained against, not from the average. Of a run with `--features`, `recorded`
is the FID to its own data at each checkpoint, and `last / best` tells whether it rose again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ganedge.benchmarks.conditions import machine
from ganedge.models.latent import LatentGAN
from ganedge.models.noise import draw
from ganedge.runtime.cli import terminal
from ganedge.runtime.errors import UsageError
from ganedge.train import run_folder
from ganedge.train.data import Data, open_data
from ganedge.train.examiner import Examiner
from ganedge.train.metrics import Name
from ganedge.train.run_page import read_metrics

CHUNK = 100
"""Pictures that are judged at once."""
SEED = 77
"""Of the drawn pictures of the pairs."""


def share_of_pairs(real: Tensor, fake: Tensor) -> float:
    """Share of all pairs in which the real value is the higher one, of equal ones half: the area under the ROC curve.

    Args:
        real: `[N]`.
        fake: `[M]`.
    """
    higher = (real[:, None] > fake).double() + 0.5 * (real[:, None] == fake).double()
    return float(higher.mean())


@torch.no_grad()
def pairs(folder: Path, held_out: Data) -> float:
    """How well the last discriminator of a run tells pictures that it has not seen from drawn ones.

    Args:
        folder: The run folder, with a checkpoint.
        held_out: Pictures as the run was trained on, and none that it was trained on.

    Raises:
        UsageError: a run of another kind, or one with classes.
    """
    run = run_folder.read(folder)
    gan: Any = run.variant(run.config)
    wants = run.variant.wants(run.config)
    if not isinstance(gan, LatentGAN) or wants.kind != "images" or wants.labels:
        raise UsageError(f"{folder} does not draw pictures from latents alone: give another run")
    for name, state in run_folder.read_networks(folder, ("generator",)).items():
        gan.networks[name].load_state_dict(state)
    device = torch.device("cpu")
    discriminator, generator = gan.networks["discriminator"], gan.networks["generator"]
    sign = -1 if gan.low_is_real else 1
    torch.manual_seed(SEED)
    values: dict[str, list[Tensor]] = {"real": [], "fake": []}
    # In training mode: with BatchNorm each batch has statistics of its own there, real and drawn ones apart.
    for indices in torch.split(torch.arange(len(held_out)), CHUNK):
        real = held_out.preview(indices)["images"]
        fake = generator(draw(gan.noise, len(indices), gan.settings.latent, device))
        for name, pictures in (("real", real), ("fake", fake)):
            values[name].append(sign * discriminator(pictures).flatten())
    return share_of_pairs(torch.cat(values["real"]), torch.cat(values["fake"]))


def recorded(folder: Path) -> dict[str, Any]:
    """FID by step as a run with `--features` recorded it, with the ratio of the last to the least; empty otherwise."""
    fids = {str(line["step"]): round(line["fid"], 4) for line in read_metrics(folder) if "fid" in line}
    if not fids:
        return {}
    *_, last = fids.values()
    return {"recorded": fids, "last / best": round(last / min(fids.values()), 3)}


def measure(folder: Path, data: str, held_out: str, features: Sequence[Name], at: str) -> dict[str, Any]:
    """All figures of one run.

    Args:
        folder: The run folder.
        data: Pictures that it was trained on.
        held_out: Folder of pictures that it was not trained on; empty to leave the pairs out.
        features: Feature networks, by name.
        at: Weights that draw: `last`, `best` or the step of a checkpoint.
    """
    run = run_folder.read(folder)
    network, source = run.generator(at=at)
    wants = run.variant.wants(run.config)
    items = open_data(data, wants)
    figures: dict[str, Any] = {"variant": run.variant.name, "step": source.step}
    for name in features:
        examiner = Examiner(run.variant(run.config), items, name, len(items), torch.device("cpu"))
        figures[name] = {key: round(value, 4) for key, value in examiner({"generator": network}).items()}
    if held_out:
        figures["pairs"] = round(pairs(folder, open_data(held_out, wants)), 4)
    return figures | recorded(folder)


@terminal.one_line_errors("generation", "train")
def main() -> None:
    """Judge the runs; prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", required=True, help="pictures that the runs were trained on")
    parser.add_argument("--held-out", default="", help="folder of pictures that they were not trained on")
    parser.add_argument("--features", nargs="+", choices=get_args(Name), default=["small"])
    parser.add_argument("--at", default="last", help="weights that draw: last, best or the step of a checkpoint")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))
    report: dict[str, Any] = {"machine": machine(threads)}
    for folder in options.runs:
        report[folder.name] = measure(folder, options.data, options.held_out, options.features, options.at)
        print(f"{folder.name}: {report[folder.name]}", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
