"""Where a data set's items come from: tensors in memory, or files that are read when they are needed.

    source = InMemory({"images": pictures}, labels)
    source.take(torch.tensor([3, 1]))       # {"images": uint8 [2, C, H, W], "labels": int64 [2]}

An item is all that belongs together: a picture and its label, or both pictures of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ganedge.runtime.errors import InputError

Item = tuple[Path, ...]
"""Files of one item: a picture, the two of a pair, or one file twice that holds both side by side."""
Read = Callable[[Item], "list[np.ndarray] | str"]
"""Gives the pictures of an item, uint8 `[H, W, C]` each, or which file cannot be read and why."""


class Source(Protocol):
    """Where items come from. All that an item holds comes from the same place, whatever files cannot be read."""

    keys: tuple[str, ...]
    """What an item holds, as a batch names it; labels are apart."""
    labels: Tensor | None
    """int64 `[N]`: the class of each item, where that is wanted."""

    @property
    def skipped(self) -> Sequence[str]:
        """Files that could not be read so far, each with its reason."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """The items at these indices: uint8 `[N, C, H, W]`, or float `[N, 2]` for points, and `labels`."""
        ...

    def prepare(self, indices: Tensor) -> None:
        """Begin to read items that will be taken next."""
        ...

    def move(self, device: torch.device) -> None:
        """Hold on the device what is held in memory, and nowhere else."""
        ...


class InMemory:
    """All items as tensors, one for each key.

    Args:
        items: The tensors, `[N, ...]`.
        labels: The class of each item.
        skipped: Files that could not be read, each with its reason.
        fit: What is done to the items of a key when they are taken.
    """

    def __init__(
        self,
        items: Mapping[str, Tensor],
        labels: Tensor | None = None,
        skipped: Sequence[str] = (),
        fit: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.keys = tuple(items)
        self.labels = labels
        self.skipped = skipped
        self._items = dict(items)
        self._fit = fit

    def __len__(self) -> int:
        return len(self._items[self.keys[0]])

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """The items at these indices."""
        indices = to_device(indices, self._items[self.keys[0]].device)
        taken = {key: tensor[indices] for key, tensor in self._items.items()}
        if self._fit is not None:
            taken = {key: self._fit(items) for key, items in taken.items()}
        return taken if self.labels is None else {**taken, "labels": self.labels[indices]}

    def prepare(self, indices: Tensor) -> None:
        """Nothing to do."""

    def move(self, device: torch.device) -> None:
        """Move all items; what held them before is let go of one by one."""
        for key in self.keys:
            self._items[key] = self._items[key].to(device)
        self.labels = None if self.labels is None else self.labels.to(device)


class OnDisk:
    """Pictures that are read when they are needed, in threads and one batch ahead. Memory does not grow.

    An item that cannot be read is replaced, whole and with its label, by the next that can: what a batch holds depends
    on the files alone, and a picture never meets the target or the label of another.
    """

    def __init__(
        self,
        items: Sequence[Item],
        keys: tuple[str, ...],
        read: Read,
        pool: ThreadPoolExecutor,
        labels: Tensor | None = None,
    ) -> None:
        self.keys = keys
        self.labels = labels
        self._items = items
        self._read = read
        self._pool = pool
        self._ahead: dict[int, Future[list[np.ndarray] | str]] = {}
        self._broken: dict[int, str] = {}

    @property
    def skipped(self) -> Sequence[str]:
        """Files that could not be read so far, in the order in which they were met."""
        return tuple(self._broken.values())

    def __len__(self) -> int:
        return len(self._items)

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """Read the items at these indices, but for what was read ahead."""
        self.prepare(indices)
        wanted = indices.tolist()
        begun = {index: self._ahead.pop(index) for index in dict.fromkeys(wanted)}
        read = {index: self._first_readable(index, future) for index, future in begun.items()}
        taken = {key: stack([read[index][1][number] for index in wanted]) for number, key in enumerate(self.keys)}
        if self.labels is not None:
            taken["labels"] = self.labels[torch.tensor([read[index][0] for index in wanted])]
        return taken

    def prepare(self, indices: Tensor) -> None:
        """Begin to read items that will be taken next."""
        for index in indices.tolist():
            if index not in self._ahead:
                self._ahead[index] = self._pool.submit(self._read, self._items[index])

    def move(self, device: torch.device) -> None:
        """Nothing is held in memory."""

    def _first_readable(self, index: int, future: Future[list[np.ndarray] | str]) -> tuple[int, list[np.ndarray]]:
        """The first item from `index` on that can be read, and its index."""
        result = future.result()
        for at in chain(range(index, len(self)), range(index)):
            if at != index:
                result = self._read(self._items[at])
            if not isinstance(result, str):
                return at, result
            self._broken.setdefault(at, result)
        raise InputError(f"none of {len(self)} pictures can be read any more; the last: {result}")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. Copies from pageable memory wait for the GPU, copies from pinned memory do not."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def stack(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 `[H, W, C]` each to `[N, C, H, W]`."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
