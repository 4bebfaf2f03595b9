"""The training loop: one for every variant, which it knows only through the protocol.

    settings = Settings(data="digits", out=Path("runs/digits"), steps=2000)
    train(find("dcgan"), {"batch": 32}, settings)

Everything random in step `s` is drawn from a generator seeded with (seed, s), and the order of the data from (seed,
epoch). So a training that was stopped, or killed, and goes on from a checkpoint does bit for bit what it would have
done, and no random state need be saved.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ganedge.models import Variant
from ganedge.models.variant import VariantConfig, require
from ganedge.runtime.errors import EngineError, GanEdgeError, UsageError
from ganedge.runtime.files import write_whole
from ganedge.runtime.manifest import Interface
from ganedge.runtime.terminal import note
from ganedge.train import checkpoint, data, preview, run_folder
from ganedge.train.progress import TrainingProgress

if TYPE_CHECKING:
    from lightning_fabric import Fabric

REPORT_SECONDS = 2.0
"""Time between two reports of the losses: reading them waits for the device."""
CHECKPOINT_SECONDS = 300.0
"""A checkpoint is written at least this often."""
KEEP = 2
"""Checkpoints kept."""
MATURE_STEPS = 200
"""Before this a deep generator may rightly give almost the same for all noise: its weights begin small."""
COLLAPSED = 1e-4
"""Standard deviation over the samples, in units of the range, below which all of them are the same picture."""

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train, whatever the variant. A field's docstring is its help text on the command line."""

    data: str
    """Built-in set (digits, mnist), mnist:DIR, or a folder of pictures."""
    out: Path
    """Run folder to write."""
    steps: int | None = None
    """Steps in all; epochs decide by default."""
    max_minutes: float | None = None
    """Stop after this many minutes, with everything saved."""
    seed: int = 0
    """Seed of all that is random, 0 or more."""
    device: Device = "auto"
    """Where to train: auto takes CUDA where there is one."""
    precision: Precision = "auto"
    """Arithmetic: auto takes bf16 where this device is fast at it, else fp32."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints; one is written at least every five minutes."""
    download: bool = False
    """Fetch a built-in data set from the internet if it is not here."""
    resume: bool = False
    """Go on with the run in the run folder."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.max_minutes is None or self.max_minutes > 0, "max-minutes", self.max_minutes, "more than 0")
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 or more, below 2^63")
        require(self.checkpoint_every >= 1, "checkpoint-every", self.checkpoint_every, "1 or more")


FIXED = ("data", "seed")
"""Settings that a resumed run must not change: with another value it would be another training."""


class Interrupted(GanEdgeError):  # noqa: N818 - it is a request that was met, not a mistake
    """Training was stopped by a signal, with everything saved."""


def train(variant: type[Variant], given: Mapping[str, Any], settings: Settings) -> Path:
    """Train a variant into a run folder.

    Args:
        variant: What to train.
        given: Values for fields of its config; the others take their defaults, or on resuming what the run has.
        settings: How to train.

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
    fabric = _fabric(settings)
    config = _resume_config(variant, given, settings) if settings.resume else variant.config_class(**given)
    items = data.open_data(settings.data, variant.wants(config), download=settings.download)
    for line in data.describe_skipped(items.skipped):
        note(line)
    config = _fill(config, items.facts)
    with run_folder.locked(settings.out):
        if not (settings.out / run_folder.CONFIG).exists() or not settings.resume:
            run_folder.create(settings.out, variant, config, _plain(settings))
        trainer = Trainer(fabric, variant, config, settings, items)
        deadline = started + settings.max_minutes * 60 if settings.max_minutes else math.inf
        trainer.run(deadline)
    return settings.out


