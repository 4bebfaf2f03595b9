"""Random numbers that do not depend on how a batch is spread over processes.

    latents = draw("normal", 64, 100, device)      # [64, 100]

Every process seeds its generator alike, draws for the whole batch and keeps its own rows. So two devices with 32 items
each see the noise that one device with 64 items sees.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from ganedge.runtime.manifest import Noise


def rows(count: int, sample: Callable[[int], Tensor]) -> Tensor:
    """This process's `count` rows of what `sample` draws for the whole batch.

    Args:
        count: Items that this process has.
        sample: Draws that many items, `[N, ...]`.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return sample(count)
    begin = dist.get_rank() * count
    return sample(count * dist.get_world_size())[begin : begin + count]


def draw(noise: Noise, count: int, length: int, device: torch.device) -> Tensor:
    """Latents `[count, length]`: standard normal, or uniform over -1 to 1."""
    if noise == "normal":
        return rows(count, lambda n: torch.randn(n, length, device=device))
    return rows(count, lambda n: torch.rand(n, length, device=device).mul_(2).sub_(1))
