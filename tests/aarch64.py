"""Run artifacts made on x86-64 as 64-bit ARM code, under user-mode emulation, and write what passed as a table.

    python tests/aarch64.py                  # everything; needs qemu-user-static, mmdebstrap and, once, a network
    python tests/aarch64.py dcgan            # one system; nothing is written
    python tests/aarch64.py --userland       # Debian's arm64 Python and the aarch64 wheels only

Emulation computes what an ARM processor computes; it says nothing about speed. Every artifact is verified as on a
device, with the function of `gan-run verify`, and latents drawn there have to be those of x86-64, bit for bit. All that
is needed lies in build/aarch64; where the userland is there, a small share of this is part of the test suite.
Exits with 1 if something fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "aarch64"
USERLAND, SITE, ARTIFACTS = FOLDER / "rootfs", FOLDER / "site", FOLDER / "artifacts"
TABLE = ROOT / "benchmarks" / "results" / "aarch64.md"
QEMU = "qemu-aarch64-static"
DEBIAN, PYTHON = "bookworm", "3.11"
PACKAGES = ("numpy", "pillow", "ncnn", "typer", "click", "rich", "shellingham", "typing-extensions")
PACKAGES += ("markdown-it-py", "mdurl", "pygments")
TOOLS = (
    "pytest",
    "iniconfig",
    "packaging",
    "pluggy",
    "onnx",
    "protobuf",
    "ml-dtypes",
    "hypothesis",
    "sortedcontainers",
)
"""What the runtime needs, and what its tests need."""
ONNXRUNTIME = "onnxruntime==1.23.2"
"""The newest for Python 3.10, so that of JetPack 6; 1.31.1 crashes at import under qemu 7.2."""
TESTS = ("test_latents.py", "test_fidelity.py", "test_manifest.py", "test_onnx_file.py")
"""The runtime's tests that need neither PyTorch nor minutes there, and depend on the processor."""
LATENTS = (("normal", None), ("normal", 0.7), ("uniform", None), ("uniform", 0.5))
"""Distributions and truncations whose first values are compared."""
PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
from aarch64 import probe
probe(sys.argv[2:])
"""
HEAD = """# Nine presets of seven GANs on 64-bit ARM

Made by `make aarch64`: user-mode emulation ({qemu}, an arm64 userland of Debian {debian}, Python {python}) of the
aarch64 wheels of {versions}. Small networks, trained and exported
on x86-64, verified as on a device: PSNR to the FP32 generator on the inputs stored beside the artifact, dB. Emulation
computes what an ARM processor with FP16 arithmetic computes; it says nothing about speed.

- Verified: {passed} of {total} artifacts.
- Latents: {latents}.
- Tests of the runtime: {tests}.

