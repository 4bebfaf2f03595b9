"""FID of MNIST generators by LeNets that are trained for it, and how often each digit is drawn.

    python -m ganedge.benchmarks.studies.mnist_fid DIR runs/mnist/generator.onnx --out mnist.json

DIR holds MNIST's idx files. Each LeNet (LeCun et al. 1998) is trained on the training set with its own seed; 10 000
pictures are compared with the test set in its last hidden layer, 84 features. The first 10 000 training pictures,
compared in the same way, show what a perfect generator reaches. A figure depends on the LeNet, so the worst counts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganedge.benchmarks.conditions import machine
from ganedge.runtime import load
from ganedge.train.builtin import read_idx

PICTURES = 10_000
"""Pictures that are compared with the 10 000 of the test set."""
CLASSES = 10


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max pooling: uint8 `[N, 1, 28, 28]` to logits `[N, 10]`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        )
        self.head = nn.Linear(84, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        """Classify pictures."""
        logits: Tensor = self.head(self.features(levels(pictures)))
        return logits


def levels(pictures: Tensor) -> Tensor:
    """Bytes to 0 to 1."""
    return pictures.float() / 255


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
def features(judge: LeNet, pictures: Tensor) -> Tensor:
    """Features of the last hidden layer, float64 `[N, 84]`."""
    return torch.cat([judge.features(levels(part)) for part in torch.split(pictures, 1000)]).double()


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance between two sets of features, Heusel et al. 2017 (arXiv:1706.08500), eq. 6."""
    gap = (a.mean(0) - b.mean(0)).square().sum()
    spread_a, spread_b = a.T.cov(), b.T.cov()
    roots = torch.linalg.eigvals(spread_a @ spread_b).real.clamp(min=0).sqrt().sum()
    return float(gap + spread_a.trace() + spread_b.trace() - 2 * roots)


def draw(file: Path, seed: int = 1) -> Tensor:
    """Draw the pictures from an artifact, uint8 `[10000, 1, 28, 28]`; each class equally often where it has classes."""
    with load(file) as generator:
        drawn = generator.sample(PICTURES, seed=seed)  # Of a conditional generator the classes in turn.
    return torch.from_numpy(drawn).permute(0, 3, 1, 2)


def judge_pictures(judges: list[LeNet], drawn: Tensor, real: Tensor) -> dict[str, Any]:
    """FID by each judge, the worst of them, and the share of each digit by the first."""
    figures = [round(frechet(features(judge, drawn), features(judge, real)), 2) for judge in judges]
    with torch.no_grad():
        classes = torch.cat([judges[0](part).argmax(1) for part in torch.split(drawn, 1000)])
    shares = (torch.bincount(classes, minlength=CLASSES) / len(classes)).tolist()
    return {"worst": max(figures), "fid": figures, "shares": [round(share, 4) for share in shares]}


def main() -> None:
    """Train the judges, then judge training pictures and each artifact; prints and writes the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder of MNIST's idx files")
    parser.add_argument("artifacts", type=Path, nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103], help="one judge each")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    train, test = (
        (torch.from_numpy(read_idx(arguments.data, f"{part}-images-idx3-ubyte", "mnist")))[:, None]
        for part in ("train", "t10k")
    )
    labels, known = (
        torch.from_numpy(read_idx(arguments.data, f"{part}-labels-idx1-ubyte", "mnist").astype(np.int64))
        for part in ("train", "t10k")
    )
    judges = [train_judge(train, labels, seed, arguments.epochs) for seed in arguments.seeds]
    with torch.no_grad():
        accuracy = [round(float((judge(test).argmax(1) == known).float().mean()), 4) for judge in judges]
    report: dict[str, Any] = {
        "machine": machine(torch.get_num_threads()),
        "judges": {"seeds": arguments.seeds, "epochs": arguments.epochs, "accuracy": accuracy},
        "real": judge_pictures(judges, train[:PICTURES], test),
    }
    print(f"judges are right for {accuracy}; training pictures: {report['real']}", flush=True)
    for file in arguments.artifacts:
        report[file.name] = judge_pictures(judges, draw(file), test)
        print(f"{file}: {report[file.name]}", flush=True)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
