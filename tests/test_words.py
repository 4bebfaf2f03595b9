"""Names in product code are the field's own: none of those that meant too many things."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STATIONS = ("models", "train", "export", "runtime", "benchmarks")
NAMES = {"said", "place", "found", "told", "mended", "looks", "_settle", "_plain", "_told", "stays", "looks_at_all"}
"""Functions, parameters, attributes and locals."""
CLASSES = {"Said", "Foreign", "Wanted", "Proven", "Opened", "Original"}
FILES = {"apart", "keeper", "columns", "listen", "choice", "pools", "boundary", "original"}
REMAINING: set[str] = {
    "benchmarks/arithmetic.py",
    "benchmarks/compare.py",
    "benchmarks/competitor.py",
    "benchmarks/conditions.py",
    "benchmarks/distance.py",
    "benchmarks/input_pool.py",
    "benchmarks/isolated.py",
    "benchmarks/latency.py",
    "benchmarks/page.py",
    "benchmarks/process.py",
    "benchmarks/recommend.py",
    "benchmarks/reference.py",
    "benchmarks/report.py",
    "benchmarks/studies/folder.py",
    "benchmarks/studies/honesty.py",
    "benchmarks/studies/memory.py",
    "benchmarks/studies/overhead.py",
    "benchmarks/studies/results.py",
    "benchmarks/studies/serving.py",
    "benchmarks/training.py",
    "benchmarks/yardsticks.py",
    "export/checkpoints.py",
    "export/from_onnx.py",
    "export/from_torch.py",
    "export/layers.py",
    "export/modules.py",
    "export/precision.py",
    "export/rewrite.py",
    "export/to_onnx.py",
    "models/circles.py",
    "models/cyclegan.py",
    "models/variant.py",
    "runtime/cli/terminal.py",
    "runtime/doctor.py",
    "runtime/engine_file.py",
    "runtime/engines/trt_builder.py",
    "runtime/serving/server.py",
    "runtime/timing.py",
    "train/builtin.py",
    "train/checkpoint.py",
    "train/examiner.py",
    "train/metrics.py",
    "train/preview.py",
    "train/reporter.py",
    "train/run_folder.py",
    "train/sources.py",
}
"""Files that are not renamed yet."""


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each name that a file defines, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno


@pytest.mark.parametrize("station", STATIONS)
def test_no_name_is_one_of_the_banned(station: str) -> None:
    offenders = []
    for path in sorted((ROOT / station).rglob("*.py")):
        file = str(path.relative_to(ROOT))
        assert path.stem not in FILES, f"{file}: this name says too little (CONTRIBUTING.md, Rules)"
        if file not in REMAINING:
            tree = ast.parse(path.read_text("utf-8"))
            offenders += [f"{file}:{line} {name}" for name, line in names(tree) if name in NAMES | CLASSES]
    assert not offenders, "\n".join(offenders)
