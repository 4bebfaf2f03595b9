"""Checkpoints: the whole state of a training, as tensors and JSON, so that it goes on bit for bit.

    save(folder, step, state)          # → checkpoints/00001000/state.safetensors and state.json
    step, state = load_latest(folder)

A state is any nesting of dicts, lists, numbers, strings and tensors (what `state_dict()` gives). Tensors go into
safetensors and the rest into JSON with references to them; nothing is pickled. The folder is written under another
name and renamed when it is complete, so that a checkpoint that exists is whole; a digest tells later damage.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from ganedge.runtime.errors import ArtifactError, GanEdgeError

FOLDER = "checkpoints"
TENSOR = "$tensor"
"""The key that marks a reference to a tensor in the JSON."""


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write a checkpoint and remove all but the last `keep`.

    Raises:
        GanEdgeError: it cannot be written; earlier checkpoints are as they were.
    """
    final = folder / FOLDER / f"{step:08d}"
    part = final.with_name(f".{final.name}.part")
    tensors: dict[str, torch.Tensor] = {}
    tree = _detach(state, tensors, "state")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        data = safetensors.torch.save(tensors)
        (part / "state.safetensors").write_bytes(data)
        said = {"step": step, "state": tree, "digest": _digest(step, tree, data)}
        (part / "state.json").write_text(json.dumps(said), "utf-8")
        for path in part.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if final.exists():
            aside = final.with_name(f".{final.name}.old")
            final.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        part.rename(final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise GanEdgeError(f"cannot write the checkpoint {final}: {error}") from error
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / FOLDER / f"{old:08d}", ignore_errors=True)


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint, ascending."""
    parent = folder / FOLDER
    return (
        sorted(int(path.name) for path in parent.glob("*") if path.name.isascii() and path.name.isdecimal())
        if parent.is_dir()
        else []
    )


def load_latest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The last checkpoint as (step, state), tensors on the CPU; None where there is none.

    Raises:
        ArtifactError: it is damaged; the message says how to go on from the one before.
    """
    existing = steps(folder)
    if not existing:
        return None
    path = folder / FOLDER / f"{existing[-1]:08d}"
    try:
        data = (path / "state.safetensors").read_bytes()
        said = json.loads((path / "state.json").read_text("utf-8"))
        # Checkpoints of before there were digests have none.
        if said.get("digest", "") not in ("", _digest(said["step"], said["state"], data)):
            raise ValueError("its digest does not match")
        return int(said["step"]), _attach(said["state"], safetensors.torch.load(data))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"the checkpoint {path} is damaged ({error}): delete that folder to go on from the one before"
        ) from error


def _digest(step: int, tree: Any, tensors: bytes) -> str:
    """sha256 over all that a checkpoint holds: a flipped bit in a weight would train on without a word."""
    return hashlib.sha256(json.dumps([step, tree]).encode() + tensors).hexdigest()


def _detach(value: Any, tensors: dict[str, torch.Tensor], name: str) -> Any:
    """Replace tensors by references. Keys that are no strings (an optimizer's parameter numbers) become marked ones."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {TENSOR: name}
    if isinstance(value, dict):
        return {
            f"#{key}" if isinstance(key, int) else key: _detach(item, tensors, f"{name}.{key}")
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_detach(item, tensors, f"{name}.{index}") for index, item in enumerate(value)]
    return value


def _attach(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        return {int(key[1:]) if key.startswith("#") else key: _attach(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_attach(item, tensors) for item in value]
    return value
