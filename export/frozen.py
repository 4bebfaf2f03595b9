"""Keep the weights of a network constant that changes them whenever it runs.

    network, notes = freeze(network, (torch.zeros(2, 100),))

Some networks merge convolutions in `forward()` (`weight.data = …`), or continue the power iteration of a spectral norm.
An exported graph holds constants: such a network is run until its weights settle, and they stay what they are then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ganedge.export.arrange import tensors_in
from ganedge.runtime.errors import GanEdgeError

CALLS = 300
"""Calls until the weights must have settled."""
SECONDS = 30.0
"""Time until the weights must have settled, seconds; at least LEAST calls are made."""
LEAST = 4
SETTLED = 1e-6
"""Relative change of a weight in one call below which it counts as settled: FP32 keeps 7 digits."""
STEADY = 1e-3
"""Largest change of the result in one call, beside its largest value, at which weights that still change are taken."""
SEED = 0


def freeze(network: nn.Module, inputs: Sequence[Tensor]) -> tuple[nn.Module, tuple[str, ...]]:
    """Settle a network's weights where they change at each call.

    Args:
        network: In evaluation mode.
        inputs: An example of what it takes; where it does not take that, nothing is done.

    Returns:
        The network itself, or one with constant weights; and what the user should know of that.

    Raises:
        GanEdgeError: the weights do not settle.

    >>> network, notes = freeze(nn.Linear(3, 2), [torch.zeros(1, 3)])
    >>> type(network).__name__, notes
    ('Linear', ())
    """
    before, addresses = _copied(network), _storage(network)
    random = torch.Generator().manual_seed(SEED)  # Zeros would hide what the weights do.
    inputs = [torch.rand(x.shape, generator=random) if x.dtype == torch.float32 else x for x in inputs]
    result = _result(network, inputs)
    if result is None:
        return network, ()
    after = _copied(network)
    moved = [name for name, address in _storage(network).items() if addresses.get(name) != address]
    changed = _differing(before, after, 0.0) or moved  # `.data = …` of the same values: it ran before.
    if not changed:
        return network, ()
    names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    began, call, change = time.monotonic(), 1, math.inf
    while call < CALLS and (call < LEAST or time.monotonic() - began < SECONDS):
        call, before, previous = call + 1, after, result
        result = _result(network, inputs)
        after, change = _copied(network), _change(previous, result)
        if not _differing(before, after, SETTLED):
            note = f"it changes its own weights when it runs ({names}): exported with those after {call} calls"
            return Frozen(network), (note,)
    if change > STEADY:
        raise GanEdgeError(
            f"this generator changes its own weights at each call ({names}), and its result still changes by "
            f"{change:.1%} after {call} calls: make them constant in evaluation mode"
        )
    note = (
        f"it changes its own weights when it runs ({names}): exported with those after {call} calls, where each "
        f"changes the result by {change:.2%}"
    )
    return Frozen(network), (note,)


class Frozen(nn.Module):
    """A network whose attempts to change its own weights have no effect."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Any:
        """Compute with constant weights."""
        with _constant(self.network):
            return self.network(*inputs)


class _KeepData(TorchFunctionMode):
    """Ignore `weight.data = …`, and read `weight.data` by an operation that can be exported."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._kept = {id(value) for value in (*network.parameters(), *network.buffers())}

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()  # The same values, by an operation that the exporter can follow.
        if func == torch.Tensor.data.__set__ and id(args[0]) in self._kept:  # type: ignore[attr-defined]
            return None
        return func(*args, **(kwargs or {}))


@contextmanager
def _constant(network: nn.Module) -> Iterator[None]:
    """Ignore assignments to parameters and buffers; other attributes get their values back at the end."""
    modules = list(network.modules())
    own = {id(module) for module in modules}
    attributes = [(module, {k: v for k, v in vars(module).items() if isinstance(v, Tensor)}) for module in modules]
    assign = nn.Module.__setattr__

    def guarded(module: nn.Module, name: str, value: Any) -> None:
        if id(module) in own and (name in module._buffers or name in module._parameters):
            return
        assign(module, name, value)

    nn.Module.__setattr__ = guarded  # type: ignore[assignment]
    try:
        with _KeepData(network):
            yield
    finally:
        nn.Module.__setattr__ = assign  # type: ignore[method-assign]
        for module, tensors in attributes:
            for name in [key for key, value in vars(module).items() if isinstance(value, Tensor)]:
                if name not in tensors:
                    del vars(module)[name]
            vars(module).update(tensors)


def _result(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor] | None:
    """Return the tensors that a network returns; None where it does not take such inputs."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return [tensor.clone() for _, tensor in tensors_in(network(*inputs))]
    except Exception:  # noqa: BLE001 - a foreign module may raise anything; its error is reported where it matters
        return None


def _change(before: list[Tensor] | None, after: list[Tensor] | None) -> float:
    """Return the largest difference between two results, beside the largest value."""
    if not before or not after:
        return math.inf
    changes = [
        float((new.double() - old.double()).abs().max() / new.double().abs().max().clamp_min(1e-12))
        for old, new in zip(before, after, strict=True)
        if new.numel()
    ]
    return max(changes, default=math.inf)


def _storage(network: nn.Module) -> dict[str, int]:
    """Where each weight lies in memory."""
    return {name: value.data_ptr() for name, value in (*network.named_parameters(), *network.named_buffers())}


def _copied(network: nn.Module) -> dict[str, Tensor]:
    named = (*network.named_parameters(), *network.named_buffers())
    return {name: value.detach().clone() for name, value in named}


def _differing(before: Mapping[str, Tensor], after: Mapping[str, Tensor], tolerance: float) -> list[str]:
    """Return the names of weights that differ by more than a share of their largest value."""
    return [
        name
        for name, value in after.items()
        if name not in before
        or before[name].shape != value.shape
        or float((before[name].double() - value.double()).abs().max() if value.numel() else 0.0)
        > tolerance * float(value.double().abs().max() if value.numel() else 0.0)
    ]
