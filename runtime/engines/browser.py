"""onnxruntime-web in a headless Chromium: WASM and WebGPU, through the page's own module `ganedge.js`.

    with Browser(Path("digits-web")) as browser:
        engine = browser.start("wasm")
        outputs = engine.run({"latent": latents})

It runs a folder that `gan-export --format web` wrote, served on this machine only. WebGPU computes on
SwiftShader, which needs no GPU; it says whether a graph's shaders are right, and nothing of a GPU's speed.
"""

from __future__ import annotations

import base64
import functools
import http.server
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ganedge.runtime.errors import EngineError, MissingExtra, one_line
from ganedge.runtime.web_folder import WebFolder, read_web_folder

from . import EngineInfo, on_cpu

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

Provider = Literal["wasm", "webgpu"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)
"""What onnxruntime-web computes with."""
CHROMIUM = "GANEDGE_CHROMIUM"
"""Environment variable that names the Chromium to use."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Commands that start one."""
WEBGPU_FLAGS = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
    "--ignore-gpu-blocklist",
)
"""What makes a Chromium without a GPU compute WebGPU."""
PROC = Path("/proc")
"""Where Linux tells of processes."""
BLANK = "/blank"
"""The empty page from which the module is called."""
LONGEST_CALL_MS = 600_000
"""Milliseconds after which a call in the page is given up."""

CALL = """async ([method, argument]) => {
  const decode = ({ dtype, dims, data }) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const types = { float32: Float32Array, uint8: Uint8Array, int64: BigInt64Array };
    return { dims, data: new types[dtype](bytes.buffer) };
  };
  const decoded = (feeds) => Object.fromEntries(Object.entries(feeds).map(([name, array]) => [name, decode(array)]));
  const encode = ({ data, dims }) => {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength), parts = [];
    for (let at = 0; at < bytes.length; at += 32768) parts.push(String.fromCharCode(...bytes.subarray(at, at + 32768)));
    return { dims, data: btoa(parts.join("")) };
  };
  const methods = {
    async load(options) {
      const { load } = await import("/ganedge.js");
      globalThis.generator = await load(options.artifact, options);
    },
    async run(feeds) {
      const { generator } = globalThis, results = await generator.runAll(decoded(feeds));
      return generator.manifest.interface.outputs.map(({ name }) => encode(results[name]));
    },
    async hold(batches) {
      globalThis.held = batches.map(decoded);
    },
    async time(number) {
      const begin = performance.now();
      await globalThis.generator.run(globalThis.held[number]);
      return (performance.now() - begin) / 1000;
    },
  };
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("no answer in LIMIT ms")), LIMIT));
  try {
    return { result: await Promise.race([methods[method](argument), late]) };
  } catch (error) {
    return { error: String(error?.message ?? error), code: error?.code };
  }
}""".replace("LIMIT", str(LONGEST_CALL_MS))


class MissingFeature(EngineError):  # noqa: N818 - what is missing, and it is an EngineError
    """The browser or its GPU lacks what an engine needs, so the artifact cannot be tried there.

    Args:
        engine: Which engine.
        feature: What is missing, in a few words.
    """

    def __init__(self, engine: str, feature: str) -> None:
        super().__init__(f"{engine}: {feature}")
        self.feature = feature


def missing() -> str:
    """Why no browser can be driven here, and what to install; empty where one can."""
    if not _has_playwright():
        return "it needs playwright, which is not installed: pip install 'ganedge[browser]'"
    if chromium() is None:
        return f"no Chromium was found: install one (apt-get install chromium), or name it in {CHROMIUM}"
    return ""