| system | precision | ONNX Runtime | ncnn |
|---|---|---|---|
"""


def probe(paths: list[str]) -> None:
    """Verify artifacts with the installed engines and print a line of JSON for each; runs on either processor."""
    from ganedge.runtime.errors import GanEdgeError
    from ganedge.runtime.verify import verify

    print(json.dumps({"machine": platform.machine(), "latents": latents()}), flush=True)
    for path in map(Path, paths):
        try:
            found = [(check.engine, check.distance.psnr, check.passed) for check in verify(path)]
        except GanEdgeError as error:
            found = [(f"{type(error).__name__}: {error}", 0.0, False)]
        print(json.dumps({"artifact": path.name, "checks": found}), flush=True)


def latents() -> dict[str, str]:
    """The hash of a hundred thousand float32 latents of each distribution."""
    from ganedge.runtime.latents import LatentStream

    return {
        f"{noise} {truncation or ''}".strip(): hashlib.sha256(
            LatentStream(noise, (100,), 0, truncation).take(1000).tobytes()
        ).hexdigest()
        for noise, truncation in LATENTS
    }


def missing() -> str:
    """Why nothing can be emulated here; empty where it can."""
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed: apt-get install qemu-user-static"
    if not (USERLAND / "usr" / "bin" / f"python{PYTHON}").exists() or not (SITE / "onnxruntime").is_dir():
        return "there is no arm64 userland in build/aarch64: python tests/aarch64.py --userland makes one"
    return ""


def make_userland() -> None:
    """Unpack Debian's arm64 Python, and the aarch64 wheels of the runtime's extras."""
    if not missing():
        return
    for tool, package in ((QEMU, "qemu-user-static"), ("mmdebstrap", "mmdebstrap")):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed: apt-get install {package}")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    libraries = "--include=python3,libstdc++6,zlib1g,libexpat1,libgomp1"
    bootstrap = ["mmdebstrap", "--variant=extract", "--architectures=arm64", libraries, DEBIAN, str(USERLAND)]
    subprocess.run(bootstrap, check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    target = ["--python-version", PYTHON, "--implementation", "cp", "--only-binary=:all:", "--no-deps"]
    for glibc in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux2014"):
        target += ["--platform", f"{glibc}_aarch64"]
    subprocess.run([*pip, "install", *target, "--target", str(SITE), *pins(), ONNXRUNTIME], check=True)
    (SITE / "ganedge").symlink_to(ROOT, target_is_directory=True)


def pins() -> list[str]:
    """The packages in the versions of constraints.txt."""
    from packaging.requirements import Requirement

    lines = (line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line[:1].isalnum())
    known = {}
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": PYTHON}):
            known[requirement.name.lower()] = f"{requirement.name}{requirement.specifier}"
    return [known[name] for name in (*PACKAGES, *TOOLS)]


def emulate(*arguments: str, seconds: float = 1800) -> subprocess.CompletedProcess[str]:
    """Run the arm64 Python."""
    settings = {"PYTHONPATH": SITE, "PYTHONHOME": USERLAND / "usr", "OMP_NUM_THREADS": 1, "GANEDGE_TUNE": 0}
    settings |= {"GANEDGE_STATION": "runtime", "PYTHONDONTWRITEBYTECODE": 1}
    flags = [part for name, value in settings.items() for part in ("-E", f"{name}={value}")]
    python = str(USERLAND / "usr" / "bin" / f"python{PYTHON}")
    command = [QEMU, "-L", str(USERLAND), *flags, python, "-W", "ignore", *arguments]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(command, env=quiet, cwd=ROOT, capture_output=True, text=True, timeout=seconds)


def verified(paths: list[Path]) -> list[dict[str, Any]]:
    """What `probe` tells of artifacts as ARM code: the first line is of the processor and its latents."""
    done = emulate("-c", PROBE, str(Path(__file__).parent), *map(str, paths))
    if done.returncode:
        sys.exit(f"the emulated Python ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def export_all(names: list[str]) -> list[Path]:
    """Export systems on this processor: FP32, FP16 and INT8 for ONNX Runtime, FP32 and FP16 for ncnn."""
    from systems import train_system

    from ganedge.export import export

    paths = []
    for name, precision in product(names, ("fp32", "fp16", "int8")):
        run = train_system(name, FOLDER / "runs")
        spec: dict[str, Any] = {"which": "a2b"} if name.startswith("cyclegan") else {}
        spec |= {"precision": precision, "engine": "onnxruntime" if precision == "int8" else None}
        paths.append(ARTIFACTS / f"{name}-{precision}.onnx")
        if not paths[-1].exists():
            export(run, output=paths[-1], **spec)
        if precision != "int8":
            paths.append(ARTIFACTS / f"{name}-{precision}-ncnn")
            if not paths[-1].exists():
                export(run, format="ncnn", output=paths[-1], **spec)
        print(f"exported: {name} {precision}", flush=True)
    return paths


def cell(results: dict[str, Any], artifact: str) -> str:
    """What was verified of one artifact."""
    if artifact not in results:
        return ""
    return ", ".join(
        ("identical" if psnr is None else f"{psnr:.1f}") + ("" if passed else f" MISSED ({engine})")
        for engine, psnr, passed in results[artifact]
    )


def table(names: list[str], results: dict[str, Any], same: bool, tests: str) -> str:
    """The page that is committed."""
    qemu = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout.split()[2]
    versions = [
        pin.replace("==", " ")
        for pin in (*pins(), ONNXRUNTIME)
        if pin.split("=")[0] in ("numpy", "ncnn", "onnxruntime")
    ]
    passed = sum(all(check[2] for check in checks) for checks in results.values())
    text = HEAD.format(
        qemu=f"qemu {qemu}",
        debian=DEBIAN,
        python=PYTHON,
        versions=", ".join(versions),
        passed=passed,
        total=len(results),
        latents="those of x86-64, bit for bit, normal and uniform, truncated and not"
        if same
        else "NOT those of x86-64",
        tests=tests,
    )
    for name, precision in product(names, ("fp32", "fp16", "int8")):
        first, second = cell(results, f"{name}-{precision}.onnx"), cell(results, f"{name}-{precision}-ncnn")
        text += f"| {name} | {precision} | {first} | {second} |\n"
    return text


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help="all nine by default")
    parser.add_argument("--userland", action="store_true", help="make the userland only")
    arguments = parser.parse_args()
    make_userland()
    if arguments.userland:
        return
    from systems import NINE

    names = arguments.systems or list(NINE)
    paths = export_all(names)

    # Verify every artifact as ARM code, and hold its latents against those of this processor.
    head, *lines = verified(paths)
    results = {line["artifact"]: line["checks"] for line in lines}
    same = head["machine"] == "aarch64" and head["latents"] == latents()
    for name, checks in results.items():
        print(name, *(f"{engine}: {psnr} dB, {'passed' if passed else 'FAILED'}" for engine, psnr, passed in checks))
    print(f"latents are {'' if same else 'NOT '}those of x86-64")

    # Run the runtime's own tests there, and write the table.
    done = emulate("-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/runtime/{name}" for name in TESTS))
    summary = (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1].strip("= ")
    print(done.stdout[-4000:] if done.returncode else summary)
    passed = same and not done.returncode and all(check[2] for checks in results.values() for check in checks)
    if not arguments.systems:
        TABLE.write_text(table(names, results, same, summary.partition(" in ")[0]), "utf-8")
        print(f"written: {TABLE}")
    sys.exit(0 if passed and len(results) == len(paths) else 1)


if __name__ == "__main__":
    main()
