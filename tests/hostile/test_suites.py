"""The short forms of the suites that `make hostile` and `make soak` run in full, and their table in docs/results.md."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
SHORT = "gan-train;gan-export;gan-run translate, a folder"
"""The victims that are killed here; `make hostile` kills them all."""


def suite(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(HERE / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)


def report(path: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return said


def test_damaged_files_end_well(tmp_path: Path) -> None:
    done = suite("fuzz", "--cases", 200, "--seconds", 20, "--quick", "--seed", 7, "--report", tmp_path / "fuzz.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(tmp_path / "fuzz.json")["cases"] > 0, (
        "as many as there is time for; half a hundred on a quiet machine"
    )


def test_the_fuzzer_sees_what_is_wrong() -> None:
    """Its judge, on ends that must not be: otherwise finding nothing would mean nothing."""
    sys.path.insert(0, str(HERE))
    try:
        from guarded import Outcome, complaint
    finally:
        sys.path.remove(str(HERE))

    def judged(code: int, err: str, grown: int = 0) -> str:
        return complaint(Outcome("gan-run", code, "", err, grown, 1.0))

    assert judged(0, "") == ""
    assert judged(1, "gan-run: x.onnx is damaged\n") == ""
    assert judged(70, "Traceback (most recent call last):\n  ...\nKeyError: 1\n") == "traceback: KeyError: 1"
    assert judged(-11, "") == "ended by SIGSEGV"
    assert judged(-14, "").startswith("hung")
    assert judged(1, "") == "gave no reason"
    assert judged(1, "noise\ngan-run: x\n") == "said 2 lines"
    assert judged(3, "gan-run: x\n") == "exit code 3"
    assert judged(0, "", 3 * 2**30) == "took 3.0 GiB"
    assert judged(1, "gan-run: \x1b[2J\n") == "printed control characters"


@pytest.mark.parametrize("seed", range(20))
def test_damage_can_be_done_again(seed: int) -> None:
    sys.path.insert(0, str(HERE))
    try:
        from mutate import mutate, odd_json
    finally:
        sys.path.remove(str(HERE))
    data = json.dumps({"a": [1, {"b": "c"}], "d": None}).encode()
    one, other = (mutate(data, random.Random(seed), odd_json) for _ in range(2))
    assert one == other


def test_killed_commands_leave_whole_files_and_go_on(tmp_path: Path) -> None:
    done = suite("kill", "--kills", 4, "--only", SHORT, "--report", tmp_path / "kill.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(tmp_path / "kill.json")["kills"] == 4


def test_the_judge_of_killed_commands_sees_what_is_not_whole(tiny_run: Path, artifact: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(HERE))
    try:
        from kill import damage
    finally:
        sys.path.remove(str(HERE))

    place = tmp_path / "place"
    shutil.copytree(tiny_run, place / "run")
    shutil.copy(artifact, place / "out.onnx")
    assert damage(place) == ""
    for path in sorted(place.rglob("*")):
        if path.is_file() and path.name != ".lock":
            data = path.read_bytes()
            path.write_bytes(
                data[: len(data) * 2 // 3].rsplit(b"\n", 1)[0] + b"x" if path.suffix == ".jsonl" else data[:-40]
            )
            assert (damage(place) == "") == (path.suffix == ".jsonl"), path
            path.write_bytes(data)
    (place / "run" / "checkpoints" / "00000008" / "state.json").unlink()
    assert "damaged" in damage(place)


def test_loading_again_and_again_keeps_nothing(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("uvicorn")
    done = suite("soak", artifact, "--seconds", 2, "--loads", 30, "--report", tmp_path / "soak.json")
    assert done.returncode == 0, done.stdout + done.stderr
    said = report(tmp_path / "soak.json")
    assert said["loads"] == 60
    assert said["answers"]["200"] > 100


def test_the_table_in_the_readme_is_that_of_the_reports() -> None:
    done = suite("figures", "--check")
    assert done.returncode == 0, done.stderr


def test_a_finding_that_was_mended_has_its_own_commit_subject() -> None:
    mended = json.loads((HERE / "mended.json").read_text("utf-8"))
    assert mended
    assert len(set(mended)) == len(mended)
