"""Mutation testing: plant small faults one at a time, and list those that no test notices.

    python tests/hostile/mutants.py                           # every fault in all files of TESTS: a day or two
    python tests/hostile/mutants.py runtime --sample 40       # a random sample of 40 for each file in runtime/
    python tests/hostile/mutants.py export/rewrite.py --show  # what survived there, from the last report

mutmut (https://mutmut.readthedocs.io) writes the faults, finds the tests that reach each, and runs them in forks of a
process that has already imported everything, so that a fault costs a second or two. A run goes on where the last one
stopped: faults that were noticed are not tried again, unless their function has changed; survivors always are.

The sample is drawn by hashing the seed with each fault's name, so that an edit of one function leaves the rest of the
sample as it is. The result goes to tests/hostile/results/mutants.json and mutants.md. `equivalent.json`, beside this
file, explains the survivors that no test could notice.
"""

from __future__ import annotations

import argparse
import datetime
import difflib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REPORT = Path(__file__).parent / "results" / "mutants.json"
EQUIVALENT = Path(__file__).parent / "equivalent.json"
PACKAGES = ("models", "train", "export", "runtime", "benchmarks")

SHUFFLES = (
    "transposed_convolutions_as_pixel_shuffles",
    "doubling_as_a_pixel_shuffle",
    "few_channels_in_blocks",
    "unknown_sides_take_no_blocks",
    "a_size_that_is_not_known_keeps_its_shuffle",
    "layers_that_share_a_weight",
)
PARITY = (
    "a_proof_goes_through_every_batch_size_and_names_the_worst_input",
    "a_proof_with_pictures_of_several_sizes",
    "engines_that_refuse_and_engines_that_fail",
    "an_artifact_that_is_not_written_is_explained",
)
AVERAGES = (
    "the_average_follows",
    "the_decay_of_the_average_rises_over_the_first_steps",
    "the_random_numbers_of_a_step_are_its_own",
)

RECIPES = "models/test_definitions.py"
LATENT = (
    "wgan_signs_and_clipping",
    "the_generator_follows_a_whole_round_of_the_critic",
    "one_pass_of_the_fakes_serves_both_networks",
    "the_gradient_penalty_is_each_pictures_own",
    "spectral_norm_makes_the_norm_one",
)
WGAN = (
    "wgan_shapes",
    "wgan_signs_and_clipping",
    "the_generator_follows_a_whole_round_of_the_critic",
    "the_longer_warm_up",
)


def chosen(file: str, names: Iterable[str]) -> tuple[str, ...]:
    """Some tests of a file."""
    return tuple(f"{file}::test_{name}" for name in names)


