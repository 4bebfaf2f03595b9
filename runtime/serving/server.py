"""An artifact behind HTTP: pictures on request, computed in batches, within limits that hold.

    gan-run serve generator.onnx --port 8000
    curl -X POST localhost:8000/sample -d '{"n": 16, "seed": 0}' -o grid.png
    curl -X POST localhost:8000/translate --data-binary @painting.jpg -o photo.png

The picture of a seed is the one that `Generator.sample` draws, whoever else asks at the same time. What cannot be taken
in is refused at once (429, with the seconds after which to try again), so that memory grows no further than
`Limits.queue` requests of `Limits.max_items` pictures each take. There is no authentication: what the world may reach
belongs behind a proxy.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import math
import os
import re
import time
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ganedge.runtime.errors import GanEdgeError, InputError, UsageError
from ganedge.runtime.generator import Generator
from ganedge.runtime.manifest import Port
from ganedge.runtime.memory import resident
from ganedge.runtime.pictures import images, translation

from . import metrics
from .batching import Batcher
from .limits import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PNG, JPEG, ZIP, NPY = "image/png", "image/jpeg", "application/zip", "application/x-npy"
DRAWN = {"label": str, "truncation": float, "style": list, "columns": int, "output": str}
SAMPLE = {"n": int, "seed": int, **DRAWN}
"""Fields of a request to /sample, with their types."""
INTERPOLATE = {"seed_a": int, "seed_b": int, "steps": int, **DRAWN}
"""Fields of a request to /interpolate, with their types."""
TRANSLATE = {"label": str, "style": list, "seed": int, "output": str}
"""Fields of a request to /translate, in its query or its form beside the picture, with their types."""
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Bounds of the latency histogram."""
BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Bounds of the histogram of batch sizes."""
WORKERS = 8
"""Pictures decoded and encoded at once: what bounds the memory for decoded ones."""
DRAIN_SECONDS = 5.0
"""Seconds for which a refused request is still read: a client that is cut off while sending never gets the response."""
WARM_SIDE = 64
"""Height and width of the first picture, before any request, where the generator takes any size, pixels."""
MAX_JSON = 64_000
"""Largest JSON body, bytes."""
SHOWN = 100
"""Characters of a wrong value that are quoted in the response."""
EFFORT = 1
"""Compression level of PNGs: low, because a server's time costs more than the bytes."""
GUARDED = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
"""Headers of every response."""


class _TooLarge(Exception):  # noqa: N818 - it names what the request is
    """The body exceeds the limit."""


