"""Throughput of `gan-run serve` with and without batching of requests.

    python -m ganedge.benchmarks.studies.serving generator.onnx --callers 200 --seconds 30

Two servers of the same artifact, one of which does not batch, are under load in turns on loopback. Each caller requests
one picture after the other on its own connection, and waits after a 429 as long as the server says. Any other status is
an error. Server and callers share the machine's cores, so a server alone has a higher throughput.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ganedge.benchmarks.conditions import machine
from ganedge.runtime.cli import terminal
from ganedge.runtime.engines import cores
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.manifest import read_artifact

BLOCK_SECONDS = 5.0
"""Length of one server's turn."""
MEMORY = "process_resident_memory_bytes"
"""Metric of the server's memory."""


@dataclass
class Tally:
    """Results of one server's turns."""

    seconds: float = 0.0
    """Time under load."""
    statuses: Counter[int] = field(default_factory=Counter)
    """Number of responses by status; 0 is a broken connection."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each response with a picture."""
    memory: list[float] = field(default_factory=list)
    """Resident memory of the server after each turn, bytes."""

    def result(self) -> dict[str, object]:
        """Return the figures for JSON and the terminal."""
        p50, p99 = np.percentile(self.latencies, (50, 99)) if self.latencies else (0.0, 0.0)
        return {
            "rate": self.statuses[200] / self.seconds,
            "statuses": dict(self.statuses),
            "p50": float(p50),
            "p99": float(p99),
            "memory": self.memory,
        }


@contextmanager
def server(file: Path, engine: str, threads: int, *options: str) -> Iterator[int]:
    """Run a server process; yields its port."""
    command = [sys.executable, "-m", "ganedge.runtime", "serve", str(file), "--port", "0", "--engine", engine]
    command += ["--threads", str(threads), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own command line
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            if not line.startswith("http://"):
                raise GanEdgeError(f"the server did not start: {line.strip()}")
            yield int(line.split()[0].rpartition(":")[2])
        finally:
            process.terminate()


async def load(port: int, callers: int, seconds: float, tally: Tally) -> None:
    """Send requests from many concurrent callers, and record the responses."""
    end = time.perf_counter() + seconds
    begin = time.perf_counter()
    await asyncio.gather(*(_caller(port, number, end, tally) for number in range(callers)))
    tally.seconds += time.perf_counter() - begin
    tally.memory.append(await _memory(port))


async def _caller(port: int, number: int, end: float, tally: Tally) -> None:
    """Send one request after the other on one connection; count it if it breaks, and open another."""
    seed = number
    while time.perf_counter() < end:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while time.perf_counter() < end:
                seed += 1000
                body = b'{"seed": %d}' % seed
                begin = time.perf_counter()
                status, headers, _ = await _ask(reader, writer, b"POST /sample", body)
                tally.statuses[status] += 1
                if status == 200:
                    tally.latencies.append(time.perf_counter() - begin)
                elif status == 429:
                    await asyncio.sleep(min(float(headers[b"retry-after"]), max(0.0, end - time.perf_counter())))
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):  # noqa: PERF203 - each turn is a connection
            tally.statuses[0] += 1


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes, body: bytes = b""
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send one request on an open connection; returns status, headers and body."""
    writer.write(b"%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (line, len(body), body))
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(b":") for line in lines)}
    return int(first.split()[1]), headers, await reader.readexactly(int(headers[b"content-length"]))


async def _memory(port: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    _, _, text = await _ask(reader, writer, b"GET /metrics")
    writer.close()
    return next((float(line.split()[1]) for line in text.decode().splitlines() if line.startswith(MEMORY + " ")), 0.0)


def measure(file: Path, engine: str, threads: int, callers: int, seconds: float, queue: int) -> dict[str, Tally]:
    """Put both servers under load in turns, each for `seconds` in total."""
    if read_artifact(file)[0].interface.noise is None:
        raise UsageError(f"{file} takes pictures: give an artifact that draws new ones")
    options = ("--queue", str(queue))
    with ExitStack() as stack:
        ports = {
            "joined": stack.enter_context(server(file, engine, threads, *options)),
            "one by one": stack.enter_context(server(file, engine, threads, *options, "--batch", "1")),
        }
        for port in ports.values():
            asyncio.run(load(port, min(callers, queue), 1.0, Tally()))
        tallies = {name: Tally() for name in ports}
        for _ in range(max(1, round(seconds / BLOCK_SECONDS))):
            for name, port in ports.items():
                asyncio.run(load(port, callers, min(seconds, BLOCK_SECONDS), tallies[name]))
        return tallies


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Measure the throughput of gan-run serve, with and without batching.")

    @app.command()
    def serving(
        file: Annotated[Path, typer.Argument(help="An artifact that draws new pictures.")],
        callers: Annotated[int, typer.Option(min=1, max=1000, help="Connections at once.")] = 200,
        seconds: Annotated[float, typer.Option(min=0.1, help="Time under load for each server.")] = 30.0,
        queue: Annotated[int, typer.Option(min=1, help="Concurrent requests; more get 429.")] = 256,
        engine: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "onnxruntime",
        threads: Annotated[int, typer.Option(min=1, help="Threads of the engine.")] = 2,
    ) -> None:
        tallies = measure(file, engine, threads, callers, seconds, queue)
        for name, tally in tallies.items():
            result = tally.result()
            typer.echo(
                f"{name:<11}{result['rate']:7.0f} pictures/s  p50 {1000 * float(str(result['p50'])):.1f} ms  "
                f"p99 {1000 * float(str(result['p99'])):.1f} ms  answers {dict(tally.statuses)}  "
                f"memory {tally.memory[0] / 1e6:.0f} to {tally.memory[-1] / 1e6:.0f} MB"
            )
        joined, alone = (float(str(tallies[name].result()["rate"])) for name in ("joined", "one by one"))
        if not alone:
            raise GanEdgeError(f"no picture was returned in {seconds:g} s: give more --seconds")
        typer.echo(f"joined requests: {joined / alone:.2f} x one by one")
        results = {name: tally.result() for name, tally in tallies.items()}
        typer.echo(json.dumps({"schema": 1, "machine": machine(cores()), "engine": engine, "results": results}))

    return app


def main() -> None:
    """Entry point of `python -m ganedge.benchmarks.studies.serving`."""
    terminal.run(build, "ganedge.benchmarks.studies.serving", "serve")


if __name__ == "__main__":
    main()
