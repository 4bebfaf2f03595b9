"""Pictures of how training goes: the same noise or examples each time, so that two samples can be compared.

The noise is that of `gan-run sample --seed 0`, so the last sample of a run is what its artifact draws.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ganedge.models.variant import Batch, Translator
from ganedge.runtime.conditions import Conditions, InputStream
from ganedge.runtime.errors import MissingExtra
from ganedge.runtime.files import whole_file
from ganedge.runtime.manifest import Interface
from ganedge.runtime.pictures import images

GRID = 8
"""Pictures in a row of a sample, and rows, where nobody says how many."""
SEED = 0
"""Seed of the fixed noise."""
NOT_PLOTTED = ("step", "epoch", "images_per_s")
"""Columns of the metrics that the loss plot leaves out, beside the learning rates."""


POINTS = 5000
"""Points in one plot."""


@torch.no_grad()
def draw(network: nn.Module, interface: Interface, device: torch.device, count: int) -> NDArray[np.generic]:
    """Run a generator on the fixed noise in evaluation mode, and leave its mode as it was.

    Args:
        network: The generator.
        interface: What it takes and gives.
        device: Where it is.
        count: Pictures to draw.

    Returns:
        The raw output, float32 `[count, ...]`; 5000 where they are points.
    """
    count = POINTS if interface.kind == "latent-to-points" else count
    arrays = InputStream(interface, Conditions(), SEED, None).take(count)
    inputs = [torch.from_numpy(array).to(device) for array in arrays]
    with evaluating(network):
        output: NDArray[np.generic] = network(*inputs).float().cpu().numpy()
    return output


@torch.no_grad()
def strips(
    gan: Translator, name: str, networks: Mapping[str, nn.Module], examples: Batch, device: torch.device
) -> list[NDArray[np.generic]]:
    """What a generator of pictures from pictures does with the examples: columns to lay side by side.

    Returns:
        Float32 `[N, C, H, W]` each; the second holds the outputs.
    """
    batch = {key: value.to(device) for key, value in examples.items()}
    with contextlib.ExitStack() as stack:
        for network in networks.values():
            stack.enter_context(evaluating(network))
        return [column.float().cpu().numpy() for column in gan.strips(name, networks, batch)]


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode for a while."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def save(
    output: NDArray[np.generic], interface: Interface, path: Path, real: NDArray[np.generic] | None, columns: int
) -> None:
    """Write what `draw` gave as one picture: a grid, or a plot of the real points (blue) and the generated (orange)."""
    port = interface.output
    if port.role == "points":
        clouds = [output] if real is None else [real, output]
        images.save(images.scatter(*clouds), path)
        return
    assert port.range is not None
    images.save(images.grid(images.to_pixels(output, port.range, port.layout), columns), path)


def save_strips(columns: Sequence[NDArray[np.generic]], interface: Interface, path: Path) -> None:
    """Write what `strips` gave as one picture: a row for each example."""
    port = interface.output
    assert port.range is not None
    pictures = [images.to_pixels(column, port.range, "NCHW") for column in columns]
    rows = np.stack(pictures, 1).reshape(-1, *pictures[0].shape[1:])
    images.save(images.grid(rows, columns=len(columns)), path)


def plot_losses(metrics: Path, path: Path) -> None:
    """Draw every column of a `metrics.jsonl` over the steps, one panel each.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "train", "the loss plot") from error
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    columns = dict.fromkeys(key for line in lines for key in line)
    names = [name for name in columns if name not in NOT_PLOTTED and not name.startswith("lr")]
    if not names:
        return
    figure = Figure(figsize=(8, 2 * len(names)), layout="constrained")
    for row, name in enumerate(names, 1):
        axes = figure.add_subplot(len(names), 1, row)
        known = [line for line in lines if name in line]
        axes.plot([line["step"] for line in known], [line[name] for line in known], linewidth=1)
        axes.set_ylabel(name)
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=80)
