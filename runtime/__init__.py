"""Run an exported generator: numpy, one engine, nothing else.

from ganedge.runtime import load

with load("generator.onnx") as generator:
    pictures = generator.sample(16, seed=0)          # uint8 [16, H, W, C]
"""

from .errors import ArtifactError, EngineError, GanEdgeError, InputError, MissingExtra, UsageError
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
