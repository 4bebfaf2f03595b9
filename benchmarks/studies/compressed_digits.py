"""Quality of a student of `dcgan --preset mnist`: beside its teacher, and beside the same network trained as a GAN.

    gan-train dcgan --preset mnist --data mnist:DIR --out runs/mnist
    gan-compress runs/mnist --data mnist:DIR --macs 0.1 --epochs 3 --out runs/mnist-small
    python -m ganedge.benchmarks.studies.compressed_digits control runs/mnist-small --data mnist:DIR --steps 2812 \
        --out control-64.pt
    python -m ganedge.benchmarks.studies.compressed_digits control runs/mnist-small --data mnist:DIR --steps 2812 \
        --width 16 --ema 0.999 --out control-16.pt
    python -m ganedge.benchmarks.studies.compressed_digits judge runs/mnist runs/mnist-small control-64.pt \
        control-16.pt --data DIR --out benchmarks/results/compress/mnist.json

The distance is FID between 10 000 drawn digits and the 10 000 of the test set, in the last hidden layer of LeNets
that learned to classify real digits (`digit_judges`). Several are trained, each from its own seed, because one alone
may favour a generator by chance.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganedge.benchmarks.conditions import machine
from ganedge.benchmarks.studies.digit_judges import SEEDS, classify, features, read_digits, train_judge
from ganedge.export.from_torch import eager
from ganedge.models import find
from ganedge.models.optimizers import adams
from ganedge.models.student import LatentGenerator
from ganedge.runtime.cli import terminal
from ganedge.runtime.manifest import Interface
from ganedge.train import data, run_folder
from ganedge.train.devices import make_fabric
from ganedge.train.distill import latents
from ganedge.train.metrics import compare
from ganedge.train.settings import Settings
from ganedge.train.trainer import Trainer

DRAWN = 10_000
SEED = 77
"""Of the latents that are drawn for the distance: no other part of the project uses it."""


def draw(network: nn.Module, interface: Interface) -> Tensor:
    """Draw digits, each class equally often: uint8 `[N, 1, 28, 28]`."""
    made = torch.from_numpy(eager(network.eval())(latents(interface, DRAWN, SEED))[0])
    return ((made + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def control(student: Path, spec: str, steps: int, width: int, ema: float, out: Path) -> None:
    """Train the network of a student as the generator of a GAN, by the recipe of its teacher, and write its weights.

    Args:
        student: A run of gan-compress.
        spec: The data.
        steps: As many as the student learned.
        width: Of the discriminator; that of the teacher's is 64, which a generator ten times smaller may not match.
        ema: Decay of the averaged generator.
        out: File to write.
    """
    config: Any = run_folder.read(student).config
    variant: Any = find("dcgan")

    class Control(variant):  # type: ignore[misc]
        """A DCGAN whose generator is the student's network."""

        def __init__(self, own: Any) -> None:
            super().__init__(own)
            self.generator = LatentGenerator(config)
            self.networks = {"generator": self.generator, "discriminator": self.discriminator}
            self.optimizers = adams(self.networks, own)

    facts = {"channels": 1, "class_names": config.class_names, "width": width, "ema": ema}
    own = variant.config_class(**{**variant.presets["mnist"], **facts})
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=spec, out=Path(folder), steps=steps, device="cpu", precision="fp32")
        items = data.open_data(spec, variant.wants(own))
        trainer = Trainer(make_fabric(settings), Control, own, settings, items)
        begun = time.process_time()
        while trainer.step < steps:
            losses = trainer.advance()
            if trainer.step % 100 == 0:
                shown = ", ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
                print(f"step {trainer.step}: {shown}", flush=True)
        seconds = time.process_time() - begun
        torch.save({"weights": trainer.generators["generator"].state_dict(), "cpu_seconds": round(seconds)}, out)


def judge(teacher: Path, student: Path, controls: list[Path], folder: Path, epochs: int) -> dict[str, Any]:
    """The distance of teacher, student and controls to real digits by each judge."""
    opened = {"teacher": run_folder.read(teacher), "student": run_folder.read(student)}
    networks = {name: run.generator()[0] for name, run in opened.items()}
    interfaces = {name: run.variant(run.config).generators()["generator"] for name, run in opened.items()}
    config: Any = opened["student"].config
    trained = {path.stem: torch.load(path, weights_only=True) for path in controls}
    for name, each in trained.items():
        networks[name], interfaces[name] = LatentGenerator(config), interfaces["student"]
        networks[name].load_state_dict(each["weights"])
    drawn = {name: draw(network, interfaces[name]) for name, network in networks.items()}
    real, labels = read_digits(folder, "train")
    test, answers = read_digits(folder, "t10k")
    report: dict[str, Any] = {
        "macs": {"teacher": config.teacher_macs, "student": config.macs},
        "cpu_seconds": {name: each["cpu_seconds"] for name, each in trained.items()},
        "judges": {},
    }
    for seed in SEEDS:
        network = train_judge(real, labels, seed, epochs)
        right = float((classify(network, test) == answers).float().mean())
        known = features(network, test)
        fids = {name: round(compare(known, features(network, each))["fid"], 3) for name, each in drawn.items()}
        report["judges"][str(seed)] = {"accuracy": round(right, 4), "fid": fids}
        print(seed, right, fids, flush=True)
    judged = [each["fid"] for each in report["judges"].values()]
    report["worst"] = {
        "student - teacher": round(max(fid["student"] - fid["teacher"] for fid in judged), 3),
        "control - student": round(min(fid[name] - fid["student"] for fid in judged for name in trained), 3),
    }
    return report


@terminal.one_line_errors("compressed_digits", "train")
def main() -> None:
    """Parse the command line; train the control, or judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("control")
    training.add_argument("student", type=Path)
    training.add_argument("--data", required=True, help="mnist:DIR")
    training.add_argument("--steps", type=int, required=True)
    training.add_argument("--width", type=int, default=64, help="of the discriminator")
    training.add_argument("--ema", type=float, default=0.9998, help="decay of the averaged generator")
    judging = commands.add_parser("judge")
    for name in ("teacher", "student"):
        judging.add_argument(name, type=Path)
    judging.add_argument("controls", type=Path, nargs="+")
    judging.add_argument("--data", type=Path, required=True, help="DIR with MNIST's four files")
    judging.add_argument("--epochs", type=int, default=3)
    for each in (training, judging):
        each.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "control":
        control(options.student, options.data, options.steps, options.width, options.ema, options.out)
        return
    report = judge(options.teacher, options.student, options.controls, options.data, options.epochs)
    report["machine"] = machine(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    options.out.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(report["worst"])


if __name__ == "__main__":
    main()
