"""Run an exported generator: numpy, one engine, nothing else.

from ganedge.runtime import load

with load("generator.onnx") as generator:
    pictures = generator.sample(16, seed=0)          # uint8 [16, H, W, C]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import ArtifactError, EngineError, GanEdgeError, InputError, MissingExtra, UsageError

if TYPE_CHECKING:
    from .generator import Generator, load

__all__ = [
    "ArtifactError",
    "EngineError",
    "GanEdgeError",
    "Generator",
    "InputError",
    "MissingExtra",
    "UsageError",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import NumPy and the rest on first use, so that `import ganedge.runtime` is fast and Ctrl-C is handled early."""
    if name not in ("Generator", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import generator

    return getattr(generator, name)
