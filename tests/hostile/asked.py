"""Damaged requests to `gan-run serve`: every byte that a stranger can send it.

    python tests/hostile/asked.py --cases 3000 --report tests/hostile/results/asked.json

Two servers are attacked, one that draws and one that translates, or those of the artifacts that are given. Each case
damages one sound request (its head, its JSON, its form, its picture) in a way that its number decides and sends it on
loopback. The answer must be a status below 500, or none where the request is cut off; the server must live on, say
nothing on its terminal, grow by no more than a few MiB, and answer a sound request as before.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import mutate
from soak import Served, held_by, serving

from ganedge.runtime.manifest import read_artifact

WAIT_S = 10.0
"""Seconds within which each request must be answered, or its connection closed."""
PATIENCE_S = 0.5
"""Seconds without an answer after which the sender of a damaged request hangs up: it may be incomplete."""
GROWTH_MIB = 64.0
"""Memory that a server may take while it is attacked, beyond what it held after its first answers."""
SIDES = ((5, 3), (33, 17))
"""Heights and widths of the pictures that are sent."""


def request(path: str, body: bytes, *headers: str) -> bytes:
    """One sound request that asks to close the connection."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def sound(takes_pictures: bool) -> list[tuple[bytes, bytes, str]]:
    """Head and body of sound requests, and what they are called."""
    if not takes_pictures:
        bodies = {
            "/sample": {"n": 3, "seed": 5, "truncation": 0.9, "columns": 2, "label": None},
            "/interpolate": {"seed_a": 1, "seed_b": 2, "steps": 3},
        }
        whole = [(request(path, json.dumps(said).encode()), f"JSON to {path}") for path, said in bodies.items()]
        accept = ("application/zip", "application/x-npy", "image/*;q=0.5, application/zip;q=0.4")
        whole += [(request("/sample", b"{}", f"Accept: {form}"), "new pictures in another form") for form in accept]
        whole += [(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "metrics")]
    else:
        pictures = [_picture(side, form) for side in SIDES for form in ("PNG", "JPEG", "GIF", "TIFF", "WEBP")]
        whole = [(request("/translate", picture), "a picture") for picture in pictures]
        forms = [_form(picture) for picture in pictures[:3]]
        whole += [
            (request("/translate", form, "Content-Type: multipart/form-data; boundary=xyz"), "a form") for form in forms
        ]
    return [(*_parted(data), name) for data, name in whole]


def damaged(head: bytes, body: bytes, rng: random.Random) -> bytes:
    """A request damaged in its head, in its body with a length that fits, or anywhere."""
    where = rng.random()
    if where < 0.2 or not body:
        return mutate.mutate(head, rng)[0] + body
    if where < 0.3:
        return mutate.mutate(head + body, rng)[0]
    more = (mutate.odd_json,) if body.startswith(b"{") and len(body) > 2 else ()
    changed, _ = mutate.mutate(body, rng, *more)
    return head.replace(b"Content-Length: %d\r" % len(body), b"Content-Length: %d\r" % len(changed)) + changed


def ask(port: int, data: bytes, patience: float = WAIT_S) -> bytes:
    """Send raw bytes, hang up where they end before the request does, and give all that comes back."""
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as line:
        try:
            line.sendall(data)
            if not _complete(data):
                line.shutdown(socket.SHUT_WR)
            while part := _received(line):
                said += part
        except (ConnectionResetError, BrokenPipeError):  # It has heard enough.
            return said
    return said


def _complete(data: bytes) -> bool:
    """Whether a request holds as much as it says."""
    head, end, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= (int(length[1]) if length else 0)


def _received(line: socket.socket) -> bytes:
    """The next part of an answer. Where none comes, the server may be waiting for more: hang up, and wait on."""
    try:
        return line.recv(65536)
    except TimeoutError:
        line.settimeout(WAIT_S)
        line.shutdown(socket.SHUT_WR)
        return line.recv(65536)


