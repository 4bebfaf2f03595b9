"""Checkpoints: the whole state of a training, as tensors and JSON, so that it goes on bit for bit.

    save(folder, step, state, keep=3)  # → checkpoints/00001000/state.safetensors and state.json
    step, state = load_latest(folder)

A state is any nesting of dicts, lists, numbers, strings and tensors (what `state_dict()` gives). Tensors go into
safetensors and the rest into JSON with references to them; nothing is pickled. The folder is written under another
name and renamed when it is complete, so that a checkpoint that exists is whole; a digest tells later damage.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from ganedge.runtime.errors import ArtifactError, GanEdgeError
from ganedge.runtime.files import write_whole

FOLDER = "checkpoints"
BEST = "best.json"
"""Which checkpoint is the best, and its FID."""
TENSOR = "$tensor"
"""The key that marks a reference to a tensor in the JSON."""


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write a checkpoint and remove all but the last `keep` and the best.

    Args:
        folder: The run folder.
        step: Steps done.
        state: What to go on from.
        keep: How many to keep.

    Raises:
        GanEdgeError: it cannot be written; earlier checkpoints are as they were.
    """
    final = path(folder, step)
    part = final.with_name(f".{final.name}.part")
    tensors: dict[str, torch.Tensor] = {}
    tree = _detach(state, tensors, "state")
    try:
        for left in final.parent.glob(".*.*"):  # Files of an interrupted write.
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir(parents=True)
        data = safetensors.torch.save(tensors)
        (part / "state.safetensors").write_bytes(data)
        content = {"step": step, "state": tree, "digest": _digest(step, tree, data)}
        (part / "state.json").write_text(json.dumps(content), "utf-8")
        for written in part.iterdir():
            with written.open("rb") as file:
                os.fsync(file.fileno())
        if final.exists():
            aside = final.with_name(f".{final.name}.old")
            final.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
        part.rename(final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise GanEdgeError(f"cannot write the checkpoint {final}: {error}") from error
    for old in set(steps(folder)[:-keep]) - {best(folder)}:
        shutil.rmtree(path(folder, old), ignore_errors=True)


def path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / FOLDER / f"{step:08d}"


def best(folder: Path) -> int | None:
    """The step of the best checkpoint; None where none was measured, or it is gone."""
    return _read_best(folder)[0]


def note_best(folder: Path, step: int, fid: float, terms: str) -> None:
    """Remember the checkpoint of `step` if it is the best.

    Args:
        folder: The run folder.
        step: It has a checkpoint.
        fid: How far its pictures are from real ones.
        terms: How that was measured: only figures of the same terms are compared.
    """
    known, lowest, before = _read_best(folder)
    if known is None or before != terms or fid < lowest:
        content = {"step": step, "fid": fid, "terms": terms}
        write_whole(folder / FOLDER / BEST, json.dumps(content) + "\n")


def _read_best(folder: Path) -> tuple[int | None, float, str]:
    """The step of the best checkpoint, its FID, and how that was measured."""
    try:
        content = json.loads((folder / FOLDER / BEST).read_text("utf-8"))
        step, fid, terms = int(content["step"]), float(content["fid"]), str(content["terms"])
    except FileNotFoundError:
        return None, math.inf, ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder / FOLDER / BEST} is damaged ({error}): delete it to measure anew") from error
    return (step, fid, terms) if path(folder, step).is_dir() else (None, math.inf, "")


def steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint, ascending."""
    parent = folder / FOLDER
    return (
        sorted(int(item.name) for item in parent.glob("*") if item.name.isascii() and item.name.isdecimal())
        if parent.is_dir()
        else []
    )


def load_latest(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The last checkpoint as (step, state), tensors on the CPU; None where there is none. Raises as `load` does."""
    existing = steps(folder)
    return (existing[-1], load(folder, existing[-1])) if existing else None


def load(folder: Path, step: int) -> dict[str, Any]:
    """The state of one checkpoint, tensors on the CPU.

    Raises:
        ArtifactError: not there, or damaged; the message says how to go on from the one before.
    """
    location = path(folder, step)
    if not location.is_dir():
        kept = ", ".join(map(str, steps(folder))) or "none"
        raise ArtifactError(f"{folder} holds no checkpoint of step {step}: it has {kept}")
    try:
        data = (location / "state.safetensors").read_bytes()
        content = json.loads((location / "state.json").read_text("utf-8"))
        if content["digest"] != _digest(content["step"], content["state"], data):
            raise ValueError("its digest does not match")
        if content["step"] != step:
            raise ValueError(f"it is of step {content['step']}")
        state: dict[str, Any] = _attach(content["state"], safetensors.torch.load(data))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"the checkpoint {location} is damaged ({error}): delete that folder to go on from the one before"
        ) from error
    return state


def _digest(step: int, tree: Any, tensors: bytes) -> str:
    """Return the sha256 over a checkpoint's contents, which detects a flipped bit in a weight."""
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