TESTS = {
    "runtime/fidelity.py": ("runtime/test_fidelity.py",),
    "runtime/latents.py": ("runtime/test_latents.py", "runtime/test_conditions.py"),
    "runtime/manifest.py": ("runtime/test_manifest.py", "runtime/test_engine_file.py"),
    "runtime/onnx_file.py": ("runtime/test_onnx_file.py", "runtime/test_manifest.py"),
    "runtime/pictures/images.py": ("runtime/pictures/test_images.py",),
    "runtime/pictures/tiles.py": ("runtime/pictures/test_tiles.py",),
    "export/rewrite.py": ("export/test_rewrite.py", *chosen("export/test_quantize.py", SHUFFLES)),
    "export/precision.py": ("export/test_precision.py", "export/test_quantize.py"),
    "export/quantize.py": ("export/test_quantize.py", "export/test_calibration.py"),
    "export/parity.py": chosen("export/test_parity.py", PARITY),
    "train/trainer.py": (
        "train/test_trainer.py",
        *chosen("train/test_loop.py", AVERAGES),
        "train/test_rates.py",
        "train/test_arithmetic.py::test_ways_change_the_steps_that_follow",
        "train/test_autocast.py",
    ),
    "train/checkpoint.py": ("train/test_checkpoint.py", "train/test_loop.py::test_any_state_survives_a_checkpoint"),
    "train/data.py": ("train/test_data.py",),
    "models/objectives.py": ("models/test_objectives.py",),
    "models/augment.py": ("models/test_augment.py",),
    "models/weights.py": ("models/test_weights.py", "models/test_dcgan.py"),
    "models/noise.py": ("models/test_variants.py",),
    "models/latent.py": (RECIPES, "models/test_dcgan.py", *chosen("models/test_variants.py", LATENT)),
    "models/dcgan.py": (RECIPES, "models/test_dcgan.py", "-k", "dcgan or ramp or labels"),
    "models/mlp.py": (RECIPES, "models/test_variants.py::test_mlp_shapes", "-k", "mlp or smoothed or conditional"),
    "models/wgan.py": (RECIPES, *chosen("models/test_variants.py", WGAN), "-k", "wgan or critic or warm_up"),
    "models/cyclegan.py": (
        RECIPES,
        *chosen("models/test_variants.py", ("the_replay_buffer", "cyclegan_shapes")),
        *("-k", "cyclegan or replay"),
    ),
    "models/pix2pix.py": (RECIPES, "models/test_variants.py::test_pix2pix_shapes", "-k", "pix2pix"),
    "models/patchgan.py": (RECIPES,),
    "models/translation.py": (RECIPES,),
    "models/optimizers.py": (RECIPES,),
    "models/variant.py": (RECIPES, "models/test_variants.py::test_every_condition_names_a_field_and_a_value_it_takes"),
    "models/residual.py": ("models/test_residual.py", RECIPES),
    "models/upsample.py": ("models/test_upsample.py", RECIPES),
    "models/student.py": ("models/test_student.py",),
    "models/circles.py": (RECIPES,),
    "models/digit.py": (RECIPES,),
}
"""The files in which faults are planted, and the tests that have to notice them: files, single tests, pytest's `-k`."""

SETTINGS: dict[str, Any] = {
    "source_paths": ["src"],
    "pytest_add_cli_args": ["-p", "no:xdist", "-p", "no:cacheprovider"],
    "do_not_mutate_patterns": [r"^\s*raise\b", r"^\s*assert\b"],
    "use_git_change_detection": False,
    "process_isolation": "forkserver",  # A fork of a process in which an engine has run would hang.
    "timeout_constant": 3.0,
    "timeout_multiplier": 10.0,
}
SAME = (
    ("zip's strict= only guards against a mistake of ours", r"strict=(True|False|None)", ""),
    ("codecs have the same name in capitals", r'"(utf-8|UTF-8|ascii|ASCII)"', ""),
    ("astype(None) is astype(float64)", r"astype\(np\.float64\)", "astype(None)"),
)
"""Changes that cannot matter: why, a pattern, and what to put in its place on both sides to make them equal."""
WORDING = "only the wording of a text for people"
OUTCOMES = {0: "survived", 5: "survived", 33: "survived", 36: "timed out", 24: "timed out", -24: "timed out"}
"""What mutmut's exit codes mean; 33 is a fault that no test reaches. With any other, a test failed or crashed."""


@dataclass(frozen=True)
class Fault:
    """One planted change."""

    name: str
    """As mutmut calls it, without the module."""
    was: str
    """The changed lines as they are."""
    becomes: str
    """The same with the fault."""

    @property
    def function(self) -> str:
        """Where it is: a function, or a method with its class."""
        return self.name.partition("__mutmut_")[0].removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")

    @property
    def equal_because(self) -> str:
        """Why it is not worth planting; empty where it is."""
        for reason, pattern, replacement in SAME:
            if _plain(re.sub(pattern, replacement, self.was)) == _plain(re.sub(pattern, replacement, self.becomes)):
                return reason
        before, after = (re.findall(r'"[^"]*"', text) for text in (self.was, self.becomes))
        changed = [text for text in before if text not in after]
        only_text = self.was.lower() == self.becomes.replace("XX", "").lower()
        return WORDING if only_text and changed and all(" " in text.strip('" ') for text in changed) else ""


