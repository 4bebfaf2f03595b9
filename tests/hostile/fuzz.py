"""A mutation fuzzer over every file that the commands read.

    python tests/hostile/fuzz.py --cases 2000 --seed 0 --report tests/hostile/results/fuzz.json

Each case damages one sound file in a way that its number decides and runs one command on it. It must end in the result
that the sound file gives, or in one line and exit code 1 or 2 with nothing written, within ten seconds of computing
and two GiB; of several pictures the good ones are done (exit code 3). A damaged artifact never gives another picture.
What is found is printed with its number: `--only KIND:NUMBER` does that case again and shows what the command said.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import guarded
import material
import mutate

KEPT = Path(__file__).with_name("kept.json")
"""Cases that found something once; they are always done first."""
Mutator = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Kind:
    """One kind of file, and a command that reads it."""

    name: str
    """What people call it."""
    file: str
    """The specimen that is damaged."""
    command: str
    """As it is typed."""
    weight: int = 4
    """How often it is chosen beside the others."""
    more: tuple[Mutator, ...] = ()
    """Ways of damage that fit this format."""
    needs: tuple[str, ...] = ()
    """Specimens that the command reads beside it."""
    result: str = ""
    """File that the command writes."""
    sealed: bool = False
    """Whether a changed file must never give another result than the sound one."""
    good: str = ""
    """A result that must be there and sound whatever became of the damaged picture."""
    begins: bool = False
    """Whether it may fail only after a training began; then no weights and no checkpoint may be there."""
    whole: str = ""
    """A video that must be there and decode wherever the command said that it was done."""


def resealed(data: bytes, rng: random.Random) -> bytes:
    """Damage an artifact's graph or manifest and give it the digest that fits: what an attacker would do."""
    from ganedge.runtime import onnx_file
    from ganedge.runtime.manifest import KEY

    body, metadata = onnx_file.split(data)
    parts = [bytes(part) for part in body]
    said = json.loads(metadata[KEY])
    if rng.random() < 0.5:
        said = json.loads(mutate.odd_json(json.dumps(said).encode(), rng))
    else:
        place = max(range(len(parts)), key=lambda index: len(parts[index])) if rng.random() < 0.8 else 0
        inner = bytearray(parts[place])
        head = min(6, len(inner) - 1)  # Spare the field's own tag and length, so that the damage reaches the engine.
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            inner[rng.randrange(head, len(inner))] = rng.randrange(256)
        parts[place] = bytes(inner)
    said["digest"] = ""
    canonical = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass"))
    for part in parts:
        digest.update(part)
    said["digest"] = f"sha256:{digest.hexdigest()}"
    entry = json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return b"".join(parts) + onnx_file.field(14, onnx_file.field(1, KEY.encode()) + onnx_file.field(2, entry))


SAMPLE = "gan-run sample generator.onnx -n 2 --seed 0 -o out.png"
TRAIN = "gan-train dcgan --data digits --device cpu --precision fp32"
RESUME = f"{TRAIN} --out run --steps 10 --resume"
FRESH = "gan-train dcgan --size 16 --width 8 --latent 6 --batch 2 --steps 1 --device cpu --precision fp32 --out new"
MODULE = "gan-export nets.py:Generator --input 6x1x1 --kind latent -o out.onnx --tolerance none"
FILMS = ("mp4", "mkv", "avi", "webm", "ts")
FORMATS = ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm", "tga")
JSONS, LINES = (mutate.odd_json,), (mutate.odd_line,)

