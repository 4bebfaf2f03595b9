"""SIGKILL in the midst of the four commands, and what is left afterwards.

    python tests/hostile/kill.py --kills 80 --seed 0 --report tests/hostile/results/kill.json

Half of the kills come at a random moment of the time that the command takes once everything is imported, the others
right before a change of the file system that is chosen at random: a file opened for writing, renamed or removed. After
each one, every file under a final name must be whole, and an artifact proven. `--resume` and `--skip-existing` then go
on without doing again what was done, and what they end with is bit for bit what an undisturbed command gives.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import guarded
import material
import numpy as np

PICTURES = 24
"""In a folder whose translation is killed."""
LIMIT_S = 300
"""Seconds of computing that an undisturbed command may take."""
CHANGES = ".changes"
"""Hidden file with one byte for each change of the file system that a command made."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGING = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink")
"""What Python tells its audit hooks right before it changes the file system, beside `open`."""
TRAINING = " ".join(map(str, (*material.CPU, *material.TINY, "--steps", 12, "--checkpoint-every", 2)))
BENCH = "gan-bench generator.onnx --against run --seconds 0.1 --iterations 5 --batch 1 --processes 0 --threads 1"


@dataclass(frozen=True)
class Victim:
    """One command that is killed, and what must be true of it."""

    name: str
    """What people call it."""
    command: str
    """As it is typed."""
    again: str = ""
    """What is typed behind it once it was killed."""
    needs: tuple[str, ...] = ()
    """Specimens that it reads."""
    same: tuple[str, ...] = ()
    """Patterns of the files that must end bit for bit as those of an undisturbed command."""
    kept: Callable[[Path], list[Path]] = lambda folder: []
    """Files that going on must leave as they are."""


def _samples_before_the_checkpoint(folder: Path) -> list[Path]:
    """Pictures of a run that a training which goes on has behind it."""
    from ganedge.train import checkpoint

    done = max(checkpoint.steps(folder / "run"), default=0)
    return [path for path in folder.glob("run/samples/generator-*.png") if int(path.stem[-8:]) < done]


def _results(folder: Path) -> list[Path]:
    """Translated pictures."""
    return sorted(folder.glob("out/[!.]*"))


RUN = (
    "run/*.safetensors",
    "run/config.json",
    "run/metrics.jsonl",
    "run/samples/generator-*.png",
    "run/checkpoints/**/*",
)
VICTIMS = (
    Victim(
        "gan-train",
        f"gan-train dcgan --out run {TRAINING}",
        "--resume",
        same=RUN,
        kept=_samples_before_the_checkpoint,
    ),
    Victim("gan-export", "gan-export run -o out.onnx", needs=("run",), same=("out.onnx",)),
    Victim(
        "gan-run translate, a folder",
        "gan-run translate translator.onnx pictures -o out --engine onnxruntime --threads 1",
        "--skip-existing",
        needs=("translator.onnx", "pictures"),
        same=("out/*",),
        kept=_results,
    ),
    Victim("gan-bench", f"{BENCH} --json report.json --html report.html", needs=("run", "generator.onnx")),
    Victim(
        "gan-run translate, in tiles",
        "gan-run translate translator.onnx large.png -o out.png --tiles always --memory 40M --engine onnxruntime "
        "--threads 1",
        needs=("translator.onnx", "large.png"),
        same=("out.png",),
    ),
    Victim(
        "gan-train, measured",
        f"gan-train dcgan --out run --features small --judged 32 {TRAINING}",
        "--resume",
        same=RUN,
        kept=_samples_before_the_checkpoint,
    ),
    Victim(
        "gan-train, two generators",
        "gan-train cyclegan --out run --data two --size 32 --width 4 --blocks 1 --batch 1 --steps 6 --sample-every 2 "
        "--checkpoint-every 2 --device cpu --precision fp32",
        "--resume",
        needs=("two",),
        same=("run/*.safetensors", "run/metrics.jsonl", "run/checkpoints/**/*"),
    ),
    Victim(
        "gan-export --fp16, over another",
        "gan-export run --fp16 -o out.onnx",
        needs=("run", "out.onnx"),
        same=("out.onnx",),
    ),
    Victim("gan-export --int8", "gan-export run --int8 --for ort -o out.onnx", needs=("run",), same=("out.onnx",)),
    Victim(
        "gan-run translate, a video",
        "gan-run translate translator.onnx film.mp4 -o out.mp4 --engine onnxruntime --threads 1",
        needs=("translator.onnx", "film.mp4"),
    ),
    Victim("gan-run tune", "gan-run tune generator.onnx --seconds 0 --threads 1", needs=("generator.onnx",)),
)
"""Everything that is killed."""