def complaint(answer: bytes) -> str:
    """What is wrong with an answer; empty where nothing is."""
    if not answer:
        return ""
    first = answer.partition(b"\r\n")[0].split()
    if len(first) < 2 or not first[0].startswith(b"HTTP/1.") or not first[1].isdigit():
        return f"no answer: {answer[:80]!r}"
    return f"status {first[1].decode()}: {answer[-200:]!r}" if first[1] >= b"500" else ""


def attack(
    served: Served, cases: int, seed: int, ends: Counter[str], show: Callable[[str], None]
) -> tuple[list[str], float]:
    """Send damaged requests to one server; give what was wrong, and its growth in MiB."""
    kinds = sound(served.pictures)
    healthy = [b"".join(part) for *part, _ in kinds[:2]]  # Others hold the time.
    before = [_settled(ask(served.port, data)) for data in healthy]
    begin = held_by(served.process.pid)[0]
    found = []
    for number in range(cases):
        rng = random.Random(f"{seed} {served.pictures} {number}")
        head, body, name = kinds[rng.randrange(len(kinds))]
        try:
            answer = ask(served.port, damaged(head, body, rng), PATIENCE_S)
            wrong = complaint(answer)
            ends[answer[9:12].decode("latin-1") or "closed"] += 1
        except TimeoutError:
            wrong = f"no end within {WAIT_S:g} s"
        if not wrong and number % 50 == 49 and [_settled(ask(served.port, data)) for data in healthy] != before:
            wrong = "sound requests are answered otherwise than before"
        if served.process.poll() is not None:
            wrong = f"the server ended with {served.process.returncode}"
        if wrong:
            found.append(f"{name}, {number}: {wrong}")
            show(found[-1])
        if served.process.poll() is not None:
            break
    return found, held_by(served.process.pid)[0] - begin if served.process.poll() is None else 0.0


def campaign(paths: Sequence[Path], cases: int, seed: int, show: Callable[[str], None]) -> dict[str, object]:
    """Attack a server of each artifact, and give the report."""
    begin = time.monotonic()
    ends: Counter[str] = Counter()
    found: list[str] = []
    growth = 0.0
    for path in paths:
        pictures = read_artifact(path)[0].interface.noise is None
        with serving(path, "onnxruntime", pictures) as served:
            wrong, grown = attack(served, cases // len(paths), seed, ends, show)
        growth = max(growth, grown)
        found += wrong + served.wrong  # The latter: what it said on its terminal.
    if growth > GROWTH_MIB:
        found.append(f"a server grew by {growth:.0f} MiB")
    return {
        "cases": sum(ends.values()),
        "answers": dict(sorted(ends.items())),
        "grown_mib": round(growth),
        "seconds": round(time.monotonic() - begin),
        "findings": found,
    }


def _picture(side: tuple[int, int], form: str) -> bytes:
    import numpy as np
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*side, 3), np.uint8)).save(stream, form)
    return stream.getvalue()


def _form(picture: bytes) -> bytes:
    head = (
        b'--xyz\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    )
    return head + picture + b"\r\n--xyz--\r\n"


def _specimens(folder: Path) -> list[Path]:
    """A generator that draws and one that translates."""
    import guarded
    import material

    guarded.preload()
    material.make(folder)
    return [folder / "generator.onnx", folder / "translator.onnx"]


def _parted(data: bytes) -> tuple[bytes, bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


def _settled(answer: bytes) -> tuple[bytes, bytes]:
    """Status and body of an answer, without its headers, of which the date changes."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body


def main() -> None:
    """Attack, and exit with 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", type=Path, nargs="*")
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="write what was done here, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        artifacts = given.artifacts or _specimens(Path(place) / "specimens")
        report = campaign(artifacts, given.cases, given.seed, lambda line: print(line, flush=True))
    if given.report:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"{report['cases']} requests in {report['seconds']} s, {len(report['findings'])} findings")  # type: ignore[arg-type]
    sys.exit(bool(report["findings"]))


if __name__ == "__main__":
    main()