KINDS = (
    Kind("artifact, sampled", "generator.onnx", f"{SAMPLE} --engine onnxruntime", 8, result="out.png", sealed=True),
    Kind("artifact, OpenVINO", "generator.onnx", f"{SAMPLE} --engine openvino", 4, result="out.png", sealed=True),
    Kind("artifact, shown", "generator.onnx", "gan-run info generator.onnx", 6, sealed=True),
    Kind("artifact, tuned", "generator.onnx", "gan-run tune generator.onnx --seconds 0", 1),
    Kind("artifact, measured", "generator.onnx", "gan-bench generator.onnx --seconds 0 --iterations 1 --batch 1", 1),
    Kind(
        "artifact, exported again",
        "generator.onnx",
        "gan-export generator.onnx --fp16 -o out.onnx",
        3,
        result="out.onnx",
        sealed=True,
    ),
    Kind(
        "artifact, translating",
        "translator.onnx",
        "gan-run translate translator.onnx pictures/picture.png -o out.png",
        6,
        needs=("pictures",),
        result="out.png",
        sealed=True,
    ),
    Kind("artifact, forged digest", "generator.onnx", f"{SAMPLE} --engine onnxruntime", 8, (resealed,) * 20),
    Kind("artifact, forged digest, OpenVINO", "generator.onnx", f"{SAMPLE} --engine openvino", 3, (resealed,) * 20),
    Kind("artifact, forged digest, shown", "generator.onnx", "gan-run info generator.onnx", 6, (resealed,) * 20),
    Kind(
        "artifact, forged digest, translating",
        "translator.onnx",
        "gan-run translate translator.onnx pictures/picture.png -o out.png",
        4,
        (resealed,) * 20,
        needs=("pictures",),
    ),
    Kind("foreign ONNX", "bare.onnx", "gan-export bare.onnx --kind image -o out.onnx", 4, result="out.onnx"),
    Kind("stored proof", "generator.onnx.proof.npz", "gan-run verify generator.onnx", 4, needs=("generator.onnx",)),
    Kind(
        "tuning cache",
        "cache/ganedge/tuned.json",
        SAMPLE,
        4,
        JSONS,
        needs=("generator.onnx",),
        result="out.png",
        sealed=True,
    ),
    Kind(
        "engine sidecar, shown",
        "generator.engine.json",
        "gan-run info generator.engine",
        8,
        JSONS,
        needs=("generator.engine",),
    ),
    Kind(
        "engine sidecar, sampled",
        "generator.engine.json",
        "gan-run sample generator.engine -n 2 -o out.png",
        4,
        JSONS,
        needs=("generator.engine",),
    ),
    Kind(
        "engine", "generator.engine", "gan-run info generator.engine", 3, needs=("generator.engine.json",), sealed=True
    ),
    Kind(
        "run weights", "run/generator.safetensors", "gan-export run -o out.onnx", 3, needs=("run",), result="out.onnx"
    ),
    Kind(
        "weights to start from",
        "run/generator.safetensors",
        f"{FRESH} --data digits --init run/generator.safetensors",
        3,
        begins=True,
    ),
    Kind(
        "foreign safetensors",
        "nets.safetensors",
        f"{MODULE} --weights nets.safetensors",
        4,
        needs=("nets.py",),
        result="out.onnx",
    ),
    Kind("foreign checkpoint", "nets.pth", f"{MODULE} --weights nets.pth", 6, needs=("nets.py",), result="out.onnx"),
    Kind(
        "run config, exported",
        "run/config.json",
        "gan-export run -o out.onnx",
        6,
        JSONS,
        needs=("run",),
        result="out.onnx",
    ),
    Kind("run config, repeated", "run/config.json", f"{TRAIN} --config run/config.json --out new --steps 1", 4, JSONS),
    Kind("run config, resumed", "run/config.json", RESUME, 4, JSONS, needs=("run",)),
    Kind("checkpoint tensors", "run/checkpoints/00000008/state.safetensors", RESUME, 5, needs=("run",)),
    Kind("checkpoint tree", "run/checkpoints/00000008/state.json", RESUME, 5, JSONS, needs=("run",)),
    Kind("metrics", "run/metrics.jsonl", RESUME, 4, LINES, needs=("run",)),
    Kind("list of pictures", "list.csv", f"{FRESH} --data list.csv", 4, LINES, needs=("pictures",)),
    *(
        Kind(
            f"picture {form}, translated",
            f"pictures/picture.{form}",
            f"gan-run translate translator.onnx pictures/picture.{form} pictures/good.png -o out --format png",
            4,
            needs=("translator.onnx", "pictures"),
            good="out/good.png",
        )
        for form in FORMATS
    ),
    *(
        Kind(
            f"video {form}, translated",
            f"film.{form}",
            f"gan-run translate translator.onnx film.{form} -o out.mp4 --engine onnxruntime --threads 1",
            3,
            needs=("translator.onnx",),
            whole="out.mp4",
        )
        for form in FILMS
    ),
    *(
        Kind(
            f"picture {form}, trained on",
            f"pictures/picture.{form}",
            f"{FRESH} --data pictures",
            1,
            needs=("pictures",),
        )
        for form in FORMATS[:5]
    ),
    *(
        Kind(
            f"picture {form}, calibrated with",
            f"pictures/picture.{form}",
            "gan-export translator.onnx --int8 --calibrate pictures -o out.onnx --tolerance none",
            1,
            needs=("translator.onnx", "pictures"),
            result="out.onnx",
        )
        for form in FORMATS[:5]
    ),
)
"""Everything that is damaged, and what reads it."""


