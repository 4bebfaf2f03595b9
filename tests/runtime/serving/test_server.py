"""Pictures over HTTP: the same as without it, within limits, and one real process from start to stop."""

from __future__ import annotations

import asyncio
import io
import re
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import helper
from PIL import Image

from ganedge.runtime import load
from ganedge.runtime.generator import Generator
from ganedge.runtime.serving import server_socket
from ganedge.runtime.serving.limits import Limits
from ganedge.runtime.serving.server import Server
from ganedge.runtime.serving.server_socket import LOCAL

PICTURE = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)


class Web:
    """A client in this process, that asks one thing after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def get(self, path: str) -> httpx.Response:
        """Ask for a page."""
        return self._ask("GET", path)

    def post(self, path: str, **sent: Any) -> httpx.Response:
        """Ask for work."""
        return self._ask("POST", path, **sent)

    def _ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with many(self._server) as web:
                return await web.request(method, path, **sent)

        return asyncio.run(ask())


@contextmanager
def client(generator: Generator, **limits: Any) -> Iterator[Web]:
    yield Web(Server(generator, Limits(**limits)))


async def chunks() -> AsyncIterator[bytes]:
    """A body without a length."""
    for _ in range(3):
        yield b"x" * 30_000


@asynccontextmanager
async def many(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client that asks many things at once, in this process."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server.application()), base_url="http://x") as web:
        yield web


def png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def pixels(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


@pytest.fixture
def inverter(make: Callable[..., Path]) -> Path:
    """Turns pictures into their negatives."""
    return make([helper.make_node("Neg", ["x"], ["y"])])


def test_the_forms_of_new_pictures(artifact: Path) -> None:
    with load(artifact, "onnxruntime") as generator, client(generator) as web:
        wanted = generator.sample(6, seed=3)
        asked = {"n": 6, "seed": 3, "columns": 3}
        assert pixels(web.post("/sample", json=asked)).shape == (2 * 18 - 2, 3 * 18 - 2)
        array = web.post("/sample", json=asked, headers={"Accept": "application/x-npy"})
        np.testing.assert_array_equal(np.load(io.BytesIO(array.content)), wanted)
        packed = web.post("/sample", json=asked, headers={"Accept": "text/html;q=0.9, application/zip"})
        with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
            pictures = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()]
        np.testing.assert_array_equal(np.stack(pictures)[..., None], wanted)
        one = web.post("/sample")
        again = web.post("/sample", json={"seed": int(one.headers["x-seed"])})
        assert one.content == again.content
        assert pixels(one).shape == (16, 16)
        path = web.post(
            "/interpolate", json={"seed_a": 1, "seed_b": 2, "steps": 5}, headers={"Accept": "application/x-npy"}
        )
        np.testing.assert_array_equal(np.load(io.BytesIO(path.content)), generator.interpolate(1, 2, 5))


def test_a_seed_draws_the_same_whoever_asks_beside(artifact: Path) -> None:
    async def ask(server: Server, sizes: list[int]) -> list[np.ndarray]:
        async with many(server) as web:
            headers = {"Accept": "application/x-npy"}
            jobs = [web.post("/sample", json={"n": n, "seed": s}, headers=headers) for s, n in enumerate(sizes)]
            return [np.load(io.BytesIO(answer.content)) for answer in await asyncio.gather(*jobs)]

    sizes = [1, 3, 1, 7, 2, 1, 20, 1, 1, 5]
    with load(artifact, "onnxruntime") as generator:
        wanted = [generator.sample(n, seed=s) for s, n in enumerate(sizes)]
        for batch, wait in ((1, 0.0), (8, 0.0), (64, 50.0)):
            server = Server(generator, Limits(batch=batch, wait=wait))
            for got, right in zip(asyncio.run(ask(server, sizes)), wanted, strict=True):
                assert np.abs(got.astype(int) - right).max() <= 1
            assert server._batcher._most == batch


def test_a_picture_as_body_and_in_a_form(inverter: Path) -> None:
    with load(inverter, "onnxruntime") as generator, client(generator) as web:
        body = png(PICTURE)
        np.testing.assert_array_equal(pixels(web.post("/translate", content=body)), 255 - PICTURE)
        form = web.post("/translate", data={"note": "x"}, files={"picture": ("a.png", body)})
        np.testing.assert_array_equal(pixels(form), 255 - PICTURE)
        grey = png(np.full((13, 17, 3), 55, np.uint8))
        small = web.post("/translate", content=grey, headers={"Accept": "image/jpeg"})
        assert small.headers["content-type"] == "image/jpeg"
        assert np.abs(pixels(small).astype(int) - 200).max() <= 2


@pytest.mark.parametrize(
    ("path", "sent", "status", "said"),
    [
        ("/sample", {"json": {"n": 65}}, 400, "64 at most"),
        ("/sample", {"json": {"n": 0}}, 400, "n is 0"),
        ("/sample", {"json": {"n": "7"}}, 400, "n is '7'"),
        ("/sample", {"json": {"seed": -1}}, 400, "seed -1"),
        ("/sample", {"json": {"seeds": 1}}, 400, "seed, label"),
        ("/sample", {"json": [1]}, 400, "no JSON object"),
        ("/sample", {"content": b"[" * 50_000}, 400, "not JSON"),
        ("/sample", {"content": b"[" * 100_000}, 413, "64 kB"),
        ("/sample", {"content": b'{"n": [' + b"1," * 20_000 + b"1]}"}, 400, "n is [1, 1"),
        ("/sample", {"content": b'{"truncation": 1' + b"0" * 400 + b"}"}, 400, "out of range"),
        ("/sample", {"content": b'{"truncation": NaN}'}, 400, "truncation nan"),
        ("/sample", {"json": {}, "headers": {"Accept": "text/html"}}, 406, "image/png"),
        ("/sample", {"json": {}, "headers": {"Sec-Fetch-Site": "cross-site"}}, 403, "other sites"),
        ("/interpolate", {"json": {"seed_a": 1}}, 400, "seed_b missing"),
        ("/translate", {"content": b"x"}, 400, "takes no picture"),
        ("/nothing", {}, 404, "Not Found"),
    ],
)
def test_mistakes_are_answered(artifact: Path, path: str, sent: dict[str, Any], status: int, said: str) -> None:
    with load(artifact, "onnxruntime") as generator, client(generator) as web:
        answer = web.post(path, **sent)
        assert answer.status_code == status
        assert said in answer.json()["error"]


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        ({"content": b""}, 400, "no picture"),
        ({"content": b"no picture at all"}, 400, "not a picture"),
        ({"content": png(PICTURE)[:100]}, 400, "this picture"),
        ({"content": png(np.zeros((200, 200), np.uint8))}, 400, "million pixels"),
        ({"content": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, 400, "not a picture"),
        ({"data": {"a": "b"}, "files": {}}, 400, "not a picture"),
        ({"files": {"a": b"x" * 60_000}}, 413, "0.05 MB"),
        ({"content": b"x" * 60_000}, 413, "0.05 MB"),
        ({"content": chunks}, 413, "0.05 MB"),
    ],
)
def test_pictures_that_are_not_taken(inverter: Path, sent: dict[str, Any], status: int, said: str) -> None:
    with load(inverter, "onnxruntime") as generator, client(generator, max_body=50_000, max_pixels=10_000) as web:
        answer = web.post("/translate", **{name: value() if callable(value) else value for name, value in sent.items()})
        assert answer.status_code == status
        assert said in answer.json()["error"]
        np.testing.assert_array_equal(pixels(web.post("/translate", content=png(PICTURE))), 255 - PICTURE)


def test_pictures_of_any_size_for_a_generator_of_one(
    make: Callable[..., Path], command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make([helper.make_node("Neg", ["x"], ["y"])], size=(16, 16))
    picture = np.full((30, 20, 3), 80, np.uint8)
    with load(path) as generator, client(generator, resize=True) as web:
        np.testing.assert_array_equal(pixels(web.post("/translate", content=png(picture))), 255 - picture)
    with load(path) as generator, client(generator) as web:
        refused = web.post("/translate", content=png(picture))
        assert refused.status_code == 400
        assert "--resize" in refused.text
    received: list[Limits] = []
    monkeypatch.setattr(server_socket, "listen", lambda _, address, limits, ready: received.append(limits) or 0)
    assert command("gan-run", "serve", path, "--resize").code == 0
    assert received[0].resize


def test_more_than_fits_is_told_to_come_again(artifact: Path) -> None:
    async def ask(server: Server) -> list[httpx.Response]:
        async with many(server) as web:
            return await asyncio.gather(*(web.post("/sample", json={"seed": seed}) for seed in range(20)))

    with load(artifact, "onnxruntime") as generator:
        answers = asyncio.run(ask(Server(generator, Limits(queue=4))))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == 4
    assert statuses.count(429) == 16
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code == 429)


def test_a_request_that_never_ends_is_cut_off(inverter: Path) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(5)

    async def ask(server: Server) -> httpx.Response:
        async with many(server) as web:
            return await web.post("/translate", content=slow())

    with load(inverter, "onnxruntime") as generator:
        assert asyncio.run(ask(Server(generator, Limits(seconds=0.1)))).status_code == 408


def test_only_its_own_names_may_ask_a_local_server(artifact: Path) -> None:
    async def ask(server: Server, host: str) -> int:
        async with many(server) as web:
            return (await web.post("/sample", json={}, headers={"Host": host})).status_code

    with load(artifact, "onnxruntime") as generator:
        for host, status in (
            ("localhost:8000", 200),
            ("127.0.0.1", 200),
            ("[::1]:80", 200),
            ("evil.example:8000", 403),
        ):
            assert asyncio.run(ask(Server(generator, hosts=LOCAL), host)) == status


def test_who_may_not_ask_may_not_read_either(artifact: Path) -> None:
    """A link from elsewhere to the page itself is followed; nothing else that a page elsewhere asks for is."""
    other, away = {"Host": "evil.example:8000"}, {"Host": "localhost", "Sec-Fetch-Site": "cross-site"}
    link = {**away, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}

    async def ask(server: Server) -> list[int]:
        async with many(server) as web:
            paths = ("/", "/about", "/health", "/metrics")
            refused = [await web.request(method, path, headers=h) for path in paths for method in ("GET", "HEAD")
                       for h in (other, away)]  # fmt: skip
            assert "evil" not in refused[0].text
            framed = await web.get("/", headers={**link, "Sec-Fetch-Dest": "iframe"})
            assert {one.status_code for one in (*refused, framed, await web.get("/about", headers=link))} == {403}
            assert (await web.post("/sample", json={}, headers=link)).status_code == 403
            own = await web.get("/about", headers={"Host": "localhost:80", "Sec-Fetch-Site": "same-origin"})
            return [(await web.get("/", headers=link)).status_code, own.status_code]

    with load(artifact, "onnxruntime") as generator:
        assert asyncio.run(ask(Server(generator, hosts=LOCAL))) == [200, 200]


def test_refused_requests_do_not_keep_others_out(artifact: Path) -> None:
    """However long they are drained, what they would have taken is free."""

    async def ask(server: Server) -> list[int]:
        async def slow() -> AsyncIterator[bytes]:
            yield b"x" * 20
            await asyncio.sleep(1)

        async with many(server) as web:
            large = [
                asyncio.ensure_future(web.post("/sample", content=slow(), headers={"Content-Length": "2000"}))
                for _ in range(3)
            ]
            await asyncio.sleep(0.2)
            answer = await web.post("/sample", json={})
            return [answer.status_code, *[(await one).status_code for one in large]]

    with load(artifact, "onnxruntime") as generator:
        assert asyncio.run(ask(Server(generator, Limits(queue=2, max_body=1000)))) == [200, 413, 413, 413]


def test_what_is_counted(artifact: Path) -> None:
    with load(artifact, "onnxruntime") as generator, client(generator) as web:
        web.post("/sample", json={"n": 3})
        web.post("/sample", json={"n": 0})
        web.get("/nothing/at/all")
        text = web.get("/metrics").text
        assert 'ganedge_requests_total{path="/sample",status="200"} 1\n' in text
        assert 'ganedge_requests_total{path="/sample",status="400"} 1\n' in text
        assert 'ganedge_requests_total{path="other",status="404"} 1\n' in text
        assert 'ganedge_batch_items_bucket{le="2"} 0\n' in text
        assert 'ganedge_batch_items_bucket{le="4"} 1\n' in text
        assert "ganedge_requests_in_work 0\n" in text
        assert 'ganedge_request_seconds_bucket{le="+Inf"} 2\n' in text
        assert web.get("/health").json()["status"] == "ok"


def test_the_page_runs_its_own_script_and_loads_nothing_else(artifact: Path) -> None:
    with load(artifact, "onnxruntime") as generator, client(generator) as web:
        page = web.get("/")
        about = web.get("/about").json()
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"(src|href)=\"|https?:|innerHTML|\son\w+=", page.text), "nothing from outside, no markup made"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert about["kind"] == "latent-to-image"


def test_statistics_over_a_batch_keep_requests_apart(artifact: Path) -> None:
    from dataclasses import replace

    with load(artifact, "onnxruntime") as generator:
        generator.manifest = replace(generator.manifest, norm_mode="batch")
        assert Server(generator, Limits(batch=16, wait=100))._batcher._most == 1


def test_a_real_process_from_start_to_stop(artifact: Path) -> None:
    command = [sys.executable, "-m", "ganedge.runtime", "serve", artifact, "--port", "0", "--engine", "onnxruntime"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            address = said.split()[0]
            assert address.startswith("http://127.0.0.1:"), said
            assert pixels(httpx.post(f"{address}/sample", json={"seed": 1}, timeout=100)).shape == (16, 16)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert process.stderr.read() == "stopped after 1 requests\n"
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--port", "{taken}"), 1, "is in use"),
        (("--host", "no such host"), 2, "is not known"),
        (("--queue", "0"), 2, "queue is 0"),
        (("--wait", "-1"), 2, "give 0 to 10"),
        (("--max-body", "lots"), 2, "no amount of memory"),
        (("--port", "70000"), 2, "70000"),
    ],
)
def test_what_cannot_be_served(
    command: Callable[..., Any], artifact: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = str(taken.getsockname()[1])
        done = command("gan-run", "serve", artifact, *(option.format(taken=place) for option in options))
    assert done.code == code
    assert said in done.err
    assert done.err.count("\n") == 1


def test_without_the_extra(command: Callable[..., Any], artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    done = command("gan-run", "serve", artifact)
    assert (done.code, "pip install 'ganedge[serve]'" in done.err) == (1, True)


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_a_first_picture_before_any_request(make: Callable[..., Path], kind: str) -> None:
    """Whatever the layout and the size that the generator takes, with a memory limit too."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    for size in ((16, 24), ("height", "width")):
        with load(make(nodes, size=size, kind=kind, multiple=8), engine="onnxruntime") as generator:
            for memory in (None, 200_000_000):
                Server(generator, Limits(memory=memory)).warm_up()


def test_a_path_needs_two_ends(artifact: Path) -> None:
    with load(artifact) as generator, client(generator) as web:
        answer = web.post("/interpolate", json={"seed_a": 1, "seed_b": 2, "steps": 0})
        assert answer.status_code == 400
        assert "steps is 0: give 2 or more" in answer.json()["error"]
