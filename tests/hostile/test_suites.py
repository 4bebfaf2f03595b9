"""The short forms of the suites that `make hostile` and `make soak` run in full, and their table in the README."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def suite(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(HERE / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)


def report(path: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return said


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


def test_loading_again_and_again_keeps_nothing(artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    done = suite("soak", artifact, "--seconds", 2, "--loads", 50, "--report", tmp_path / "soak.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(tmp_path / "soak.json")["loads"] == 100


def test_the_table_in_the_readme_is_that_of_the_reports() -> None:
    done = suite("figures", "--check")
    assert done.returncode == 0, done.stderr


def test_a_finding_that_was_mended_has_its_own_commit_subject() -> None:
    mended = json.loads((HERE / "mended.json").read_text("utf-8"))
    assert mended
    assert len(set(mended)) == len(mended)
