"""Run code on the CPU that asks for a GPU which is not here: `.cuda()`, `device="cuda"`.

with on_cpu():
    network = Generator()                # its constructor may call .cuda()
network = OnCpu(network)                 # and so may its forward()
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

REASONS = ("cuda", "nvidia driver", "hip")
"""Words in PyTorch's errors about a GPU that is missing."""
_entered: ContextVar[bool] = ContextVar("entered", default=False)


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Put what asks for CUDA on the CPU, and load there what was saved on a GPU, where there is no CUDA.

    Holds in this thread only. Where there is CUDA, nothing changes.

    >>> with on_cpu():
    ...     weight = torch.ones(2, device="cpu").cpu()
    >>> weight.device.type
    'cpu'
    """
    if torch.cuda.is_available():
        yield
        return
    _register_storages()
    token = _entered.set(True)
    try:
        with _Redirect():
            yield
    finally:
        _entered.reset(token)


def is_about_cuda(reason: str) -> bool:
    """Whether an error's text says that there is no GPU, where there is none."""
    return not torch.cuda.is_available() and any(word in reason.lower() for word in REASONS)


class OnCpu(nn.Module):
    """A network whose forward asks for a GPU."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Any:
        """Compute on the CPU."""
        with on_cpu():
            return self.network(*inputs)


@functools.cache
def _register_storages() -> None:
    """Let `torch.load` ask here first where tensors of a GPU go."""

    def restore(storage: Any, location: str) -> Any:
        return storage if _entered.get() and location.startswith("cuda") else None

    torch.serialization.register_package(0, lambda _: None, restore)


class _Redirect(TorchFunctionMode):
    """Replace CUDA devices in calls of PyTorch's functions by the CPU."""

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.cuda:
            return args[0]
        options = {key: _on_cpu(value) for key, value in (kwargs or {}).items()}
        return func(*(_on_cpu(value) for value in args), **options)


def _on_cpu(value: Any) -> Any:
    """Return the CPU for a CUDA device, and anything else as it is."""
    is_cuda = isinstance(value, str) and value.startswith("cuda")
    is_cuda |= isinstance(value, torch.device) and value.type == "cuda"
    return torch.device("cpu") if is_cuda else value
