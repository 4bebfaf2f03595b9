"""Recognise files and folders of other tools by their content, and name the next step. No torch here.

    refuse_foreign(Path("generator.h5"))      # ArtifactError: … is an HDF5 file, as Keras writes: convert it to ONNX …

What PyTorch can read passes, whatever it is called.
"""

from __future__ import annotations

import difflib
import json
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ganedge.runtime.errors import ArtifactError
from ganedge.runtime.files import LFS_POINTER
from ganedge.runtime.manifest import CHECKPOINTS

HEAD = 512
"""Bytes by which a file is recognised."""
SHOWN = 6
"""Files of a folder or archive that a message names."""
WEIGHTS = (*CHECKPOINTS, ".pt2", ".bin")
"""Endings of files with weights, for messages."""
CONVERT = "convert it to ONNX (pip install tf2onnx; python -m tf2onnx.convert {} {{path}} --output net.onnx)"
KERAS = 'export it from Keras 3, model.export("net.onnx", format="onnx"), or from Keras 2 with tf2onnx'
COMPILED = "it cannot be turned back into a network: give the PyTorch module or the .onnx file that it was made from"
ANOTHER = "give the .onnx file or the PyTorch module that it was made from"
UNPACK = "unpack it and give what is inside"
SCRIPT = "write a function in FILE.py that {}, and give FILE.py:NAME"
ZipContent = Literal["weights", "torchscript", "exported", "keras", "numpy", "archive"]


@dataclass(frozen=True)
class FileFormat:
    """A format that is not read here."""

    name: str
    """With its article."""
    step: str
    """What to do, with `{path}` for the file."""
    endings: tuple[str, ...] = ()
    magic: tuple[bytes, ...] = ()
    """First bytes, by any of which it is recognised."""
    offset: int = 0
    """Where `magic` stands."""


FORMATS = (
    FileFormat("a web page, not the file", "download the file itself", (".html", ".htm"), (b"<!doctype", b"<html")),
    FileFormat("an HDF5 file, as Keras writes", KERAS, (".h5", ".hdf5", ".keras"), (b"\x89HDF",)),
    FileFormat("a TFLite network", CONVERT.format("--tflite"), (".tflite",), (b"TFL3",), 4),
    FileFormat("a frozen TensorFlow graph", CONVERT.format("--graphdef"), (".pb", ".pbtxt")),
    FileFormat("a TensorFlow checkpoint", CONVERT.format("--checkpoint"), (".index", ".meta", ".data-00000-of-00001")),
    FileFormat("a TensorRT engine", COMPILED, (".engine", ".plan", ".trt"), (b"ftrt", b"ptrt")),
    FileFormat("a network in ONNX Runtime's own format", ANOTHER, (".ort",), (b"ORTM",), 4),
    FileFormat("a Core ML network", COMPILED, (".mlmodel", ".mlpackage", ".mlmodelc")),
    FileFormat("an OpenVINO network", ANOTHER, (".xml",)),
    FileFormat("an ncnn network", ANOTHER, (".param",)),
    FileFormat("an MNN network", ANOTHER, (".mnn",)),
    FileFormat("a PaddlePaddle network", "convert it with paddle2onnx", (".pdmodel", ".pdparams", ".pdiparams")),
    FileFormat("a Caffe network", "convert it to ONNX", (".caffemodel", ".prototxt")),
    FileFormat("a Lua Torch file", "load it with PyTorch < 1.0, and save its state dict", (".t7",)),
    FileFormat("a file of Flax weights", "convert them to a PyTorch state dict", (".msgpack",)),
    FileFormat("a GGUF file", "give the PyTorch weights that it was made from", (".gguf",), (b"GGUF",)),
    FileFormat(
        "a file of NumPy arrays without a network",
        SCRIPT.format("makes the network and fills it with them"),
        (".npy", ".npz"),
        (b"\x93NUMPY",),
    ),
    FileFormat(
        "an archive",
        UNPACK,
        (".zip", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2"),
        (b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ", b"BZh"),
    ),
    FileFormat(
        "a picture",
        "give the generator; pictures go into gan-run translate",
        (".png", ".jpg", ".jpeg", ".webp", ".gif"),
        (b"\x89PNG", b"\xff\xd8\xff", b"GIF8"),
    ),
)


def refuse_foreign(path: Path) -> None:
    """Refuse what another tool reads, and what is no network.

    Args:
        path: A source, or the file of `--weights`; a path that does not exist passes.

    Raises:
        ArtifactError: it is of a format that is not read here; the message names it and the next step.
    """
    if path.is_dir():
        reason = _folder_reason(path)
    elif path.is_file():
        reason = _file_reason(path)
    else:
        return
    if reason is not None:
        raise ArtifactError(f"{path} {reason.replace('{path}', str(path))}")


def zip_content(path: Path) -> ZipContent | None:
    """Tell what a zip file holds, by the names in it; None where it is none, or damaged.

    >>> zip_content(Path(__file__)) is None
    True
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] or name for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        return None
    if any(name in names for name in ("constants.pkl", "bytecode.pkl")):
        return "torchscript"
    if "data.pkl" in names:
        return "weights"
    if any(name.endswith(("serialized_exported_program.json", "models/model.json")) for name in names) or (
        "archive_format" in names
    ):
        return "exported"
    if any(name.endswith("model.weights.h5") for name in names):
        return "keras"
    return "numpy" if names and all(name.endswith(".npy") for name in names) else "archive"


def near_names(path: Path) -> str:
    """Name what lies beside a path that does not exist and is spelt alike: `; near: netG.pth`."""
    try:
        names = [item.name for item in path.parent.iterdir()]
    except OSError:
        return f"; the folder {path.parent} does not exist either"
    near = difflib.get_close_matches(path.name, names, 3)
    return f"; near: {', '.join(near)}" if near else ""


def _file_reason(path: Path) -> str | None:
    """Say what a file is, and the next step; None for files that PyTorch or the .onnx reader may read."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "is empty (0 bytes): copy or download it again"
    if head.startswith(LFS_POINTER):
        return "is a Git LFS pointer, not the file: run git lfs pull, or download the file"
    if head.startswith(b"PK\x03\x04"):
        return _zip_reason(path)
    for fmt in FORMATS:
        start = head[fmt.offset :].lstrip().lower() if fmt.offset == 0 else head[fmt.offset :].lower()
        if any(start.startswith(magic.lower()) for magic in fmt.magic):
            return f"is {fmt.name}: {fmt.step}"
    if head[:1] == b"\x80":  # A pickle, as PyTorch before 1.6 and StyleGAN write.
        return None
    if path.suffix == ".safetensors":
        return _safetensors_reason(head, path)
    if path.suffix in (".pt", ".pth", ".ckpt", ".pkl") and _text(head) is None:
        return "is no file of PyTorch: it is neither a zip file nor a pickle; copy or download it again"
    for fmt in FORMATS:
        if path.name.lower().endswith(fmt.endings):
            return f"is {fmt.name}: {fmt.step}"
    text = _text(head)
    if text is not None:
        return f"is a text file that begins with {text!r}, not weights or a network: copy or download it again"
    return None


def _zip_reason(path: Path) -> str | None:
    """Say what a zip file is; None where it holds what PyTorch reads."""
    content = zip_content(path)
    if content is None:
        return "is cut off or damaged, a zip file without its end: copy or download it again"
    if content in ("weights", "torchscript", "exported"):
        return None
    if content == "keras":
        return f"is a Keras network: {KERAS}"
    if content == "numpy":
        return _reason(".npz")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith((".onnx", ".py", *WEIGHTS))]
    inside = ", ".join(names[:SHOWN])
    return f"is a zip archive{f' with {inside}' if inside else ''}: {UNPACK}"


def _reason(ending: str) -> str:
    fmt = next(fmt for fmt in FORMATS if ending in fmt.endings)
    return f"is {fmt.name}: {fmt.step}"


def _safetensors_reason(head: bytes, path: Path) -> str | None:
    """Say that a .safetensors file is of another framework, by its header; None where it is PyTorch's or damaged."""
    length = int.from_bytes(head[:8], "little")
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(8 + min(length, 100_000_000))[8:])
        framework = str(header.get("__metadata__", {}).get("format", "pt"))
    except (ValueError, AttributeError):
        return None
    if framework in ("tf", "flax", "mlx", "jax", "paddle"):
        return f"holds weights of {framework}, as its header says: give those of PyTorch"
    return None


