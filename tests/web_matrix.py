"""Export every system for the browser in FP32, FP16 and INT8, and write what Chromium proved as a table.

    python tests/web_matrix.py                  # all: some minutes
    python tests/web_matrix.py dcgan stargan    # some; nothing is written

The systems are small ones after a few steps: a matrix of operators and precisions, not of quality. Every one goes
through the real export, so both engines of onnxruntime-web see the real inputs of its proof. Exits with 1 if one
misses its gate.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import product
from pathlib import Path

import lavapipe
import onnxruntime_web
from systems import NINE, train_student, train_system

from ganedge.export import export
from ganedge.runtime.engines import browser
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.web_folder import WebFolder, read_web_folder

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benchmarks" / "results" / "web.md"
SYSTEMS = (*NINE, "stargan", "augmented-cyclegan", "student")
PRECISIONS = ("fp32", "fp16", "int8")
HEAD = """# Every system in a browser

Made by `make web-matrix` with {engine}, headless, on x86-64 without a GPU. Small networks after a
few steps, each compared with its FP32 generator on all inputs of its export's proof: PSNR of the worst input, dB, in
WASM and in WebGPU on {gpu}. All passed their gates ({gates}) unless a row
says so. SwiftShader, Chromium's own software GPU, has no 16-bit floats; with Mesa's lavapipe in its place
(`tests/lavapipe.py`) FP16 is proven too. CycleGANs are their a2b; `student` is that of gan-compress, taught by
cyclegan-resnet.

| system | precision | WASM | WebGPU |
|---|---|---|---|
"""


def prove(name: str, precision: str, folder: Path) -> WebFolder:
    """Export one system and return what was proven of it. Raises GanEdgeError where it misses its gate."""
    run = train_student(folder) if name == "student" else train_system(name, folder)
    which = "a2b" if "cyclegan" in name else None
    target = "onnxruntime" if precision == "int8" else None
    output = folder / f"{name}-{precision}-web"
    path = export(
        run, which=which, precision=precision, engine=target, format="web", vendor=onnxruntime_web.FOLDER, output=output
    ).path
    return read_web_folder(path)


def cell(about: WebFolder, provider: str) -> str:
    """What was proven in one engine."""
    proof = next((proof for proof in about.parity if proof.engine.split()[2] == provider), None)
    if proof is None:
        return "not provable here" if provider in about.untested else "not run"
    figure = "identical" if proof.psnr is None else f"{proof.psnr:.1f}"
    return figure if proof.passed else f"{figure}, missed"


def table(rows: list[str], folders: list[WebFolder], gpu: str) -> str:
    """The page that is committed."""
    proofs = [proof for about in folders for proof in about.parity]
    name, version, _, chromium = proofs[0].engine.replace(")", "").split(" ", 3)
    gates = ", ".join(dict.fromkeys(proof.tolerance for proof in proofs))
    head = HEAD.format(engine=f"{name} {version} in {chromium.removeprefix('(')}", gates=gates, gpu=gpu)
    return head + "\n".join(rows) + "\n"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=", ".join(SYSTEMS))
    chosen = parser.parse_args().systems
    lacking = browser.missing() or onnxruntime_web.missing()
    if lacking:
        sys.exit(f"nothing to prove with: {lacking}")
    gpu = lavapipe.use()
    print(f"WebGPU computes in {gpu}", flush=True)
    rows: list[str] = []
    failed: list[str] = []
    folders: list[WebFolder] = []
    with tempfile.TemporaryDirectory(prefix="web-matrix-") as folder:
        for name, precision in product(chosen or SYSTEMS, PRECISIONS):
            try:
                about = prove(name, precision, Path(folder))
            except GanEdgeError as error:
                failed.append(f"{name} {precision}: {error}")
                rows.append(f"| {name} | {precision} | missed | missed |")
            else:
                folders.append(about)
                rows.append(f"| {name} | {precision} | {cell(about, 'wasm')} | {cell(about, 'webgpu')} |")
                failed += [
                    f"{name} {precision}: {engine} missed its gate or did not run it" for engine in about.refused
                ]
            print(rows[-1], flush=True)
    print(*failed, sep="\n")
    if not chosen and folders:
        TABLE.write_text(table(rows, folders, gpu), "utf-8")
        print(f"written: {TABLE}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
