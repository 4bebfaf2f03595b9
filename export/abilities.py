"""What this machine can build and run, and why not: `gan-export --list`. No torch here.

for line in table():
    print(line)
"""

from __future__ import annotations

from dataclasses import dataclass

from ganedge.export.precision import PRECISIONS
from ganedge.export.spec import FORMATS
from ganedge.runtime import engines, ncnn_file
from ganedge.runtime.engines import browser, trt_builder
from ganedge.runtime.errors import EngineError


@dataclass(frozen=True)
class Ability:
    """One format in one precision."""

    format: str
    """As `--format` names it."""
    precision: str
    """fp32, fp16, bf16 or int8."""
    build: str
    """"yes" and the tool, or "no" and what is missing."""
    run: str
    """The same, for running the result here."""


def abilities() -> list[Ability]:
    """Every format × precision on this machine; nothing is imported but a TensorRT that is installed."""
    return [
        Ability(fmt, precision, _build(fmt, precision), _run(fmt, precision))
        for fmt in FORMATS
        for precision in PRECISIONS
    ]


def table() -> list[str]:
    """The same as aligned lines."""
    rows = [("format", "precision", "build here", "run here")]
    rows += [(ability.format, ability.precision, ability.build, ability.run) for ability in abilities()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _build(fmt: str, precision: str) -> str:
    if (fmt, precision) == ("web", "bf16"):
        return "no: no browser computes bf16"
    if fmt == "ncnn":
        if precision not in ncnn_file.PRECISIONS:
            return f"no: an ncnn artifact is {' or '.join(ncnn_file.PRECISIONS)}"
        if not engines.installed("pnnx"):
            return "no: it needs pnnx, pip install 'ganedge[pnnx]'"
    if fmt == "trt":
        try:
            name, trt = trt_builder.flavour()
        except EngineError as error:
            return "no: " + str(error).partition("; the .onnx")[0]
        if reason := trt_builder.hindrance(name):
            return f"no: {name} {trt.__version__} {reason}"
        how = f"yes, {name} {trt.__version__}"
    elif engines.installed("torch"):
        how = "yes, from runs, modules and .onnx files"
    else:
        how = "yes, from .onnx files (runs and modules need ganedge[export])"
    if (fmt, precision) == ("triton", "bf16"):
        how += ", with --triton-backend tensorrt"
    if precision == "int8" and not engines.installed("onnxruntime"):
        return "no: calibration needs onnxruntime, pip install 'ganedge[cpu]'"
    return how


def _run(fmt: str, precision: str) -> str:
    if fmt == "ncnn":
        if precision not in ncnn_file.PRECISIONS:
            return "no"
        ready = engines.installed("ncnn")
        return f"yes, ncnn {engines.package_version('ncnn')}" if ready else "no: pip install 'ganedge[ncnn]'"
    if fmt == "triton":
        return "not here: a Triton server does"
    if fmt == "web":
        reason = "no browser computes bf16" if precision == "bf16" else browser.missing()
        return f"no: {reason}" if reason else "yes, in Chromium: gan-run verify FOLDER --browser"
    if fmt == "trt":
        if not any(map(engines.installed, trt_builder.FLAVOURS)):
            return "no: no TensorRT"
        gpu = trt_builder.compute_capability()
        return f"yes, on this {gpu} GPU" if gpu else "no: no NVIDIA GPU, or no driver for it"
    able = engines.readers(precision)
    readers = [f"{name} {engines.package_version(name)}" for name in able if engines.installed(name)]
    extras = " or ".join(f"'ganedge[{engines.EXTRAS[name]}]'" for name in able)
    return f"yes, {', '.join(readers)}" if readers else f"no: no engine for it, pip install {extras}"
