"""Other people's machines: packages that are missing, homes that cannot be written, languages, paths and terminals."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RUN = "from ganedge.runtime.__main__ import main; main()"


def gan_run(*arguments: object, blocked: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """gan-run in a process of its own, some packages hidden."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({blocked.split()!r})); sys.argv[0] = 'gan-run'; "
    command = [sys.executable, "-c", hide + RUN, *map(str, arguments)]
    known = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.run(command, capture_output=True, env={**known, "HOME": "/nonexistent", **environment}, text=True)


def test_a_device_needs_no_torch_and_no_onnx(artifact: Path, tmp_path: Path) -> None:
    blocked = "torch torchvision onnx onnxscript sklearn safetensors lightning_fabric matplotlib rich openvino"
    done = gan_run("sample", artifact, "-n", 2, "-o", tmp_path / "x.png", "--engine", "onnxruntime", blocked=blocked)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (34, 16)


@pytest.mark.parametrize(
    ("blocked", "extra"), [("PIL", "pillow"), ("onnxruntime", "onnxruntime"), ("openvino", "openvino")]
)
def test_what_is_missing_is_named(artifact: Path, tmp_path: Path, blocked: str, extra: str) -> None:
    engine = blocked if blocked != "PIL" else "onnxruntime"
    done = gan_run("sample", artifact, "-o", tmp_path / "x.png", "--engine", engine, blocked=blocked)
    assert done.returncode == 1
    assert f"needs {extra}, which is not installed: pip install" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_engine_at_all(artifact: Path, tmp_path: Path) -> None:
    done = gan_run("sample", artifact, "-o", tmp_path / "x.png", blocked="onnxruntime openvino")
    assert done.returncode == 1
    assert "no engine is installed" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_home_that_cannot_be_written(artifact: Path, tmp_path: Path) -> None:
    assert gan_run("sample", artifact, "-n", 1, "-o", tmp_path / "x.png", HOME="/proc").returncode == 0
    done = gan_run("tune", artifact, "--seconds", 0, HOME="/proc")
    assert done.returncode == 0, "measured all the same"
    assert "cannot write /proc" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("language", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_any_language_and_any_path(artifact: Path, tmp_path: Path, language: str) -> None:
    place = tmp_path / "Bücher und 写真 🖼"
    place.mkdir()
    (place / "ä b.onnx").write_bytes(artifact.read_bytes())
    said = {"LANG": language, "LC_ALL": language, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = gan_run("sample", place / "ä b.onnx", "-n", 1, "-o", place / "ö ü.png", **said)
    assert done.returncode == 0, done.stderr
    assert (place / "ö ü.png").is_file()
    done = gan_run("info", place / "missing ß.onnx", **said)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert gan_run("info", place / "ä b.onnx", **said).returncode == 0


@pytest.mark.parametrize("arguments", [("--help",), ("sample", "--help"), ("translate", "--help"), ("bogus",)])
def test_forty_columns(arguments: tuple[str, ...]) -> None:
    done = gan_run(*arguments, COLUMNS="40", TERM="dumb", NO_COLOR="1")
    assert done.returncode == (2 if "bogus" in arguments else 0)
    assert "Traceback" not in done.stderr
    if "bogus" not in arguments:
        assert max(map(len, done.stdout.splitlines())) <= 40


def in_terminal(arguments: list[str], seconds: float, stop: bool = False) -> tuple[int, str]:
    """Run gan-run on a terminal of 40 columns; press Ctrl-C after some output where `stop` says so."""
    import fcntl
    import struct
    import termios

    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    code = f"import sys; sys.argv[0] = 'gan-run'; {RUN}"
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=other,
        stderr=other,
        stdin=other,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # A test in the background has it ignored.
    )
    os.close(other)
    said, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        ready, _, _ = select.select([main], [], [], 0.1)
        if ready:
            try:
                said += os.read(main, 65536)
            except OSError:  # Nobody holds the other end any more.
                break
            if stop and said:
                os.killpg(child.pid, signal.SIGINT)
                stop = False
        elif child.poll() is not None:
            break
    child.kill() if child.poll() is None else None
    os.close(main)
    return child.wait(), said.decode(errors="replace")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(4):
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(folder / f"{index}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def test_a_bar_on_a_terminal_and_lines_elsewhere(many: Path, tmp_path: Path, inverter: Path) -> None:
    code, said = in_terminal(["translate", str(inverter), str(many), "-o", str(tmp_path / "out")], 120)
    assert code == 3, said
    assert "\x1b[" in said
    assert "5/5" in said
    assert "Traceback" not in said
    done = gan_run("translate", inverter, many, "-o", tmp_path / "out2")
    assert done.returncode == 3
    assert "\x1b" not in done.stderr
    assert "4 written, 1 could not be done" in done.stderr


def test_ctrl_c_is_one_line(many: Path, tmp_path: Path, inverter: Path) -> None:
    for index in range(400):
        (many / f"more{index}.png").write_bytes((many / "1.png").read_bytes())
    code, said = in_terminal(["translate", str(inverter), str(many), "-o", str(tmp_path / "out")], 120, stop=True)
    assert code == 130, said
    assert "gan-run: interrupted" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "out").rglob(".*.part"))


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("gan-train", "typer"),
        ("gan-train", "torch"),
        ("gan-export", "typer"),
        ("gan-run", "numpy"),
        ("gan-bench", "typer"),
    ],
)
def test_ctrl_c_while_packages_are_imported_is_one_line(tmp_path: Path, name: str, package: str) -> None:
    """The signal comes in the midst of an import, from a package that stands in for the real one."""
    (tmp_path / f"{package}.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"
    )
    begin = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = [{name!r}, '--help']; "
    code = f"{begin}from ganedge.runtime.cli import start; start.{name.replace('-', '_')}()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # A test in the background has it ignored.
    )
    assert (done.returncode, done.stderr) == (130, f"{name}: interrupted\n")


@pytest.mark.parametrize("thread", ["", "import threading, time; threading.Thread(target=late).start()"])
def test_a_command_ends_without_losing_output(tmp_path: Path, thread: str) -> None:
    (tmp_path / "command.py").write_text(
        "import atexit, sys, time\n\n\ndef late():\n    time.sleep(0.3)\n    print('thread', end=' ')\n\n\n"
        f"def main():\n    atexit.register(print, 'end')\n    {thread or 'pass'}\n    print('begin', end=' ')\n"
        "    sys.exit(3)\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from ganedge.runtime.cli import start; "
    done = subprocess.run([sys.executable, "-c", f"{code}start._start('x', 'command')"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"begin {'thread ' * bool(thread)}end\n", "")


def test_the_commands_begin_where_ctrl_c_is_seen() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    for name in ("train", "export", "run", "bench"):
        assert f'gan-{name} = "ganedge.runtime.cli.start:gan_{name}"' in text


def test_streams_that_are_closed(artifact: Path) -> None:
    for closed in ("<&-", ">&-", "2>&-"):
        command = f'exec "$0" -m ganedge.runtime info "$1" {closed}'
        done = subprocess.run(["/bin/sh", "-c", command, sys.executable, artifact], capture_output=True, text=True)
        assert done.returncode == 0, (closed, done.stderr)