class Hunt:
    """One victim in a folder of its own, killed again and again.

    Args:
        victim: Who.
        specimens: Where sound files lie.
        place: An empty folder to work in.
    """

    def __init__(self, victim: Victim, specimens: Path, place: Path) -> None:
        self.victim = victim
        self.fresh, self.whole, self.folder = (place / name for name in ("fresh", "whole", "killed"))
        self.fresh.mkdir(parents=True)
        for need in victim.needs:
            source = specimens / need
            if source.is_dir():
                shutil.copytree(source, self.fresh / need)
            else:
                shutil.copy(source, self.fresh / need)
        shutil.copytree(self.fresh, self.whole)
        self.seconds = self._undisturbed()
        self.changes = (self.whole / CHANGES).stat().st_size
        self.begin()

    def begin(self) -> None:
        """Forget what was done."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.fresh, self.folder)

    def kill(self, rng: random.Random, at_change: bool) -> tuple[bool, str]:
        """Start the command and kill it; give whether it was still at work, and what is wrong with what is left."""
        begin = time.monotonic()
        (self.folder / CHANGES).unlink(missing_ok=True)
        deadly = rng.randint(1, max(1, self.changes)) if at_change else None
        child = guarded.start(*self._typed(), self.folder, first=functools.partial(_count_changes, self.folder, deadly))
        end = begin + (LIMIT_S if at_change else rng.uniform(0.0, self.seconds))
        while time.monotonic() < end and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        done = guarded.finish(child, self.victim.name, self.folder, begin)
        wrong = "" if done.code in (0, -signal.SIGKILL) else f"exit code {done.code}: {done.err[-300:]}"
        return done.code < 0, wrong or guarded.in_fork(damage, self.folder)

    def go_on(self) -> str:
        """Run it to its end; give what is wrong."""
        before = {path: path.stat().st_ino for path in self.victim.kept(self.folder)}
        done = guarded.run(*self._typed(), self.folder, limit_s=LIMIT_S)
        if done.code:
            return f"does not go on: exit code {done.code}: {done.err[-300:]}"
        if again := [path.name for path, inode in before.items() if not path.exists() or path.stat().st_ino != inode]:
            return f"did again what was done: {', '.join(again[:3])}"
        return self.compare()

    def compare(self) -> str:
        """Whether all is whole, and the end is that of the undisturbed command; empty where it is."""
        if wrong := guarded.in_fork(damage, self.folder):
            return wrong
        one, two = (self._ends(folder) for folder in (self.folder, self.whole))
        other = sorted({name for name, _ in one.items() ^ two.items()})
        return f"other files than undisturbed: {', '.join(other[:5])}" if other else ""

    def _ends(self, folder: Path) -> dict[str, str]:
        """Digest of every file that must be the same; of metrics all but the speed."""
        found = [path for pattern in self.victim.same for path in folder.glob(pattern) if _final(path, folder)]
        return {str(path.relative_to(folder)): hashlib.sha256(_timeless(path)).hexdigest() for path in found}

    def _typed(self) -> tuple[str, list[str]]:
        """The command's name and its arguments."""
        name, *arguments = self.victim.command.split()
        return name, arguments + self.victim.again.split()

    def _undisturbed(self) -> float:
        """Run it to its end without `again`; give the seconds that takes."""
        name, *arguments = self.victim.command.split()
        begin = time.monotonic()
        child = guarded.start(name, arguments, self.whole, LIMIT_S, first=functools.partial(_count_changes, self.whole))
        done = guarded.finish(child, name, self.whole, begin)
        if done.code or (wrong := guarded.in_fork(damage, self.whole)):
            raise RuntimeError(f"{self.victim.command} failed undisturbed: {done.err or wrong}")
        return done.seconds


