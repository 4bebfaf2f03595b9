"""Several processes, begun by torchrun, train what one would; and what differs between their machines is refused."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganedge.models import find
from ganedge.models.noise import Dropout
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.inputs import real_inputs
from ganedge.train import arithmetic, checkpoint, data, devices, loop, run_folder
from ganedge.train.loop import train
from ganedge.train.settings import Settings

SETS = {"size": 32, "width": 2, "blocks": 1, "batch": 2, "replay": 3, "jitter": False}
PAIRS: dict[str, Any] = {
    "size": 8,
    "batch": 8,
    "hidden_g": "8",
    "hidden_d": "8",
    "batchnorm": False,
    "objective": "rpgan",
    "r1": 0.5,
    "r2": 0.5,
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "stargan": ("digits", {"size": 16, "width": 2, "blocks": 1, "batch": 4, "d_steps": 1, "lr": 1e-3, "ema": 0.0}),
    "augmented-cyclegan": (
        "sets",
        {"size": 16, "width": 2, "blocks": 1, "batch": 4, "latent_b": 3, "lr": 1e-3, "ema": 0.0},
    ),
}
"""Data and config of translators that draw classes or latents for a batch."""
PROGRAM = """
import os, sys, torch
from pathlib import Path
from ganedge.models import find
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.train import arithmetic
from ganedge.train.__main__ import main
from ganedge.train.loop import train
from ganedge.train.settings import Settings

place, rank, small = Path(sys.argv[1]), os.environ["RANK"], {small!r}

def run(out, steps, given=small, variant="cyclegan", data=str(place / "sets"), **more):
    settings = Settings(data=data, out=place / out, steps=steps, device="cpu", precision="fp32", **more)
    train(find(variant), given, settings)
    torch.distributed.barrier()  # Process 0 writes to the end.

run("pairs", 4, {pairs!r}, "mlp", "digits", features="small", judged=16)  # Process 0 judges alone.
for name, (where, config) in {others!r}.items():
    run(name, 3, config, name, where if where == "digits" else str(place / where))
run("whole", 4)
run("parts", 2)
run("parts", 4, {{}}, resume=True)
for out, lr, resume in (("parts", 2e-4, True), ("other", 1e-3 * (1 + int(rank)), False)):
    try:  # Process 1 as on a machine of its own, that has no copy of the run, and with another learning rate.
        run(out if rank == "0" else "elsewhere", 6, {{**small, "lr": lr}}, resume=resume)
    except UsageError as error:
        print(f"refused {{rank}}: {{error}}", flush=True)
try:  # What one measures alone, it would wait for.
    run("formats", 4000, memory_format=("auto", "contiguous")[int(rank)])
except UsageError as error:
    print(f"refused {{rank}}: {{error}}", flush=True)
arithmetic.SHARE = 12.0
run("measured", 2)
arithmetic.SHARE = 0.02
try:  # Process 0 looks at the losses, and the other would wait for it.
    run("bad", 40, {{**small, "lr": 1e30}}, checkpoint_every=2)
except GanEdgeError as error:
    print(f"ended {{rank}}: {{error}}", flush=True)
