"""SIGKILL at random moments of the four commands, and what is left afterwards.

    python tests/hostile/kill.py --kills 60 --seed 0 --report tests/hostile/results/kill.json

After every kill each file under a final name is whole. `--resume` and `--skip-existing` then go on, and what they end
with is bit for bit what an undisturbed command gives.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path

import guarded
import material
import numpy as np

STEPS = 8
"""Of a training that is killed; each ends with a checkpoint."""
PICTURES = 24
"""In a folder whose translation is killed."""
SHARES = {"gan-train": 0.4, "gan-export": 0.2, "gan-run": 0.2, "gan-bench": 0.2}
"""How the kills are divided."""


class Victim:
    """One command that is killed, again and again, in a folder of its own.

    Args:
        command: As it is typed; from the second time on with `again` behind it.
        again: What makes it go on.
        folder: Where it runs.
        whole: Says what is wrong with the files there; empty where nothing is.
    """

    def __init__(self, command: str, again: str, folder: Path, whole: Callable[[Path], str]) -> None:
        self.name, *self.arguments = command.split()
        self.again = again.split()
        self.folder = folder
        self.whole = whole

    def undisturbed(self, folder: Path) -> float:
        """Run it to its end elsewhere; give the seconds that takes."""
        done = guarded.run(self.name, self.arguments, folder, limit_s=300)
        if done.code:
            raise RuntimeError(f"{self.name} {' '.join(self.arguments)} failed undisturbed: {done.err}")
        return done.seconds

    def kill_after(self, seconds: float) -> tuple[bool, str]:
        """Start it, kill it after some seconds; give whether that was in time, and what is wrong with what is left."""
        begin = time.monotonic()
        child = guarded.start(self.name, [*self.arguments, *self.again], self.folder)
        while (
            time.monotonic() - begin < seconds
            and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        done = guarded.finish(child, self.name, self.folder, begin)
        wrong = "" if done.code in (0, -signal.SIGKILL) else f"exit code {done.code}: {done.err[-300:]}"
        return done.code < 0, wrong or self.whole(self.folder)

    def go_on(self) -> str:
        """Run it to its end; give what is wrong."""
        done = guarded.run(self.name, [*self.arguments, *self.again], self.folder, limit_s=300)
        return f"does not go on: {done.err[-300:]}" if done.code else self.whole(self.folder)


def pictures_whole(folder: Path) -> str:
    """Every picture under a final name decodes."""
    from PIL import Image

    for path in folder.rglob("*.png"):
        if not path.name.startswith("."):
            try:
                with Image.open(path) as image:
                    image.load()
            except (OSError, SyntaxError) as error:
                return f"{path.relative_to(folder)} is not whole: {error}"
    return ""


def run_whole(folder: Path) -> str:
    """Every file of a run is whole."""
    import safetensors

    for path in folder.rglob("*.safetensors"):
        if ".part" not in str(path) and ".old" not in str(path):
            try:
                with safetensors.safe_open(str(path), "np") as file:
                    for key in file.keys():  # noqa: SIM118 - it is no dict
                        file.get_tensor(key)
            except Exception as error:  # noqa: BLE001 - whatever it is, the file is not whole
                return f"{path.relative_to(folder)} is not whole: {error}"
    for path in folder.rglob("*.json"):
        if ".part" not in str(path) and ".old" not in str(path):
            json.loads(path.read_text("utf-8"))
    for checkpoint in folder.glob("run/checkpoints/[0-9]*"):
        if {path.name for path in checkpoint.iterdir()} != {"state.safetensors", "state.json"}:
            return f"{checkpoint.relative_to(folder)} is not whole"
    return pictures_whole(folder)


def artifact_whole(folder: Path) -> str:
    """The artifact is not there, or whole and proven."""
    from ganedge.runtime.errors import GanEdgeError
    from ganedge.runtime.manifest import read_artifact

    path = folder / "out.onnx"
    try:
        if path.exists() and not all(proof.passed for proof in read_artifact(path)[0].parity):
            return "out.onnx was not proven"
    except GanEdgeError as error:
        return str(error)
    return ""


def report_whole(folder: Path) -> str:
    """The report is not there, or whole."""
    path = folder / "report.json"
    if path.exists():
        json.loads(path.read_text("utf-8"))
    return ""


def victims(specimens: Path, place: Path) -> list[Victim]:
    """The four commands, each with sound input in a folder of its own."""
    folders = {name: place / name for name in SHARES}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for name in ("gan-export", "gan-bench"):
        shutil.copytree(specimens / "run", folders[name] / "run")
        shutil.copy(specimens / "generator.onnx", folders[name])
    shutil.copy(specimens / "translator.onnx", folders["gan-run"])
    _many_pictures(folders["gan-run"] / "pictures")
    tiny = " ".join(map(str, (*material.CPU, *material.TINY)))
    return [
        Victim(
            f"gan-train dcgan --out run --steps {STEPS} --checkpoint-every 1 {tiny}",
            "--resume",
            folders["gan-train"],
            run_whole,
        ),
        Victim("gan-export run -o out.onnx", "", folders["gan-export"], artifact_whole),
        Victim(
            "gan-run translate translator.onnx pictures -o out --engine onnxruntime",
            "--skip-existing",
            folders["gan-run"],
            pictures_whole,
        ),
        Victim(
            "gan-bench generator.onnx --against run --seconds 0.1 --iterations 5 --batch 1 --json report.json",
            "",
            folders["gan-bench"],
            report_whole,
        ),
    ]


def same_end(victim: Victim, other: Path) -> str:
    """Whether the killed and the undisturbed command ended with the same; empty where they did."""
    wanted = {"gan-train": "run/**/*.safetensors", "gan-run": "out/*.png"}.get(victim.name)
    if wanted is None:
        return ""
    one, two = (_digests(folder, wanted) for folder in (victim.folder, other))
    return "" if one == two and one else f"other files than undisturbed: {sorted(set(one.items()) ^ set(two.items()))}"


def campaign(kills: int, seed: int, show: Callable[[str], None]) -> dict[str, object]:
    """Kill `kills` times in all and give the report."""
    begin = time.monotonic()
    rng = random.Random(seed)
    killed: Counter[str] = Counter()
    found: list[str] = []
    ends = 0
    with tempfile.TemporaryDirectory() as place:
        specimens = material.make(Path(place) / "specimens")
        for victim in victims(specimens, Path(place) / "killed"):
            untouched = Path(place) / "untouched" / victim.name
            shutil.copytree(victim.folder, untouched)
            seconds = victim.undisturbed(untouched)
            fresh = Path(place) / "fresh" / victim.name
            shutil.copytree(victim.folder, fresh)
            wanted = max(1, round(kills * SHARES[victim.name]))
            tries = 0
            while killed[victim.name] < wanted and tries < 5 * wanted:
                tries += 1
                hit, wrong = victim.kill_after(rng.uniform(0.0, seconds))
                killed[victim.name] += hit
                if wrong:
                    found.append(f"{victim.name}: {wrong}")
                    show(found[-1])
                if not hit:  # It came to its end: compare, and begin again.
                    ends += 1
                    found += _compare(victim, untouched, show)
                    shutil.rmtree(victim.folder)
                    shutil.copytree(fresh, victim.folder)
            if wrong := victim.go_on():
                found.append(f"{victim.name}: {wrong}")
                show(found[-1])
            ends += 1
            found += _compare(victim, untouched, show)
    return {
        "kills": sum(killed.values()),
        "commands": dict(killed),
        "ended_as_undisturbed": ends,
        "seconds": round(time.monotonic() - begin),
        "findings": found,
    }


def _compare(victim: Victim, untouched: Path, show: Callable[[str], None]) -> list[str]:
    wrong = same_end(victim, untouched)
    if wrong:
        show(f"{victim.name}: {wrong}")
    return [f"{victim.name}: {wrong}"] if wrong else []


def _digests(folder: Path, pattern: str) -> dict[str, str]:
    """Digest of every file that matches, hidden ones left out."""
    files = (path for path in folder.glob(pattern) if path.is_file() and "/." not in str(path.relative_to(folder)))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _many_pictures(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(PICTURES):
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), np.uint8)).save(folder / f"{index:02d}.png")


def main() -> None:
    """Run a campaign and exit with 1 if it found something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="write what was done here, as JSON")
    given = parser.parse_args()
    guarded.preload()
    report = campaign(given.kills, given.seed, lambda line: print(line, flush=True))
    if given.report:
        given.report.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"{report['kills']} kills in {report['seconds']} s, {len(report['findings'])} findings")  # type: ignore[arg-type]
    sys.exit(bool(report["findings"]))


if __name__ == "__main__":
    main()