class Server:
    """One generator behind HTTP.

    Args:
        generator: The generator; the caller closes it after the application has ended.
        limits: Limits of requests.
        hosts: Accepted host names; None accepts any. They stop DNS rebinding, where the name of another site's page is
            made to resolve to this machine.
    """

    def __init__(self, generator: Generator, limits: Limits | None = None, hosts: frozenset[str] | None = None) -> None:
        self._generator = generator
        self._hosts = hosts
        self._limits = limits = limits or Limits()
        self._batches = metrics.Histogram("ganedge_batch_items", "Items in one engine call.", BATCHES)
        self._requests = metrics.Counter("ganedge_requests_total", "Requests answered.")
        self._seconds = metrics.Histogram(
            "ganedge_request_seconds", "From a request's first byte to the end of its answer.", SECONDS
        )
        # Statistics over a batch make a picture depend on its neighbours: such generators compute each request alone.
        alone = generator.manifest.norm_mode == "batch"
        most = 1 if alone else min(limits.batch or generator.batch, generator.batch)
        self._part = generator.batch if alone else most
        self._batcher = Batcher(generator.compute_all, most, limits.wait / 1000, seen=self._batches.observe)
        self._pool = ThreadPoolExecutor(WORKERS, "ganedge-server")
        self._options = translation.Options(limits.resize, limits.memory, max_pixels=limits.max_pixels)
        self._state = translation.State()
        self._working = 0
        self._usual = 0.0

    @property
    def answered(self) -> int:
        """Number of requests answered so far."""
        return self._requests.total()

    def warm_up(self) -> None:
        """Compute once, so that what an engine makes ready at its first call is not paid for by the first request.

        Raises:
            GanEdgeError: the generator fails.
        """
        interface = self._generator.manifest.interface
        if interface.noise is not None:
            self._batcher.call(*self._generator.sample_inputs(1, seed=0))
        elif len(interface.inputs) == 1:
            # What a tile costs is measured here as well, while no other request takes memory.
            port = interface.inputs[0]
            height, width = (size or WARM_SIDE for size in translation.sides(port))
            self._picture(np.zeros((height, width, port.channels), np.uint8), self._options)

    def application(self) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        """The ASGI application. Its lifespan's end lets the threads go."""
        get, post = ["GET"], ["POST"]
        routes = [
            Route("/", self._page, methods=get),
            Route("/about", self._about, methods=get),
            Route("/health", self._health, methods=get),
            Route("/metrics", self._metrics, methods=get),
            Route("/sample", self._sample, methods=post),
            Route("/interpolate", self._interpolate, methods=post),
            Route("/translate", self._translate, methods=post),
        ]
        handlers: Mapping[Any, Any] = {
            HTTPException: _http_error,
            GanEdgeError: _mistake,
            _TooLarge: self._too_large,
            TimeoutError: _too_slow,
            asyncio.TimeoutError: _too_slow,
            ClientDisconnect: _gone,
            Exception: _broken,
        }
        paths = {route.path for route in routes}
        inner = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await self._admit(inner, paths, scope, receive, send)

        return application

    # Middleware.

    async def _admit(self, inner: Starlette, paths: set[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Accept or refuse a request, limit its size, and count it."""
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        begin, status = time.perf_counter(), [500]

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message["headers"] = [*message["headers"], *GUARDED]
            await send(message)

        work = scope["method"] == "POST"
        refusal = self._stranger(scope) or (self._refusal(scope) if work else None)
        taken_in = work and refusal is None  # A refused request must not keep the next one out while it is drained.
        self._working += taken_in
        try:
            if refusal is None:
                await inner(scope, self._limited(receive), counted)
            else:
                await _drain(receive)
                await refusal(scope, receive, counted)
        finally:
            self._working -= taken_in
            taken = time.perf_counter() - begin
            path = scope["path"] if scope["path"] in paths else "other"
            self._requests.add(path=path, status=str(status[0]))
            if taken_in:
                self._seconds.observe(taken)
                self._usual += 0.1 * (taken - self._usual)

    def _stranger(self, scope: Scope) -> Response | None:
        """Return a 403 for a wrong Host header or a cross-site request; None for requests that are allowed.

        Requests that only read are refused too, because a page of another site must not learn what runs here. A link to
        this server's page is allowed: the browser shows the page, and the other site cannot read it.
        """
        headers = _headers(scope)
        reading = scope["method"] in ("GET", "HEAD")
        followed = reading and scope["path"] == "/" and headers.get(b"sec-fetch-dest") == "document"
        if headers.get(b"sec-fetch-site") == "cross-site" and not followed:
            return _error(403, "requests from pages of other sites are refused")
        host = re.sub(r":\d+$", "", headers.get(b"host", ""))
        if self._hosts is not None and host not in self._hosts:
            return _error(403, f"this server accepts the host names {' and '.join(sorted(self._hosts))} only")
        return None

    def _refusal(self, scope: Scope) -> Response | None:
        """Return a 413 or 429 for a request that exceeds the limits; None for others."""
        length = _headers(scope).get(b"content-length", "0")
        if length.isdecimal() and int(length) > self._limits.max_body:
            return _error(413, self._body_text())
        if self._working >= self._limits.queue:
            wait = max(1, math.ceil(self._usual))
            text = f"{self._working} requests are being processed, which is the limit: try again in {wait} s"
            return _error(429, text, {"Retry-After": str(wait)})
        return None

    def _limited(self, receive: Receive) -> Receive:
        """Stop reading a body that exceeds the limit, whatever its Content-Length says."""
        left = [self._limits.max_body]

        async def limited() -> MutableMapping[str, Any]:
            message = await receive()
            left[0] -= len(message.get("body", b""))
            if left[0] < 0:
                if message.get("more_body"):
                    await _drain(receive)
                raise _TooLarge
            return message

        return limited

    @asynccontextmanager
    async def _lifespan(self, inner: Starlette) -> AsyncIterator[None]:
        yield
        self._batcher.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    # Endpoints.

    async def _sample(self, request: Request) -> Response:
        """New pictures: one, a grid of several, each in a zip, or their array."""
        media_type = _accepted(request, (PNG, ZIP, NPY))
        fields = _fields(await self._body(request), SAMPLE)
        n, columns, port = fields.pop("n", 1), fields.pop("columns", None), self._output(fields)
        seed = fields.pop("seed", int.from_bytes(os.urandom(4), "big"))
        self._check(n, columns)
        inputs = await self._in_pool(fields, partial(self._generator.sample_inputs, n, seed, **fields))
        return await self._answer(inputs, media_type, columns, {"X-Seed": str(seed)}, port)

    async def _interpolate(self, request: Request) -> Response:
        """A path from one seed to another: in one row, each in a zip, or their array."""
        media_type = _accepted(request, (PNG, ZIP, NPY))
        fields = _fields(await self._body(request), INTERPOLATE)
        steps = fields.pop("steps", 8)
        columns, port = fields.pop("columns", max(1, steps)), self._output(fields)
        missing = [name for name in ("seed_a", "seed_b") if name not in fields]
        if missing:
            raise UsageError(f"{' and '.join(missing)} missing: give both ends of the path")
        self._check(steps, columns)
        inputs = await self._in_pool(fields, partial(self._generator.interpolation_inputs, steps=steps, **fields))
        return await self._answer(inputs, media_type, columns, {}, port)

    async def _translate(self, request: Request) -> Response:
        """Translate a picture: the body itself, or the first file of a form, whose file `mask` is the mask."""
        media_type = _accepted(request, (PNG, JPEG, NPY))
        files, texts = await self._picture_parts(request)
        mask = files.pop("mask", None)
        if not files or not (body := next(iter(files.values()))):
            raise InputError("no picture was sent: give it as the body, or as a file of a form")
        known = {name: text for name, text in texts.items() if name in TRANSLATE}  # Forms carry other fields too.
        fields = _query({**request.query_params, **known}, TRANSLATE)
        port = self._output(fields)
        if not _is_shown(port) and media_type != NPY:
            raise UsageError(f"output {port.name} is no picture: ask for {NPY} in the header Accept")
        options = replace(self._options, mask=mask, **fields)
        return Response(
            await self._run(lambda: _encoded_picture(self._picture(body, options, port), media_type)),
            media_type=media_type,
        )

    async def _health(self, request: Request) -> Response:
        """Report whether requests are answered."""
        alive = self._batcher.alive
        status = {"status": "ok" if alive else "stopping", "engine": str(self._generator.engine)}
        return JSONResponse(status, 200 if alive else 503)

    async def _metrics(self, request: Request) -> Response:
        """Return the metrics for Prometheus."""
        info = self._generator.engine
        parts = [
            self._requests.text(),
            self._seconds.text(),
            self._batches.text(),
            metrics.gauge("ganedge_queue_length", "Engine requests that wait.", len(self._batcher)),
            metrics.gauge("ganedge_requests_in_work", "Requests taken in and not answered.", self._working),
            metrics.gauge(
                "ganedge_info", "What runs.", 1, engine=info.name, device=info.device, precision=info.precision
            ),
        ]
        memory = resident()
        if memory is not None:
            parts.append(metrics.gauge("process_resident_memory_bytes", "Memory this process holds.", memory))
        return Response("\n".join(parts) + "\n", media_type=metrics.MEDIA_TYPE)

    async def _about(self, request: Request) -> Response:
        """Return what a page or program needs to know to send requests."""
        manifest, limits = self._generator.manifest, self._limits
        interface = manifest.interface
        about = {
            "kind": interface.kind,
            "classes": list(interface.classes),
            "noise": interface.noise,
            "inputs": [
                {"name": port.name, "role": port.role, "shape": port.shape, "distribution": port.distribution}
                for port in interface.inputs
            ],
            "outputs": [
                {"name": port.name, "role": port.role, "shape": port.shape, "picture": _is_shown(port)}
                for port in interface.outputs
            ],
            "precision": manifest.precision,
            "variant": manifest.source.variant,
            "data": manifest.source.data,
            "engine": str(self._generator.engine),
            "limits": {"items": limits.max_items, "body": limits.max_body, "pixels": limits.max_pixels},
        }
        return JSONResponse(about)

    async def _page(self, request: Request) -> Response:
        """A page on which a person tries the generator."""
        page, policy = await asyncio.get_running_loop().run_in_executor(self._pool, _page_and_policy)
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})

    # Helpers.

    async def _body(self, request: Request) -> bytes:
        """The body of a request that says numbers, within the time there is for sending it."""
        if int(request.headers.get("content-length") or 0) > MAX_JSON:
            raise _TooLarge
        body = await asyncio.wait_for(request.body(), self._limits.seconds)
        if len(body) > MAX_JSON:  # Parsing megabytes of JSON would block all requests.
            raise _TooLarge
        return body

    async def _picture_parts(self, request: Request) -> tuple[dict[str, bytes], dict[str, str]]:
        """The files and the texts of a form, or the body as the only file, within the time there is for sending it."""
        form = request.headers.get("content-type", "").startswith("multipart/form-data")
        if form:
            return await asyncio.wait_for(_form(request), self._limits.seconds)
        return {"body": await asyncio.wait_for(request.body(), self._limits.seconds)}, {}

    def _check(self, n: int, columns: int | None) -> None:
        if n > self._limits.max_items:
            raise UsageError(f"{n} items at once: this server makes {self._limits.max_items} at most")
        if columns is not None and columns < 1:
            raise UsageError(f"columns is {columns}: give 1 or more")

    async def _in_pool(self, fields: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """Draw latents: at once, or in a thread where truncation makes it long."""
        return await self._run(work) if "truncation" in fields else work()

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _output(self, fields: dict[str, Any]) -> Port:
        """The output that a request names, the result by default; its field is taken out."""
        ports = {port.name: port for port in self._generator.manifest.interface.outputs}
        name = fields.pop("output", None)
        if name is None:
            return self._generator.manifest.interface.output
        if name not in ports:
            raise UsageError(f"output {str(name)[:SHOWN]!r}: this generator gives {', '.join(ports)}")
        return ports[name]

    async def _answer(
        self,
        inputs: list[NDArray[np.generic]],
        media_type: str,
        columns: int | None,
        headers: Mapping[str, str],
        port: Port,
    ) -> Response:
        """Compute items and send one of their outputs in the requested media type."""
        if media_type != NPY and port.role != "points" and not _is_shown(port):
            raise UsageError(f"output {port.name} is no picture: ask for {NPY} in the header Accept")
        index = self._generator.manifest.interface.outputs.index(port)
        count = len(inputs[0])
        parts = [slice(begin, begin + self._part) for begin in range(0, count, self._part)]
        futures = [self._batcher.submit(*(array[part] for array in inputs)) for part in parts]

        async def finished(future: Future[Sequence[NDArray[np.generic]]]) -> NDArray[np.generic]:
            tensor = (await asyncio.wrap_future(future))[index]
            return self._generator.finish(tensor, port)  # At once: bytes take less than floats.

        made = await asyncio.gather(*map(finished, futures))

        def encode() -> bytes:
            items = np.concatenate(made) if len(made) > 1 else made[0]
            return _encoded(items, media_type, columns, points=port.role == "points")

        return Response(await self._run(encode), media_type=media_type, headers=dict(headers))

    def _picture(self, source: Any, options: translation.Options, port: Port | None = None) -> NDArray[Any]:
        """Translate a picture into the result, or into an output beside it."""
        manifest = self._generator.manifest
        if port is None or port == manifest.interface.output:
            return translation.translate(self._result, manifest, source, options, self._state)
        return translation.translate_outputs(self._batcher.call, manifest, source, options, self._state)[port.name]

    def _result(self, *inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        return self._batcher.call(*inputs)[0]

    def _body_text(self) -> str:
        return f"the request is larger than {self._limits.max_body / 1e6:g} MB, which is what this server takes"

    async def _too_large(self, request: Request, error: Exception) -> Response:
        if request.url.path != "/translate":
            return _error(413, f"the request is larger than {MAX_JSON / 1000:g} kB: a few numbers are enough")
        return _error(413, self._body_text())


def _is_shown(port: Port) -> bool:
    """Whether an output is a picture that a browser can show."""
    return port.is_picture and port.channels in (1, 3, 4)


async def _form(request: Request) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files and the texts of a form by their names."""
    files: dict[str, bytes] = {}
    texts: dict[str, str] = {}
    async with request.form(max_files=4, max_fields=16) as form:
        for name, value in form.items():
            if isinstance(value, UploadFile):
                files[name] = await value.read()
            else:
                texts[name] = value
    if not files:
        raise InputError("the form holds no file: send the picture as one of its parts")
    return files, texts


def _headers(scope: Scope) -> dict[bytes, str]:
    """Return a request's headers by lower-case name."""
    return {key: value.decode("latin-1") for key, value in scope["headers"]}


async def _drain(receive: Receive) -> None:
    """Read and discard the rest of a request."""

    async def read() -> None:
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass

    try:
        await asyncio.wait_for(read(), DRAIN_SECONDS)
    except asyncio.TimeoutError:
        return  # A client that sends this slowly does not get the response.


def _fields(body: bytes, known: Mapping[str, type]) -> dict[str, Any]:
    """Parse a JSON body into fields of their types; an empty body has no fields."""
    try:
        payload = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request is not JSON: {error}") from error
    if not isinstance(payload, dict):
        raise UsageError('the request is no JSON object: give something like {"seed": 0}')
    for name in payload:
        if name not in known:
            raise UsageError(f"unknown field {name[:SHOWN]!r}: this takes {', '.join(known)}")
    try:
        return {name: _field(name, value, known[name]) for name, value in payload.items() if value is not None}
    except OverflowError as error:
        raise UsageError(f"a number is out of range: {error}") from error


def _field(name: str, value: Any, expected: type) -> Any:
    """Check one value's type: a number, a class by number or name, or a list of numbers."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    shown = repr(value)[:SHOWN]
    if expected is str:
        if not whole and not isinstance(value, str):
            raise UsageError(f"{name} is {shown}: give a whole number, or the name of a class")
        return value
    if expected is list:  # An array, because a text would be the name of a file here.
        if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
            raise UsageError(f"{name} is {shown}: give a list of numbers")
        return np.array(value, np.float64)
    if not whole and not (expected is float and isinstance(value, float)):
        raise UsageError(f"{name} is {shown}: give a {'whole ' if expected is int else ''}number")
    return expected(value)


def _query(texts: Mapping[str, str], known: Mapping[str, type]) -> dict[str, Any]:
    """Parse the texts of a query or form into fields of their types: `?label=2&style=0.1,0.2&seed=3`."""
    payload: dict[str, Any] = {}
    for name, text in texts.items():
        expected = known.get(name, str)
        try:
            payload[name] = text if expected is str else json.loads(f"[{text}]" if expected is list else text)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"{name} is {text[:SHOWN]!r}: give {'numbers with commas' if expected is list else 'a number'}"
            ) from error
    return _fields(json.dumps(payload).encode(), known)


def _accepted(request: Request, forms: tuple[str, ...]) -> str:
    """Return the media type of `forms` that the Accept header prefers; the first without a preference."""
    wishes: list[tuple[float, str]] = []
    for wish in request.headers.get("accept", "*/*").split(","):
        media_range, *parameters = (part.strip().lower() for part in wish.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        number = float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 0.0
        if number > 0:
            wishes.append((number, media_range))
    for _, media_range in sorted(wishes, key=lambda wish: -wish[0]):
        for media_type in forms:
            if media_range in (media_type, "*/*", media_type.partition("/")[0] + "/*"):
                return media_type
    raise HTTPException(406, f"this returns {', '.join(forms)}: name one of them in the header Accept")


def _encoded(items: NDArray[np.generic], media_type: str, columns: int | None, *, points: bool) -> bytes:
    """Encode items as one picture, a zip of pictures, or an array."""
    if media_type == NPY:
        return _array(items)
    if points:
        if media_type == ZIP:
            raise UsageError(f"points are no pictures: ask for {PNG} or {NPY}")
        return _encoded_picture(images.scatter(items), PNG)
    pictures = items.astype(np.uint8, copy=False)
    if media_type == PNG:
        return _encoded_picture(images.grid(pictures, columns) if len(pictures) > 1 else pictures[0], PNG)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:  # Stored as they are: PNGs are compressed already.
        for index, picture in enumerate(pictures):
            archive.writestr(f"{index:04d}.png", _encoded_picture(picture, PNG))
    return stream.getvalue()


def _encoded_picture(picture: NDArray[np.uint8], media_type: str) -> bytes:
    if media_type == NPY:
        return _array(picture)
    stream = io.BytesIO()
    images.encode(picture, media_type.partition("/")[2].upper(), stream, EFFORT)
    return stream.getvalue()


def _array(array: NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


@cache
def _page_and_policy() -> tuple[str, str]:
    """The page, and a policy that lets a browser run its own script and style and nothing else."""
    page, style = (Path(__file__).with_name(f"page.{suffix}").read_text("utf-8") for suffix in ("html", "css"))
    page = page.replace('<link rel="stylesheet" href="page.css">', f"<style>\n{style}</style>")
    hashes = {
        tag: base64.b64encode(hashlib.sha256(page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0].encode()).digest())
        for tag in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes['script'].decode()}'; "
        f"style-src 'sha256-{hashes['style'].decode()}'; img-src blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": text}, status, headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return _error(error.status_code, error.detail, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    """Return a 500 for an unexpected error; its traceback is printed on the server's terminal."""
    return _error(500, f"this failed on the server's side: {type(error).__name__}")


async def _mistake(request: Request, error: GanEdgeError) -> Response:
    """Return a 400 for an error of the client, and a 500 for other errors."""
    return _error(400 if isinstance(error, (UsageError, InputError)) else 500, str(error))


async def _too_slow(request: Request, error: Exception) -> Response:
    return _error(408, "the request took too long to arrive", {"Connection": "close"})


async def _gone(request: Request, error: Exception) -> Response:
    return _error(400, "the client has gone")
