"""Quality of generators from pictures to pictures: FID to real ones, and the grid that upsampling can leave.

    python -m ganedge.benchmarks.studies.translation --pairs facades/test --direction b2a --size 128 \
        faithful.onnx modern.onnx --features small efficientnet --out facades.json
    python -m ganedge.benchmarks.studies.translation --inputs testA --real testB --size 128 a2b.onnx

FID is that between what a generator makes of the inputs and the real pictures, in the features of one network after the
other; that of the inputs as they are comes first. Transposed convolutions can leave a grid (Odena et al. 2016,
doi:10.23915/distill.00003), whose period is their stride and its powers: `grid` is the power of the spectrum at periods
of two and four pixels in both directions, divided by that of the real pictures; more than 1 is a grid that these have
not. `peaks` is that power divided by the mean power one and two frequencies beside, which no blur changes: about 1
where there is no grid.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ganedge.benchmarks.conditions import machine
from ganedge.models.variant import Wants
from ganedge.runtime import load
from ganedge.runtime.cli import terminal
from ganedge.train.data import open_data
from ganedge.train.metrics import Judge, Name

PERIOD = 4
"""Longest period of a grid that is looked for, pixels; its half is looked for too."""
BESIDE = (-2, -1, 1, 2)
"""Frequencies beside a grid's, in steps of the spectrum."""


def power(pictures: Tensor) -> Tensor:
    """Mean power of the brightness at each pair of frequencies, uint8 `[N, 3, H, W]` to float64 `[H, W]`."""
    red, green, blue = pictures.double().unbind(1)
    brightness = 0.299 * red + 0.587 * green + 0.114 * blue
    spectrum = torch.fft.fft2(brightness - brightness.mean((1, 2), keepdim=True))
    mean: Tensor = (spectrum.abs() ** 2).mean(0)
    return mean


def grid(pictures: Tensor) -> tuple[float, float]:
    """Mean power at the frequencies of a grid, and its ratio to the mean power beside them.

    Args:
        pictures: uint8 `[N, 3, H, W]`, height and width multiples of four.
    """
    spectrum = power(pictures)
    height, width = spectrum.shape
    at, beside = [], []
    for vertical, horizontal in product(range(PERIOD), repeat=2):
        if (vertical, horizontal) == (0, 0):
            continue
        y, x = vertical * height // PERIOD, horizontal * width // PERIOD
        at.append(spectrum[y, x])
        # Along the axes the spectrum of pictures is high everywhere: what is beside lies on the same axis there.
        steps = [(0, step) for step in BESIDE] * (horizontal > 0) + [(step, 0) for step in BESIDE] * (vertical > 0)
        beside.append(torch.stack([spectrum[(y + dy) % height, (x + dx) % width] for dy, dx in steps]).mean())
    here, around = torch.stack(at), torch.stack(beside)
    return float(here.mean()), float((here / around).mean())


def translate(file: Path, inputs: Tensor, label: str | None) -> Tensor:
    """What an artifact makes of each picture, uint8 `[N, 3, H, W]`."""
    with load(file) as generator:
        made = [generator.translate(picture.permute(1, 2, 0).numpy(), label=label) for picture in inputs]
    return torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in made])


def read(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Inputs and real pictures, uint8 `[N, 3, H, W]` each."""
    size = arguments.size
    if arguments.pairs:
        wants = Wants("pairs", size, 3, reverse=arguments.direction == "b2a")
        pairs = open_data(arguments.pairs, wants)
        every = torch.arange(len(pairs))
        return pairs.pictures("input", every), pairs.pictures("target", every)
    inputs, real = (open_data(folder, Wants("images", size, 3)) for folder in (arguments.inputs, arguments.real))
    return tuple(data.pictures("images", torch.arange(len(data))) for data in (inputs, real))  # type: ignore[return-value]


@terminal.one_line_errors("translation", "train")
def main() -> None:
    """Judge the artifacts; prints and writes the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--pairs", help="folder of pairs: inputs and the real pictures that belong to them")
    parser.add_argument(
        "--direction", choices=("a2b", "b2a"), default="a2b", help="which picture of a pair is the input"
    )
    parser.add_argument("--inputs", help="folder of pictures to translate")
    parser.add_argument("--real", help="folder of real pictures of the other kind")
    parser.add_argument("--size", type=int, required=True, help="height and width that pictures are brought to")
    parser.add_argument("--label", help="class, for generators that take one")
    parser.add_argument("--features", nargs="+", choices=get_args(Name), default=["small"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if bool(arguments.pairs) == bool(arguments.inputs and arguments.real):
        parser.error("give --pairs, or --inputs and --real")
    inputs, real = read(arguments)
    judges = {name: Judge(name, real, torch.device("cpu")) for name in arguments.features}
    energy, peaks = grid(real)
    report: dict[str, Any] = {
        "machine": machine(torch.get_num_threads()),
        "size": arguments.size,
        "pictures": [len(inputs), len(real)],
        "real": {"grid": 1.0, "peaks": round(peaks, 3)},
    }
    print(f"real pictures: {report['real']}", flush=True)

    def judge_all(name: str, made: Tensor) -> None:
        own, own_peaks = grid(made)
        figures = {key: {part: round(value, 4) for part, value in judge(made).items()} for key, judge in judges.items()}
        report[name] = {**figures, "grid": round(own / energy, 3), "peaks": round(own_peaks, 3)}
        print(f"{name}: {report[name]}", flush=True)

    judge_all("inputs", inputs)
    for file in arguments.artifacts:
        judge_all("/".join(file.parts[-2:]), translate(file, inputs, arguments.label))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