def chromium() -> str | None:
    """The path of the Chromium that is used; None where there is none."""
    return shutil.which(os.environ.get(CHROMIUM) or "") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A headless Chromium, and a web server on this machine for one folder.

    Args:
        folder: What `gan-export --format web` wrote.

    Raises:
        ArtifactError: no such folder, or its description is damaged.
        MissingExtra: playwright is not installed.
        EngineError: no Chromium is found, or it does not start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = read_web_folder(folder)
        if not _has_playwright():
            raise MissingExtra("playwright", "browser", "running it in a browser")
        path = chromium()
        if path is None:
            raise EngineError(missing())
        from playwright.sync_api import Error

        self._server = FolderServer(folder, self.folder.policy())
        # Playwright drives a browser from one thread without an event loop, which the caller's may have: a notebook's.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ganedge-browser")
        before = set(_processes())
        try:
            self._playwright, self._chromium = self._do(_launch, path)
        except Error as error:
            self._thread.shutdown()
            self._server.close()
            raise EngineError(f"{path} does not start: {one_line(error)}") from error
        self.version: str = self._do(lambda: self._chromium.version)
        self._roots = {process for process, (parent, _) in _processes().items() if parent == os.getpid()} - before

    def start(self, provider: Provider, threads: int | None = None) -> BrowserEngine:
        """Load the folder's artifact into one engine of the browser.

        Args:
            provider: wasm or webgpu.
            threads: Of WASM.

        Raises:
            MissingFeature: this browser lacks the engine, or 16-bit floats in WebGPU that an FP16 artifact needs.
            EngineError: it cannot be loaded, or the engine cannot run it.
        """
        precision = self.folder.manifest.precision
        info = EngineInfo(
            "onnxruntime-web",
            f"{self.folder.runtime} {provider}",
            f"SwiftShader, Chromium {self.version}" if provider == "webgpu" else f"Chromium {self.version}",
            "cpu",
            precision if provider == "webgpu" else on_cpu(precision),
        )
        engine = BrowserEngine(self._do, self._do(self._blank_page), info, self.folder)
        try:
            engine.call("load", {"artifact": f"/{self.folder.artifact}", "engine": provider, "threads": threads})
        except EngineError:
            engine.close()
            raise
        return engine

    def processor_time(self) -> float:
        """Processor time that the living processes of this Chromium used, seconds; 0 where no procfs tells."""
        processes = _processes()
        tree = self._roots & processes.keys()
        while more := {process for process, (parent, _) in processes.items() if parent in tree} - tree:
            tree |= more
        return sum(processes[process][1] for process in tree)

    def close(self) -> None:
        """End Chromium and the server."""
        self._do(self._chromium.close)
        self._do(self._playwright.stop)
        self._thread.shutdown()
        self._server.close()

    def _blank_page(self) -> Any:
        page = self._chromium.new_page()
        page.goto(self._server.url.rstrip("/") + BLANK)
        return page

    def _do(self, function: Callable[..., Any], *arguments: object) -> Any:
        return self._thread.submit(function, *arguments).result()

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _processes() -> dict[int, tuple[int, float]]:
    """By number of each process: its parent's, and the processor time it used, seconds."""
    processes = {}
    for file in PROC.glob("[0-9]*/stat"):
        try:
            fields = file.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:  # It has ended.
            continue
        processes[int(file.parent.name)] = int(fields[1]), sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return processes


def _launch(path: str) -> tuple[Any, Any]:
    """Start Playwright and a Chromium."""
    from playwright.sync_api import Error, sync_playwright

    playwright = sync_playwright().start()
    try:
        flags = list(WEBGPU_FLAGS)
        return playwright, playwright.chromium.launch(executable_path=path, args=flags, chromium_sandbox=False)
    except Error:
        playwright.stop()
        raise


class BrowserEngine:
    """An artifact in one engine of a browser."""

    def __init__(self, do: Callable[..., Any], page: Any, info: EngineInfo, folder: WebFolder) -> None:
        self.info = info
        self._do = do
        self._page = page
        self._folder = folder

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
        """Compute the outputs from inputs by name."""
        ports = self._folder.manifest.interface.outputs
        return [
            np.frombuffer(base64.b64decode(result["data"]), port.dtype).reshape(result["dims"])
            for port, result in zip(ports, self.call("run", _encoded(feeds)), strict=True)
        ]

    def hold(self, batches: Sequence[Mapping[str, NDArray[np.generic]]]) -> None:
        """Keep inputs in the page, for `seconds`."""
        self.call("hold", [_encoded(feeds) for feeds in batches])

    def seconds(self, number: int) -> float:
        """Compute the inputs of that number that `hold` keeps; seconds by the page's clock, of the whole call."""
        return float(self.call("time", number))

    def call(self, method: str, argument: object) -> Any:
        """Call one of the methods of `CALL` in the page.

        Raises:
            MissingFeature: the browser or its GPU lacks something.
            EngineError: it failed there, or Chromium is gone.
        """
        from playwright.sync_api import Error

        try:
            answer = self._do(self._page.evaluate, CALL, [method, argument])
        except Error as error:
            raise EngineError(f"{self.info}: {one_line(error)}") from error
        if "error" in answer:
            reason = one_line(RuntimeError(answer["error"]))
            if answer.get("code") == "browser":
                raise MissingFeature(str(self.info), reason)
            raise EngineError(f"{self.info}: {reason}")
        return answer["result"]

    def close(self) -> None:
        """Close the page."""
        self._do(self._page.close)


def _has_playwright() -> bool:
    from . import installed

    return installed("playwright")


def _encoded(feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, dict[str, object]]:
    return {
        name: {
            "dtype": str(array.dtype),
            "dims": list(array.shape),
            "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
        }
        for name, array in feeds.items()
    }


class _Handler(http.server.SimpleHTTPRequestHandler):
    """The files of one folder, with the headers that docs/web.md recommends."""

    extensions_map = {  # noqa: RUF012 - as the base class has it
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def __init__(self, *args: Any, policy: str, **settings: Any) -> None:
        self._policy = policy
        super().__init__(*args, **settings)

    def do_GET(self) -> None:
        """Answer with a file, or with the empty page."""
        if self.path != BLANK:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def end_headers(self) -> None:
        """Send the policy too, and what makes the page cross-origin isolated: threads, and a precise clock."""
        self.send_header("Content-Security-Policy", self._policy)
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
        """Say nothing."""


class _QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a page that is closed breaks off its downloads."""


class FolderServer:
    """A web server for one folder on a free port of this machine.

    Args:
        path: The folder.
        policy: The Content-Security-Policy it sends.
    """

    def __init__(self, path: Path, policy: str) -> None:
        handler = functools.partial(_Handler, directory=os.fspath(path), policy=policy)
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
