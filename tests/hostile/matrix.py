"""What a device installs, on every Python that is here: oldest and newest dependencies, then a first picture.

    python tests/hostile/matrix.py --report tests/hostile/results/matrix.json

A cell is a Python and its dependencies at one end of their bounds. It works when the package installs into a fresh
environment without torch, `gan-run doctor --selftest` makes a picture and an artifact is sampled. Pythons that are not
here are not run: the code is checked against their grammar, as far as the newest interpreter here knows it, and said
to be `checked` only. The heavy extras, and the light installation for 64-bit ARM, are `resolved` only: uv finds a
wheel for each package of a consistent set, and none is installed.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
BOUNDS = ("oldest", "newest")
STATIONS = ("runtime", "models", "train", "export", "benchmarks")
RESOLVED = {
    "every extra but gpu, trt and rtx": (
        "x86_64-manylinux_2_28",
        ("train", "export", "cpu", "openvino", "fid", "sr", "video", "serve", "report", "dev"),
    ),
    "cpu, 64-bit ARM": ("aarch64-manylinux_2_28", ("cpu",)),
}
"""What is resolved without being installed, for which platform; NVIDIA's packages are no wheels on the public index."""
LIMIT_S = 900
"""Seconds for one installation."""


def interpreter(version: str) -> str | None:
    """The interpreter of a version: on the path, or among pyenv's."""
    found = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    return str(found[-1]) if found else shutil.which(f"python{version}")


def requirements() -> list[str]:
    """What the light installation needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["cpu"]]


def install(pip: str, bound: str) -> str:
    """Install the dependencies at one end of their bounds; give what could not be had there."""
    command = [pip, "install", "-q", "--disable-pip-version-check", "--only-binary=:all:"]
    if bound == "newest":
        subprocess.run([*command, *requirements()], check=True, capture_output=True, timeout=LIMIT_S)
        return ""
    newer = []
    for text in requirements():
        oldest = re.sub(r">=([0-9.]+).*", r"==\1.*", text)
        if subprocess.run([*command, oldest], capture_output=True, timeout=LIMIT_S).returncode:
            newer.append(oldest)
            subprocess.run([*command, text], check=True, capture_output=True, timeout=LIMIT_S)
    return f"no wheel for this Python, so newer: {', '.join(newer)}" if newer else ""


def installed(version: str, bound: str, artifact: Path, place: Path) -> dict[str, str]:
    """One cell, run for real."""
    cell = {"python": version, "dependencies": bound}
    python = interpreter(version)
    if python is None:
        return {**cell, **checked(version)}
    home = place / f"{version}-{bound}"
    bin_folder = home / "bin"
    steps = [
        [str(bin_folder / "pip"), "install", "-q", "--disable-pip-version-check", "--no-deps", str(place / "source")],
        [str(bin_folder / "gan-run"), "doctor", "--selftest", "-o", str(home / "first.png")],
        [str(bin_folder / "gan-run"), "sample", str(artifact), "-n", "4", "-o", str(home / "grid.png")],
    ]
    try:
        must([python, "-m", "venv", str(home)])
        newer = install(str(bin_folder / "pip"), bound)
        any(map(must, steps))
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        return {**cell, "end": "fails", "why": f"{' '.join(map(str, error.cmd[:3]))}: {reason[:300]}"}
    return {**cell, "end": "works", "why": newer}


def resolved(version: str, what: str) -> dict[str, str]:
    """Whether every package of some extras has a wheel for a Python, all fitting together; nothing is installed."""
    platform, extras = RESOLVED[what]
    cell = {"python": version, "dependencies": what}
    uv = shutil.which("uv")
    if uv is None:
        return {**cell, "end": "left out", "why": "needs uv: pip install uv"}
    command = [
        uv,
        "pip",
        "compile",
        str(ROOT / "pyproject.toml"),
        "--quiet",
        "--no-header",
        "--no-annotate",
        "--no-build",
    ]
    command += ["--python-version", version, "--python-platform", platform, "--no-cache"]
    command += [part for extra in extras for part in ("--extra", extra)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        return {**cell, "end": "fails", "why": " ".join(done.stderr.split())[:300]}
    pins = [line for line in done.stdout.splitlines() if "==" in line]
    named = [pin for pin in pins if pin.partition("==")[0] in ("torch", "onnxruntime", "numpy")]
    return {**cell, "end": "resolved", "why": f"{len(pins)} wheels, among them {', '.join(named)}"}


def must(step: list[str]) -> None:
    """Run a step that may not fail."""
    subprocess.run(step, check=True, capture_output=True, timeout=LIMIT_S)


def checked(version: str) -> dict[str, str]:
    """The grammar alone, for a Python that is not here."""
    feature = (int(version.split(".")[0]), int(version.split(".")[1]))
    files = [path for station in STATIONS for path in (ROOT / station).rglob("*.py")]
    try:
        for path in files:
            ast.parse(path.read_text("utf-8"), str(path.relative_to(ROOT)), feature_version=feature)
    except SyntaxError as error:
        return {"end": "fails", "why": str(error)}
    return {"end": "checked", "why": "no interpreter here: grammar only"}


def main() -> None:
    """Run every cell, and exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--only", help="one Python version")
    parser.add_argument("--report", type=Path, help="write what was done here, as JSON")
    given = parser.parse_args()
    cells = []
    with tempfile.TemporaryDirectory() as place:
        ignored = shutil.ignore_patterns(".*", "*.egg-info", "build", "demo", "tests", "__pycache__")
        shutil.copytree(ROOT, Path(place) / "source", ignore=ignored)
        for version in [given.only] if given.only else VERSIONS:
            for bound in BOUNDS:
                cells.append(installed(version, bound, given.artifact.resolve(), Path(place)))
                print(json.dumps(cells[-1]), flush=True)
            for what in RESOLVED:
                cells.append(resolved(version, what))
                print(json.dumps(cells[-1]), flush=True)
    found = [cell for cell in cells if cell["end"] == "fails"]
    if given.report:
        given.report.write_text(json.dumps({"cells": cells, "findings": found}, indent=1) + "\n", "utf-8")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
