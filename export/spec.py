"""The settings of an export: format, precision, proof and deployment, and which of them affect which format.

    spec = ExportSpec(precision="int8", engine="openvino", calibrate="pictures/")

`gan-export` builds its options from the fields of `ExportSpec`, and `export` takes them as keyword arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from ganedge.runtime import engines
from ganedge.runtime.cli.options import flag, option
from ganedge.runtime.errors import MissingExtra, UsageError
from ganedge.runtime.fidelity import Gate, read_gate
from ganedge.runtime.manifest import Precision

Target = Literal["onnxruntime", "openvino", "tensorrt"]
"""The engine that an INT8 graph is made for."""
FORMATS: Mapping[str, str] = {"onnx": "onnx", "trt": "engine", "triton": "triton", "ncnn": "ncnn", "web": "web"}
"""Formats that can be written, with the ending of their files or folders."""
BEST, PROOF, DEPLOY, WEB = "With --auto", "Proof", "TensorRT and Triton", "Web"
"""Headings of the help."""


@dataclass(frozen=True)
class ExportSpec:
    """Settings of an export; each field is an option of its name or of the flag that it names.

    Values may be given as Python objects or as the text that the command line takes.

    Raises:
        UsageError: a value that cannot be.
    """

    format: tuple[str, ...] = ("onnx",)
    """What to write: onnx, trt, triton, ncnn, web, or several with commas."""
    precision: Precision | None = field(
        default=None,
        metadata=option(
            switches={
                "fp16": "FP16 weights and arithmetic, FP32 inputs and outputs.",
                "bf16": "bf16 weights and arithmetic, FP32 inputs and outputs: OpenVINO and TensorRT.",
                "int8": "INT8 weights and arithmetic where it pays.",
            }
        ),
    )
    """fp32, fp16, bf16 or int8; the source's own by default."""
    auto: bool = False
    """Make every precision and graph variant, prove and time all of them here, and keep the fastest good one."""
    psnr: float | None = field(default=None, metadata=option(panel=BEST, minimum=0.0))
    """Least PSNR of the worst image beside the generator, dB."""
    max_mb: float | None = field(default=None, metadata=option(panel=BEST, minimum=0.0))
    """Largest file, MB."""
    max_minutes: float | None = field(default=None, metadata=option(panel=BEST, minimum=0.0))
    """Minutes after which no further candidate is begun."""
    output: Path | None = field(default=None, metadata=option(short="-o"))
    """File to write (a folder for several formats); named after the source by default."""
    io: Literal["float", "uint8"] = "float"
    """Type of images in and out: float [N, C, H, W] in the declared range, or uint8 [N, H, W, C]."""
    engine: str | None = field(default=None, metadata=option(flag="--for"))
    """Engine that an INT8 graph is made for: onnxruntime, openvino or tensorrt; by default the fastest one here."""
    remainder: Literal["fp32", "fp16"] | None = field(default=None, metadata=option(default="fp16 for TensorRT"))
    """What an INT8 generator computes in where it is not INT8; `--int8 --fp16` is short for fp16."""
    engines: tuple[str, ...] = field(default=(), metadata=option(panel=PROOF))
    """Engines that have to pass, with commas; by default one that passes is enough, and the others are named."""
    calibrate: Path | int | None = field(default=None, metadata=option(panel=PROOF))
    """Folder of pictures, or number of inputs, to calibrate with; a folder also serves the proof."""
    tolerance: Gate | str | None = field(default=None, metadata=option(panel=PROOF))
    """Gate of the proof: psnr=40,maxabs=1e-3 or none; by default that of the precision."""
    proof: Literal["short", "full"] = field(default="short", metadata=option(panel=PROOF))
    """Inputs to prove with: full takes 32 latents or 16 images; short takes fewer where the generator is slow."""
    require_speedup: float | None = field(default=None, metadata=option(panel=PROOF, minimum=0.0))
    """Write a lower precision only if it is so many times as fast as FP32 here, in the best engine of each: 1.05."""
    batch: str | None = field(default=None, metadata=option(panel=DEPLOY, default="1,1,16; images 1,1,1"))
    """MIN,OPT,MAX batch of a TensorRT engine."""
    workspace: int | None = field(default=None, metadata=option(panel=DEPLOY, minimum=1))
    """MiB of memory that TensorRT may use while it builds."""
    level: int | None = field(default=None, metadata=option(panel=DEPLOY, minimum=0, maximum=5))
    """TensorRT's builder optimisation level."""
    portable: bool = field(default=False, metadata=option(panel=DEPLOY))
    """Build an engine that newer TensorRT versions and GPUs from Ampere on run too; not with TensorRT for RTX."""
    gpus: str | None = field(default=None, metadata=option(panel=DEPLOY, flag="--target"))
    """GPUs that TensorRT for RTX builds for: sm86,sm89,sm120."""
    timing_cache: Path | None = field(default=None, metadata=option(panel=DEPLOY))
    """Folder of TensorRT's timing caches; one file per device and version."""
    dla: int | None = field(default=None, metadata=option(panel=DEPLOY, minimum=0))
    """Core of a Jetson's DLA to build for."""
    triton_backend: Literal["onnxruntime", "tensorrt"] = field(default="onnxruntime", metadata=option(panel=DEPLOY))
    """Backend of the Triton server."""
    instances: int = field(default=1, metadata=option(panel=DEPLOY, minimum=1))
    """Instances of the model on each device of the Triton server."""
    triton_name: str | None = field(default=None, metadata=option(panel=DEPLOY))
    """Name of the model on the Triton server; that of the file by default."""
    vendor: Path | None = field(default=None, metadata=option(panel=WEB))
    """Unpacked npm package onnxruntime-web to put into the folder, for use offline; a CDN serves it by default."""

    def __post_init__(self) -> None:
        """Convert what is given as text, and check it."""
        normal = {
            "format": _read_formats(self.format),
            "output": None if self.output is None else Path(self.output),
            "engine": None if self.engine is None else engines.canonical(self.engine),
            "engines": _read_engines(self.engines),
            "calibrate": _read_calibrate(self.calibrate),
            "tolerance": read_gate(self.tolerance) if isinstance(self.tolerance, str) else self.tolerance,
            "batch": _joined(self.batch),
            "gpus": _joined(self.gpus),
            "timing_cache": None if self.timing_cache is None else Path(self.timing_cache),
            "vendor": None if self.vendor is None else Path(self.vendor),
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)
        if self.engine is not None and self.engine not in get_args(Target):
            raise UsageError(f"--for {self.engine}: choose {', '.join(get_args(Target))}")
        if self.precision not in (None, *get_args(Precision)):
            raise UsageError(f"precision {self.precision}: choose {', '.join(get_args(Precision))}")
        if self.remainder not in (None, "fp32", "fp16"):
            raise UsageError(f"--remainder {self.remainder}: choose fp32 or fp16")
        if self.proof not in ("short", "full"):
            raise UsageError(f"--proof {self.proof}: choose short or full")
        if self.io not in ("float", "uint8"):
            raise UsageError(f"--io {self.io}: choose float or uint8")

    @property
    def target(self) -> Target | None:
        """The engine that an INT8 graph is made for; TensorRT where an engine file is asked for, None where either."""
        return cast("Target | None", self.engine or ("tensorrt" if "trt" in self.format else None))

    @property
    def remaining(self) -> Literal["fp32", "fp16"]:
        """What an INT8 graph computes in where it is not INT8. Engines of the CPU are faster in FP32 there."""
        if self.remainder is not None:
            return self.remainder
        return "fp16" if self.precision == "int8" and self.target == "tensorrt" else "fp32"

    @property
    def gate(self) -> Gate | None:
        """What the proof must reach; None for the precision's own gate."""
        assert not isinstance(self.tolerance, str)
        return self.tolerance

    @property
    def folder(self) -> Path | None:
        """The folder of pictures to calibrate with, if one was given."""
        return self.calibrate if isinstance(self.calibrate, Path) else None

    @property
    def count(self) -> int | None:
        """The number of inputs to calibrate with, if one was given."""
        return self.calibrate if isinstance(self.calibrate, int) else None


