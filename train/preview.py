"""Pictures of how training goes: the same noise each time, so that two samples can be compared.

The noise is that of `gan-run sample --seed 0`, so the last sample of a run is what its artifact draws.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ganedge.runtime import images
from ganedge.runtime.latents import LatentStream
from ganedge.runtime.manifest import Interface

COUNT = 64
"""Pictures in one sample."""
SEED = 0
"""Seed of the fixed noise."""


@torch.no_grad()
def draw(network: nn.Module, interface: Interface, device: torch.device) -> NDArray[np.generic]:
    """Run a generator on the fixed noise in evaluation mode, and leave its mode as it was.

    Returns:
        The raw output, float32 `[64, ...]`.
    """
    assert interface.noise is not None
    latents = LatentStream(interface.noise, interface.inputs[0].item_shape, SEED).take(COUNT)
    inputs = [torch.from_numpy(latents).to(device)]
    if interface.classes:
        inputs.append(torch.arange(COUNT, device=device) % len(interface.classes))
    training = network.training
    output: NDArray[np.generic] = network.eval()(*inputs).float().cpu().numpy()
    network.train(training)
    return output


def save(output: NDArray[np.generic], interface: Interface, path: Path) -> None:
    """Write what `draw` gave as one picture."""
    port = interface.output
    assert port.range is not None
    images.save(images.grid(images.to_uint8(output, port.range, port.layout)), path)
