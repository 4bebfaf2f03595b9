"""Checkpoints: which are kept, which is the best, what a kill leaves behind, and that damage is named."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ganedge.runtime.errors import ArtifactError, GanEdgeError
from ganedge.train import checkpoint

STATE: dict[str, Any] = {"weight": torch.arange(4.0)}


def test_the_best_is_kept_beside_the_last(tmp_path: Path) -> None:
    assert checkpoint.best(tmp_path) is None
    assert checkpoint.steps(tmp_path) == []
    assert checkpoint.load_latest(tmp_path) is None
    for step, fid in ((1, 9.0), (2, 5.0), (3, 7.0), (4, 5.0), (5, 6.0)):
        checkpoint.save(tmp_path, step, STATE, keep=2)
        checkpoint.note_best(tmp_path, step, fid, "FID of 100")
    assert checkpoint.best(tmp_path) == 2, "the first of equal ones"
    assert checkpoint.steps(tmp_path) == [2, 4, 5]
    checkpoint.note_best(tmp_path, 5, 50.0, "FID of 200")
    assert checkpoint.best(tmp_path) == 5, "figures of other terms are not compared"
    text = (tmp_path / "checkpoints" / "best.json").read_text("utf-8")
    assert text.endswith("\n")
    assert json.loads(text) == {"step": 5, "fid": 50.0, "terms": "FID of 200"}
    shutil.rmtree(checkpoint.path(tmp_path, 5))
    assert checkpoint.best(tmp_path) is None
    checkpoint.note_best(tmp_path, 4, math.inf, "")
    assert checkpoint.best(tmp_path) == 4, "any is better than one that is gone"


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 1}', '{"step": "x", "fid": 1, "terms": ""}'])
def test_a_damaged_note_of_the_best(tmp_path: Path, text: str) -> None:
    checkpoint.save(tmp_path, 1, STATE, keep=1)
    (tmp_path / "checkpoints" / "best.json").write_text(text, "utf-8")
    with pytest.raises(ArtifactError, match=r"best\.json is damaged .*: delete it to measure anew"):
        checkpoint.best(tmp_path)


def test_saving_again_replaces_and_removes_what_a_kill_left(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, STATE, keep=1)
    folder = tmp_path / "checkpoints"
    for left in (".00000002.part", ".00000003.old", ".00000003.part"):
        (folder / left / "inner").mkdir(parents=True)
    (folder / ".00000009.part").write_text("no folder")
    checkpoint.save(tmp_path, 3, {"weight": torch.full((4,), 7.0)}, keep=1)
    assert sorted(item.name for item in folder.iterdir()) == [".00000009.part", "00000003"]
    step, state = checkpoint.load_latest(tmp_path) or (0, {})
    assert step == 3
    assert state["weight"].tolist() == [7.0] * 4


def test_a_step_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no checkpoint of step 5: it has none$"):
        checkpoint.load(tmp_path, 5)
    for step in (3, 12):
        checkpoint.save(tmp_path, step, STATE, keep=5)
    with pytest.raises(ArtifactError, match=r"holds no checkpoint of step 5: it has 3, 12$"):
        checkpoint.load(tmp_path, 5)


def test_damage_anywhere_is_named(tmp_path: Path) -> None:
    state = {**STATE, "rate": 0.5, "parts": [{1: "a"}]}
    checkpoint.save(tmp_path, 1, state, keep=2)
    checkpoint.save(tmp_path, 2, state, keep=2)
    folder = checkpoint.path(tmp_path, 2)
    text, weights = (folder / "state.json").read_text("utf-8"), (folder / "state.safetensors").read_bytes()
    edits = [
        text.replace("0.5", "0.6"),
        text.replace('"step": 2', '"step": 3'),
        text[:-1],
        "[]",
        text.replace('"a"', '"b"'),
    ]
    for edit in edits:
        (folder / "state.json").write_text(edit, "utf-8")
        with pytest.raises(
            ArtifactError, match=r"00000002 is damaged .*: delete that folder to go on from the one before"
        ):
            checkpoint.load(tmp_path, 2)
    (folder / "state.json").write_text(text, "utf-8")
    flipped = bytearray(weights)
    flipped[-1] ^= 1
    (folder / "state.safetensors").write_bytes(flipped)
    with pytest.raises(ArtifactError, match="its digest does not match"):
        checkpoint.load(tmp_path, 2)
    shutil.rmtree(folder)
    shutil.copytree(checkpoint.path(tmp_path, 1), folder)
    with pytest.raises(ArtifactError, match="it is of step 1"):
        checkpoint.load(tmp_path, 2)


def test_what_cannot_be_written_leaves_the_earlier_ones(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, STATE, keep=2)
    (tmp_path / "checkpoints" / ".00000002.part").write_text("in the way")
    with pytest.raises(GanEdgeError, match=r"cannot write the checkpoint .*00000002"):
        checkpoint.save(tmp_path, 2, STATE, keep=2)
    assert checkpoint.steps(tmp_path) == [1]


def test_tensors_are_copied_whatever_their_memory(tmp_path: Path) -> None:
    live = torch.arange(6.0, requires_grad=True)
    shared = torch.arange(6.0).reshape(2, 3).t()
    checkpoint.save(tmp_path, 1, {"live": live, "a": shared, "b": shared, 4: (True, None, "text")}, keep=1)
    state = checkpoint.load(tmp_path, 1)
    assert not state["live"].requires_grad
    assert torch.equal(state["a"], shared)
    assert torch.equal(state["b"], shared)
    assert state[4] == [True, None, "text"]
