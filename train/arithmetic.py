"""Choose how a training computes by measuring a few of its steps on this machine.

    settings = arithmetic.settle(fabric, variant, config, settings, items)
    print(settings.precision, settings.weight_gradients, settings.memory_format)        # "bf16" "library" "contiguous"

Which arithmetic is fastest depends on processor, PyTorch, threads and networks, and no list of features predicts it:
weight gradients by im2col made one processor 1.5 times as fast and another 14 % slower; on one processor channels-last
memory made a step of DCGAN shorter by a tenth, and one of pix2pix longer by two fifths. So networks that are made for
this and thrown away take some steps in turns with each way. Measuring takes at most 2 % of the training, and the result
is remembered for trainings alike. bf16 takes part only where it was shown to keep the quality (benchmarks/LOG.md).
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

from ganedge.models import Variant
from ganedge.models.noise import collective
from ganedge.models.variant import VariantConfig
from ganedge.runtime.cli.terminal import note
from ganedge.runtime.files import cache_folder, write_whole
from ganedge.runtime.tuning import processor
from ganedge.train import im2col
from ganedge.train.settings import MemoryFormat, Precision, Settings, WeightGradients
from ganedge.train.trainer import Trainer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ganedge.train.data import Data

SHARE = 0.02
"""Share of a training's steps, or of its time, that measuring may take."""
LONGEST = 120.0
"""Seconds that measuring may take whatever the training."""
FEWEST, MOST = 3, 9
"""Timed turns of each way."""
SLOW = 1.0
"""Of a turn of so many seconds, one is enough."""
HOPELESS = 1.5
"""A way that takes this many times as long as the fastest in a first timed turn is not tried again."""
WARM_UP = 3
"""How many times as long as usual the turn may take that makes a way's kernels."""
GAIN = 0.03
"""By how much another way has to be faster than plain FP32 to be taken."""


class Way(NamedTuple):
    """A way to compute."""

    precision: Precision
    weight_gradients: WeightGradients
    memory_format: MemoryFormat

    def __str__(self) -> str:
        kind = f"{self.precision} with im2col" if self.weight_gradients == "im2col" else self.precision
        return f"{kind}, {self.memory_format}"


def settle(fabric: Fabric, variant: type[Variant], config: VariantConfig, settings: Settings, items: Data) -> Settings:
    """Replace `auto` in the settings by what is fastest here; the same in all processes.

    Neither the random numbers nor the weights of the training depend on whether this measures.

    Args:
        fabric: The processes; all of them call this.
        variant: What is trained.
        config: Its config, with nothing left open.
        settings: How to train, perhaps with a precision, weight gradients or a memory format of `auto`.
        items: The data.
    """
    if "auto" not in (settings.precision, settings.weight_gradients, settings.memory_format):
        return settings
    device = fabric.device
    scale = copy.deepcopy(fabric._precision.state_dict())  # Of the losses in fp16, which measured steps change.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        ways = _ways(variant, config, settings, device)
        chosen = ways[0]
        if len(ways) > 1 and settings.compile:
            _tell(fabric, f"computing in {chosen}: with --compile nothing is measured; {_options(settings)} chooses")
        elif len(ways) > 1:
            chosen = _choose(Probe(fabric, variant, config, settings, items), ways, fabric, _options(settings))
    fabric._precision.load_state_dict(scale)
    return replace(settings, **chosen._asdict())


def _ways(variant: type[Variant], config: VariantConfig, settings: Settings, device: torch.device) -> list[Way]:
    """The ways that the settings leave open, the one that is taken unmeasured first."""
    networks = variant(config).networks.values()
    weights = settings.weight_gradients
    precisions = [settings.precision]
    if settings.precision == "auto":
        # Older GPUs emulate bf16, slower than FP32.
        emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        has_choice = config.trains_in_bf16 and not emulated and weights != "im2col"
        precisions = ["fp32", "bf16"] if has_choice else ["fp32"]
    kinds = [(precision, "library" if weights == "auto" else weights) for precision in precisions]
    applies = precisions[0] == "fp32" and device.type == "cpu" and not settings.compile
    if weights == "auto" and applies and any(map(im2col.applies_to, networks)):
        kinds.append(("fp32", "im2col"))
    formats = [settings.memory_format]
    if settings.memory_format == "auto":
        has_maps = any(parameter.dim() == 4 for network in networks for parameter in network.parameters())
        formats = ["channels-last", "contiguous"] if has_maps else ["channels-last"]
    return [Way(*kind, layout) for layout in formats for kind in kinds]


def _options(settings: Settings) -> str:
    """The options that were left open."""
    names = ("precision", "weight_gradients", "memory_format")
    return ", ".join("--" + name.replace("_", "-") for name in names if getattr(settings, name) == "auto")


def _choose(probe: Probe, ways: list[Way], fabric: Fabric, options: str) -> Way:
    """The fastest way as remembered or measured, else the plainest; `options` would choose too."""
    key = probe.key(ways)
    known: Way | None = _agree(fabric, _recall(key, ways) if fabric.is_global_zero else None)
    if known is not None:
        _tell(fabric, f"computing in {known}, the fastest here when it was measured")
        return known
    rates = probe.measure(ways)
    if not rates:
        _tell(
            fabric,
            f"computing in {ways[0]}: no time to measure {len(ways) - 1} more in 2 % of this training; "
            f"{options} chooses",
        )
        return ways[0]
    fastest = max(rates, key=lambda way: rates[way])
    chosen = fastest if rates[fastest] > rates[ways[0]] * (1 + GAIN) else ways[0]
    shown = ", ".join(f"{way} {rate:.3g}" for way, rate in sorted(rates.items(), key=lambda item: -item[1]))
    _tell(fabric, f"computing in {chosen}: measured here, images/s: {shown}")
    if fabric.is_global_zero:
        _remember(key, chosen)
    return chosen