NEEDS: Mapping[str, tuple[str, ...]] = {
    "batch": ("trt", "triton"),
    "workspace": ("trt",),
    "level": ("trt",),
    "portable": ("trt",),
    "gpus": ("trt",),
    "timing_cache": ("trt",),
    "dla": ("trt",),
    "triton_backend": ("triton",),
    "instances": ("triton",),
    "triton_name": ("triton",),
    "vendor": ("web",),
}
"""Fields of `ExportSpec` that have an effect on some formats only."""


def check_formats(spec: ExportSpec, given: Collection[str], size: str | None) -> None:
    """Refuse settings that would have no effect, or that contradict each other.

    Args:
        spec: All values.
        given: The fields that were given, and not those with their defaults.
        size: The size of the source's images, as `SourceSpec` has it.

    Raises:
        UsageError: the message names the setting and what it is for.
    """
    for name in ("psnr", "max_mb", "max_minutes"):
        if name in given and not spec.auto:
            raise UsageError(f"{flag(ExportSpec, name)} is for --auto: add it, or leave this out")
    fixed = [
        name for name in ("precision", "engine", "remainder", "format", "tolerance", "require_speedup") if name in given
    ]
    if spec.auto and fixed:
        typed = flag(ExportSpec, fixed[0], getattr(spec, fixed[0]))
        raise UsageError(f"--auto chooses precision and graph itself, and writes an .onnx: leave {typed} out")
    formats = ",".join(spec.format)
    for name, needed in NEEDS.items():
        if name in given and not set(needed) & set(spec.format):
            typed = flag(ExportSpec, name)
            raise UsageError(f"{typed} is for --format {' or '.join(needed)}, and {formats} was asked for")
    if size is not None and "," in size and "trt" not in spec.format:
        raise UsageError(f"--size {size}: several sizes are for --format trt; give one, or dynamic")
    for name in spec.engines:
        if spec.precision is not None and name not in engines.readers(spec.precision):
            able = ", ".join(engines.readers(spec.precision))
            raise UsageError(f"--engines {name}: it has no {spec.precision} on the CPU; choose {able}")
    if spec.engine is not None and spec.precision != "int8":
        raise UsageError("--for chooses the graph variant of INT8: add --int8, or leave it out")
    if spec.remainder is not None and spec.precision != "int8":
        raise UsageError(
            f"--remainder {spec.remainder} is what INT8 computes in outside its layers: add --int8, or leave it out"
        )
    if spec.remainder == "fp16" and spec.target != "tensorrt":
        raise UsageError(
            "--int8 --fp16: FP16 outside INT8 is for TensorRT: add --for tensorrt or --format trt, or leave --fp16 out"
        )
    if "trt" in spec.format and spec.engine == "onnxruntime":
        raise UsageError("--for onnxruntime: TensorRT does not read that graph; export twice, or leave --for out")
    if spec.require_speedup is not None and (spec.precision in (None, "fp32") or spec.target == "tensorrt"):
        raise UsageError(
            "--require-speedup compares a lower precision with FP32 in the engines of this machine: add --fp16, --bf16 "
            "or --int8, without TensorRT"
        )
    if spec.count is not None and spec.precision not in ("fp16", "int8"):
        raise UsageError(f"--calibrate {spec.count}: only FP16 and INT8 need values; a folder serves every proof")


def _read_formats(value: str | Collection[str]) -> tuple[str, ...]:
    names = tuple(value.split(",")) if isinstance(value, str) else tuple(value)
    if not names or any(name not in FORMATS for name in names):
        raise UsageError(f"--format {','.join(names)}: choose {', '.join(FORMATS)}, or several with commas")
    return names


def _read_engines(value: str | Collection[str]) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    required = tuple(engines.canonical(name) for name in names)
    for name in required:
        if name not in engines.MODULES:
            raise UsageError(f"--engines {name}: choose some of {', '.join(engines.MODULES)}")
        if not engines.installed(name):
            raise MissingExtra(name, engines.EXTRAS[name], f"--engines {name}")
    return required


def _read_calibrate(value: Path | str | int | None) -> Path | int | None:
    if value is None or isinstance(value, Path):
        return value
    if isinstance(value, str) and not value.isdigit():
        return Path(value)
    if not 1 <= int(value) <= 4096:
        raise UsageError(f"--calibrate {value}: give 1 to 4096 inputs, or a folder of pictures")
    return int(value)


def _joined(value: str | Collection[object] | None) -> str | None:
    return value if value is None or isinstance(value, str) else ",".join(map(str, value))
