"""Keep the noise constant that a network draws inside its forward pass, as StyleGAN and FastGAN do.

    network, notes = keep_noise(network, (torch.zeros(2, 100),), seed=0)

The noise is drawn once, from a seed, for one item, and is the same for every item and call from then on: it becomes
part of the exported graph (StyleGAN2 calls that randomize_noise=False, Karras et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SIZED: tuple[Callable[..., Any], ...] = (torch.randn, torch.rand)
"""Functions that draw a tensor of a size."""
LIKE: tuple[Callable[..., Any], ...] = (torch.randn_like, torch.rand_like)
"""Functions that draw a tensor like another."""
IN_PLACE: tuple[Callable[..., Any], ...] = (torch.Tensor.normal_, torch.Tensor.uniform_)
"""Methods that fill a tensor."""
DRAWS = (*SIZED, *LIKE, *IN_PLACE)
"""What is replaced; dropout is not: it should be off in evaluation mode."""


def keep_noise(network: nn.Module, inputs: Sequence[Tensor], seed: int) -> tuple[nn.Module, tuple[str, ...]]:
    """Replace what a network draws at each call by what it draws once.

    Args:
        network: In evaluation mode.
        inputs: An example of what it takes, a batch of two; where it does not take that, nothing is done.
        seed: Of what is drawn.

    Returns:
        The network itself where it draws nothing, or one that draws nothing; and what the user should know.

    >>> network, notes = keep_noise(nn.Linear(3, 2), [torch.zeros(2, 3)], seed=0)
    >>> type(network).__name__, notes
    ('Linear', ())
    """
    record = _Record(len(inputs[0]))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), record:
            torch.manual_seed(seed)
            network(*inputs)
    except Exception:  # noqa: BLE001 - a foreign module may raise anything; its error is reported where it matters
        return network, ()
    if not record.values:
        return network, ()
    count = len(record.values)
    note = (
        f"it draws noise inside ({count} tensor{'s' if count > 1 else ''}): drawn once with seed {seed} and kept; "
        "--noise-seed chooses another"
    )
    return KeptNoise(network, record.values), (note,)


class KeptNoise(nn.Module):
    """A network whose draws return the values that it holds, in their order."""

    def __init__(self, network: nn.Module, values: Sequence[Tensor]) -> None:
        super().__init__()
        self.network, self.count = network, len(values)
        for index, value in enumerate(values):
            self.register_buffer(f"noise{index}", value, persistent=False)

    def forward(self, *inputs: Tensor) -> Any:
        """Compute with the noise that is kept."""
        with _Replay([self.get_buffer(f"noise{index}") for index in range(self.count)]):
            return self.network(*inputs)


class _Record(TorchFunctionMode):
    """Keep what is drawn, for one item where there is one for each."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.values: list[Tensor] = []
        self._batch = batch

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in DRAWS:
            value = result.detach().clone()
            whole = value.ndim == 0 or len(value) != self._batch
            self.values.append(value if whole else value[:1])
            return result if whole else self.values[-1].expand_as(result)
        return result


class _Replay(TorchFunctionMode):
    """Give back what was kept instead of drawing."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        super().__init__()
        self._values = list(values)

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func not in DRAWS:
            return func(*args, **options)
        value = self._values.pop(0)
        if func in SIZED:
            size = options.get(
                "size", args[0] if len(args) == 1 and not isinstance(args[0], int | torch.SymInt) else args
            )
            return value.expand(*size)
        if func in LIKE:
            return value.expand_as(args[0])
        return args[0].copy_(value.expand_as(args[0]))