class Trainer:
    """One training under way: networks, optimizers, averages, and the step they are at."""

    def __init__(
        self, fabric: Fabric, variant: type[Variant], config: VariantConfig, settings: Settings, items: data.Data
    ) -> None:
        self.fabric = fabric
        self.config = config
        self.settings = settings
        self.items = items
        self.wants = variant.wants(config)
        self.total = settings.steps or math.ceil(config.epochs * len(items) / config.batch)
        self.permutation = lru_cache(maxsize=2)(
            lambda epoch: data.order(len(items), epoch, lambda e: _mix(settings.seed, 1, e))
        )
        torch.manual_seed(_mix(settings.seed, 2, 0))
        self.gan = variant(config)
        self.interfaces = self.gan.generators()
        for network in self.gan.networks.values():
            # Channels last: convolutions are 5 to 15 % faster in FP32 on a CPU, and more in reduced precision.
            network.to(fabric.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizers: dict[str, Any] = {
            name: fabric.setup_optimizers(optimizer) for name, optimizer in self.gan.optimizers.items()
        }
        self.averages = {name: Average(self.gan.networks[name], config.ema) for name in self.interfaces}
        self.step = 0
        self._restore()

    def run(self, deadline: float) -> None:
        """Train until the last step, the deadline (of the monotonic clock) or a signal."""
        if self.step >= self.total:
            note(f"{self.settings.out}: all {self.total} steps are done, nothing to do")
            return
        losses = Losses()
        saved_at = time.monotonic()
        with _signals() as stop, TrainingProgress(self.step, self.total) as progress:
            while self.step < self.total and not stop and time.monotonic() < deadline:
                losses.add(self._advance(), self.config.batch)

                # Report the losses, and make sure they are numbers.
                if losses.age >= REPORT_SECONDS or self.step == self.total:
                    means, rate = losses.read()
                    self._check_finite(means)
                    left = min((self.total - self.step) * self.config.batch / rate, deadline - time.monotonic())
                    progress.report(self.step, means, rate, max(left, 0.0))
                    self._write_metrics(means, rate)

                # Keep what was done.
                if self.step % self.config.sample_every == 0:
                    self._write_sample()
                if self.step % self.settings.checkpoint_every == 0 or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                    self._check_finite(losses.peek())
                    self._save()
                    saved_at = time.monotonic()
        self._check_finite(losses.peek())
        self._save()
        self._write_sample()
        if stop:
            error = Interrupted(f"stopped at step {self.step}, all saved: add --resume to go on")
            error.exit_code = 128 + stop[0]
            raise error

    def _advance(self) -> dict[str, Tensor]:
        """Do one step."""
        _seed_all(_mix(self.settings.seed, 3, self.step), self.fabric.device)
        begin = self.step * self.config.batch
        chosen = data.indices(len(self.items), begin, self.config.batch, self.permutation)
        batch = self.items.batch(chosen, self.wants, self.fabric.device)
        with self.fabric.autocast():
            losses = self.gan.step(batch, self.step, self._update)
        self.step += 1
        for average in self.averages.values():
            average.update(self.step)
        return losses

    def _update(self, name: str, loss: Tensor) -> None:
        """Take one step of one optimizer. No gradient is computed for parameters that it does not hold."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.fabric.backward(loss, inputs=parameters)
        optimizer.step()

    def _check_finite(self, losses: Mapping[str, float]) -> None:
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            last = checkpoint.steps(self.settings.out)
            kept = f"the checkpoint of step {last[-1]} is the last good one" if last else "no checkpoint was reached"
            raise GanEdgeError(
                f"{bad[0]} is no longer a finite number at step {self.step}; {kept}. "
                "Try a lower --lr or --precision fp32"
            )

    def _write_metrics(self, losses: Mapping[str, float], rate: float) -> None:
        epoch = self.step * self.config.batch / len(self.items)
        line = {"step": self.step, "epoch": round(epoch, 4), **losses, "images_per_s": round(rate, 2)}
        with (self.settings.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _write_sample(self) -> None:
        """Write the fixed-noise pictures of every generator."""
        for name, interface in self.interfaces.items():
            output = preview.draw(self.averages[name].network, interface, self.fabric.device)
            path = self.settings.out / "samples" / f"{name}-{self.step:08d}.png"
            if self.step >= MATURE_STEPS and output.std(axis=0).max() < COLLAPSED * _span(interface):
                raise GanEdgeError(
                    f"{name} gives the same output for all noise at step {self.step}: it has collapsed. "
                    "Try a lower --lr, another --objective or another --seed"
                )
            preview.save(output, interface, path)

    def _save(self) -> None:
        """Write a checkpoint, and the weights to export."""
        state = {
            "networks": {name: network.state_dict() for name, network in self.gan.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.gan.optimizers.items()},
            "averages": {name: average.network.state_dict() for name, average in self.averages.items()},
        }
        checkpoint.save(self.settings.out, self.step, state, KEEP)
        for name, average in self.averages.items():
            run_folder.write_weights(self.settings.out, name, average.network.state_dict(), self.step)

    def _restore(self) -> None:
        """Go to the last checkpoint, where there is one, and forget the metrics behind it."""
        found = checkpoint.load_latest(self.settings.out)
        if found is None:
            return
        self.step, state = found
        for name, network in self.gan.networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimizer in self.gan.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
            _match_layout(optimizer)
        for name, average in self.averages.items():
            average.network.load_state_dict(state["averages"][name])
        metrics = self.settings.out / "metrics.jsonl"
        if metrics.exists():
            lines = metrics.read_text("utf-8").splitlines()
            write_whole(metrics, "".join(f"{line}\n" for line in lines if _step_of(line) <= self.step))


class Average:
    """The exponential moving average of a generator's weights and running statistics.

    Over the first steps the decay rises as (1 + t) / (10 + t), so that the average forgets its random start. With a
    decay of 0 it is the generator itself.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._live = network
        self._decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False) if decay else network
        own, live = self.network.state_dict(keep_vars=True), network.state_dict(keep_vars=True)
        self._own = [tensor.data for tensor in own.values() if tensor.is_floating_point()]
        self._from = [tensor for tensor in live.values() if tensor.is_floating_point()]
        self._counts = [(own[key], live[key]) for key in own if not own[key].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the live weights after step `step`."""
        if self._decay:
            decay = min(self._decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._own, [tensor.data for tensor in self._from], 1 - decay)
            for own, live in self._counts:
                own.copy_(live)


class Losses:
    """Sums of the losses since they were last read, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._items = 0
        self._since = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the last reading."""
        return time.monotonic() - self._since

    def add(self, losses: Mapping[str, Tensor], items: int) -> None:
        """Add the losses of one step."""
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.float()
        self._steps += 1
        self._items += items

    def peek(self) -> dict[str, float]:
        """Mean of each loss since the last reading."""
        return {name: value.item() / self._steps for name, value in self._sums.items()}

    def read(self) -> tuple[dict[str, float], float]:
        """Mean of each loss and items per second since the last reading, and start again."""
        means = self.peek()
        rate = self._items / max(self.age, 1e-9)
        self._restart()
        return means, rate


def _fabric(settings: Settings) -> Fabric:
    """Lightning Fabric for the asked device and precision; what is asked for is given or refused."""
    from lightning_fabric import Fabric  # Here, because importing it takes seconds that --help need not wait.

    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise EngineError("device cuda: PyTorch sees no CUDA device here; use --device cpu, or check the NVIDIA driver")
    device = "cuda" if settings.device != "cpu" and cuda else "cpu"
    if settings.precision == "fp16" and device == "cpu":
        raise UsageError("precision fp16 trains on CUDA only: use --precision bf16 or fp32 on a CPU")
    precision = settings.precision
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu._is_amx_tile_supported()
        precision = "bf16" if fast else "fp32"
    names: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    return Fabric(accelerator=device, devices=1, precision=names[precision])


def _resume_config(variant: type[Variant], given: Mapping[str, Any], settings: Settings) -> VariantConfig:
    """The config of the run to go on with, after checking that nothing given differs from it."""
    if not (settings.out / run_folder.CONFIG).exists():
        return variant.config_class(**given)  # Killed before it began, or never begun: start from step 0.
    run = run_folder.read(settings.out)
    if run.variant is not variant:
        raise UsageError(f"{settings.out} holds a {run.variant.name}, not a {variant.name}: resume it as that")
    for name, value in given.items():
        if getattr(run.config, name) != value:
            raise UsageError(
                f"{name.replace('_', '-')} is {value}, but {settings.out} was trained with "
                f"{getattr(run.config, name)}: "
                "leave it out to go on with the run, or give another --out"
            )
    for name in FIXED:
        new, old = str(getattr(settings, name)), str(run.settings.get(name))
        if new != old:
            raise UsageError(f"{name} is {new}, but {settings.out} was trained with {old}: give the same to resume")
    return run.config


def _fill(config: VariantConfig, facts: Mapping[str, Any]) -> VariantConfig:
    """Write what the data knows into the fields that were left for it to say."""
    unset = {f.name: facts[f.name] for f in fields(config) if f.name in facts and getattr(config, f.name) is None}
    return replace(config, **unset)


def _plain(settings: Settings) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}


def _span(interface: Interface) -> float:
    low, high = interface.output.range or (-1.0, 1.0)
    return high - low


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay the optimizer's moments out as their parameters are: a fused kernel walks both in the order of memory."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(value)


def _step_of(line: str) -> float:
    """The step a metrics line speaks of; infinite for one that was cut off when the process was killed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _mix(seed: int, stream: int, index: int) -> int:
    """A well-spread 63-bit number for each (seed, stream, index): splitmix64's finaliser (Steele et al. 2014)."""
    mask = 2**64 - 1
    x = (seed * 0x9E3779B97F4A7C15 + stream * 0xD1B54A32D192ED03 + index * 0x8CB92BA72F3D8DD7) & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return (x ^ x >> 31) >> 1


def _seed_all(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one kills as usual."""
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
