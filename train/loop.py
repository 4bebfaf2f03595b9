"""The training loop: one for every variant, which it knows only through the protocol.

settings = Settings(data="digits", out=Path("runs/digits"), steps=2000)
train(find("dcgan"), {"batch": 32}, settings)
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn

from ganedge.models import Variant
from ganedge.models.noise import OTHER_STOPPED, collective
from ganedge.models.variant import VariantConfig, require
from ganedge.runtime.cli.terminal import note
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.train import arithmetic, checkpoint, compiling, data, resume, run_folder
from ganedge.train.devices import make_fabric, memory_errors
from ganedge.train.reporter import Reporter, write_weights
from ganedge.train.settings import JUDGED, Settings
from ganedge.train.sources import InMemory
from ganedge.train.trainer import Trainer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

AGREE_EVERY = 16
"""Steps after which several processes ask each other whether to stop."""


class Interrupted(GanEdgeError):  # noqa: N818 - it is a request that was met, not a mistake
    """Training was stopped by a signal, with everything saved."""


def train(
    variant: type[Variant],
    options: Mapping[str, Any],
    settings: Settings,
    explicit: Collection[str] = (),
    prepare: Callable[[data.Data, Path], data.Data] = lambda items, _: items,
) -> Path:
    """Train a variant into a run folder.

    Args:
        variant: What to train.
        options: Values for fields of its config; the others take their defaults, or on resuming what the run has.
        settings: How to train.
        explicit: Settings that were given on purpose: a resumed run does not take these over, also where they are at
            their defaults.
        prepare: Adds to the data what a step needs beside them; it gets the run folder too, which is held by then.

    Returns:
        The run folder. It holds the final weights, unless training stopped before the last step for `max_minutes`;
        then it holds those of the step it reached, and can be resumed.

    Raises:
        UsageError: a config, data set or run folder that cannot be used.
        EngineError: a device that cannot be had.
        GanEdgeError: a loss that is not finite, a generator that collapsed, or a disk that is full.
        Interrupted: SIGINT or SIGTERM; everything is saved.
    """
    started = time.monotonic()

    # Settle how to train.
    run = resume.read_run(variant, options, settings) if settings.resume else None
    if run is not None:
        settings = resume.take_over(settings, run, explicit)
        resume.check_settings(run, settings)
    fabric = make_fabric(settings)
    _check_weight_gradients(settings, fabric, explicit)
    config = run.config if run is not None else resume.fresh_config(variant, options, settings)
    _check_share(config, fabric)
    by_default = bool(settings.features) or settings.judged == JUDGED
    require(by_default, "judged", settings.judged, "--features too, whose pictures it counts, or leave it out")

    # Open the data, unless the run folder is taken: decoding can take minutes, and the lock is held afterwards.
    if fabric.is_global_zero:
        run_folder.check_unlocked(settings.out)
        if run is None:
            run_folder.check_free(settings.out)
    items = data.open_data(settings.data, variant.wants(config), settings.opening)
    config = _fill(config, items.facts, len(items))
    if fabric.is_global_zero:
        for line in [*filter(None, [items.layout, items.cut]), *data.describe_skipped(items.news())]:
            note(line)

    # Train while holding the run folder.
    with _held(settings.out, fabric), memory_errors(_is_on_gpu(items, settings, fabric)):
        items = prepare(items, settings.out)
        if run is not None:
            resume.check_items(run, len(items), settings.memory)
        elif fabric.is_global_zero:
            run_folder.check_free(settings.out)
        if settings.init is not None:  # Damaged weights are refused before anything is measured.
            run_folder.read_networks(settings.init, tuple(variant(config).generators()))
        if fabric.world_size > 1:  # Before steps that all take together.
            _check_agreement(fabric, settings.out, _given(config, settings, len(items)))
        settings = arithmetic.settle(fabric, variant, config, settings, items)
        trainer = Trainer(fabric, variant, config, settings, items)
        if run is not None:
            resume.check_processes(run, trainer)
        share = config.batch // fabric.world_size
        _check_norms(config, trainer.gan.networks, share)
        if fabric.world_size > 1:
            _check_agreement(fabric, settings.out, {"step": trainer.step, "digest of the weights": _digest(trainer)})
        drawing = [trainer.gan.networks[name] for name in trainer.gan.generators()]
        doubts = [*config.doubts(trainer.total), *_doubt_norms(drawing, share)]
        if fabric.is_global_zero:
            for line in doubts:
                note(line)
            _write_config(trainer, variant)
        with compiling.at_work() if settings.compile else contextlib.nullcontext():
            run_steps(trainer, started + settings.max_minutes * 60 if settings.max_minutes else math.inf)
        if fabric.is_global_zero:
            for line in config.doubts(trainer.step):
                if line not in doubts:  # It ended sooner than its steps.
                    note(line)
    return settings.out


def run_steps(trainer: Trainer, deadline: float) -> None:
    """Train until the last step, the deadline (of the monotonic clock) or a signal. Raises as `train` does."""
    if trainer.step >= trainer.total:
        _complete(trainer, deadline)
        return
    with _signals() as stop, contextlib.ExitStack() as opened:
        # One process reports and writes.
        reporter: Reporter | None = None
        failed: Exception | None = None
        try:
            if trainer.fabric.is_global_zero:
                reporter = opened.enter_context(Reporter(trainer, deadline))
                reporter.catch_up()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised once the other processes know
            failed = _postpone(error, trainer)

        # Step by step, until all processes agree to stop.
        while trainer.step < trainer.total:
            if _must_stop(trainer, bool(stop) or time.monotonic() >= deadline, failed is not None):
                break
            losses = trainer.advance()
            try:
                if reporter is not None and failed is None:
                    reporter.after_step(losses)
            except Exception as error:  # noqa: BLE001 - as above
                failed = _postpone(error, trainer)

        # Save what was done.
        if failed is not None:
            raise failed
        if reporter is not None:
            reporter.finish()
    if stop:
        interrupted = Interrupted(f"stopped at step {trainer.step}, all saved: add --resume to go on")
        interrupted.exit_code = 128 + stop[0]
        raise interrupted


def _complete(trainer: Trainer, deadline: float) -> None:
    """Write what a kill between the last checkpoint and the end left out of a run whose steps are all done."""
    if trainer.fabric.is_global_zero:
        write_weights(trainer)
        if trainer.settings.features:
            with Reporter(trainer, deadline) as reporter:
                reporter.catch_up()
        note(f"{trainer.settings.out}: all {trainer.total} steps are done, nothing to do")


def _postpone(error: Exception, trainer: Trainer) -> Exception:
    """Keep an error until all processes have agreed to stop, because they would otherwise wait for this one forever."""
    if trainer.fabric.world_size == 1:
        raise error
    return error


def _must_stop(trainer: Trainer, stop: bool, failed: bool) -> bool:
    """Whether to stop before the next step. Several processes agree on it now and then, all at the same step.

    Raises:
        GanEdgeError: another process has failed.
    """
    if trainer.fabric.world_size == 1:
        return stop
    if trainer.step % AGREE_EVERY:
        return False
    votes = torch.tensor([float(stop), float(failed)], device=trainer.fabric.device)
    with collective():
        dist.all_reduce(votes)
        to_stop, to_fail = votes.tolist()
    if to_fail and not failed:
        raise GanEdgeError(OTHER_STOPPED)
    return bool(to_stop or to_fail)


def _given(config: VariantConfig, settings: Settings, count: int) -> dict[str, Any]:
    """What decides how a training of `count` items begins, and what of it is measured."""
    names = ("steps", "max_minutes", "seed", "precision", "weight_gradients", "memory_format", "compile")
    return {
        "step": max(checkpoint.steps(settings.out), default=0) if settings.resume else 0,
        **{name.replace("_", "-"): getattr(settings, name) for name in names},
        "items": count,
        **asdict(config),
    }


def _check_agreement(fabric: Fabric, folder: Path, facts: Mapping[str, Any]) -> None:
    """Check that all processes have the same facts: those on other machines read their own data and run folders.

    Raises:
        UsageError: naming what differs.
    """
    gathered: list[Mapping[str, Any]] = [{} for _ in range(fabric.world_size)]
    with collective():
        dist.all_gather_object(gathered, facts)
    for rank, theirs in enumerate(gathered):
        for name, value in gathered[0].items():
            if theirs.get(name) != value:
                raise UsageError(
                    f"{name} is {theirs.get(name)} in process {rank} and {value} in process 0: give all the same "
                    f"options and data, and {folder} on a disk they share, or a copy on each machine"
                )


def _digest(trainer: Trainer) -> str:
    """sha256 over all networks, shortened."""
    tensors = {
        f"{key}.{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, network in trainer.gan.networks.items()
        for name, tensor in network.state_dict().items()
    }
    return hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()[:12]


def _held(folder: Path, fabric: Fabric) -> contextlib.AbstractContextManager[None]:
    """The lock on the run folder in the process that writes."""
    return run_folder.locked(folder) if fabric.is_global_zero else contextlib.nullcontext()


def _is_on_gpu(items: data.Data, settings: Settings, fabric: Fabric) -> bool:
    """Whether the data take GPU memory that a smaller `--memory` frees; built-in sets do whatever it is."""
    in_memory = any(isinstance(source, InMemory) for source in items.sources)
    return fabric.device.type == "cuda" and in_memory and resume.data_path(settings.data) is not None


def _write_config(trainer: Trainer, variant: type[Variant]) -> None:
    settings, fabric = trainer.settings, trainer.fabric
    training = {
        **settings.to_json(),
        "device": fabric.device.type,
        "processes": fabric.world_size,
    }
    facts = {"items": len(trainer.items), "path": resume.data_path(settings.data)}
    run_folder.write_config(settings.out, variant, trainer.config, training, facts)


def _check_share(config: VariantConfig, fabric: Fabric) -> None:
    """Refuse a batch that the processes cannot share evenly."""
    if config.batch % fabric.world_size:
        raise UsageError(f"batch is {config.batch}: give a multiple of {fabric.world_size}, one share for each device")


def _check_weight_gradients(settings: Settings, fabric: Fabric, explicit: Collection[str]) -> None:
    """Refuse a way to compute them that was asked for and would have no effect."""
    usable = fabric.device.type == "cpu" and not settings.compile and settings.precision in ("auto", "fp32")
    effect = usable or settings.weight_gradients != "im2col" or "weight_gradients" not in explicit
    require(effect, "weight-gradients", "im2col", "it in fp32 on a CPU without --compile only, or leave it out")


def _check_norms(config: VariantConfig, networks: Mapping[str, nn.Module], share: int) -> None:
    """Check that BatchNorm can compute with this batch, before anything is written.

    Args:
        config: The variant's.
        networks: As they will be trained.
        share: Items that each process has of a batch.
    """
    if share == 1 and any(isinstance(each, nn.BatchNorm1d) for net in networks.values() for each in net.modules()):
        raise UsageError(
            f"batch is {config.batch}: BatchNorm needs more than one item on each device, give a larger --batch"
        )
    discriminator = networks.get("discriminator")
    penalty = next((name for name in ("r1", "r2") if getattr(config, name, 0.0)), None)
    if penalty is not None and discriminator is not None and _has_sync_batchnorm(discriminator):
        without = "--norm none" if getattr(config, "norm", "") == "batch" else "--objective wgan-gp"
        raise UsageError(
            f"{penalty} is {getattr(config, penalty)}, but on several CUDA devices the gradient of the discriminator's "
            f"BatchNorm has no gradient of its own: give --devices 1, --{penalty} 0, or {without}, whose "
            "discriminator has no BatchNorm"
        )


def _doubt_norms(generators: Iterable[nn.Module], share: int) -> list[str]:
    """What to warn of: generators whose BatchNorm normalises single pictures in training, and not so in use.

    Args:
        generators: As they will be trained.
        share: Items that each process has of a batch.
    """
    modules = [module for network in generators for module in network.modules()]
    if share > 1 or not any(isinstance(module, nn.BatchNorm2d) for module in modules):
        return []
    given = "give a larger --batch, or networks without BatchNorm"
    return [f"BatchNorm sees one picture at a time, and draws differently in use: {given}"]


def _has_sync_batchnorm(network: nn.Module) -> bool:
    return any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())


def _fill(config: VariantConfig, facts: Mapping[str, Any], count: int) -> VariantConfig:
    """Fill the config fields that were left open with values from the data."""
    config = config.for_items(count)
    unset = {f.name: facts[f.name] for f in fields(config) if f.name in facts and getattr(config, f.name) is None}
    names = getattr(config, "class_names", None)
    if names and "class_names" in facts and len(names.split(",")) != len(facts["class_names"].split(",")):
        raise UsageError(f"class-names is {names}, but the data has the classes {facts['class_names']}: name each")
    return replace(config, **unset)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM instead of terminating; a second signal terminates as usual."""
    stop: list[int] = []

    def collect(number: int, _frame: object) -> None:
        stop.append(number)
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with contextlib.suppress(ValueError):  # Not the main thread: whoever owns it handles its signals.
        for number in before:
            signal.signal(number, collect)
    try:
        yield stop
    finally:
        with contextlib.suppress(ValueError):
            for number, handler in before.items():
                signal.signal(number, handler)