class Probe:
    """A training like the one to come, whose steps can be timed."""

    def __init__(
        self, fabric: Fabric, variant: type[Variant], config: VariantConfig, settings: Settings, items: Data
    ) -> None:
        self._fabric = fabric
        self._settings = settings
        plain: dict[str, Any] = {"precision": "fp32", "weight_gradients": "library", "memory_format": "channels-last"}
        own = replace(settings, resume=False, init=None, compile=False, **plain)
        self._trainer = Trainer(fabric, variant, config, own, items)
        self._batch = self._trainer.fetch()
        self._turn = int(getattr(config, "d_steps", 1))  # Steps: each turn trains the generator once.

    def key(self, ways: list[Way]) -> str:
        """What the answer depends on, as a digest: machine, PyTorch, threads, processes, networks, batch and step."""
        trainer = self._trainer
        names = ("objective", "d_steps", "r1", "r2", "penalty_every", "augment")
        facts = {
            "ways": [*map(str, ways)],
            "machine": _machine(self._fabric.device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processes": self._fabric.world_size,
            "networks": {name: _shape(network) for name, network in trainer.gan.networks.items()},
            "batch": {name: [*tensor.shape] for name, tensor in self._batch.items()},
            "step": {name: getattr(trainer.config, name, None) for name in names},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def measure(self, ways: list[Way]) -> dict[Way, float]:
        """Images per second of each way, but for hopeless ones; nothing where measuring would take too long."""
        total, most = self._trainer.total, SHARE * self._trainer.total  # Steps.
        if len(ways) * (1 + 1) * self._turn > most:
            return {}
        started = time.perf_counter()
        self._time(ways[0])
        first: float = _agree(self._fabric, self._time(ways[0]))
        fewest = 1 if first >= SLOW else FEWEST
        minutes = self._settings.max_minutes
        allowed = min(LONGEST, SHARE * minutes * 60 if minutes else LONGEST)
        least = len(ways) * (1 + fewest)
        if least * self._turn > most or least * first > allowed:
            return {}
        allowed = min(allowed, SHARE * total / self._turn * first)

        def is_late() -> bool:
            return bool(_agree(self._fabric, time.perf_counter() - started > allowed))

        # A first turn of each makes its kernels, a second one tells which need no more.
        times = {ways[0]: [first]}
        given_up: set[tuple[str, str]] = set()  # In the other memory format they are not tried at all.
        turns = 2
        for way in ways[1:]:
            if way[:2] in given_up or is_late():
                continue
            turns += 1
            if _agree(self._fabric, self._time(way)) > WARM_UP * HOPELESS * first:
                given_up.add(way[:2])
            elif not is_late():
                times[way] = [self._time(way)]
                turns += 1
        best = min(taken[0] for taken in times.values())
        left: list[Way] = _agree(
            self._fabric, [way for way in times if way == ways[0] or times[way][0] < HOPELESS * best]
        )

        # Turns of the others, one after the other, while there is time.
        while len(times[ways[0]]) < MOST:
            count = len(times[ways[0]])
            used = (turns + len(left)) * self._turn > most
            if _agree(self._fabric, count >= fewest and (used or time.perf_counter() - started > allowed / 2)):
                break
            if is_late():
                break
            for way in left:
                times[way].append(self._time(way))
            turns += len(left)
        images = self._trainer.config.batch * self._turn
        rates = {way: images / statistics.median(times[way]) for way in left}
        return dict(_agree(self._fabric, rates))

    def _time(self, way: Way) -> float:
        """Seconds of one turn."""
        trainer = self._trainer
        trainer.compute(*way)
        begun = time.perf_counter()
        for _ in range(self._turn):
            trainer.learn(self._batch)
        if self._fabric.device.type == "cuda":
            torch.cuda.synchronize(self._fabric.device)
        return time.perf_counter() - begun


def _agree(fabric: Fabric, value: Any) -> Any:
    """What the first process says."""
    if fabric.world_size == 1:
        return value
    box = [value]
    with collective():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def _tell(fabric: Fabric, line: str) -> None:
    if fabric.is_global_zero:
        note(line)


def _machine(device: torch.device) -> list[str]:
    """The device by name, with what its libraries are allowed to use of it."""
    if device.type == "cuda":
        return [torch.cuda.get_device_name(device)]
    limits = [f"{name}={os.environ.get(name, '')}" for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")]
    return [processor(), torch.backends.cpu.get_cpu_capability(), *limits]


def _shape(network: torch.nn.Module) -> list[str]:
    """Layers and shapes of weights."""
    layers = [type(module).__name__ for module in network.modules()]
    return [*layers, *(str([*tensor.shape]) for tensor in network.parameters())]


def cache_file() -> Path:
    """Where measurements are remembered."""
    return cache_folder() / "trained.json"


def _read() -> dict[str, Any]:
    try:
        content = json.loads(cache_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _recall(key: str, ways: list[Way]) -> Way | None:
    """The way that was measured to be fastest; None where that is not known, or is not one of these."""
    return next((way for way in ways if [*way] == _read().get(key)), None)


def _remember(key: str, way: Way) -> None:
    with contextlib.suppress(OSError):  # A cache that cannot be written costs the next training a measurement.
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache_file(), json.dumps({**_read(), key: [*way]}, indent=2) + "\n")
