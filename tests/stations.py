"""Run the tests of each station with nothing but that station's extras installed, in an environment of its own.

    python tests/stations.py                   # all of them: PyTorch is installed twice, about 15 GB
    python tests/stations.py runtime           # one

Test files that import another station's packages are skipped with that reason; everything else has to pass.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {
    "runtime": "cpu,openvino,video,serve,tiles",
    "models": "train",
    "train": "train",
    "export": "export,cpu",
    "benchmarks": "cpu,report",
}
"""By station: what its users install."""
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "httpx", "onnx")
"""What the tests themselves need; they write small graphs with onnx."""


def run(station: str) -> int:
    """Install one station and run its tests; pytest's exit code."""
    with tempfile.TemporaryDirectory(prefix="station-") as folder:
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "--editable", f"{ROOT}[{EXTRAS[station]}]", *TOOLS], check=True)
        command = [python, "-m", "pytest", "-q", "--numprocesses", "auto", "--maxprocesses", "4", f"tests/{station}"]
        path = f"{Path(folder) / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
        return subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PATH": path, "GANEDGE_STATION": station}
        ).returncode


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stations", nargs="*", default=list(EXTRAS), metavar="STATION", help=", ".join(EXTRAS))
    failed = [station for station in parser.parse_args().stations if run(station) != 0]
    sys.exit(f"failed with their own extras alone: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