def _folder_reason(path: Path) -> str | None:
    """Say what a folder is, and the next step; None where it may be a run."""
    names = {item.name for item in path.iterdir()}
    from_pretrained = SCRIPT.format("returns the network of from_pretrained('{path}')")
    if {"saved_model.pb", "saved_model.pbtxt"} & names:
        return f"is a TensorFlow SavedModel: {CONVERT.format('--saved-model')}"
    if "model_index.json" in names:
        return f"is a pipeline of diffusers, which holds several networks: {from_pretrained} of the one to export"
    if path.suffix in (".mlpackage", ".mlmodelc"):
        return _reason(path.suffix)
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        return (
            "is a distributed checkpoint: make one file of it, python -m torch.distributed.checkpoint.format_utils "
            "dcp_to_torch {path} weights.pth"
        )
    if "zero_to_fp32.py" in names:
        return "is a checkpoint of DeepSpeed: make one file of it with the zero_to_fp32.py in it"
    if any(name.startswith("checkpoint") or ".ckpt." in name for name in names) and any(
        name.endswith(".index") for name in names
    ):
        return f"holds a TensorFlow checkpoint: {CONVERT.format('--checkpoint')}"
    if "config.json" in names:
        return f"is a folder of Hugging Face: {from_pretrained}" if _is_hugging_face(path / "config.json") else None
    if "generator.param" in names:
        return f"is an artifact already: {ANOTHER}"
    files = _listed(path, (".onnx", *WEIGHTS)) or _listed(path, (".py",))
    if not files:
        return None
    what = "FILE.py:NAME of its code" if files[0].endswith(".py") else "one of its files"
    return f"is a folder and no run of gan-train: give {what}, {', '.join(files[:SHOWN])}"


def _listed(path: Path, endings: Collection[str]) -> list[str]:
    """List the files of a folder and of the folders in it that have such an ending."""
    files = [file for pattern in ("*", "*/*") for file in path.glob(pattern) if file.suffix in endings]
    return sorted((str(file.relative_to(path)) for file in files), key=lambda name: (name.count("/"), name))


def _is_hugging_face(config: Path) -> bool:
    try:
        content = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    known = {"architectures", "model_type", "_class_name", "_diffusers_version", "transformers_version"}
    return isinstance(content, dict) and "variant" not in content and bool(known & content.keys())


def _text(head: bytes) -> str | None:
    """Return the first line of a text; None where the bytes are none."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # A character may be cut off at the end.
            return None
        text = head[: error.start].decode("utf-8")
    if not all(character.isprintable() or character in "\r\n\t" for character in text):
        return None
    lines = text.strip().splitlines()
    return lines[0][:60] if lines else ""
