"""How many of 1000 modes a GAN covers: pictures of three MNIST digits, one in each channel.

    python -m ganedge.benchmarks.studies.stacked_mnist --data mnist:DIR --steps 5000 --out stacked-mnist.json

This is the test of Metz et al. 2016 (arXiv:1611.02163). Huang et al. 2024 (arXiv:2501.05441, section 2.3) use it to
show that the relativistic pairing loss with R1 and R2 covers all modes where a plain loss with R1 fails. Pictures are
16 × 16 here, so that it runs on a CPU. All arms have the same networks, start values, data and optimizer, and differ in
the loss only. A small classifier trained on real digits classifies the three digits of a picture. `--data digits` uses
scikit-learn's digits instead of MNIST.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganedge.benchmarks.conditions import machine
from ganedge.models import find
from ganedge.models.variant import Wants
from ganedge.runtime.cli import terminal
from ganedge.train import data
from ganedge.train.devices import make_fabric
from ganedge.train.settings import Settings
from ganedge.train.sources import InMemory
from ganedge.train.trainer import Trainer

SIZE = 16
"""Height and width of the pictures, pixels."""
MODES = 1000
SAMPLES = 26_000
"""Generated pictures that are classified: 26 for each mode, as in the papers."""
ARMS: dict[str, dict[str, Any]] = {
    "bce + R1": {"objective": "bce", "r1": 1.0},
    "bce + R1 + R2": {"objective": "bce", "r1": 1.0, "r2": 1.0},
    "rpgan + R1": {"objective": "rpgan", "r1": 1.0},
    "rpgan + R1 + R2": {"objective": "rpgan", "r1": 1.0, "r2": 1.0},
}
SHARED: dict[str, Any] = {
    "size": SIZE,
    "channels": 3,
    "arch": "resnet",
    "upsample": "resize",
    "beta1": 0.0,
    "beta2": 0.99,
}
"""Config of all arms: no normalisation, no schedule, no augmentation."""


def stack(digits: Tensor, count: int) -> Tensor:
    """Combine random digits into pictures, one digit in each channel: uint8 `[M, 1, H, W]` to `[count, 3, H, W]`."""
    chosen = torch.randint(len(digits), (count, 3), generator=torch.Generator().manual_seed(0))
    return digits[chosen][:, :, 0]


def train_classifier(digits: Tensor, labels: Tensor) -> tuple[nn.Module, float]:
    """Train a small convolutional classifier of single digits; returns it and its accuracy on a held-out fifth."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, 1, 1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * (SIZE // 4) ** 2, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    order = torch.randperm(len(digits))
    seen, held_out = order[len(order) // 5 :], order[: len(order) // 5]
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(max(2, 100_000 // len(seen))):
        for chosen in torch.split(seen[torch.randperm(len(seen))], 128):
            optimizer.zero_grad()
            F.cross_entropy(network(_levels(digits[chosen])), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network, float((classify(network, digits[held_out]) == labels[held_out]).float().mean())


def _levels(pictures: Tensor) -> Tensor:
    return pictures.float() / 127.5 - 1


@torch.no_grad()
def classify(network: nn.Module, digits: Tensor) -> Tensor:
    """Return the classes of single digits, uint8 `[N, 1, H, W]` to `[N]`."""
    return torch.cat([network(_levels(part)).argmax(1) for part in torch.split(digits, 1000)])


def coverage(network: nn.Module, pictures: Tensor) -> dict[str, float]:
    """Count the modes that occur, and return the divergence KL(generated ‖ uniform) of their shares, nats."""
    digits = torch.stack([classify(network, pictures[:, [channel]]) for channel in range(3)])
    modes = digits[0] * 100 + digits[1] * 10 + digits[2]
    shares = torch.bincount(modes, minlength=MODES).double() / len(modes)
    present = shares[shares > 0]
    return {"modes": int((shares > 0).sum()), "kl": round(float((present * (present * MODES).log()).sum()), 4)}


@torch.no_grad()
def draw(generator: nn.Module, count: int) -> Tensor:
    """Draw pictures from the averaged generator, uint8 `[count, 3, H, W]`."""
    source = torch.Generator().manual_seed(1)
    latents = torch.randn(count, 100, generator=source)
    drawn = torch.cat([generator.eval()(part) for part in torch.split(latents, 500)])
    return ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def run_arm(
    arm: dict[str, Any], pictures: Tensor, classifier: nn.Module, steps: int, evaluations: int
) -> dict[str, Any]:
    """Train one arm and count its modes `evaluations` times."""
    variant = find("dcgan")
    config = variant.config_class(**SHARED, **arm)
    items = data.Data((InMemory({"images": pictures}),), "stacked", Wants("images", SIZE, 3))
    seen: list[dict[str, float | None]] = []
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data="stacked", out=Path(folder), steps=steps, device="cpu", precision="fp32")
        trainer = Trainer(make_fabric(settings), variant, config, settings, items)
        for number in range(1, evaluations + 1):
            begun = time.perf_counter()
            while trainer.step < steps * number // evaluations:
                losses = trainer.advance()
            seconds += time.perf_counter() - begun
            if not all(math.isfinite(float(value)) for value in losses.values()):
                seen.append({"step": trainer.step, "modes": 0, "kl": None})  # Diverged: there is no distribution.
                break
            drawn = draw(trainer.generators["generator"], SAMPLES)
            seen.append({"step": trainer.step, **coverage(classifier, drawn)})
            print(f"  step {trainer.step}: {seen[-1]['modes']} modes, KL {seen[-1]['kl']}", flush=True)
    return {**seen[-1], "seconds": round(seconds), "evaluations": seen}


@terminal.one_line_errors("stacked_mnist", "train")
def main() -> None:
    """Train all arms one after the other; prints and writes the modes and divergence of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="digits", help="digits, or mnist:DIR")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--evaluations", type=int, default=5)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    items = data.open_data(arguments.data, Wants("images", SIZE, 1, labels=True))
    taken = items.sources[0].take(torch.arange(len(items)))
    digits, labels = taken["images"], taken["labels"]
    classifier, accuracy = train_classifier(digits, labels)
    pictures = stack(digits, 60_000)
    report: dict[str, Any] = {
        "data": arguments.data.partition(":")[0],
        "steps": arguments.steps,
        "threads": torch.get_num_threads(),
        "machine": machine(torch.get_num_threads()),
        "classifier_accuracy": round(accuracy, 4),
        "real": coverage(classifier, pictures[:SAMPLES]),
        "arms": {},
    }
    print(f"classifier {accuracy:.1%}; real pictures: {report['real']}", flush=True)
    for name in arguments.arms:
        print(name, flush=True)
        report["arms"][name] = run_arm(ARMS[name], pictures, classifier, arguments.steps, arguments.evaluations)
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
