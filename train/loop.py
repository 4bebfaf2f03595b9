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
import hashlib
import math
import os
import signal
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganedge.models import Variant
from ganedge.models.noise import OTHER_STOPPED, collective
from ganedge.models.variant import VariantConfig, check_given, check_types, require, usual
from ganedge.runtime.cli.terminal import note
from ganedge.runtime.errors import ArtifactError, EngineError, GanEdgeError, UsageError, one_line
from ganedge.train import checkpoint, compiling, data, instance_norm, run_folder
from ganedge.train.data import Options as DataOptions
from ganedge.train.im2col import use_columns
from ganedge.train.metrics import FEWEST
from ganedge.train.reporter import Keeper, write_weights
from ganedge.train.sources import InMemory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

AGREE_EVERY = 16
"""Steps after which several processes ask each other whether to stop."""

JUDGED = 5000
"""Pictures that are compared where nobody says how many."""

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train, whatever the variant. A field's docstring is its help text on the command line."""

    out: Path
    """Run folder to write."""
    data: str = ""
    """Built-in set (digits, mnist, fashion-mnist, cifar10, celeba, circles), mnist:DIR, a folder of pictures (of pairs,
    of trainA and trainB, as the variant needs), or a .csv of path,label."""
    preset: str | None = None
    """A named set of this variant's options; options that are given win over it."""
    config: Path | None = None
    """Repeat the training of this config.json or run folder; presets and options that are given win over it."""
    init: Path | None = None
    """Start from the networks of this run folder, or from the generator in this .safetensors file."""
    classes: str = ""
    """Train on these classes only, separated by commas."""
    fraction: float = 1.0
    """Share of the data to use, more than 0, up to 1: a quick look."""
    memory: float = 4.0
    """GiB of decoded pictures to keep in memory, both sides of pairs and sets together; larger sets are read from disk
    as they are needed."""
    workers: int | None = None
    """Threads that decode pictures; one per core by default."""
    steps: int | None = None
    """Steps in all; epochs decide by default."""
    max_minutes: float | None = None
    """Stop after this many minutes, with everything saved."""
    seed: int = 0
    """Seed of all that is random, 0 or more."""
    device: Device = "auto"
    """Where to train: auto takes CUDA where there is one."""
    devices: int = 1
    """Devices or processes to train on; each takes its share of the batch. For several machines use torchrun, which
    needs no --devices. On CPUs BatchNorm sees each process's share alone."""
    precision: Precision = "auto"
    """Arithmetic: auto takes bf16 where this device is fast at it, else fp32."""
    compile: bool = False
    """Compile the networks with torch.compile, for which it needs a C++ compiler: a minute or more at first, then fewer
    and larger kernels in each step. Slower on the CPUs it was tried on."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints; one is written at least every five minutes."""
    features: Literal["", "small", "inception"] = ""
    """Measure FID, KID, precision and recall at every checkpoint, and keep the best one: with a small random network,
    or Inception's; only figures of the same network can be compared."""
    judged: int = JUDGED
    """Pictures that --features compares."""
    tensorboard: bool = False
    """Write events for TensorBoard into the run folder too."""
    download: bool = False
    """Fetch a built-in data set, or Inception's weights, from the internet if they are not here."""
    resume: bool = False
    """Go on with the run in the run folder."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if not self.data and self.config is not None:
            raise UsageError(f"no data: give some, or take it from {self.config} too with Settings.repeat")
        if not self.data:
            raise UsageError("no data: give --data with a built-in set or a folder, or --config with an earlier run")
        check_types(self)
        require(0 < self.fraction <= 1, "fraction", self.fraction, "more than 0, up to 1")
        require(self.memory >= 0, "memory", self.memory, "0 or more")
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more")
        require(self.devices >= 1, "devices", self.devices, "1 or more")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.max_minutes is None or self.max_minutes > 0, "max-minutes", self.max_minutes, "more than 0")
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 or more, below 2^63")
        require(self.judged >= FEWEST, "judged", self.judged, f"{FEWEST} or more")
        require(self.checkpoint_every >= 1, "checkpoint-every", self.checkpoint_every, "1 or more")

    @classmethod
    def repeat(cls, config: Path, **given: Any) -> Settings:
        """The settings of an earlier run but for what is given, with its config to start from.

        Args:
            config: A run folder or a config.json.
            **given: Fields of this class, `out` among them.

        Raises:
            ArtifactError: not a run's config.
            UsageError: values that cannot work.
        """
        repeated = run_folder.read_settings(config, {item.name for item in fields(cls)})
        return cls(**{**repeated, **given, "config": config})

    @property
    def opening(self) -> DataOptions:
        """How to open the data."""
        classes = tuple(name.strip() for name in self.classes.split(",") if name.strip())
        return DataOptions(
            download=self.download,
            classes=classes,
            fraction=self.fraction,
            memory=self.memory,
            workers=self.workers,
        )


FIXED = ("data", "seed", "classes", "fraction", "precision", "compile")
"""Settings that a resumed run must not change: with another value it would be another training."""
KEPT = (
    "seed",
    "classes",
    "fraction",
    "precision",
    "compile",
    "steps",
    "preset",
    "init",
    "features",
    "judged",
    "tensorboard",
)
"""Settings that a resumed run takes over where they are left at their defaults."""


class Interrupted(GanEdgeError):  # noqa: N818 - it is a request that was met, not a mistake
    """Training was stopped by a signal, with everything saved."""


def train(variant: type[Variant], given: Mapping[str, Any], settings: Settings, typed: Collection[str] = ()) -> Path:
    """Train a variant into a run folder.

    Args:
        variant: What to train.
        given: Values for fields of its config; the others take their defaults, or on resuming what the run has.
        settings: How to train.
        typed: Settings that were given on purpose: a resumed run does not take these over, also where they are at
            their defaults.

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
    run = _resumed(variant, given, settings) if settings.resume else None
    if run is not None:
        settings = _as_before(settings, run, typed)
        _check_settings(run, settings)
    fabric = make_fabric(settings)
    writes = fabric.is_global_zero
    config = run.config if run is not None else _fresh_config(variant, given, settings)
    _check_share(config, fabric)
    if writes:  # Before minutes of decoding; the lock itself is taken once there is something to write.
        run_folder.check_unlocked(settings.out)
        if run is None:
            run_folder.check_free(settings.out)
    judged = settings.features or settings.judged == JUDGED
    require(bool(judged), "judged", settings.judged, "--features too, whose pictures it counts, or leave it out")
    items = data.open_data(settings.data, variant.wants(config), settings.opening)
    config = _fill(config, items.facts)
    for line in data.describe_skipped(items.news()) if writes else ():
        note(line)
    here = {"device": fabric.device.type, "processes": fabric.world_size}
    said = {**_plain(settings), "precision": settled_precision(settings), **here}
    found = {"items": len(items), "path": _place(settings.data)}
    held = any(isinstance(source, InMemory) for source in items.sources)
    moved = fabric.device.type == "cuda" and held and found["path"] is not None  # Built-in sets are, whatever --memory.
    with run_folder.locked(settings.out) if writes else contextlib.nullcontext(), _memory_errors(moved):
        if run is not None:
            _check_items(run, len(items), settings.memory)
        elif writes:
            run_folder.check_free(settings.out)
        trainer = Trainer(fabric, variant, config, settings, items)
        if run is not None:
            _check_processes(run, trainer)
        _check_norms(config, trainer.gan.networks, config.batch // fabric.world_size)
        trainer.agree()
        if writes:
            run_folder.write_config(settings.out, variant, config, said, found)
        with compiling.at_work() if settings.compile else contextlib.nullcontext():
            trainer.run(started + settings.max_minutes * 60 if settings.max_minutes else math.inf)
    return settings.out


class Trainer:
    """One training under way: networks, optimizers, averages, and the step they are at."""

    def __init__(
        self, fabric: Fabric, variant: type[Variant], config: VariantConfig, settings: Settings, items: data.Data
    ) -> None:
        self.fabric = fabric
        self.config = config
        self.settings = settings
        self.items = items.on(fabric.device)
        self.total = settings.steps or math.ceil(config.epochs * len(items) / config.batch)
        self._check_decay()
        share = config.batch // fabric.world_size
        self.part = slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)
        self.permutation = lru_cache(maxsize=2)(
            lambda epoch: data.order(len(items), epoch, lambda e: _mix(settings.seed, 1, e))
        )
        torch.manual_seed(_mix(settings.seed, 2, 0))
        self.gan = variant(config)
        self.interfaces = self.gan.generators()
        for network in self.gan.networks.values():
            # Channels last: convolutions are 5 to 15 % faster in FP32 on a CPU, and more in reduced precision.
            network.to(fabric.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
            if fabric.device.type == "cpu":
                if not settings.compile:
                    use_columns(network)
                instance_norm.mend(network)
            elif fabric.world_size > 1:  # On CPUs each process keeps statistics of its own share: there is no other.
                nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.optimizers: dict[str, Any] = {
            name: fabric.setup_optimizers(optimizer) for name, optimizer in self.gan.optimizers.items()
        }
        self.rates = {
            name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in self.optimizers.items()
        }
        if not (settings.resume and checkpoint.steps(settings.out)):
            self._initialise()
        self.averages = {name: Average(self.gan.networks[name], config.ema) for name in self.interfaces}
        self.step = 0
        self.saved = -1
        if settings.resume:
            self._restore()
        if settings.compile:  # Last, so that no average is a copy of a compiled network.
            compiling.compile_networks(self.gan.networks.values())

    def agree(self) -> None:
        """Make sure that all processes begin alike: those of other machines read data and run folders of their own.

        Raises:
            UsageError: naming what differs.
        """
        if self.fabric.world_size == 1:
            return
        here: dict[str, Any] = {"step": self.step, "steps": self.total}
        here |= {"seed": self.settings.seed, "items": len(self.items)}
        here |= {
            **asdict(self.config),
            "precision": settled_precision(self.settings),
            "digest of the weights": self._digest(),
        }
        all_said: list[dict[str, Any]] = [{} for _ in range(self.fabric.world_size)]
        with collective():
            dist.all_gather_object(all_said, here)
        for rank, said in enumerate(all_said):
            for name, value in all_said[0].items():
                if said.get(name) != value:
                    raise UsageError(
                        f"{name} is {said.get(name)} in process {rank} and {value} in process 0: give all the same "
                        f"options and data, and {self.settings.out} on a disk they share, or a copy on each machine"
                    )

    def _digest(self) -> str:
        """sha256 over all networks, shortened."""
        states = {
            f"{key}.{name}": each for key, net in self.gan.networks.items() for name, each in net.state_dict().items()
        }
        whole = safetensors.torch.save(
            {name: each.detach().cpu().clone(memory_format=torch.contiguous_format) for name, each in states.items()}
        )
        return hashlib.sha256(whole).hexdigest()[:12]

    def run(self, deadline: float) -> None:
        """Train until the last step, the deadline (of the monotonic clock) or a signal."""
        if self.step >= self.total:
            if self.fabric.is_global_zero:
                write_weights(self)  # A kill between the last checkpoint and the weights left older ones.
                if self.settings.features:
                    with Keeper(self, deadline) as late:
                        late.catch_up()
                note(f"{self.settings.out}: all {self.total} steps are done, nothing to do")
            return
        with _signals() as stop, contextlib.ExitStack() as held:
            keeper: Keeper | None = None
            failed: Exception | None = None
            try:
                if self.fabric.is_global_zero:
                    keeper = held.enter_context(Keeper(self, deadline))
                    keeper.catch_up()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is raised once the others know
                failed = self._remember(error)
            while self.step < self.total and not self._must_stop(
                bool(stop) or time.monotonic() >= deadline, failed is not None
            ):
                losses = self.advance()
                try:
                    if keeper is not None and failed is None:  # One process reports and writes.
                        keeper.look(losses)
                except Exception as error:  # noqa: BLE001 - as above
                    failed = self._remember(error)
            if failed is not None:
                raise failed
            if keeper is not None:
                keeper.finish()
        if stop:
            interrupted = Interrupted(f"stopped at step {self.step}, all saved: add --resume to go on")
            interrupted.exit_code = 128 + stop[0]
            raise interrupted

    def _remember(self, error: Exception) -> Exception:
        """Keep what stopped this process until all have agreed to stop: they would wait for it without end."""
        if self.fabric.world_size == 1:
            raise error
        return error

    def _must_stop(self, asked: bool, failed: bool = False) -> bool:
        """Whether to stop before the next step. Several processes agree on it now and then, all at the same step.

        Raises:
            GanEdgeError: another process has failed.
        """
        if self.fabric.world_size == 1:
            return asked
        if self.step % AGREE_EVERY:
            return False
        votes = torch.tensor([float(asked), float(failed)], device=self.fabric.device)
        with collective():
            dist.all_reduce(votes)
            to_stop, to_fail = votes.tolist()
        if to_fail and not failed:
            raise GanEdgeError(OTHER_STOPPED)
        return bool(to_stop or to_fail)

    def advance(self) -> dict[str, Tensor]:
        """Do one step."""
        _seed_all(_mix(self.settings.seed, 3, self.step), self.fabric.device)
        self._set_rates()
        batch = self.items.batch(self._chosen(self.step), self.fabric.device, self.part, self._partners(self.step))
        if self.step + 1 < self.total:
            self.items.prepare(self._chosen(self.step + 1), self.part, self._partners(self.step + 1))
        with self.fabric.autocast():
            losses = self.gan.step(batch, self.step, self._update)
        self.step += 1
        for average in self.averages.values():
            average.update(self.step)
        return losses

    def _chosen(self, step: int) -> Tensor:
        """Places of the items of a step's whole batch."""
        begin = step * self.config.batch
        return data.indices(len(self.items), begin, self.config.batch, self.permutation)

    def _partners(self, step: int) -> int:
        """Seed of what unpaired sets draw for a step."""
        return _mix(self.settings.seed, 4, step)

    def _set_rates(self) -> None:
        """Let the learning rates fall as the config says: a function of the step alone."""
        if self.config.decay == 1:
            return
        epoch = self.step * self.config.batch / len(self.items)
        factor = min(1.0, (1 - epoch / self.config.epochs) / (1 - self.config.decay))
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, self.rates[name], strict=True):
                group["lr"] = rate * max(factor, 0.0)

    def _check_decay(self) -> None:
        """Refuse more steps than there are learning rates for."""
        most = math.ceil(self.config.epochs * len(self.items) / self.config.batch)
        if self.config.decay < 1 and self.total > most:
            raise UsageError(
                f"steps is {self.total}, but the learning rates reach 0 after {most}: "
                "give as many or fewer, more --epochs, or --decay 1"
            )

    def _update(self, name: str, loss: Tensor, keep_graph: bool = False) -> None:
        """Take one step of one optimizer. No gradient is computed for parameters that it does not hold."""
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.fabric.backward(loss, inputs=parameters, retain_graph=keep_graph)
        if self.fabric.world_size > 1:
            self._average([p.grad for p in parameters if p.grad is not None])
        optimizer.step()
        torch.clear_autocast_cache()  # It holds the weights in reduced precision as they were before.

    @torch.no_grad()
    def _average(self, gradients: list[Tensor]) -> None:
        """Replace gradients by their mean over all processes, in one exchange."""
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with collective():
            dist.all_reduce(flat)
        flat /= self.fabric.world_size
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    @property
    def generators(self) -> dict[str, nn.Module]:
        """The generators to show, measure and export: the moving averages where they are on."""
        return {name: average.network for name, average in self.averages.items()}

    def state(self) -> dict[str, Any]:
        """Everything needed to go on from here bit for bit."""
        return {
            "networks": {name: network.state_dict() for name, network in self.gan.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.gan.optimizers.items()},
            "averages": {name: average.network.state_dict() for name, average in self.averages.items()},
            "precision": self.fabric._precision.state_dict(),  # The scale of the losses in fp16; else empty.
        }

    def _initialise(self) -> None:
        """Start from another run's networks, or from a generator's weights."""
        if self.settings.init is None:
            return
        states = run_folder.read_networks(self.settings.init, tuple(self.interfaces))
        for name, state in states.items():
            if name not in self.gan.networks:
                raise UsageError(f"init {self.settings.init} holds a {name}, which this variant does not have")
            if not any(True for _ in self.gan.networks[name].parameters()):
                continue  # It learns nothing: what another training remembers, as its earlier pictures.
            try:
                self.gan.networks[name].load_state_dict(state)
            except RuntimeError as error:
                reason = one_line(error)
                raise UsageError(
                    f"the {name} of init {self.settings.init} does not fit these options: {reason}"
                ) from error
            if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
                raise ArtifactError(
                    f"the {name} of init {self.settings.init} holds NaN or infinite values: give another"
                )

    def _restore(self) -> None:
        """Go to the last checkpoint, where there is one, and forget the metrics behind it."""
        found = checkpoint.load_latest(self.settings.out)
        if found is None:
            return
        self.step, state = found
        try:
            for name, network in self.gan.networks.items():
                network.load_state_dict(state["networks"][name])
            for name, optimizer in self.gan.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
                _match_layout(optimizer)
            for name, average in self.averages.items():
                average.network.load_state_dict(state["averages"][name])
            self.fabric._precision.load_state_dict(state["precision"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = one_line(error)
            raise ArtifactError(
                f"checkpoint {self.step} of {self.settings.out} does not fit its config ({reason}): "
                "delete that checkpoint to go on from the one before"
            ) from error
        self.saved = (
            self.step if run_folder.weights_step(self.settings.out, next(iter(self.averages))) == self.step else -1
        )


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


def make_fabric(settings: Settings) -> Fabric:
    """Lightning Fabric for the asked device and precision; what is asked for is given or refused."""
    from lightning_fabric import Fabric  # Here, because importing it takes seconds that --help need not wait.

    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise EngineError("device cuda: PyTorch sees no CUDA device here; use --device cpu, or check the NVIDIA driver")
    device = "cuda" if settings.device != "cpu" and cuda else "cpu"
    if settings.precision == "fp16" and device == "cpu":
        raise UsageError(
            "precision fp16 trains on CUDA only: use --precision bf16 or fp32 on a CPU; a run that was begun in fp16 "
            "goes on on CUDA only"
        )
    precision = settled_precision(settings)
    names: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    local = int(os.environ.get("LOCAL_WORLD_SIZE", settings.devices))  # Set by torchrun, which has begun them all.
    if settings.devices not in (1, local):
        raise UsageError(
            f"devices is {settings.devices}, but torchrun began {local} here: leave out --devices, "
            f"or give torchrun --nproc-per-node {settings.devices}"
        )
    nodes = int(os.environ.get("WORLD_SIZE", local)) // local if "LOCAL_WORLD_SIZE" in os.environ else 1
    if device == "cuda" and local > torch.cuda.device_count():
        raise EngineError(
            f"devices is {local}, and PyTorch sees {torch.cuda.device_count()} here: give as many or fewer"
        )
    strategy = "ddp" if local * nodes > 1 else "auto"
    fabric = Fabric(accelerator=device, devices=local, num_nodes=nodes, strategy=strategy, precision=names[precision])
    fabric.launch()
    return fabric


def settled_precision(settings: Settings) -> Precision:
    """What "auto" comes to on this device."""
    if settings.precision != "auto":
        return settings.precision
    cuda = settings.device != "cpu" and torch.cuda.is_available()
    cuda_has = torch.cuda.is_bf16_supported  # Older GPUs emulate it, slower than FP32.
    fast = cuda_has(including_emulation=False) if cuda else torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


@contextlib.contextmanager
def _memory_errors(moved: bool) -> Iterator[None]:
    """Tell running out of memory from other failures: PyTorch raises RuntimeError for it on a CPU.

    Args:
        moved: Whether the data were moved to the device, and take from its memory too.
    """
    try:
        yield
    except RuntimeError as error:
        short = any(
            text in str(error) for text in ("DefaultCPUAllocator", "out of memory", "invalid for input of size")
        )
        if not short and "Storage size calculation overflowed" not in str(error):
            raise
        data_too = ", or a smaller --memory: the data are on the GPU too" if moved else ""
        raise GanEdgeError(f"out of memory: try a smaller --batch, size or width{data_too}") from error


def _check_share(config: VariantConfig, fabric: Fabric) -> None:
    """Refuse a batch that the processes cannot share evenly."""
    if config.batch % fabric.world_size:
        raise UsageError(f"batch is {config.batch}: give a multiple of {fabric.world_size}, one share for each device")


def _check_norms(config: VariantConfig, networks: Mapping[str, nn.Module], share: int) -> None:
    """Refuse what BatchNorm cannot do, before anything is written.

    Args:
        config: The variant's.
        networks: As they will be trained.
        share: Items that each process has of a batch.
    """
    if share == 1 and any(isinstance(each, nn.BatchNorm1d) for net in networks.values() for each in net.modules()):
        raise UsageError(
            f"batch is {config.batch}: BatchNorm needs more than one item on each device, give a larger --batch"
        )
    judge, r1 = networks.get("discriminator"), getattr(config, "r1", 0.0)
    if r1 and judge is not None and any(isinstance(each, nn.SyncBatchNorm) for each in judge.modules()):
        raise UsageError(
            f"r1 is {r1}, but on several CUDA devices the gradient of the discriminator's BatchNorm has no gradient of "
            "its own: give --devices 1, --r1 0, or --objective wgan-gp, whose discriminator has no BatchNorm"
        )


def _preset(variant: type[Variant], name: str | None) -> Mapping[str, Any]:
    if name is None:
        return {}
    if name not in variant.presets:
        known = ", ".join(variant.presets) or "none, so leave it out"
        raise UsageError(f"preset is {name}: {variant.name} has {known}")
    return variant.presets[name]


def _from_file(variant: type[Variant], settings: Settings) -> Mapping[str, Any]:
    """The config values of the run that `--config` names; what its data filled in stays with its data."""
    if settings.config is None:
        return {}
    run = run_folder.read_config(settings.config)
    if run.variant is not variant:
        raise UsageError(
            f"config {settings.config} is of a {run.variant.name}, not of a {variant.name}: repeat it as that"
        )
    place = _is_same_data(run, settings)
    same = {"channels": place, "class_names": place and settings.classes == run.settings.get("classes", "")}
    filled = {item.name for item in fields(run.config) if item.default is None and not same.get(item.name, True)}
    return {name: value for name, value in asdict(run.config).items() if name not in filled}


def _fresh_config(variant: type[Variant], given: Mapping[str, Any], settings: Settings) -> VariantConfig:
    """The config of a new run: defaults, then `--config`, then `--preset`, then what was given."""
    config = variant.config_class(**{**_from_file(variant, settings), **_preset(variant, settings.preset), **given})
    check_given(config, given)
    return config


def _resumed(variant: type[Variant], given: Mapping[str, Any], settings: Settings) -> run_folder.Run | None:
    """The run to go on with, after checking that nothing given differs from it; None where it never began."""
    if not (settings.out / run_folder.CONFIG).exists():
        return None
    run = run_folder.read(settings.out)
    if run.variant is not variant:
        raise UsageError(f"{settings.out} holds a {run.variant.name}, not a {variant.name}: resume it as that")
    asked = {**_from_file(variant, settings), **_preset(variant, settings.preset)} if settings.config else {}
    asked = {name: value for name, value in {**asked, **given}.items() if value is not None}  # None: as the data has.
    for name, value in asked.items():
        if getattr(run.config, name) != value:
            raise UsageError(
                f"{name.replace('_', '-')} is {value}{'' if name in given else f' in {settings.config}'}, but "
                f"{settings.out} was trained with {getattr(run.config, name)}: "
                f"leave {'it' if name in given else '--config'} out to go on with the run, or give another --out"
            )
    return run


def _check_settings(run: run_folder.Run, settings: Settings) -> None:
    """Refuse to go on with another data set, seed or arithmetic: it would be another training."""
    said = {**_plain(settings), "precision": settled_precision(settings)}
    fixed = FIXED if settings.preset is None else (*FIXED, "preset")
    defaults = usual(Settings, fixed)
    for name in fixed:
        moved = name == "data" and _is_same_data(run, settings)
        before = run.settings.get(name, defaults[name])  # A run from before the setting was there.
        if said[name] != before and not moved:
            raise UsageError(
                f"{name} is {said[name]}, but {run.folder} was trained with {before}: "
                f"{'give the same' if name == 'data' else 'leave it out'} to resume"
            )
    init = run.settings.get("init")
    if settings.init is not None and (init is None or Path(str(init)).resolve() != settings.init.resolve()):
        raise UsageError(
            f"init is {settings.init}, but {run.folder} was begun from {init or 'random weights'}: "
            "leave it out to go on with the run, or give another --out"
        )


def _check_processes(run: run_folder.Run, trainer: Trainer) -> None:
    """Refuse to go on with batches shared out otherwise, where BatchNorm would see that; else say what it changes."""
    before, now = run.settings.get("processes", run.settings.get("devices", 1)), trainer.fabric.world_size
    on_cpu = [device == "cpu" for device in (run.settings.get("device"), trainer.fabric.device.type)]
    shares = [count if cpu else 1 for count, cpu in zip((before, now), on_cpu, strict=True)]
    normalises = any(
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        for network in trainer.gan.networks.values()
        for module in network.modules()
    )
    if normalises and shares[0] != shares[1]:
        raise UsageError(
            f"devices is {now}, but {run.folder} was trained on {before}, and on CPUs BatchNorm sees each one's share "
            f"of the batch alone: give --devices {before} to resume"
        )
    if before != now and trainer.fabric.is_global_zero:
        note(f"{run.folder} was trained on {before} devices: on {now} it goes on the same up to rounding")


def _as_before(settings: Settings, run: run_folder.Run, typed: Collection[str]) -> Settings:
    """The settings to resume with: what was not given stays as the run was begun."""
    defaults = usual(Settings, KEPT)
    before = {
        name: run.settings[name]
        for name in KEPT
        if name in run.settings and name not in typed and getattr(settings, name) == defaults[name]
    }
    if isinstance(before.get("init"), str):
        before["init"] = Path(before["init"])
    return replace(settings, **before)


def _check_items(run: run_folder.Run, count: int, memory: float) -> None:
    """Refuse to go on with a data set that has grown or shrunk; broken files count where they are read as needed."""
    before, held = run.data.get("items"), run.settings.get("memory", memory)
    if count != before:
        same = "the same data" if held == memory else f"the same data and with --memory {held}, as it was begun"
        raise UsageError(f"the data holds {count} items, but {run.folder} was trained on {before}: resume with {same}")


def _is_same_data(run: run_folder.Run, settings: Settings) -> bool:
    """Whether the settings name the run's data, perhaps as another path to the same place."""
    place = _place(settings.data)
    return settings.data == run.settings.get("data") or (place is not None and place == run.data.get("path"))


def _place(spec: str) -> str | None:
    """The absolute path of data that is a folder or file; None for a built-in set."""
    return str(Path(spec).resolve()) if Path(spec).exists() else None


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay an optimizer's loaded state out in memory as its weights are: fused optimizers pair both as raw memory."""
    for weight, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                values[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _fill(config: VariantConfig, facts: Mapping[str, Any]) -> VariantConfig:
    """Write what the data knows into the fields that were left for it to say."""
    unset = {f.name: facts[f.name] for f in fields(config) if f.name in facts and getattr(config, f.name) is None}
    names = getattr(config, "class_names", None)
    if names and "class_names" in facts and len(names.split(",")) != len(facts["class_names"].split(",")):
        raise UsageError(f"class-names is {names}, but the data has the classes {facts['class_names']}: name each")
    return replace(config, **unset)


def _plain(settings: Settings) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}


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
