"""LeNets that learn to classify MNIST, as judges of generated digits by the distance in their last hidden layer.

    digits, labels = read_digits(Path("mnist"), "train")
    judge = train_judge(digits, labels, seed=201, epochs=3)
    known = features(judge, read_digits(Path("mnist"), "t10k")[0])

Several are trained, each from its own seed, because a figure depends on the LeNet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganedge.train.builtin import read_idx

CLASSES = 10
SEEDS = (201, 202, 203)
"""Seeds of the judges; none was used while a recipe was chosen."""
AT_ONCE = 1000
"""Pictures in one call."""


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling: uint8 `[N, 1, 28, 28]` to logits `[N, 10]`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        )
        self.head = nn.Linear(84, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        """Classify pictures."""
        logits: Tensor = self.head(self.features(pictures.float() / 255))
        return logits


def read_digits(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Read MNIST's files: pictures uint8 `[N, 1, 28, 28]` and labels of `train` or `t10k`."""
    pictures, labels = (
        read_idx(folder, f"{part}-{name}", "mnist") for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    return torch.from_numpy(pictures.copy())[:, None], torch.from_numpy(labels.astype(np.int64))


def train_judge(pictures: Tensor, labels: Tensor, seed: int, epochs: int) -> LeNet:
    """Train a LeNet on digits, uint8 `[N, 1, 28, 28]`, with Adam and batches of 128."""
    torch.manual_seed(seed)
    network = LeNet()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(pictures)), 128):
            optimizer.zero_grad()
            F.cross_entropy(network(pictures[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval()


@torch.no_grad()
def classify(judge: LeNet, pictures: Tensor) -> Tensor:
    """The digit that a judge recognises in each picture, `[N]`."""
    return torch.cat([judge(part).argmax(1) for part in torch.split(pictures, AT_ONCE)])


@torch.no_grad()
def features(judge: LeNet, pictures: Tensor) -> Tensor:
    """Features of the last hidden layer for uint8 pictures, `[N, 84]`."""
    return torch.cat([judge.features(part.float() / 255) for part in torch.split(pictures, AT_ONCE)])