class Fuzzer:
    """Specimens, what sound ones give, and a scratch folder."""

    def __init__(self, specimens: Path, scratch: Path) -> None:
        self.specimens, self.scratch = specimens, scratch
        self.sound: dict[str, tuple[str, str]] = {}

    def case(self, kind: Kind, number: int) -> tuple[guarded.Outcome, str, str]:
        """Do one case; give what came of it, how the file was damaged, and what is wrong (empty: nothing)."""
        rng = random.Random(f"{kind.file} {kind.command} {number}")
        data = (self.specimens / kind.file).read_bytes()
        damaged, how = mutate.mutate(data, rng, *kind.more)
        outcome, wrong = self._do(kind, damaged)
        return outcome, how, wrong

    def _do(self, kind: Kind, data: bytes) -> tuple[guarded.Outcome, str]:
        folder = self._lay_out(kind)
        (folder / kind.file).write_bytes(data)
        before = _tree(folder)
        name, *arguments = kind.command.split()
        outcome = guarded.run(name, arguments, folder)
        wrong = guarded.complaint(outcome, (0, 1, 2, 3) if kind.good else (0, 1, 2))
        wrong = wrong or self._wrong_files(kind, folder, outcome, before)
        shutil.rmtree(folder)
        return outcome, wrong

    def _lay_out(self, kind: Kind) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        (folder / kind.file).parent.mkdir(parents=True, exist_ok=True)
        for need in kind.needs:
            whole = self.specimens / need
            if whole.is_dir():
                shutil.copytree(whole, folder / need, dirs_exist_ok=True)
            else:
                shutil.copy(whole, folder / need)
        if kind.needs and (folder / "pictures").is_dir():
            shutil.copy(self.specimens / "pictures" / "picture.png", folder / "pictures" / "good.png")
        return folder

    def _wrong_files(self, kind: Kind, folder: Path, outcome: guarded.Outcome, before: dict[str, str]) -> str:
        """What is wrong with the files that a command left."""
        if left := guarded.leftovers(folder):
            return f"left {left[0]}"
        after = _tree(folder)
        changed = [name for name in _changed(before, after) if not kind.begins or name.endswith(".safetensors")]
        if outcome.code in (1, 2) and not kind.good and changed:
            return f"failed, and wrote {changed[0]}"
        if kind.good and after.get(kind.good) != self._sound(kind)[0]:
            return f"{kind.good} is missing or another"
        if kind.whole and outcome.code == 0 and (damage := guarded.in_fork(_undecodable, folder / kind.whole)):
            return damage
        if kind.sealed and outcome.code == 0:
            picture, said = self._sound(kind)
            if kind.result and kind.result.endswith(".png") and after.get(kind.result) != picture:
                return "another picture from a damaged file"
            if not kind.result and outcome.out != said:
                return "a damaged file shown as if it were sound"
        return ""

    def _sound(self, kind: Kind) -> tuple[str, str]:
        """Digest of the result, and the output, that the sound file gives."""
        if kind.name not in self.sound:
            folder = self._lay_out(kind)
            shutil.copy(self.specimens / kind.file, folder / kind.file)
            name, *arguments = kind.command.split()
            outcome = guarded.run(name, arguments, folder, limit_s=60)
            self.sound[kind.name] = (_tree(folder).get(kind.good or kind.result, ""), outcome.out)
            shutil.rmtree(folder)
        return self.sound[kind.name]

    def check_sound(self, kinds: Sequence[Kind]) -> list[str]:
        """Every command on sound files: otherwise the cases would show nothing."""
        wrong = []
        for kind in kinds:
            outcome, complaint = self._do(kind, (self.specimens / kind.file).read_bytes())
            expected = 1 if kind.name == "engine sidecar, sampled" else 0  # Nobody has that engine.
            if outcome.code != expected or complaint:
                wrong.append(f"{kind.name}: exit code {outcome.code} on a sound file, {complaint} {outcome.err}")
        return wrong


def choose(cases: int, seed: int, kinds: Sequence[Kind]) -> Iterator[tuple[Kind, int]]:
    """Which cases to do: the kept ones, each kind once, then by weight."""
    by_name = {kind.name: kind for kind in kinds}
    for kept in json.loads(KEPT.read_text("utf-8")):
        if kept["kind"] in by_name:
            yield by_name[kept["kind"]], kept["number"]
    rng = random.Random(seed)
    for index in range(cases):
        kind = kinds[index] if index < len(kinds) else rng.choices(kinds, [kind.weight for kind in kinds])[0]
        yield kind, seed * 1_000_000 + index


def _undecodable(path: Path) -> str:
    """What is wrong with a video that a command wrote."""
    import av

    with av.open(str(path)) as container:
        return "" if sum(1 for _ in container.decode(video=0)) else f"{path.name} holds no frame"


