"""Training: what a run folder holds, and that nothing is lost whatever happens to the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from ganedge.models import find
from ganedge.models.dcgan import DCGAN
from ganedge.runtime.errors import ArtifactError, EngineError, GanEdgeError, UsageError
from ganedge.train import checkpoint, devices, loop, reporter, resume, run_folder, trainer
from ganedge.train.loop import train
from ganedge.train.settings import Settings

TINY: dict[str, Any] = {"size": 16, "width": 8, "latent": 6, "batch": 16, "sample_every": 4}


def settings(out: Path, **given: Any) -> Settings:
    return Settings(**{"data": "digits", "out": out, "steps": 8, "device": "cpu", **given})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(str(run / "generator.safetensors"))


def assert_equal(one: Path, other: Path) -> None:
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name


def test_a_run_folder(tiny_run: Path) -> None:
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["variant"] == "dcgan"
    assert config["config"]["channels"] == 1, "filled in from the data"
    assert config["training"]["data"] == "digits"
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 8
    assert {"loss_d", "loss_g", "images_per_s", "epoch"} <= set(lines[-1])
    assert [path.name for path in sorted((tiny_run / "samples").glob("generator-*"))] == [
        "generator-00000004.png",
        "generator-00000008.png",
    ]
    assert (tiny_run / "samples" / "losses.png").is_file()
    assert np.asarray(Image.open(tiny_run / "samples" / "generator-00000008.png")).shape == (8 * 18 - 2, 8 * 18 - 2)
    assert checkpoint.steps(tiny_run) == [8]
    assert not list(tiny_run.rglob("*.part"))


def test_the_weights_to_export_are_the_moving_average(tiny_run: Path, tmp_path: Path) -> None:
    found = checkpoint.load_latest(tiny_run)
    assert found is not None
    assert run_folder.read(tiny_run).config.ema == 0.999
    averaged, trained = (found[1][kind]["generator"] for kind in ("averages", "networks"))
    assert set(weights(tiny_run)) == set(averaged) == set(trained)
    for name, tensor in weights(tiny_run).items():
        assert torch.equal(tensor, averaged[name]), name
        counts = not tensor.is_floating_point()
        assert torch.equal(tensor, trained[name]) == counts, name
    plain = checkpoint.load_latest(train(DCGAN, {**TINY, "ema": 0.0}, settings(tmp_path / "plain")))
    assert plain is not None
    torch.testing.assert_close(plain[1]["networks"], found[1]["networks"], rtol=0, atol=0)
    torch.testing.assert_close(weights(tmp_path / "plain"), trained, rtol=0, atol=0)


def test_the_same_seed_trains_the_same(tiny_run: Path, tmp_path: Path) -> None:
    assert_equal(tiny_run, train(DCGAN, TINY, settings(tmp_path / "same")))
    other = train(DCGAN, TINY, settings(tmp_path / "other", seed=1))
    assert any(not torch.equal(tensor, weights(other)[name]) for name, tensor in weights(tiny_run).items())


def test_resuming_is_bit_for_bit(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(DCGAN, TINY, settings(out, steps=3))
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "cut off by a kill')
    train(DCGAN, {}, settings(out, resume=True))
    assert_equal(tiny_run, out)
    for line in (out / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    one, other = (checkpoint.load_latest(run) for run in (tiny_run, out))
    assert one is not None
    assert other is not None
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_killed_at_any_moment(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    base = [sys.executable, "-m", "ganedge.train", "dcgan", "--data=digits", f"--out={out}", "--device=cpu"]
    command = [*base, *options, "--steps=100000", "--checkpoint-every=1"]
    threads = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # Sums depend on how many share them.
    run = subprocess.Popen(command, env=threads, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not checkpoint.steps(out) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    run.kill()
    run.wait()
    reached = checkpoint.steps(out)[-1]
    whole = train(DCGAN, TINY, settings(tmp_path / "whole", steps=reached + 3))
    train(DCGAN, {}, settings(out, steps=reached + 3, resume=True))
    assert_equal(whole, out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_everything(tmp_path: Path, number: signal.Signals) -> None:
    class Stopped(DCGAN):
        def step(self, batch: Any, step: int, update: Any) -> dict[str, torch.Tensor]:
            if step == 2:
                signal.raise_signal(number)
            return super().step(batch, step, update)

    with pytest.raises(loop.Interrupted, match="stopped at step 3, all saved") as stopped:
        train(Stopped, TINY, settings(tmp_path / "run"))
    assert stopped.value.exit_code == 128 + number
    assert checkpoint.steps(tmp_path / "run") == [3]
    assert signal.getsignal(number) is not None


def test_a_finished_run_has_nothing_to_do(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tiny_run / "generator.safetensors").stat().st_mtime_ns
    train(DCGAN, {}, settings(tiny_run, resume=True))
    assert "nothing to do" in capsys.readouterr().err
    assert (tiny_run / "generator.safetensors").stat().st_mtime_ns == before


def test_resuming_what_never_began(tiny_run: Path, tmp_path: Path) -> None:
    assert_equal(tiny_run, train(DCGAN, TINY, settings(tmp_path / "run", resume=True)))


def test_time_is_kept(tmp_path: Path) -> None:
    before = time.monotonic()
    train(DCGAN, TINY, settings(tmp_path / "run", steps=10**6, max_minutes=1 / 60))
    assert time.monotonic() - before < 30
    assert 0 < checkpoint.steps(tmp_path / "run")[-1] < 10**6


@pytest.mark.parametrize(
    ("config", "changed", "said"),
    [
        ({"lr": 1e-3}, {}, "lr is 0.001, but .* 0.0002"),
        ({"width": 16}, {}, "width is 16"),
        ({}, {"seed": 3}, "seed is 3"),
        ({}, {"data": "mnist"}, "data is mnist"),
    ],
)
def test_a_changed_config_cannot_resume(tiny_run: Path, config: Any, changed: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        train(DCGAN, config, settings(tiny_run, resume=True, **changed))


def test_what_is_not_given_anew_stays_as_it_was(tmp_path: Path) -> None:
    begun: dict[str, Any] = {"seed": 5, "classes": "1,2", "fraction": 0.5, "precision": "bf16"}
    whole = train(DCGAN, TINY, settings(tmp_path / "whole", steps=3, **begun))
    out = train(DCGAN, TINY, settings(tmp_path / "run", steps=2, **begun))
    train(DCGAN, {}, settings(out, steps=3, resume=True))
    assert_equal(whole, out)
    said = run_folder.read(out).settings
    assert {name: said[name] for name in begun} == begun
    for name, other in {"seed": 6, "classes": "1,3", "fraction": 0.4, "precision": "fp32"}.items():
        with pytest.raises(UsageError, match=f"{name} is {other}, but .* was trained with {begun[name]}: leave it out"):
            train(DCGAN, {}, settings(out, steps=4, resume=True, **{name: other}))
    for name, usual in {"seed": 0, "classes": "", "fraction": 1.0, "precision": "fp32"}.items():
        with pytest.raises(UsageError, match=f"{name} is {usual}, but .* was trained with {begun[name]}"):
            train(DCGAN, {}, settings(out, steps=4, resume=True, **{name: usual}), (name,))


def test_a_default_that_was_typed_is_meant(command: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ("gan-train", "circles", "--data", "circles", "--out", out, "--device", "cpu")
    assert command(*line, "--steps", 2, "--seed", 5).code == 0
    done = command(*line, "--steps", 3, "--resume", "--seed", 0)
    assert (done.code, "seed is 0, but" in done.err) == (2, True)
    assert command(*line, "--steps", 3, "--resume").code == 0


def test_resuming_from_elsewhere_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"init is .*other, but .* was begun from random weights"):
        train(DCGAN, {}, settings(tiny_run, resume=True, init=tmp_path / "other"))
    other = train(DCGAN, {**TINY, "lr": 1e-3}, settings(tmp_path / "other", steps=1, init=tiny_run))
    with pytest.raises(UsageError, match=r"lr is 0.001 in .*other, but .* 0.0002: leave --config out"):
        train(DCGAN, {}, settings(tiny_run, resume=True, config=other))
    assert json.loads((tiny_run / "config.json").read_text())["training"]["init"] is None
    train(DCGAN, {}, settings(other, steps=2, resume=True, init=tiny_run / "samples" / ".."))
    assert_equal(tiny_run, train(DCGAN, {}, settings(tiny_run, resume=True, config=tiny_run)))


def test_a_run_is_repeated_from_the_library(tiny_run: Path, tmp_path: Path) -> None:
    again = Settings.repeat(tiny_run, out=tmp_path / "again")
    assert (again.data, again.steps) == ("digits", 8)
    assert_equal(tiny_run, train(DCGAN, {}, again))
    with pytest.raises(UsageError, match=r"Settings\.repeat"):
        Settings(out=tmp_path / "third", config=tiny_run)


def test_names_of_classes_stay_with_their_data(tmp_path: Path) -> None:
    small = {**TINY, "conditional": True}
    first = train(DCGAN, {**small, "class_names": "one,two"}, settings(tmp_path / "first", steps=1, classes="1,2"))

    def names(out: Path) -> str:
        return str(json.loads((out / "config.json").read_text())["config"]["class_names"])

    same = Settings.repeat(first, out=tmp_path / "same")
    assert names(train(DCGAN, {}, same)) == "one,two"
    other = Settings.repeat(first, out=tmp_path / "other", classes="3,4")
    assert names(train(DCGAN, {}, other)) == "3,4"


def test_other_data_say_their_own_channels(tmp_path: Path, pictures: Path) -> None:
    grey = train(DCGAN, TINY, settings(tmp_path / "grey", steps=1))
    assert run_folder.read(grey).config.channels == 1  # type: ignore[attr-defined]
    other = Settings.repeat(grey, out=tmp_path / "colour", data=str(pictures))
    assert resume.fresh_config(DCGAN, {}, other).channels is None  # type: ignore[attr-defined]
    assert resume.fresh_config(DCGAN, {"channels": 1}, other).channels == 1  # type: ignore[attr-defined]
    same = Settings.repeat(grey, out=tmp_path / "same")
    assert resume.fresh_config(DCGAN, {}, same).channels == 1  # type: ignore[attr-defined]


def test_a_run_is_not_overwritten(tiny_run: Path) -> None:
    with pytest.raises(UsageError, match="already holds a run"):
        train(DCGAN, TINY, settings(tiny_run))


def test_two_trainers_do_not_share_a_folder(tmp_path: Path) -> None:
    with run_folder.locked(tmp_path / "run"), pytest.raises(UsageError, match="another process"):
        train(DCGAN, TINY, settings(tmp_path / "run"))


def test_another_memory_that_changes_the_count_is_named(pictures: Path, tmp_path: Path) -> None:
    (pictures / "zz.png").write_text("x")
    out = train(DCGAN, {**TINY, "batch": 4}, settings(tmp_path / "run", data=str(pictures), steps=1))
    with pytest.raises(UsageError, match=r"holds 25 items, but .* on 24: .* and with --memory 4\.0, as it was begun"):
        train(DCGAN, {}, settings(out, data=str(pictures), steps=2, memory=0.0, resume=True))


@pytest.mark.parametrize("moved", [False, True])
def test_out_of_memory_names_what_helps(moved: bool) -> None:
    with (
        pytest.raises(GanEdgeError, match="out of memory: try a smaller --batch") as caught,
        devices.memory_errors(moved),
    ):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
    assert ("--memory" in str(caught.value)) == moved


def test_a_taken_folder_is_refused_before_the_data_are_read(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> Any:
        raise AssertionError("the data were read")

    monkeypatch.setattr(loop.data, "open_data", read)
    with pytest.raises(UsageError, match="already holds a run"):
        train(DCGAN, TINY, settings(tiny_run))
    for resumed in (False, True):
        with run_folder.locked(tmp_path / "run"), pytest.raises(UsageError, match="another process"):
            train(DCGAN, TINY, settings(tmp_path / "run", resume=resumed))


def test_batchnorm_of_one_item_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch is 1: BatchNorm needs more than one item on each device"):
        train(find("mlp"), {"batch": 1, "size": 8}, settings(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()
    alone = {"batch": 1, "size": 8, "hidden_g": "8", "hidden_d": "8", "batchnorm": False}
    train(find("mlp"), alone, settings(tmp_path / "run", steps=1))


def test_r1_with_batchnorm_over_several_gpus_is_refused() -> None:
    def check(**given: Any) -> None:
        gan = DCGAN(DCGAN.config_class(**TINY, **given))
        for network in gan.networks.values():  # As where there are several GPUs.
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        loop._check_norms(gan.config, gan.networks, 8)

    check()
    check(r1=1.0, objective="wgan-gp")  # Whose discriminator has no BatchNorm.
    with pytest.raises(UsageError, match=r"r1 is 1\.0, but on several CUDA devices"):
        check(r1=1.0)
    with pytest.raises(UsageError, match=r"r2 is 0\.5, but on several CUDA devices .*--r2 0"):
        check(r2=0.5)
    with pytest.raises(UsageError, match=r"or --norm none, whose discriminator has no BatchNorm"):
        check(r1=1.0, arch="resnet", norm="batch")


@pytest.mark.parametrize(("share", "doubted"), [(1, True), (2, False)])
def test_batchnorm_that_sees_single_pictures_is_doubted(share: int, doubted: bool) -> None:
    """Moving averages over single pictures are not what each was normalised by; several processes share a batch."""
    normed, plain = torch.nn.Sequential(torch.nn.BatchNorm2d(2)), torch.nn.InstanceNorm2d(2)
    assert bool(loop._doubt_norms([plain, normed], share)) == doubted
    assert not loop._doubt_norms([plain], share)


def test_a_training_warns_of_batchnorm_that_sees_single_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for batch in (1, 2):
        train(DCGAN, {**TINY, "batch": batch}, settings(tmp_path / str(batch), steps=1))
        assert ("BatchNorm sees one picture at a time" in capsys.readouterr().err) == (batch == 1)


def test_weights_to_start_from_are_numbers(tmp_path: Path) -> None:
    first = train(DCGAN, TINY, settings(tmp_path / "first", steps=1))
    weights = safetensors.torch.load_file(str(first / "generator.safetensors"))
    next(tensor for tensor in weights.values() if tensor.is_floating_point()).view(-1)[0] = float("nan")
    safetensors.torch.save_file(weights, str(tmp_path / "bad.safetensors"))
    with pytest.raises(GanEdgeError, match=r"bad\.safetensors holds NaN or infinite values"):
        train(DCGAN, TINY, settings(tmp_path / "second", steps=1, init=tmp_path / "bad.safetensors"))
    assert not list((tmp_path / "second").glob("[!.]*")), "nothing began"


def test_a_loss_that_is_not_finite_stops(tmp_path: Path) -> None:
    class Bad(DCGAN):
        def step(self, batch: Any, step: int, update: Any) -> dict[str, torch.Tensor]:
            losses = super().step(batch, step, update)
            return {**losses, "loss_g": losses["loss_g"] * (float("nan") if step > 4 else 1)}

    with pytest.raises(GanEdgeError, match="loss_g is no longer a finite number at step 6; the checkpoint of step 4"):
        train(Bad, TINY, settings(tmp_path / "run", checkpoint_every=2))
    assert checkpoint.steps(tmp_path / "run") == [2, 4]


def test_a_collapsed_generator_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "MATURE_STEPS", 4)

    class Flat(DCGAN):
        def step(self, batch: Any, step: int, update: Any) -> dict[str, torch.Tensor]:
            losses = super().step(batch, step, update)
            with torch.no_grad():
                self.generator.project.weight.zero_()
            return losses

    with pytest.raises(GanEdgeError, match="collapsed"):
        train(Flat, {**TINY, "ema": 0.0}, settings(tmp_path / "run"))


@pytest.mark.parametrize("ema", [0.0, 0.999])
def test_a_collapsed_generator_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float) -> None:
    monkeypatch.setattr(reporter, "MATURE_STEPS", 4)

    class Flat(DCGAN):
        def step(self, batch: Any, step: int, update: Any) -> dict[str, torch.Tensor]:
            losses = super().step(batch, step, update)
            if step == 5:
                with torch.no_grad():
                    self.generator.project.weight.zero_()
            return losses

    out = tmp_path / "run"
    with pytest.raises(GanEdgeError, match="collapsed; the checkpoint of step 4 is the last good one"):
        train(Flat, {**TINY, "ema": ema, "sample_every": 100}, settings(out, checkpoint_every=2))
    assert checkpoint.steps(out) == [2, 4]
    assert run_folder.weights_step(out, "generator") == 4


def test_one_picture_for_all_inputs_is_collapse() -> None:
    random = np.random.default_rng(0)
    interface = find("pix2pix")(find("pix2pix").config_class(size=32, width=4)).generators()["generator"]
    inputs, picture = random.uniform(-1, 1, (4, 3, 8, 8)), random.uniform(-1, 1, (1, 3, 8, 8))
    same = np.repeat(picture, 4, 0)
    assert reporter.collapsed([inputs, same, inputs], interface)
    assert reporter.collapsed([inputs, np.zeros_like(inputs)], interface), "flat"
    assert not reporter.collapsed([inputs, same + 0.01 * inputs], interface)
    assert not reporter.collapsed([same, same], interface), "the same inputs"
    assert not reporter.collapsed([inputs[:1], picture], interface), "one input"
    assert reporter.collapsed([same], interface)
    assert not reporter.collapsed([inputs], interface)


def test_no_sample_of_what_is_not_finite(tmp_path: Path) -> None:
    class Bad(DCGAN):
        def step(self, batch: Any, step: int, update: Any) -> dict[str, torch.Tensor]:
            losses = super().step(batch, step, update)
            with torch.no_grad():
                self.generator.project.weight.fill_(torch.nan)
            return losses

    with pytest.raises(GanEdgeError, match="what the generator gives is no longer a finite number at step 1; no check"):
        train(Bad, {**TINY, "sample_every": 1, "ema": 0.0}, settings(tmp_path / "run"))
    assert not list((tmp_path / "run").glob("samples/*"))


def test_samples_by_epochs_and_in_a_grid(tmp_path: Path) -> None:
    config = {"size": 8, "batch": 600, "hidden_g": "8", "hidden_d": "8", "sample_unit": "epochs", "sample_every": 1}
    out = train(find("mlp"), config, settings(tmp_path / "run", steps=7))
    samples = sorted((out / "samples").glob("generator-*"))
    assert [int(path.stem[-8:]) for path in samples] == [3, 6, 7], "1797 digits are three steps, and the end"
    assert np.asarray(Image.open(samples[0])).shape == (5 * 10 - 2, 5 * 10 - 2)
    assert (out / "samples" / "losses.png").is_file()


def test_what_cannot_be_read_is_named_when_it_is_met(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "zz.png").write_text("x")
    train(DCGAN, {**TINY, "batch": 5}, settings(tmp_path / "run", data=str(pictures), memory=0.0, steps=12))
    assert capsys.readouterr().err.count("zz.png: it is not a picture") == 1


def test_a_young_deep_generator_has_not_collapsed(tmp_path: Path) -> None:
    out = train(DCGAN, {"size": 64, "width": 4, "batch": 4}, settings(tmp_path / "run", steps=1))
    assert list((out / "samples").iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA, so it is not refused")
def test_cuda_is_refused_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no CUDA device"):
        train(DCGAN, TINY, settings(tmp_path / "run", device="cuda"))
    assert not (tmp_path / "run").exists()


def test_the_average_follows() -> None:
    network = torch.nn.BatchNorm1d(2)
    average = trainer.Average(network, 0.9)
    with torch.no_grad():
        network.weight.fill_(11.0)
        network.num_batches_tracked.fill_(7)
    average.update(10**6)
    torch.testing.assert_close(average.network.weight, torch.full((2,), 2.0))
    assert average.network.num_batches_tracked == 7
    assert trainer.Average(network, 0.0).network is network


def test_the_decay_of_the_average_rises_over_the_first_steps() -> None:
    """As (1 + t) / (10 + t), up to the one that was asked for: the average forgets its random start."""
    network = torch.nn.Linear(1, 1, bias=False)
    average = trainer.Average(network, 0.5)
    assert not average.network.weight.requires_grad
    expected = float(network.weight.detach())
    for step in range(1, 13):
        with torch.no_grad():
            network.weight.fill_(float(step))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert float(average.network.weight.detach()) == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        network.weight = torch.nn.Parameter(torch.full((1, 1), 3.0))
    still = trainer.Average(network, 0.0)
    still.update(1)
    assert still.network is network
    assert float(network.weight.detach()) == 3.0


def test_the_random_numbers_of_a_step_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned: another stream would train another generator from a seed that somebody noted down."""
    assert [trainer._mix(*each) for each in ((0, 1, 2), (7, 3, 0), (2**40, 2, 10**6))] == [
        7516344943822082542,
        7299484271657422945,
        6105097720391181781,
    ]
    seeds: list[int] = []
    seed_all = trainer._seed_all
    monkeypatch.setattr(trainer, "_seed_all", lambda seed, device: (seeds.append(seed), seed_all(seed, device)))
    train(find("circles"), {"batch": 50}, settings(tmp_path / "run", data="circles", steps=3, seed=5))
    assert seeds == [trainer._mix(5, 3, step) for step in range(3)]


