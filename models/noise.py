"""Random numbers and collected batches that do not depend on how a batch is divided over processes.

    latents = draw("normal", 64, 100, device)      # [64, 100]

Every process seeds its generator alike, draws for the whole batch and keeps its own rows. So two devices with 32 items
each see the noise that one device with 64 items sees.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.manifest import Noise

OTHER_STOPPED = "another process of this training has stopped; its message says why"


def rows(count: int, sample: Callable[[int], Tensor]) -> Tensor:
    """This process's `count` rows of what `sample` draws for the whole batch.

    Args:
        count: Items that this process has.
        sample: Draws that many items, `[N, ...]`.
    """
    if not _are_several():
        return sample(count)
    begin = dist.get_rank() * count
    return sample(count * dist.get_world_size())[begin : begin + count]


def draw(noise: Noise, count: int, length: int, device: torch.device) -> Tensor:
    """Latents `[count, length]`: standard normal, or uniform over -1 to 1."""
    if noise == "normal":
        return rows(count, lambda n: torch.randn(n, length, device=device))
    return rows(count, lambda n: torch.rand(n, length, device=device).mul_(2).sub_(1))


class Dropout(nn.Dropout):
    """Dropout that drops the same features of the same items, however many processes share the batch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name is the library's
        """Drop features in training, and scale up the others."""
        if not (self.training and self.p):
            return input
        shape = input.shape[1:]
        return input * rows(len(input), lambda n: F.dropout(input.new_ones(n, *shape), self.p))


def all_gather(items: Tensor) -> Tensor:
    """The items of all processes in the order of the batch, without gradients, given this process's own `[N, ...]`."""
    items = items.detach()
    if not _are_several():
        return items
    parts = [torch.empty_like(items, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    with collective():
        dist.all_gather(parts, items.contiguous())
    return torch.cat(parts)


@contextlib.contextmanager
def collective() -> Iterator[None]:
    """Collective operation; a lost peer becomes a GanEdgeError.

    Raises:
        GanEdgeError: one of them is gone.
    """
    try:
        yield
    except RuntimeError as error:
        raise GanEdgeError(OTHER_STOPPED) from error


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized()
