"""Devices and processes to train on, the precision they compute in, and errors of their memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch

from ganedge.runtime.errors import EngineError, GanEdgeError, UsageError
from ganedge.train.settings import Settings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(settings: Settings) -> Fabric:
    """Return Lightning Fabric for the requested device and precision, without a fall-back to another."""
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
    local = int(os.environ.get("LOCAL_WORLD_SIZE", settings.devices))  # torchrun sets it and starts all processes.
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
    # Of bf16 the trainer takes care itself: which precision "auto" means is known once the data are open.
    precision: Literal["16-mixed", "32-true"] = "16-mixed" if settings.precision == "fp16" else "32-true"
    fabric = Fabric(accelerator=device, devices=local, num_nodes=nodes, strategy=strategy, precision=precision)
    fabric.launch()
    return fabric


@contextlib.contextmanager
def memory_errors(moved: bool) -> Iterator[None]:
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