def _tree(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, but for what the guard and the lock of a run write."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".stdout", ".stderr", ".lock"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def campaign(
    cases: int,
    seed: int,
    seconds: float,
    quick: bool,
    show: Callable[[str], None],
    kinds: Sequence[Kind] = KINDS,
) -> dict[str, Any]:
    """Do `cases` cases, or as many as fit into `seconds`, and give the report; `quick`: no try with sound files."""
    begin = time.monotonic()
    done: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        fuzzer = Fuzzer(material.make(Path(place) / "specimens"), Path(place))
        for line in [] if quick else fuzzer.check_sound(kinds):
            found.append({"kind": line, "number": -1, "wrong": "sound file refused"})
            show(line)
        slowest = largest = 0.0
        for kind, number in choose(cases, seed, kinds):
            if time.monotonic() - begin > seconds:
                break
            outcome, how, wrong = fuzzer.case(kind, number)
            done[kind.name] += 1
            ends[str(outcome.code)] += 1
            slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.grown / 2**20)
            if wrong:
                found.append({"kind": kind.name, "number": number, "how": how, "wrong": wrong})
                show(f"{kind.name}:{number} ({how}): {wrong}\n    {kind.command}\n    {outcome.err[-600:]!r}")
    return {
        "cases": sum(done.values()),
        "kinds": dict(sorted(done.items())),
        "exit_codes": dict(sorted(ends.items())),
        "slowest_s": round(slowest, 2),
        "largest_mib": round(largest),
        "seconds": round(time.monotonic() - begin),
        "findings": found,
    }


def joined(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Two reports as one: their cases together, and the most of either."""
    both = {name: one[name] + two[name] for name in ("cases", "seconds", "findings")}
    counts = {name: dict(sorted((Counter(one[name]) + Counter(two[name])).items())) for name in ("kinds", "exit_codes")}
    return {**one, **both, **counts, **{name: max(one[name], two[name]) for name in ("slowest_s", "largest_mib")}}


def again(path: Path) -> None:
    """Do a report's findings again, and leave those in it that are still there."""
    report = json.loads(path.read_text("utf-8"))
    by_name = {kind.name: kind for kind in KINDS}
    with tempfile.TemporaryDirectory() as place:
        fuzzer = Fuzzer(material.make(Path(place) / "specimens"), Path(place))
        still = [
            finding
            for finding in report["findings"]
            if finding["number"] < 0 or fuzzer.case(by_name[finding["kind"]], finding["number"])[2]
        ]
    report["mended_since"] = report.get("mended_since", 0) + len(report["findings"]) - len(still)
    report["findings"] = still
    path.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"{len(still)} findings left, {report['mended_since']} mended since")


def only(kind: Kind, number: int) -> None:
    """Do one case again and show everything."""
    with tempfile.TemporaryDirectory() as place:
        fuzzer = Fuzzer(material.make(Path(place) / "specimens"), Path(place))
        outcome, how, wrong = fuzzer.case(kind, number)
        print(f"{kind.command}\n{kind.file}: {how}\n{outcome}\n{outcome.err}\n{wrong or 'nothing wrong'}")


def main() -> None:
    """Run a campaign and exit with 1 if it found something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop earlier")
    parser.add_argument("--quick", action="store_true", help="leave out the try with sound files")
    parser.add_argument("--kinds", default="", help="only kinds whose names begin so")
    parser.add_argument("--report", type=Path, help="write what was done here, as JSON")
    parser.add_argument("--add", action="store_true", help="add to what the report says already")
    parser.add_argument("--only", help="KIND:NUMBER, one case again")
    parser.add_argument("--again", type=Path, help="do the findings of this report again, and drop what was mended")
    given = parser.parse_args()
    guarded.preload()
    os.environ["XDG_CACHE_HOME"] = "cache"  # In the folder of each case; after what looks for its own cache at import.
    if given.only:
        name, _, number = given.only.rpartition(":")
        only(next(kind for kind in KINDS if kind.name == name), int(number))
        return
    if given.again:
        again(given.again)
        return
    kinds = [kind for kind in KINDS if kind.name.startswith(given.kinds)]
    report = campaign(given.cases, given.seed, given.seconds, given.quick, lambda line: print(line, flush=True), kinds)
    if given.report and given.add and given.report.exists():
        report = joined(json.loads(given.report.read_text("utf-8")), report)
    if given.report:
        given.report.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"{report['cases']} cases in {report['seconds']} s, {len(report['findings'])} findings")
    sys.exit(bool(report["findings"]))


if __name__ == "__main__":
    main()
