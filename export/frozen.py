"""Keep the weights of a network constant that changes them whenever it runs.

    network, notes = freeze(network, (torch.zeros(2, 100),))

Some networks merge convolutions in `forward()` (`weight.data = …`), or continue the power iteration of a spectral norm.
An exported graph holds constants: such a network is run until its weights settle, and they stay what they are then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ganedge.runtime.errors import GanEdgeError

CALLS = 300
"""Calls until the weights must have settled."""
SECONDS = 30.0
"""Time until the weights must have settled, seconds; at least LEAST calls are made."""
LEAST = 4
SETTLED = 1e-6
"""Relative change of a weight in one call below which it counts as settled: FP32 keeps 7 digits."""
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
    if not _runs(network, inputs):
        return network, ()
    after = _copied(network)
    moved = [name for name, address in _storage(network).items() if addresses.get(name) != address]
    changed = _differing(before, after, 0.0) or moved  # `.data = …` of the same values: it ran before.
    if not changed:
        return network, ()
    names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    began = time.monotonic()
    for call in range(2, CALLS):
        if call > LEAST and time.monotonic() - began > SECONDS:
            raise GanEdgeError(
                f"this generator changes its own weights at each call ({names}), and they have not settled after "
                f"{call - 1} calls in {SECONDS:g} s: make them constant in evaluation mode, or give a smaller --size"
            )
        before = after
        _runs(network, inputs)
        after = _copied(network)
        if not _differing(before, after, SETTLED):
            note = f"it changes its own weights when it runs ({names}): exported with those after {call} calls"
            return Frozen(network), (note,)
    raise GanEdgeError(
        f"this generator changes its own weights at each call ({names}), and they do not settle in {CALLS} calls: "
        "make them constant in evaluation mode"
    )


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
        if args and id(args[0]) in self._kept:
            if func == torch.Tensor.data.__set__:  # type: ignore[attr-defined]
                return None
            if func == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
                return args[0].detach()  # The same values, by an operation that the exporter can follow.
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


def _runs(network: nn.Module, inputs: Sequence[Tensor]) -> bool:
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            network(*inputs)
    except Exception:  # noqa: BLE001 - a foreign module may raise anything; its error is reported where it matters
        return False
    return True


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