torch.distributed.barrier()  # Both are here: none waits in a step.
sys.argv = ["gan-train", "mlp", "--data=digits", f"--out={{place / 'mlp'}}", "--devices=4"]
main()
"""


def _translated(run: Path) -> torch.Tensor:
    """What all generators of a run make of the same inputs."""
    opened = run_folder.read(run)
    results = []
    for name, interface in opened.variant(opened.config).generators().items():
        arrays = real_inputs(interface, 2, 0)
        with torch.no_grad():
            results.append(opened.generator(name)[0](*map(torch.from_numpy, arrays)).flatten())
    return torch.cat(results)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for side in ("trainA", "trainB"):
        (tmp_path / "sets" / side).mkdir(parents=True)
        for index in range(5):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "sets" / side / f"{index}.png")
    return tmp_path


def test_two_processes_of_torchrun_train_as_one(sets: Path) -> None:
    settings = Settings(data=str(sets / "sets"), out=sets / "one", steps=4, device="cpu", precision="fp32")
    one = checkpoint.load_latest(train(find("cyclegan"), SETS, settings))
    (sets / "program.py").write_text(PROGRAM.format(small=SETS, pairs=PAIRS, others=OTHERS))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(sets / "program.py"), str(sets)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(sets / "cache")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    whole, parts = (checkpoint.load_latest(sets / out) for out in ("whole", "parts"))
    assert whole is not None, done.stderr
    assert one is not None
    assert parts is not None
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    pictures = [found[1]["networks"]["replay-a"]["pictures"] for found in (one, whole)]
    assert (pictures[1] - pictures[0]).abs().max() < 0.01 < pictures[0].std(), "rounding alone, and the same pictures"
    assert whole[1]["networks"]["replay-a"]["count"] == 3
    alone = checkpoint.load_latest(train(find("mlp"), PAIRS, replace(settings, data="digits", out=sets / "alone")))
    shared = checkpoint.load_latest(sets / "pairs")
    assert alone is not None
    assert shared is not None
    torch.testing.assert_close(shared[1]["networks"], alone[1]["networks"], rtol=1e-4, atol=1e-6)
    assert '"fid"' in (sets / "pairs" / "metrics.jsonl").read_text("utf-8")
    for name, (where, config) in OTHERS.items():
        own = replace(settings, data=where if where == "digits" else settings.data, steps=1)
        begun = train(find(name), config, replace(own, out=sets / f"{name}-begun"))
        alone_run = train(find(name), config, replace(own, out=sets / f"{name}-alone", steps=3))
        first, one, both = (_translated(run) for run in (begun, alone_run, sets / name))
        assert (both - one).norm() < 0.02 * (one - first).norm(), name
    for rank in (0, 1):
        assert f"refused {rank}: step is 0 in process 1 and 4 in process 0" in done.stdout, done.stdout
        assert f"refused {rank}: lr is 0.002 in process 1 and 0.001 in process 0" in done.stdout
        assert f"refused {rank}: memory-format is contiguous in process 1 and auto in process 0" in done.stdout
    assert done.stderr.count("measured here, images/s") == 1, "two measured together, and one said so"
    assert run_folder.read(sets / "measured").settings["memory_format"] in ("channels-last", "contiguous")
    assert "ended 0: loss_g is no longer a finite number at step 2; no checkpoint was reached" in done.stdout
    assert "ended 1: another process of this training has stopped; its message says why" in done.stdout
    assert "devices is 4, but torchrun began 2 here" in done.stderr
    assert done.returncode


class Shared:
    """A Fabric as each of two processes has it."""

    world_size = 2

    def __init__(self, fabric: Any, rank: int) -> None:
        self._fabric = fabric
        self.is_global_zero = rank == 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fabric, name)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("broken", ["loss", "start"])
def test_who_fails_tells_the_others_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, broken: str
) -> None:
    settings = Settings(data="circles", out=tmp_path, device="cpu", steps=100, checkpoint_every=2)
    variant = find("circles")
    config = variant.config_class()
    items = data.open_data("circles", variant.wants(config), settings.opening)
    trainer = loop.Trainer(devices.make_fabric(settings), variant, config, settings, items)
    trainer.fabric = Shared(trainer.fabric, rank)  # type: ignore[assignment]
    trainer.part = slice(0, config.batch)
    real_step, votes = trainer.gan.step, []

    def step(batch: Any, number: int, update: Any) -> Any:
        losses = real_step(batch, number, update)
        return {**losses, "loss_g": losses["loss_g"] * (float("nan") if number >= 2 else 1)}

    def exchange(tensor: torch.Tensor) -> None:
        if len(tensor) == 2:
            votes.append(tensor.tolist())
            if rank and trainer.step:
                tensor[1] += 1  # Process 0 has failed.

    def fail(_: Any) -> None:
        raise GanEdgeError("cannot begin")

    monkeypatch.setattr(loop.dist, "all_reduce", exchange)
    monkeypatch.setattr(trainer.gan, "step", step)
    if broken == "start":
        monkeypatch.setattr(loop.Reporter, "catch_up", fail)
    own = "cannot begin" if broken == "start" else "loss_g is no longer a finite number at step 4"
    with pytest.raises(GanEdgeError, match="another process of this training has stopped" if rank else own):
        loop.run_steps(trainer, math.inf)
    failed_at = 0 if broken == "start" else 16
    assert trainer.step == (16 if rank else failed_at), "at the first vote, and not at once"
    assert votes[-1] == [0, 0 if rank else 1]
    assert checkpoint.steps(tmp_path) == ([] if rank or broken == "start" else [2])


@pytest.mark.parametrize(("given", "refused"), [({"batchnorm": True}, True), ({"batchnorm": False}, False)])
def test_going_on_with_other_devices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: dict[str, Any], refused: bool
) -> None:
    small = {"size": 8, "batch": 8, "hidden_g": "8,8", "hidden_d": "8", **given}
    out = train(find("mlp"), small, Settings(data="digits", out=tmp_path / "run", steps=1, device="cpu"))
    config = out / "config.json"
    config.write_text(config.read_text().replace('"processes": 1', '"processes": 2'))
    again = Settings(data="digits", out=out, steps=2, device="cpu", resume=True)
    if refused:
        with pytest.raises(UsageError, match=r"devices is 1, but .* was trained on 2, and on CPUs BatchNorm"):
            train(find("mlp"), {}, again)
        assert '"processes": 2' in config.read_text(), "left as it was"
    else:
        train(find("mlp"), {}, again)
        assert "trained on 2 devices: on 1 it goes on the same up to rounding" in capsys.readouterr().err


def test_dropout_drops_the_share_it_says() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    given = torch.ones(4, 1000, requires_grad=True)
    dropped = dropout(given)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    dropped.sum().backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    assert torch.equal(given.grad, dropped.detach())
    assert dropout.eval()(given) is given


def test_auto_takes_no_emulated_bf16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Older GPUs emulate bf16, slower than FP32: it is not even measured there."""
    dcgan, settings = find("dcgan"), Settings(data="digits", out=tmp_path, memory_format="channels-last")
    for emulated, precisions in ((True, ["fp32"]), (False, ["fp32", "bf16"])):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, e=emulated: not e)
        ways = arithmetic._ways(dcgan, dcgan.config_class(), settings, torch.device("cuda"))
        assert [way.precision for way in ways] == precisions
