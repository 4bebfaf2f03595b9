"""Disks that are full, read-only or gone, too few descriptors, and two runs that want one folder."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganedge.train import checkpoint, run_folder

Command = Callable[..., Any]
TRAIN = ("dcgan", "--data", "digits", "--size", 16, "--width", 8, "--latent", 6, "--batch", 16, "--device", "cpu")


def one_line(done: Any, code: int, said: str) -> None:
    assert done.code == code, done.err
    assert said in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    asked = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    mounted = (
        shutil.which("mount") and shutil.which("umount") and subprocess.run(asked, capture_output=True).returncode == 0
    )
    if not mounted:
        pytest.skip("needs to mount a small tmpfs, which only root may")
    yield place
    subprocess.run([str(shutil.which("umount")), "--lazy", str(place)], check=True)


def fill(disk: Path, leave: int = 0) -> None:
    """Take all room but `leave` bytes."""
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(disk / "ballast", max(0, (disk / "ballast").stat().st_size - leave))


def test_a_full_disk_keeps_what_was_there(command: Command, artifact: Path, small_disk: Path) -> None:
    done = command("gan-run", "sample", artifact, "-n", 4, "--seed", 0, "-o", small_disk / "x.png")
    assert done.code == 0
    before = (small_disk / "x.png").read_bytes()
    fill(small_disk)
    done = command("gan-run", "sample", artifact, "-n", 64, "--seed", 1, "-o", small_disk / "x.png")
    one_line(done, 1, "No space left")
    assert (small_disk / "x.png").read_bytes() == before
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "x.png"]
    for asked in (("-o", small_disk / "new.onnx"), ("--fp16", "-o", small_disk / "new.onnx")):
        one_line(command("gan-export", artifact, *asked), 1, "No space left")
    report = small_disk / "report.json"
    done = command("gan-bench", artifact, "--seconds", 0, "--iterations", 1, "--batch", 1, "--json", report)
    one_line(done, 1, "No space left")
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "x.png"]


def test_training_onto_a_full_disk_keeps_the_last_checkpoint(
    command: Command, tiny_run: Path, small_disk: Path
) -> None:
    shutil.copytree(tiny_run, small_disk / "run", ignore=shutil.ignore_patterns("*.png"))
    before = checkpoint.load_latest(small_disk / "run")
    fill(small_disk, 8192)
    done = command("gan-train", *TRAIN, "--out", small_disk / "run", "--resume", "--steps", 10)
    one_line(done, 1, "No space left")
    after = checkpoint.load_latest(small_disk / "run")
    assert before is not None
    assert after is not None
    assert after[0] == before[0] == 8
    run_folder.read(small_disk / "run").generator()
    (small_disk / "ballast").unlink()
    shutil.rmtree(small_disk / "run" / "samples", ignore_errors=True)
    shutil.copytree(small_disk / "run", small_disk.parent / "run")
    done = command("gan-train", *TRAIN, "--out", small_disk.parent / "run", "--resume", "--steps", 10)
    assert done.code == 0, done.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device(artifact: Path, tmp_path: Path) -> None:
    """Output that cannot be written is an error, not silence."""
    command = [sys.executable, "-m", "ganedge.runtime", "info", artifact]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("gan-run: ")
    assert "Traceback" not in done.stderr


def test_not_an_ordinary_file(command: Command, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "null.png").symlink_to("/dev/null")
    done = command("gan-run", "sample", artifact, "-n", 1, "-o", tmp_path / "null.png")
    one_line(done, 2 if done.code == 2 else 1, "null")


@pytest.mark.parametrize("name", ["gan-run", "gan-export", "gan-train", "gan-bench"])
def test_a_folder_that_cannot_be_written(command: Command, artifact: Path, tmp_path: Path, name: str) -> None:
    place = Path("/proc/ganedge")  # Nobody can write there, root neither.
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc, where root cannot write either")
    arguments: dict[str, tuple[Any, ...]] = {
        "gan-run": ("sample", artifact, "-n", 1, "-o", place / "x.png"),
        "gan-export": (artifact, "-o", place / "x.onnx"),
        "gan-train": (*TRAIN, "--steps", 1, "--out", place),
        "gan-bench": (artifact, "--seconds", 0, "--iterations", 1, "--batch", 1, "--json", place / "x.json"),
    }
    one_line(command(name, *arguments[name]), 1, "cannot write")


def test_a_folder_that_disappears(
    command: Command, inverter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results' folder goes while pictures are translated; each that cannot be written is named."""
    from ganedge.runtime.pictures import images

    source = tmp_path / "in"
    source.mkdir()
    for index in range(3):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(source / f"{index}.png")
    real, blocked = images.save, tmp_path / "out"

    def save(picture: Any, path: Path) -> None:
        if path.name == "1.png":
            shutil.rmtree(blocked)
            blocked.write_text("a file in its place")
        real(picture, path)

    monkeypatch.setattr(images, "save", save)
    done = command("gan-run", "translate", inverter, source, "-o", blocked)
    assert done.code == 3, done.err
    assert "1 written, 2 could not be done" in done.err
    assert "Traceback" not in done.err


def test_a_run_folder_that_disappears(tmp_path: Path) -> None:
    out = tmp_path / "run"
    base = [sys.executable, "-m", "ganedge.train", *map(str, TRAIN), "--sample-every", "2", "--out", str(out)]
    run = subprocess.Popen([*base, "--steps", "100000", "--checkpoint-every", "2"], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 100
    while not checkpoint.steps(out) and time.monotonic() < end and run.poll() is None:
        time.sleep(0.05)
    gone = tmp_path / "gone"
    out.rename(gone)
    out.write_text("a file in its place")
    said = run.communicate(timeout=100)[1]
    assert run.returncode == 1, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("gan-train: ")
    assert checkpoint.load_latest(gone) is not None


def test_few_file_descriptors(artifact: Path, tmp_path: Path) -> None:
    """However few there are: a picture, or one line and none."""
    ends = set()
    for most in (4, 6, 8, 10, 16, 64):

        def little(most: int = most) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

        target = tmp_path / f"{most}.png"
        command = [sys.executable, "-m", "ganedge.runtime", "sample", artifact, "-n", "1", "-o", target]
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=little)
        ends.add(done.returncode)
        python_failed = "Fatal Python error" in done.stderr or "Error processing line" in done.stderr
        if not python_failed:  # With very few Python itself does not start.
            assert (done.returncode == 0) == target.exists()
            assert "Traceback" not in done.stderr, (most, done.stderr)
    assert 0 in ends


def test_a_second_run_in_one_folder_is_refused(command: Command, tmp_path: Path) -> None:
    with run_folder.locked(tmp_path / "run"):
        done = command("gan-train", *TRAIN, "--steps", 1, "--out", tmp_path / "run")
    one_line(done, 2, "another process is training in")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_two_processes_lock_each_other_out(tmp_path: Path) -> None:
    """Also across processes, and the lock of a killed one is free at once."""
    code = (
        "import sys, time; from pathlib import Path; from ganedge.train.run_folder import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(100)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(run_folder.UsageError, match="another process"), run_folder.locked(tmp_path):
        pytest.fail("both hold it")
    holder.kill()
    holder.communicate()
    with run_folder.locked(tmp_path):
        pass
