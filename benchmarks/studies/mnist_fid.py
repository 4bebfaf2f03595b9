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

import torch
from torch import Tensor

from ganedge.benchmarks.conditions import machine
from ganedge.benchmarks.studies.digit_judges import (
    CLASSES,
    SEEDS,
    LeNet,
    classify,
    features,
    read_digits,
    train_judge,
)
from ganedge.runtime import load
from ganedge.runtime.cli import terminal
from ganedge.train.metrics import compare

PICTURES = 10_000
"""Pictures that are compared with the 10 000 of the test set."""


def draw(file: Path, seed: int = 1) -> Tensor:
    """Draw the pictures from an artifact, uint8 `[10000, 1, 28, 28]`; each class equally often where it has classes."""
    with load(file) as generator:
        drawn = generator.sample(PICTURES, seed=seed)  # Of a conditional generator the classes in turn.
    return torch.from_numpy(drawn).permute(0, 3, 1, 2)


def judge_pictures(judges: list[LeNet], drawn: Tensor, real: Tensor) -> dict[str, Any]:
    """FID by each judge, the worst of them, and the share of each digit by the first."""
    figures = [round(compare(features(judge, real), features(judge, drawn))["fid"], 2) for judge in judges]
    shares = (torch.bincount(classify(judges[0], drawn), minlength=CLASSES) / len(drawn)).tolist()
    return {"worst": max(figures), "fid": figures, "shares": [round(share, 4) for share in shares]}


@terminal.one_line_errors("mnist_fid", "train")
def main() -> None:
    """Train the judges, then judge training pictures and each artifact; prints and writes the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder of MNIST's idx files")
    parser.add_argument("artifacts", type=Path, nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="one judge each")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    (train, labels), (test, known) = (read_digits(arguments.data, part) for part in ("train", "t10k"))
    judges = [train_judge(train, labels, seed, arguments.epochs) for seed in arguments.seeds]
    accuracy = [round(float((classify(judge, test) == known).float().mean()), 4) for judge in judges]
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