def test_damaged_runs(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        run_folder.read(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="is not a run"):
        run_folder.read(tmp_path)
    text = (tiny_run / "config.json").read_text()
    for damage in (text[:50], "[]", text.replace("dcgan", "gcdan"), text.replace('"width": 8', '"width": "8"')):
        (tmp_path / "config.json").write_text(damage)
        with pytest.raises(ArtifactError, match=r"config\.json"):
            run_folder.read(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"holds no generator\.safetensors yet"):
        run_folder.read(tmp_path).generator()
    (tmp_path / "generator.safetensors").write_bytes((tiny_run / "generator.safetensors").read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="damaged"):
        run_folder.read(tmp_path).generator()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(DCGAN, TINY, settings(tmp_path / "run", steps=2))
    (tmp_path / "run" / "checkpoints" / "00000002" / "state.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="00000002 is damaged"):
        train(DCGAN, {}, settings(tmp_path / "run", resume=True))


def test_any_state_survives_a_checkpoint(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        "a": torch.arange(3),
        "b": {0: {"x": [1, 2.5, None, torch.zeros(0)], "y": "t"}},
        "c": [torch.tensor(1.0)] * 2,
    }
    checkpoint.save(tmp_path, 7, state, keep=2)
    step, loaded = checkpoint.load_latest(tmp_path) or (0, {})
    assert step == 7
    assert loaded["b"][0].pop("y") == state["b"][0].pop("y")
    assert loaded["b"][0]["x"].pop(2) is state["b"][0]["x"].pop(2)
    torch.testing.assert_close(loaded, state, rtol=0, atol=0)
    for later in (8, 9, 10):
        checkpoint.save(tmp_path, later, state, keep=2)
    assert checkpoint.steps(tmp_path) == [9, 10]


def test_every_variant_is_found() -> None:
    assert find("dcgan") is DCGAN


def test_pictures_of_runs_without_a_unit_are_steps_apart(tiny_run: Path, tmp_path: Path) -> None:
    said = json.loads((tiny_run / "config.json").read_text())
    said["variant"], said["config"] = "circles", {"sample_every": 5000}
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert run_folder.read(tmp_path).config.sample_unit == "steps"
