"""A long life: generators that work without end, served over HTTP and called, and others loaded again and again.

    python tests/hostile/soak.py generator.onnx --seconds 3600 --loads 500 --report tests/hostile/results/soak.json

Each artifact is called from several threads of this process and asked for by several clients of a `gan-run serve` of
its own, both for the whole time: with batches and sizes that change, requests that are wrong or too large, and clients
that go away in between. Memory and descriptors must not grow once everything was used once: they are read in quarters,
and the last quarter may not hold more than the second did. Each answer must have the status that it should, and the
same request the same picture from the first minute to the last. `--share 0.2` rests four fifths of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import hashlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ganedge.runtime import Generator, load

SLACK_MIB = 8.0
"""Growth from the second to the last quarter that allocators may show."""
CLIENTS = 4
"""Connections at once to each server."""
SIZES = ((24, 32), (65, 33), (120, 160), (7, 200))
"""Heights and widths of pictures that are translated."""
Held = Callable[[], tuple[float, int]]
"""Reads what a process holds: memory in MiB, descriptors."""


def held_here() -> tuple[float, int]:
    """What this process holds, after everything that can be given back was."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return held_by(os.getpid())


def held_by(process: int) -> tuple[float, int]:
    """Memory of a process in MiB, and its open files, sockets and pipes."""
    pages = int(Path(f"/proc/{process}/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208


def watched(
    act: Callable[[], None], more: Callable[[int], bool], holders: Mapping[str, Held], readings: int = 40
) -> dict[str, dict[str, float]]:
    """Do something again and again, and say how much each holder held in the quarters.

    Of memory the most in a quarter counts, of descriptors the least: a connection that is just being closed is no leak,
    and what leaks is there in every reading.
    """
    read: dict[str, list[tuple[float, int]]] = {name: [] for name in holders}
    count, every = 0, 1
    while more(count):
        act()
        count += 1
        if count % every:
            continue
        for name, holder in holders.items():
            read[name].append(holder())
        if all(len(held) > 4 * readings for held in read.values()):  # An hour's readings are no more than a minute's.
            read = {name: held[1::2] for name, held in read.items()}
            every *= 2
    return {name: {"count": count, **_grown(held)} for name, held in read.items()}


def _grown(held: list[tuple[float, int]]) -> dict[str, float]:
    """From the second quarter of the readings to the last."""
    quarter = max(1, len(held) // 4)
    second, last = held[quarter : 2 * quarter] or held, held[-quarter:]
    return {
        "mib": round(max(mib for mib, _ in last), 1),
        "grown_mib": round(max(mib for mib, _ in last) - max(mib for mib, _ in second), 1),
        "grown_descriptors": min(fds for _, fds in last) - min(fds for _, fds in second),
    }


def loading(path: Path, engine: str, times: int) -> dict[str, float]:
    """Load, use and let go, again and again."""

    def act() -> None:
        with load(path, engine, threads=1) as generator:
            use(generator, 2)

    return watched(act, lambda count: count < times, {"this": held_here})["this"]


def use(generator: Generator, n: int) -> None:
    """Draw `n`, or translate a picture whose size depends on `n`."""
    if generator.manifest.interface.noise is not None:
        generator.sample(n, seed=n)
    else:
        height, width = SIZES[n % len(SIZES)]
        generator.translate(np.full((height, width, 3), n, np.uint8))


def at_once(works: Sequence[Callable[[], None]]) -> None:
    """Do all in threads, and raise what one of them raised."""
    failed: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


@dataclass
class Served:
    """One `gan-run serve` and what came of asking it."""

    process: subprocess.Popen[str]
    """The server."""
    port: int
    """On loopback."""
    pictures: bool
    """Whether it takes pictures; otherwise it draws."""
    answers: Counter[str] = field(default_factory=Counter)
    """By status."""
    wrong: list[str] = field(default_factory=list)
    """Answers that should have been others."""
    first: dict[bytes, str] = field(default_factory=dict)
    """Digest of the first answer to each request that must always be answered the same."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Guards what the clients write."""

    def burst(self) -> None:
        """Let all clients ask at once."""
        at_once([lambda number=number: self._client(number) for number in range(CLIENTS)])  # type: ignore[misc]

    def _client(self, number: int) -> None:
        """One connection: good requests, wrong ones, and every fourth client goes away before its last answer."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(line):
            for path, body in self._good(number):
                self._ask(line, "POST", path, body, (200, 429), same=True)
            for path in ("/health", "/metrics", "/about", "/"):
                self._ask(line, "GET", path, b"", (200,))
            self._ask(line, "GET", "/nothing", b"", (404,))
            self._ask(line, "POST", "/translate" if self.pictures else "/sample", b"no picture", (400,))
        if number == CLIENTS - 1:
            path, body = self._good(number)[0]
            with socket.create_connection(("127.0.0.1", self.port), timeout=60) as gone:
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
                gone.sendall(head.encode() + body[: len(body) // 2])

    def _good(self, number: int) -> list[tuple[str, bytes]]:
        if self.pictures:
            return [("/translate", _png(*size)) for size in SIZES[number:] + SIZES[:number]]
        asked = [("/sample", {"n": n, "seed": n}) for n in (1, 7, 16, 1 + number)]
        asked += [("/interpolate", {"seed_a": number, "seed_b": 9, "steps": 3})]
        return [(path, json.dumps(said).encode()) for path, said in asked]

    def _ask(
        self,
        line: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes,
        expected: tuple[int, ...],
        same: bool = False,
    ) -> None:
        line.request(method, path, body or None)
        answer = line.getresponse()
        digest = hashlib.sha256(answer.read()).hexdigest()
        with self.lock:
            self.answers[str(answer.status)] += 1
            if answer.status not in expected:
                self.wrong.append(f"{method} {path}: {answer.status}")
            elif same and answer.status == 200 and self.first.setdefault(path.encode() + body, digest) != digest:
                self.wrong.append(f"{method} {path} {body[:60]!r}: another answer than at first")


def _png(height: int, width: int) -> bytes:
    """A picture with some structure."""
    y, x = np.mgrid[0:height, 0:width]
    stream = io.BytesIO()
    Image.fromarray(np.stack([3 * x, 2 * y, x + y], -1).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@contextlib.contextmanager
def serving(path: Path, engine: str, pictures: bool) -> Iterator[Served]:
    """A server process; it must stop in peace when it is told to."""
    command = [sys.executable, "-m", "ganedge.runtime", "serve", str(path), "--port", "0"]
    command += ["--engine", engine, "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            if not said.startswith("http://"):
                raise SystemExit(f"the server did not start: {said.strip()}")
            served = Served(process, int(said.split()[0].rpartition(":")[2]), pictures)
            yield served
            process.terminate()
            rest = process.communicate(timeout=60)[1].strip()
            if process.returncode or not rest.startswith("stopped after") or "\n" in rest:
                served.wrong.append(f"stopped with exit code {process.returncode}: {rest[-300:]}")
        finally:
            process.kill()


def living(
    paths: Sequence[Path], engines: Sequence[str], seconds: float, share: float
) -> tuple[dict[str, dict[str, float]], dict[str, int], list[str]]:
    """Call and serve all artifacts at once, for as long; give what they held, the answers, and what was wrong."""
    end = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        generators = [stack.enter_context(load(path, engine, threads=1)) for path in paths for engine in engines]
        servers: dict[str, Served] = {}
        for path, generator in zip(paths, generators[:: len(engines)], strict=True):
            pictures = generator.manifest.interface.noise is None
            servers[path.name] = stack.enter_context(serving(path, engines[0], pictures))

        def call(n: int) -> None:
            for generator in generators:
                use(generator, n)

        def act() -> None:
            begin = time.monotonic()
            at_once([lambda n=n: call(n) for n in (1, 7)])  # type: ignore[misc]
            at_once([lambda n=n: call(n) for n in (16, 3)])  # type: ignore[misc]
            for server in servers.values():
                server.burst()
            time.sleep((time.monotonic() - begin) * (1 / share - 1))

        holders: dict[str, Held] = {"called from threads": held_here}
        for name, server in servers.items():
            holders[f"gan-run serve {name}"] = lambda process=server.process.pid: held_by(process)  # type: ignore[misc]
        figures = watched(act, lambda count: count < 8 or time.monotonic() < end, holders)
    answers: Counter[str] = sum((server.answers for server in servers.values()), Counter())
    wrong = [f"{name}: {text}" for name, server in servers.items() for text in sorted(set(server.wrong))]
    return figures, dict(sorted(answers.items())), wrong


def campaign(
    paths: Sequence[Path], seconds: float, loads: int, engines: tuple[str, ...], share: float
) -> dict[str, object]:
    """Load again and again with every engine, then the long life; give the report."""
    done = {f"loaded with {engine}": loading(paths[0], engine, loads) for engine in engines}
    begin = time.monotonic()
    lived, answers, found = living(paths, engines, seconds, share)
    hours = round((time.monotonic() - begin) / 3600, 3)
    done.update(lived)
    found += [
        f"{name}: {figures['grown_mib']} MiB and {figures['grown_descriptors']} descriptors more"
        for name, figures in done.items()
        if figures["grown_mib"] > SLACK_MIB or figures["grown_descriptors"] > 0
    ]
    return {
        "hours": hours,
        "share": share,
        "loads": loads * len(engines),
        "requests": sum(answers.values()),
        "answers": answers,
        "figures": done,
        "findings": found,
    }


def main() -> None:
    """Soak, and exit with 1 if something grew or was answered wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--loads", type=int, default=500)
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--share", type=float, default=1.0, help="of the time, that is spent working: 0.2 rests")
    parser.add_argument("--report", type=Path, help="write what was done here, as JSON")
    given = parser.parse_args()
    report = campaign(given.artifacts, given.seconds, given.loads, tuple(given.engines.split(",")), given.share)
    if given.report:
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(json.dumps(report))
    sys.exit(bool(report["findings"]))


if __name__ == "__main__":
    main()
