"""One training under way: its networks, optimizers, averages and steps, and its state to save and restore.

Everything random in step `s` is drawn from a generator seeded with (seed, s), and the order of the data from (seed,
epoch). So a training that was stopped, or killed, and goes on from a checkpoint does bit for bit what it would have
done, and no random state need be saved.
"""

from __future__ import annotations

import contextlib
import copy
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganedge.models import Variant
from ganedge.models.noise import collective
from ganedge.models.variant import Batch, VariantConfig
from ganedge.runtime.errors import ArtifactError, UsageError, one_line
from ganedge.train import checkpoint, compiling, data, instance_norm, run_folder
from ganedge.train.im2col import use_columns, use_library
from ganedge.train.settings import MemoryFormat, Precision, Settings, WeightGradients

if TYPE_CHECKING:
    from lightning_fabric import Fabric


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
        optimizers = dict(self.gan.optimizers)  # Made before the networks go to their device.
        self.interfaces = self.gan.generators()
        for network in self.gan.networks.values():
            network.to(fabric.device).train()
            if fabric.device.type == "cpu":
                instance_norm.correct_gradients(network)
            elif fabric.world_size > 1:  # On CPUs each process keeps statistics of its own share: there is no other.
                nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.optimizers: dict[str, Any] = {
            name: fabric.setup_optimizers(optimizer) for name, optimizer in optimizers.items()
        }
        self.averages: dict[str, Average] = {}
        self.compute(settings.precision, settings.weight_gradients, settings.memory_format)
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

    def advance(self) -> dict[str, Tensor]:
        """Do one step."""
        _seed_all(_mix(self.settings.seed, 3, self.step), self.fabric.device)
        self._set_rates()
        batch = self.fetch()
        if self.step + 1 < self.total:
            self.items.prepare(self._chosen(self.step + 1), self.part, self._partners(self.step + 1))
        return self.learn(batch)

    def fetch(self) -> Batch:
        """The batch of this step, or this process's part of it."""
        return self.items.batch(self._chosen(self.step), self.fabric.device, self.part, self._partners(self.step))

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        """Train on a batch."""
        with self._autocast():
            losses = self.gan.step(batch, self.step, self._update)
        self.step += 1
        for average in self.averages.values():
            average.update(self.step)
        return losses

    def compute(self, precision: Precision, weight_gradients: WeightGradients, memory_format: MemoryFormat) -> None:
        """Set how the next steps compute: `auto` stands for FP32, the library's weight gradients and channels last."""
        self._is_bf16 = precision == "bf16"
        layout = torch.contiguous_format if memory_format == "contiguous" else torch.channels_last
        for network in (*self.gan.networks.values(), *self.generators.values()):
            network.to(memory_format=layout)
        for optimizer in self.gan.optimizers.values():
            _match_layout(optimizer)
        for network in self.gan.networks.values():
            use_library(network)
            if weight_gradients == "im2col" and self.fabric.device.type == "cpu" and not self.settings.compile:
                use_columns(network)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        """Around the passes of a step; Fabric knows FP32 and FP16."""
        if self._is_bf16:
            return torch.autocast(self.fabric.device.type, torch.bfloat16)
        return self.fabric.autocast()

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
                continue  # It has no weights: a buffer such as the pictures of earlier steps.
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
        latest = checkpoint.load_latest(self.settings.out)
        if latest is None:
            return
        self.step, state = latest
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
        self._decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False) if decay else network
        own, live = self.network.state_dict(keep_vars=True), network.state_dict(keep_vars=True)
        self._own = [tensor for tensor in own.values() if tensor.is_floating_point()]
        self._from = [tensor for tensor in live.values() if tensor.is_floating_point()]
        self._counts = [(own[key], live[key]) for key in own if not own[key].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the live weights after step `step`."""
        if self._decay:
            decay = min(self._decay, (1 + step) / (10 + step))
            # A change of layout gives parameters other memory, so that their data are looked up in each step.
            own, live = ([tensor.data for tensor in tensors] for tensors in (self._own, self._from))
            torch._foreach_lerp_(own, live, 1 - decay)
            for count, now in self._counts:
                count.copy_(now)


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay an optimizer's state out in memory as its weights are: fused optimizers pair both as raw memory."""
    for weight, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                values[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


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
