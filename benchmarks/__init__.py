"""What a generator costs, beside eager PyTorch and the other engines.

from ganedge.benchmarks import bench
report = bench(["generator.onnx"], against="runs/digits", batch=[1, 8])
print(report.verdict)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganedge.benchmarks.run import Report, bench

__all__ = ["Report", "bench"]


def __getattr__(name: str) -> Any:
    """Import the function when it is used: importing the package costs nothing."""
    if name in __all__:
        import importlib

        return getattr(importlib.import_module("ganedge.benchmarks.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
