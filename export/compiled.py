"""Read modules that come without their source: TorchScript archives, and programs of torch.export (.pt2).

network = read_compiled(Path("traced.pt"), "torchscript", trust=True)
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, fx, nn

from ganedge.export.sizes import CHANNELS
from ganedge.runtime.errors import ArtifactError, one_line

NAMES = {"torchscript": "a TorchScript archive", "exported": "a program of torch.export"}


def read_compiled(path: Path, content: Literal["torchscript", "exported"], trust: bool) -> nn.Module:
    """Read a compiled module onto the CPU.

    Args:
        path: What `torch.jit.save` or `torch.export.save` wrote.
        content: Which of them.
        trust: Whether to read it even if it can execute code.

    Raises:
        ArtifactError: it is not trusted, or cannot be read by this PyTorch.
    """
    if not trust:
        raise ArtifactError(
            f"{path} is {NAMES[content]}, and reading that can execute code: add --trust if you trust where it comes "
            "from, or give its source, FILE.py:NAME, with its state dict as --weights"
        )
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torch.export reports versions and what it executes.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if content == "torchscript":
                script: nn.Module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
                return script
            module = torch.export.load(str(path)).module()
        return fx.GraphModule(module, module.graph)  # The same graph; the program's own module refuses eval().
    except Exception as error:
        raise ArtifactError(
            f"{path} is {NAMES[content]} that PyTorch {torch.__version__} does not read "
            f"({type(error).__name__}: {one_line(error)}): give its source, FILE.py:NAME"
        ) from error
    finally:
        logging.disable(level)


def is_script(network: nn.Module) -> bool:
    """Whether a network is TorchScript, or contains some: PyTorch's present exporter does not follow that."""
    return any(isinstance(module, torch.jit.ScriptModule) for module in network.modules())


def program_input(network: nn.Module) -> tuple[Literal["latent", "image"], str] | None:
    """Return kind and shape of what a program of torch.export takes, by its first input; None for other modules.

    >>> program_input(nn.Linear(3, 2)) is None
    True
    """
    if not isinstance(network, fx.GraphModule):
        return None
    first = next((node for node in network.graph.nodes if node.op == "placeholder"), None)
    value = None if first is None else first.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim < 2:
        return None
    sizes = [
        size if isinstance(size, int) else "HW"[axis - 1] if axis else "C" for axis, size in enumerate(value.shape[1:])
    ]
    image = value.ndim == 4 and value.shape[1] in CHANNELS and sizes[1:] != [1, 1]
    return "image" if image else "latent", "x".join(map(str, sizes))


class PerItem(nn.Module):
    """A network that takes one item at a time, called for each item of a batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute item by item."""
        return torch.cat([self.network(*(tensor[i : i + 1] for tensor in inputs)) for i in range(len(inputs[0]))])