def _count_changes(folder: Path, deadly: int | None = None) -> None:
    """Note each change of the file system that this process makes below a folder; die right before the deadly one."""
    count, place = 0, str(folder.resolve()) + os.sep
    notes = os.open(folder / CHANGES, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            if not isinstance(given[2], int) or not given[2] & WRITES:
                return
        elif event not in CHANGING:
            return
        path = given[0]
        if not isinstance(path, (str, bytes, os.PathLike)) or not os.path.abspath(os.fsdecode(path)).startswith(place):  # noqa: PTH100
            return
        count += 1
        os.write(notes, b".")
        if count == deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _final(path: Path, folder: Path) -> bool:
    """Whether it is a file under a final name: what a kill leaves beside it is hidden."""
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _timeless(path: Path) -> bytes:
    """A file's bytes; of metrics all but how fast they came, and of a config all but whether it went on."""
    if path.name == "config.json":
        said = json.loads(path.read_text("utf-8"))
        del said["training"]["resume"]
        return json.dumps(said).encode()
    if path.name != "metrics.jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return json.dumps([{key: row[key] for key in row if key != "images_per_s"} for row in rows]).encode()


def damage(folder: Path) -> str:
    """What is not whole among the files under final names; empty where all are."""
    for path in sorted(folder.rglob("*")):
        if not _final(path, folder):
            continue
        place = path.relative_to(folder)
        judge = JUDGES.get(path.suffix)
        if judge is None:
            return f"{place}: nobody knows when such a file is whole"
        try:
            judge(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, the file is not whole
            return f"{place} is not whole: {type(error).__name__} {error}"
    return _checkpoints(folder / "run")


def _checkpoints(run: Path) -> str:
    """What is wrong with a run's checkpoints, each of which must be there in full."""
    from ganedge.runtime.errors import GanEdgeError
    from ganedge.train import checkpoint

    try:
        for step in checkpoint.steps(run):
            checkpoint.load(run, step)
    except GanEdgeError as error:
        return str(error)
    return ""


def _picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.load()


def _tensors(path: Path) -> None:
    import safetensors.torch

    if not safetensors.torch.load(path.read_bytes()):
        raise ValueError("it holds nothing")


def _artifact(path: Path) -> None:
    from ganedge.runtime.manifest import read_artifact

    manifest, _ = read_artifact(path)
    if path.name == "out.onnx" and not (manifest.parity and all(proof.passed for proof in manifest.parity)):
        raise ValueError("it was not proven")


def _proof(path: Path) -> None:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        if not all(stored[name].size for name in stored.files):
            raise ValueError("an array is empty")


def _lines(path: Path) -> None:
    """All lines but the last, which a kill may have cut off: it is a log, and whoever goes on forgets that line."""
    *whole, _ = path.read_text("utf-8").split("\n")
    for line in whole:
        json.loads(line)


def _page(path: Path) -> None:
    if not path.read_text("utf-8").rstrip().endswith("</html>"):
        raise ValueError("it does not end")


def _video(path: Path) -> None:
    import av

    with av.open(str(path)) as container:
        shown = container.streams.video[0]
        if (frames := sum(1 for _ in container.decode(shown))) != shown.frames or not frames:
            raise ValueError(f"{frames} of {shown.frames} frames")


JUDGES: dict[str, Callable[[Path], object]] = {
    ".png": _picture,
    ".safetensors": _tensors,
    ".json": lambda path: json.loads(path.read_text("utf-8")),
    ".jsonl": _lines,
    ".onnx": _artifact,
    ".html": _page,
    ".npz": _proof,
    ".mp4": _video,
}
"""What fails on a file that is not whole, by its ending."""


def specimens(folder: Path) -> Path:
    """Sound files of every kind, and those that take longer to translate."""
    from PIL import Image

    material.make(folder)
    rng = np.random.default_rng(0)
    shutil.rmtree(folder / "pictures")
    for place, count, size in (
        ("pictures", PICTURES, (96, 128)),
        ("two/trainA", 6, (16, 16)),
        ("two/trainB", 6, (16, 16)),
    ):
        (folder / place).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / place / f"{index:02d}.png")
    Image.fromarray(rng.integers(0, 256, (900, 1200, 3), np.uint8)).save(folder / "large.png")
    shutil.copy(folder / "generator.onnx", folder / "out.onnx")
    return folder


def campaign(kills: int, seed: int, victims: tuple[Victim, ...], show: Callable[[str], None]) -> dict[str, object]:
    """Kill `kills` times in all, the victims about equally often, and give the report."""
    begin = time.monotonic()
    killed: Counter[str] = Counter()
    ways: Counter[str] = Counter()
    found: list[str] = []
    ends = 0
    with tempfile.TemporaryDirectory() as place:
        sound = specimens(Path(place) / "specimens")
        for number, victim in enumerate(victims):
            hunt = Hunt(victim, sound, Path(place) / str(number))
            rng = random.Random(f"{seed} {victim.name}")
            wanted = kills // len(victims) + (number < kills % len(victims))
            tries = 0
            wrongs = []
            while killed[victim.name] < wanted and tries < 5 * wanted:
                tries += 1
                at_change = (killed[victim.name] + number) % 2 == 0
                hit, wrong = hunt.kill(rng, at_change)
                killed[victim.name] += hit
                ways["before a change of files" if at_change else "at a random moment"] += hit
                if not hit:  # It came to its end: compare, and begin again.
                    wrong = wrong or hunt.compare()
                    ends += 1
                    hunt.begin()
                wrongs.append(wrong)
            wrongs.append(hunt.go_on())
            ends += 1
            found += [f"{victim.name}: {wrong}" for wrong in wrongs if wrong]
            show(f"{victim.name}: {killed[victim.name]} kills; {'; '.join(filter(None, wrongs)) or 'nothing wrong'}")
    return {
        "kills": sum(killed.values()),
        "victims": dict(killed),
        "ways": dict(ways),
        "ends_compared": ends,
        "seconds": round(time.monotonic() - begin),
        "findings": found,
    }


def main() -> None:
    """Run a campaign and exit with 1 if it found something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="names of victims, with semicolons")
    parser.add_argument("--report", type=Path, help="write what was done here, as JSON")
    given = parser.parse_args()
    guarded.preload()
    os.environ["XDG_CACHE_HOME"] = (
        "cache"  # In the folder of each victim; after what looks for its own cache at import.
    )
    from ganedge.train import reporter

    reporter.REPORT_SECONDS = 0.0  # A line of metrics for each step, so that they do not depend on how fast it is.
    victims = tuple(victim for victim in VICTIMS if given.only is None or victim.name in given.only.split(";"))
    report = campaign(given.kills, given.seed, victims, lambda line: print(line, flush=True))
    if given.report:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"{report['kills']} kills in {report['seconds']} s, {len(report['findings'])} findings")  # type: ignore[arg-type]
    sys.exit(bool(report["findings"]))


if __name__ == "__main__":
    main()
