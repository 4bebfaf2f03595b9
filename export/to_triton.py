"""From a proven artifact to a model repository of Triton Inference Server, where one machine is not enough. No torch.

    write_repository(Path("models"), "generator", proven, Path("models/generator.onnx"))
    tritonserver --model-repository models

    models/generator/config.pbtxt
    models/generator/1/model.onnx        (or model.plan, an engine of TensorRT)

The config is written as text in protobuf's format; the test holds it against Triton's own definition. What Triton calls
a dimension leaves the batch out where it batches itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from google.protobuf import text_encoding

from ganedge.runtime.engines import trt_builder
from ganedge.runtime.errors import UsageError
from ganedge.runtime.files import write_whole
from ganedge.runtime.manifest import Manifest, Port

Backend = Literal["onnxruntime", "tensorrt"]
"""What runs the model in the server."""
FILES: dict[Backend, str] = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""The model's name in its version's folder, as each backend expects it."""
TYPES = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "int64": "TYPE_INT64"}
DELAY_MICROSECONDS = 2000
"""How long a request waits for others to share its batch: small beside a generator's own time."""


def write_repository(
    folder: Path, name: str, model: bytes, manifest: Manifest, backend: Backend, batch: tuple[int, int, int], count: int
) -> Path:
    """Write the model and its config into a repository, beside whatever models are there already.

    Args:
        folder: The repository.
        name: The model's name, and its folder's.
        model: An ONNX artifact, or an engine.
        manifest: What it says of itself.
        backend: What runs it.
        batch: Smallest, most usual and largest batch.
        count: Instances on each device.

    Returns:
        The model's folder.

    Raises:
        UsageError: a path that is a file, or a name that is no folder's name.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder} is a file: a Triton model repository is a folder")
    _check_name(name)
    model_folder = folder / name
    write_whole(model_folder / "1" / FILES[backend], model)
    write_whole(model_folder / "config.pbtxt", config(name, manifest, backend, batch, count))
    return model_folder


def _check_name(name: str) -> None:
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise UsageError(f"{name!r} cannot name a model: use letters, digits, - and _")


def check_backend(
    backend: Backend, forms: Sequence[str], precision: str = "", name: str | None = None, targets: str | None = None
) -> None:
    """Refuse what cannot be served before anything is written.

    Raises:
        UsageError: the tensorrt backend without an engine of TensorRT; it runs none of TensorRT for RTX.
        EngineError: no TensorRT is installed.
    """
    if "triton" not in forms:
        return
    if name is not None:
        _check_name(name)
    if backend == "onnxruntime":
        if precision == "bf16":
            raise UsageError("--bf16: Triton's ONNX Runtime has none on every server; take --triton-backend tensorrt")
        return
    if "trt" not in forms:
        raise UsageError("--triton-backend tensorrt serves an engine: ask for both, --format trt,triton")
    if trt_builder.flavour(bool(targets))[0] != "tensorrt":
        raise UsageError(
            "--triton-backend tensorrt: Triton runs engines of TensorRT, and this machine has TensorRT for RTX; "
            "leave the option out (ONNX Runtime), or build on the server's GPU with ganedge[trt]"
        )


def config(name: str, manifest: Manifest, backend: Backend, batch: tuple[int, int, int], count: int) -> str:
    """The text of config.pbtxt: ports, dynamic batching where the batch is open, instances, and the manifest."""
    interface = manifest.interface
    batching = all(isinstance(port.shape[0], str) for port in (*interface.inputs, interface.output))
    lines = [f"name: {_quoted(name)}", f"backend: {_quoted(backend)}"]
    lines.append(f"max_batch_size: {batch[2] if batching else 0}")
    lines += _ports("input", interface.inputs, batching)
    lines += _ports("output", interface.outputs, batching)
    if batching:
        sizes = ", ".join(str(size) for size in sorted({batch[1], batch[2]}) if size > 1)
        preferred = [f"  preferred_batch_size: [ {sizes} ]"] if sizes else []
        lines += [
            "dynamic_batching {",
            *preferred,
            f"  max_queue_delay_microseconds: {DELAY_MICROSECONDS}",
            "}",
        ]
    kind = "KIND_GPU" if backend == "tensorrt" else "KIND_AUTO"
    lines += ["instance_group [", f"  {{ count: {count} kind: {kind} }}", "]"]
    description = json.dumps(
        {"kind": interface.kind, "precision": manifest.precision, "noise": interface.noise, "digest": manifest.digest}
    )
    lines.append(f'parameters {{ key: "ganedge" value {{ string_value: {_quoted(description)} }} }}')
    return "\n".join(lines) + "\n"


def _ports(field: str, ports: Sequence[Port], batching: bool) -> list[str]:
    """One field of the config for inputs or outputs."""
    entries = []
    for port in ports:
        sizes = [size if isinstance(size, int) else -1 for size in port.shape[1 if batching else 0 :]]
        # A tensor of the batch alone has no dimension left; Triton wants one and takes it off again.
        reshape = "" if sizes else " reshape: { shape: [ ] }"
        dims = ", ".join(map(str, sizes or [1]))
        entries.append(f"  {{ name: {_quoted(port.name)} data_type: {TYPES[port.dtype]} dims: [ {dims} ]{reshape} }}")
    return [f"{field} [", ",\n".join(entries), "]"]


def _quoted(text: str) -> str:
    """A string as protobuf's text format writes it."""
    return f'"{text_encoding.CEscape(text.encode(), as_utf8=False)}"'
