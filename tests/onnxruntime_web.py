"""Get the onnxruntime-web that the browser tests use, as the npm package of the version that ganedge.js takes.

    python tests/onnxruntime_web.py

It is unpacked into build/onnxruntime-web and never committed. Where npm or its registry cannot be reached, it says so,
and the tests in a browser are skipped with that reason.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ganedge.export import to_web
from ganedge.runtime.errors import UsageError

FOLDER = Path(__file__).resolve().parents[1] / "build" / "onnxruntime-web"


def missing() -> str:
    """Why the package cannot be used; empty where it can."""
    try:
        to_web.vendored(FOLDER)
    except UsageError:
        return "onnxruntime-web is not in build/onnxruntime-web: python tests/onnxruntime_web.py gets it from npm"
    return ""


def download() -> None:
    """Download and unpack the package. Raises OSError or CalledProcessError where that fails."""
    name = f"onnxruntime-web@{to_web.runtime()['version']}"
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", name, "--pack-destination", folder]
        subprocess.run(command, check=True, timeout=300, capture_output=True)
        (archive,) = Path(folder).glob("*.tgz")
        wanted = set(to_web.runtime_files())
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as packed:
            for member in packed:
                content = packed.extractfile(member) if Path(member.name).name in wanted else None
                if content is not None:
                    with content, (FOLDER / Path(member.name).name).open("wb") as file:
                        shutil.copyfileobj(content, file)


def main() -> None:
    """Entry point."""
    if not missing():
        return
    try:
        download()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"onnxruntime-web could not be had from npm ({type(error).__name__}): tests in a browser are skipped")
        return
    print(missing() or f"onnxruntime-web {to_web.runtime()['version']} is in {FOLDER}")


if __name__ == "__main__":
    main()