def _plain(text: str) -> str:
    """Code without blanks and the commas before a bracket, which a removed argument leaves behind."""
    return re.sub(r",(?=[)\]])", "", re.sub(r"\s", "", text)).replace(",,", ",")


def stage(file: str) -> Path:
    """Lay the tree out as mutmut needs it: it names a module by its path, and ours are mapped by setuptools."""
    folder = ROOT / "build" / "mutants" / file.removesuffix(".py").replace("/", ".")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / "src" / "ganedge" / package, dirs_exist_ok=True)
    shutil.copytree(ROOT / "tests", folder / "tests", dirs_exist_ok=True)
    settings = {
        **SETTINGS,
        "only_mutate": [f"src/ganedge/{file}"],
        "pytest_add_cli_args_test_selection": [f"tests/{test}" if ".py" in test else test for test in TESTS[file]],
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    pytest_part = project[project.index("[tool.pytest.ini_options]") :]
    (folder / "pyproject.toml").write_text("[tool.mutmut]\n" + "\n".join(lines) + "\n\n" + pytest_part, "utf-8")
    (folder / "mutants" / "src").mkdir(parents=True, exist_ok=True)  # Python remembers a path that was not there.
    return folder


def faults_of(folder: Path, file: str) -> list[Fault]:
    """All that mutmut can plant in a file."""
    os.chdir(folder)
    from mutmut.configuration import reset_config
    from mutmut.mutation.file_mutation import mutate_file_contents

    reset_config()
    path = Path("src/ganedge") / file
    mutated = mutate_file_contents(str(path), path.read_text("utf-8"))
    lines, spans = mutated.code.splitlines(), mutated.line_span_by_function_name
    found = []
    for name in mutated.mutant_names:
        original = f"{name.rpartition('_')[0]}_orig"
        sources = [lines[spans[key].start - 1 : spans[key].end] for key in (original, name)]
        changes = [line for line in difflib.ndiff(*sources) if line[0] in "-+" and "__mutmut_" not in line]
        was, becomes = ("\n".join(line[2:].strip() for line in changes if line[0] == sign) for sign in "-+")
        found.append(Fault(name, was, becomes))
    return found


def drawn(file: str, faults: list[Fault], size: int, seed: int) -> list[Fault]:
    """The faults to try: all, or a random sample that does not depend on the other functions of the file."""
    order = sorted(faults, key=lambda fault: hashlib.sha256(f"{seed} {file} {fault.name}".encode()).digest())
    return order[: size or None]


def results(folder: Path, file: str) -> dict[str, str]:
    """What became of each fault, by name; those that were not tried are absent."""
    meta = folder / "mutants" / "src" / "ganedge" / f"{file}.meta"
    codes = json.loads(meta.read_text("utf-8"))["exit_code_by_key"] if meta.exists() else {}
    return {key.rpartition(".")[2]: OUTCOMES.get(code, "killed") for key, code in codes.items() if code is not None}


def run(folder: Path, file: str, faults: list[Fault]) -> None:
    """Let mutmut try these faults, in one process."""
    if not faults:
        return
    environment = {"OMP_NUM_THREADS": "1", "GANEDGE_TEST_QUICK": "1", "PYTHONPATH": str(folder / "mutants" / "src")}
    module = f"ganedge.{file.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *(f"{module}.{f.name}" for f in faults)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, check=False)
    if done.returncode:
        sys.exit(f"mutmut ended with {done.returncode} in {folder}")


def row_of(faults: list[Fault], sample: list[Fault], outcome: dict[str, str], seed: int) -> dict[str, Any]:
    """What to report of a file."""
    counts = Counter(outcome[fault.name] for fault in sample if fault.name in outcome)
    left = [fault for fault in sample if outcome.get(fault.name) == "survived"]
    survivors = [{"function": fault.function, "was": fault.was, "becomes": fault.becomes} for fault in left]
    return {
        "faults": len(faults),
        "tried": counts.total(),
        "killed": counts["killed"],
        "timed out": counts["timed out"],
        "survived": len(left),
        "survivors": survivors,
        "seed": seed,
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
    }


def explain(report: dict[str, Any]) -> None:
    """Enter why survivors cannot matter, as it is known now."""
    known = json.loads(EQUIVALENT.read_text("utf-8"))
    for file, row in report.items():
        reasons = {(each["function"], each["was"], each["becomes"]): each["why"] for each in known.get(file, [])}
        for each in row["survivors"]:
            each["why it cannot matter"] = reasons.get((each["function"], each["was"], each["becomes"]), "")
        row["explained"] = sum(bool(each["why it cannot matter"]) for each in row["survivors"])


def processor() -> str:
    """The processor's name."""
    try:
        return re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"))[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def write(path: Path, report: dict[str, Any]) -> None:
    """Write the report as JSON, and as a table beside it."""
    explain(report)
    path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", "utf-8")
    lines = [
        "# Planted faults",
        "",
        "Written by `make mutants`; tests/hostile/mutants.py says how. Where fewer were tried than there are, they",
        "are a random sample. Why explained survivors cannot matter is in tests/hostile/equivalent.json.",
        "",
        "| file | faults | tried | noticed | timed out | survived | of these explained | seed | date |",
        "|---|" + "---:|" * 8,
    ]
    names = ("faults", "tried", "killed", "timed out", "survived", "explained")
    for file, row in sorted(report.items()):
        lines.append(f"| {file} | {' | '.join(str(row[name]) for name in names)} | {row['seed']} | {row['date']} |")
    total = {name: sum(row[name] for row in report.values()) for name in names}
    lines.append(f"| all | {' | '.join(str(total[name]) for name in names)} | | |")
    processors = sorted({row["processor"] for row in report.values()})
    share = total["survived"] / max(1, total["tried"])
    lines += ["", f"Survived: {share:.1%} of those tried. Processor: {', '.join(processors)}."]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", "utf-8")


def show(report: dict[str, Any], files: list[str]) -> None:
    """Print the survivors that nothing explains."""
    for file in files:
        for each in report.get(file, {}).get("survivors", []):
            if not each["why it cannot matter"]:
                print(f"{file} {each['function']}\n  - {each['was']}\n  + {each['becomes']}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="files or folders; all of TESTS without")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="faults for each file; all without")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--show", action="store_true", help="only print the unexplained survivors of the last report")
    parser.add_argument("--report", type=Path, default=REPORT, help="JSON; the table goes beside it")
    arguments = parser.parse_args()
    files = [file for file in TESTS if file.startswith(tuple(arguments.files) or "")]
    if not files:
        parser.error(f"none of these files is in TESTS: {', '.join(arguments.files)}")
    path = arguments.report.resolve()
    for file in files:
        if not arguments.show:
            folder = stage(file)
            faults = [fault for fault in faults_of(folder, file) if not fault.equal_because]
            sample = drawn(file, faults, arguments.sample, arguments.seed)
            before = results(folder, file)
            run(folder, file, [fault for fault in sample if before.get(fault.name, "survived") == "survived"])
            # What mutmut forgot meanwhile, because other tests are selected or the function has changed.
            now = results(folder, file)
            run(folder, file, [fault for fault in sample if fault.name not in now])
            report = json.loads(path.read_text("utf-8")) if path.exists() else {}
            write(path, {**report, file: row_of(faults, sample, results(folder, file), arguments.seed)})
        show(json.loads(path.read_text("utf-8")), [file])


if __name__ == "__main__":
    main()
