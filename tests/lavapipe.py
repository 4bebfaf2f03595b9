"""A copy of Chromium whose WebGPU computes in Mesa's lavapipe, which has 16-bit floats where SwiftShader has none.

    python tests/lavapipe.py          # makes it and prints its path, for GANEDGE_CHROMIUM; or says what is missing

It needs Debian's chromium, mesa-vulkan-drivers of Mesa 25 or newer (with 22.3, that of Debian 12, Chromium refuses it;
its backports have 25.0) and a C compiler. The copy is hard links where the file system takes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ganedge.runtime.engines import browser

FOLDER = Path(__file__).resolve().parents[1] / "build" / "chromium-lavapipe"
SOURCE = Path(__file__).with_name("lavapipe.c")
LIBRARY, DRIVER = "libvk_swiftshader.so", "vk_swiftshader_icd.json"
INSTALLED = Path("/usr/lib/chromium")
"""Where Debian puts Chromium's binary and what lies beside it; `chromium` in the path is a script."""


OLDEST = 25
"""Mesa's oldest version that was seen to work."""


def drivers() -> list[Path]:
    """Lavapipe's library, where it is installed."""
    return sorted(Path("/usr/lib").glob("*/libvulkan_lvp.so"))


def version() -> str:
    """Mesa's version, such as 25.0.7; empty where its library does not say."""
    match = re.search(rb"Mesa (\d+\.\d+\.\d+)", drivers()[0].read_bytes())
    return match[1].decode() if match else ""


def missing() -> str:
    """What is missing to make the copy; empty where nothing is."""
    if not (INSTALLED / LIBRARY).is_file():
        return f"there is no Chromium with {LIBRARY} in {INSTALLED}"
    if not drivers():
        return "lavapipe is not installed (mesa-vulkan-drivers)"
    if int(version().partition(".")[0] or 0) < OLDEST:
        return f"lavapipe is of Mesa {version() or 'of no known version'}: Chromium takes that of {OLDEST} or newer"
    return "" if _compiler() else "there is no C compiler (cc)"


def _compiler() -> str:
    return shutil.which("cc") or ""


def make() -> Path:
    """Make the copy, and return the path of its binary."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        shutil.copytree(INSTALLED, FOLDER, copy_function=os.link)
    except (OSError, shutil.Error):
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(INSTALLED, FOLDER)

    # ANGLE, which draws the page, keeps SwiftShader: it reads the driver's description, where WebGPU opens the library.
    driver = json.loads((INSTALLED / DRIVER).read_text("utf-8"))
    driver["ICD"]["library_path"] = str(INSTALLED / LIBRARY)
    for name in (DRIVER, LIBRARY):
        (FOLDER / name).unlink()
    (FOLDER / DRIVER).write_text(json.dumps(driver), "utf-8")
    lavapipe = f'-DLAVAPIPE="{drivers()[0]}"'
    subprocess.run(
        [_compiler(), "-shared", "-fPIC", "-O1", lavapipe, "-o", FOLDER / LIBRARY, SOURCE, "-ldl"], check=True
    )
    return FOLDER / "chromium"


def use() -> str:
    """Let the browser engine take the copy if it can be made; returns what WebGPU computes in then."""
    if missing():
        return "SwiftShader"
    os.environ[browser.CHROMIUM] = str(make())
    return f"lavapipe of Mesa {version()}"


if __name__ == "__main__":
    sys.exit(missing()) if missing() else print(make())
