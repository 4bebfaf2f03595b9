"""The page and the module in a real browser: without a third party, under the strict policy, and equal to Python."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from ganedge.export import to_web
from ganedge.export.artifact import VerifiedArtifact
from ganedge.runtime import load
from ganedge.runtime.engines import browser
from ganedge.runtime.inputs import natural
from ganedge.runtime.latents import LatentStream
from ganedge.runtime.manifest import Interface, Manifest, Port, read_artifact, read_bytes, write_artifact
from ganedge.runtime.web_folder import read_web_folder, write_description

SCRIPT = "<script>document.title = 'attacked'</script>"
"""A class name that must stay a text."""
SPACE = ("batch", 3, "height", "width")
READY = "#status[data-state]:not([data-state=busy])"
PIXELS = "(image) => [image.height, image.width, Array.from(image.data)]"


def graph(interface: Interface, nodes: list[Any]) -> bytes:
    """An artifact of these nodes, which end in the output's name."""
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    values = [
        [helper.make_tensor_value_info(port.name, kinds[port.dtype], port.shape) for port in group]
        for group in (interface.inputs, interface.outputs)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", *values), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    return write_artifact(model.SerializeToString(), Manifest(interface, "fp32", "none"))


def painter() -> bytes:
    """Compute picture · (1 - mask) + mask · style, and what each class adds."""
    inputs = (
        Port("x", "image", "float32", SPACE, "NCHW", (-1.0, 1.0)),
        Port("mask", "mask", "float32", ("batch", 1, "height", "width"), "NCHW", (0.0, 1.0)),
        Port("style", "vector", "float32", ("batch", 3), "NC", distribution="normal"),
        Port("label", "label", "int64", ("batch",), "N"),
    )
    output = Port("y", "image", "float32", SPACE, "NCHW", (-1.0, 1.0))
    constants = {
        "one": (TensorProto.FLOAT, [1], [1.0]),
        "spatial": (TensorProto.INT64, [2], [2, 3]),
        "rest": (TensorProto.INT64, [3], [1, 2, 3]),
        "eighth": (TensorProto.FLOAT, [1], [0.125]),
    }
    nodes = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, *value))
        for name, value in constants.items()
    ]
    nodes += [
        helper.make_node("Unsqueeze", ["style", "spatial"], ["paint"]),
        helper.make_node("Sub", ["one", "mask"], ["kept"]),
        helper.make_node("Mul", ["x", "kept"], ["left"]),
        helper.make_node("Mul", ["mask", "paint"], ["painted"]),
        helper.make_node("Cast", ["label"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "eighth"], ["light"]),
        helper.make_node("Unsqueeze", ["light", "rest"], ["lift"]),
        helper.make_node("Add", ["left", "painted"], ["both"]),
        helper.make_node("Add", ["both", "lift"], ["y"]),
    ]
    return graph(Interface("image-to-image", inputs, (output,), None, ("horse", SCRIPT)), nodes)


def doubler() -> bytes:
    """Scale a picture to twice its size and blur nothing, for tiles."""
    port = Port("x", "image", "float32", SPACE, "NCHW", (0.0, 1.0))
    output = Port("y", "image", "float32", ("batch", 3, "tall", "wide"), "NCHW", (0.0, 1.0))
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0, 1.0, 2.0, 2.0])
    nodes = [
        helper.make_node("Constant", [], ["scales"], value=scales),
        helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest"),
    ]
    return graph(Interface("image-to-image", (port,), (output,), None, reach=0), nodes)


def pooled(side: int, stride: int, *sizes: str) -> bytes:
    """Means of square windows, with a border or at a fraction of the size; beside them a mask, and means by channel."""
    multiple = stride
    port = Port("x", "image", "float32", SPACE, "NCHW", (0.0, 1.0), multiple)
    outputs = (
        Port("y", "image", "float32", ("batch", 3, *sizes), "NCHW", (0.0, 1.0)),
        Port("m", "mask", "float32", ("batch", 1, "height", "width"), "NCHW", (0.0, 1.0)),
        Port("means", "values", "float32", ("batch", 3), "NC"),
    )
    axes = [("one", [1]), ("pixels", [2, 3])]
    nodes = [
        helper.make_node("Constant", [], [name], value=helper.make_tensor(name, TensorProto.INT64, [len(v)], v))
        for name, v in axes
    ]
    nodes += [
        helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[side] * 2, strides=[stride] * 2),
        helper.make_node("ReduceMean", ["x", "one"], ["m"], keepdims=1),
        helper.make_node("ReduceMean", ["x", "pixels"], ["means"], keepdims=0),
    ]
    return graph(Interface("image-to-image", (port,), outputs, None, reach=2), nodes)


def truncated() -> bytes:
    """Compute latent × truncation, as a picture of one pixel."""
    inputs = (
        Port("z", "latent", "float32", ("batch", 3), "NC"),
        Port("truncation", "vector", "float32", ("batch", 1), "NC"),
    )
    output = Port("y", "image", "float32", ("batch", 3, 1, 1), "NCHW", (-3.0, 3.0))
    spatial = helper.make_tensor("spatial", TensorProto.INT64, [2], [2, 3])
    nodes = [
        helper.make_node("Constant", [], ["spatial"], value=spatial),
        helper.make_node("Mul", ["z", "truncation"], ["w"]),
        helper.make_node("Unsqueeze", ["w", "spatial"], ["y"]),
    ]
    return graph(Interface("latent-to-image", inputs, (output,), "normal"), nodes)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server for a folder under its own strict policy."""
    server = browser.FolderServer(folder, read_web_folder(folder).policy())
    try:
        yield server.url
    finally:
        server.close()


def written(folder: Path, data: bytes, vendor: Path | None) -> Path:
    """A folder for an artifact, without the proof in a browser."""
    manifest, _ = read_bytes(data, "artifact")
    return to_web.write_web(folder, VerifiedArtifact(data, manifest, ()), None, vendor, lambda _: None)


@pytest.fixture(scope="module")
def chromium(vendor: Path) -> Iterator[Any]:
    """One Chromium for all tests here; `vendor` says where there is none."""
    from playwright.sync_api import sync_playwright

    rules = "--host-resolver-rules=MAP plain.example 127.0.0.1"
    with sync_playwright() as playwright:
        path, flags = browser.chromium(), [*browser.WEBGPU_FLAGS, rules]
        started = playwright.chromium.launch(executable_path=path, args=flags, chromium_sandbox=False)
        yield started
        started.close()


class Visit:
    """A page, and all that it asked for and complained of."""

    def __init__(self, chromium: Any) -> None:
        self.page = chromium.new_page(viewport={"width": 400, "height": 900})
        self.page.set_default_timeout(60_000)
        self.hosts: set[str] = set()
        self.complaints: list[str] = []
        self.page.context.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))

    def open(self, url: str) -> str:
        """Open a page and wait until it is ready or says why not; what it says then."""
        self.page.goto(url)
        return self.status()

    def status(self) -> str:
        """Wait until the page is ready or says why not; what it says then."""
        self.page.wait_for_selector(READY)
        return str(self.page.inner_text("#status"))

    def evaluate(self, code: str, argument: object = None) -> Any:
        """Run JavaScript in the page."""
        return self.page.evaluate(code, argument)


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visit]:
    visit = Visit(chromium)
    yield visit
    visit.page.close()


@pytest.fixture(scope="module")
def latent(artifact: Path, vendor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("latent") / "web", artifact.read_bytes(), vendor)


def test_the_page_draws_and_saves_without_any_third_party(latent: Path, visit: Visit) -> None:
    with served(latent) as url:
        assert "with WASM" in visit.open(f"{url}?engine=wasm")
        page = visit.page
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it fits 400 pixels"
        assert page.inner_text("h1") == "New pictures"
        first = page.evaluate("document.getElementById('picture').toDataURL()")
        page.fill("#seed-a", "5")
        page.wait_for_timeout(300)
        visit.status()
        assert page.evaluate("document.getElementById('picture').toDataURL()") != first
        second = page.evaluate("document.getElementById('picture').toDataURL()")
        assert _at(visit, 24) != second
        assert _at(visit, 12) not in (second, _at(visit, 24))
        assert _at(visit, 0) == second, "the single picture is the first of those between the seeds"
        with page.expect_download() as saving:
            page.click("#save")
        assert saving.value.suggested_filename == "generated.png"
        with Image.open(saving.value.path()) as picture:
            assert picture.size[0] == page.evaluate("document.getElementById('picture').width")
        assert visit.hosts == {url.split("/")[2]}
        assert visit.complaints == []


def _at(visit: Visit, position: int) -> str:
    """The picture at a position between the two seeds."""
    visit.page.fill("#position", str(position))
    visit.page.wait_for_timeout(50)
    visit.status()
    return str(visit.page.evaluate("document.getElementById('picture').toDataURL()"))


LATENTS = """async ([n, options]) => {
  return Array.from(new Uint32Array((await generator.latents(n, options)).buffer));
}"""


def test_a_seed_gives_the_latents_and_pictures_of_python(latent: Path, visit: Visit) -> None:
    manifest, _ = read_artifact(latent / "generator.onnx")
    port = manifest.interface.inputs[0]
    with served(latent) as url:
        visit.page.goto(f"{url}blank")
        visit.evaluate(LOAD)
        for seed, truncation, count in ((0, None, 20_000), (4294967295, None, 1000), (7, 0.7, 2000), (8, 2.0, 2000)):
            options = {"seed": seed} | ({} if truncation is None else {"truncation": truncation})
            drawn = visit.evaluate(LATENTS, [count, options])
            expected = LatentStream("normal", port.item_shape, seed, truncation).take(count)
            assert np.array_equal(np.array(drawn, np.uint32), expected.ravel().view(np.uint32)), (seed, truncation)
        drawn = visit.evaluate("async () => (await generator.sample(3, { seed: 5 })).map(" + PIXELS + ")")
        bad = visit.evaluate("() => generator.sample(1, { seed: -1 }).catch((error) => [error.code, error.message])")
    with load(latent / "generator.onnx", "onnxruntime") as generator:
        expected = generator.sample(3, seed=5)
    for (height, width, data), picture in zip(drawn, expected, strict=True):
        ours = np.array(data, np.uint8).reshape(height, width, 4)[..., : picture.shape[-1]]
        assert np.abs(ours.astype(int) - picture).max() <= 1
    assert bad == ["usage", "seed -1 is out of range: give 0 to 4294967295"]


def test_plain_http_takes_wasm_and_says_so(latent: Path, visit: Visit) -> None:
    with served(latent) as url:
        plain = url.replace("127.0.0.1", "plain.example")
        visit.open(plain)
        about = visit.page.inner_text("#about")
        assert "WASM" in about
        assert "WebGPU needs HTTPS or localhost, so WASM runs it" in about
        assert "its digest is not checked, which needs HTTPS or localhost" in about
        refused = visit.open(f"{plain}?engine=webgpu")
        assert "WebGPU needs HTTPS or localhost: take ?engine=wasm" in refused
        assert "engine cuda: choose auto, wasm or webgpu" in visit.open(f"{url}?engine=cuda")


def test_webgpu_is_taken_where_it_is_and_a_missing_proof_is_said(latent: Path, visit: Visit, tmp_path: Path) -> None:
    copy = shutil.copytree(latent, tmp_path / "web")
    write_description(copy, replace(read_web_folder(copy), untested={"webgpu": "no 16-bit floats"}))
    with served(copy) as url:
        assert "with WebGPU" in visit.open(url)
        assert "WebGPU was not proven at the export" in visit.page.inner_text("#about")
        assert visit.complaints == []


FEATURES = """if (globalThis.GPUAdapter) {
  Object.defineProperty(GPUAdapter.prototype, "features", { value: { has: () => HAS } });
}
"""
"""Whether the adapter claims to have 16-bit floats."""


def test_half_precision_takes_webgpu_only_where_the_gpu_has_it(
    half_artifact: Path, vendor: Path, visit: Visit, tmp_path: Path
) -> None:
    folder = written(tmp_path / "web", half_artifact.read_bytes(), vendor)
    module = (folder / "ganedge.js").read_text("utf-8")
    with served(folder) as url:
        (folder / "ganedge.js").write_text(FEATURES.replace("HAS", "false") + module, "utf-8")
        assert "with WASM" in visit.open(url)
        lack = "this browser's GPU has no 16-bit floats (shader-f16)"
        assert f"{lack}, so WASM runs it" in visit.page.inner_text("#about")
        assert visit.open(f"{url}?engine=webgpu") == f"{lack}: take ?engine=wasm"
        # Chromium's software adapter has none: where it claims to, WebGPU is tried, and WASM takes over.
        (folder / "ganedge.js").write_text(FEATURES.replace("HAS", "true") + module, "utf-8")
        assert "with W" in visit.open(url)
        about = visit.page.inner_text("#about")
        assert "16-bit floats" not in about
        assert "WebGPU" in about


def test_an_exchanged_artifact_is_shown(latent: Path, visit: Visit, tmp_path: Path) -> None:
    copy = shutil.copytree(latent, tmp_path / "web")
    manifest, model = read_artifact(copy / "generator.onnx")
    other = write_artifact(model, replace(manifest, unproven="exchanged"))
    shown = []
    with served(copy) as url:
        for data in (other, model[:-9] + b"\0" + model[-8:], model[: len(model) // 2], b"<html>"):
            (copy / "generator.onnx").write_bytes(data)
            shown.append(visit.open(f"{url}?engine=wasm"))
    assert "the digest does not match: this is another artifact than the one that was exported here" in shown[0]
    assert all("digest" in line or "ONNX" in line or "manifest" in line for line in shown), shown
    assert len(set(shown)) > 1


def test_further_inputs_reach_the_generator_and_class_names_stay_texts(
    vendor: Path, visit: Visit, tmp_path: Path
) -> None:
    folder = written(tmp_path / "web", painter(), vendor)
    picture, mask = natural(1, 21, 34, 3, 1)[0], np.zeros((21, 34), np.uint8)
    mask[:10] = 255
    Image.fromarray(picture).save(tmp_path / "in.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    with served(folder) as url:
        assert visit.open(f"{url}?engine=wasm") == "Ready, with WASM."
        page = visit.page
        assert page.locator("#style option").all_inner_texts() == ["horse", SCRIPT]
        page.set_input_files("#file", tmp_path / "in.png")
        assert "This generator also takes a mask: choose one for mask." in _next(visit)
        page.set_input_files("#beside input[type=file]", tmp_path / "mask.png")
        _next(visit)
        page.select_option("#style", "1")
        assert "Done" in _next(visit)
        shown = page.evaluate("(" + PIXELS + ")(after.getContext('2d').getImageData(0, 0, after.width, after.height))")
        assert page.title() == "Pictures to pictures"
        assert visit.complaints == []
    with load(folder / "generator.onnx", "onnxruntime") as generator:
        expected = generator.translate(picture, label=1, mask=mask, seed=0)
    ours = np.array(shown[2], np.uint8).reshape(shown[0], shown[1], 4)[..., :3]
    assert np.abs(ours.astype(int) - expected).max() <= 1


def _next(visit: Visit) -> str:
    visit.page.wait_for_timeout(150)
    return visit.status()


LOAD = """async () => {
  const { load } = await import("/ganedge.js");
  globalThis.generator = await load("generator.onnx", { engine: "wasm" });
}"""
TRANSLATE = """async ([height, width, data, options]) => {
  const image = new ImageData(Uint8ClampedArray.from(data), width, height);
  const result = await generator.translate(image, options);
  return [result.height, result.width, Array.from(result.data)];
}"""


OUTPUTS = """async ([height, width, data]) => {
  const image = new ImageData(Uint8ClampedArray.from(data), width, height);
  const { means, ...pictures } = await generator.translate(image, { outputs: true });
  const shown = Object.entries(pictures).map(([name, made]) => [name, made.height, made.width, Array.from(made.data)]);
  return [shown, Array.from(means.data)];
}"""
SAMPLES = """async () => {
  const drawn = [{}, { truncation: 0.5 }].map((options) => generator.sample(2, { seed: 4, ...options }));
  return (await Promise.all(drawn)).map((pictures) => pictures.flatMap(({ data }) => Array.from(data.slice(0, 3))));
}"""


def test_outputs_beside_the_result_and_tiles_with_a_border(vendor: Path, visit: Visit, tmp_path: Path) -> None:
    folder = written(tmp_path / "web", pooled(5, 1, "height-4", "width-4"), vendor)
    (folder / "half.onnx").write_bytes(pooled(2, 2, "0.5*height", "0.5*width"))
    (folder / "truncated.onnx").write_bytes(truncated())
    picture = natural(1, 75, 90, 3, 2)[0]
    Image.fromarray(picture).save(tmp_path / "in.png")
    argument = [75, 90, np.dstack([picture, np.full((75, 90), 255, np.uint8)]).ravel().tolist()]
    with served(folder) as url:
        assert visit.open(f"{url}?engine=wasm") == "Ready, with WASM."
        visit.page.set_input_files("#file", tmp_path / "in.png")
        assert "Done" in _next(visit)
        assert visit.page.inner_text("#pair figure:last-child figcaption") == "m", "the mask is shown; values are not"
        for name in ("generator", "half"):
            visit.evaluate(LOAD.replace("generator.onnx", f"{name}.onnx"))
            whole, cut = (visit.evaluate(TRANSLATE, [*argument, {"maxPixels": most}]) for most in (10_000, 48 * 48))
            assert cut[:2] == whole[:2]
            assert np.abs(np.array(cut[2]) - np.array(whole[2])).max() <= 1
            pictures, means = visit.evaluate(OUTPUTS, argument)
            with load(folder / f"{name}.onnx", "onnxruntime") as generator:
                expected = generator.translate_outputs(picture)
            assert [each[0] for each in pictures] == ["y", "m"]
            np.testing.assert_allclose(means, expected["means"], atol=1e-5)
            for name_of, height, width, data in pictures:
                ours = np.array(data).reshape(height, width, 4)[..., : 3 if name_of == "y" else 1]
                assert ours.shape == expected[name_of].shape
                assert np.abs(ours - expected[name_of]).max() <= 1

        # The option truncation goes into the input of that name, and latents stay what they are.
        visit.evaluate(LOAD.replace("generator.onnx", "truncated.onnx"))
        shown = visit.evaluate(SAMPLES)
        with load(folder / "truncated.onnx", "onnxruntime") as generator:
            for pixels, truncation in zip(shown, (None, 0.5), strict=True):
                assert pixels == generator.sample(2, seed=4, truncation=truncation).ravel().tolist()
        assert visit.complaints == []


class _Cdn(http.server.SimpleHTTPRequestHandler):
    """Files for pages of any origin, as a CDN gives them."""

    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Cross-Origin-Resource-Policy", "cross-origin")
        super().end_headers()

    def log_message(self, *values: object) -> None:
        """Say nothing."""


@pytest.fixture
def cdn(vendor: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a CDN with the true files in good/, and others in damaged/."""
    for name in ("good", "damaged"):
        (tmp_path / name).mkdir()
        for file in to_web.runtime_files():
            if name == "good":
                (tmp_path / name / file).symlink_to(vendor / file)
            else:
                (tmp_path / name / file).write_text("alert(1)")
    handler = functools.partial(_Cdn, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_cdn_is_checked_and_tiles_give_what_the_whole_picture_gives(
    cdn: str, visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = to_web.runtime()
    monkeypatch.setattr(to_web, "runtime", lambda: {**about, "base": f"{cdn}/damaged/"})
    with served(written(tmp_path / "other", doubler(), None)) as url:
        assert "the file has another hash" in visit.open(f"{url}?engine=wasm")
    monkeypatch.setattr(to_web, "runtime", lambda: {**about, "base": f"{cdn}/good/"})
    folder = written(tmp_path / "web", doubler(), None)
    visit.hosts.clear()
    with served(folder) as url:
        assert visit.open(f"{url}?engine=wasm") == "Ready, with WASM."
        assert visit.hosts == {url.split("/")[2], cdn.split("/")[2]}
        visit.evaluate(LOAD)
        alpha = np.linspace(0, 255, 75 * 90).astype(np.uint8).reshape(75, 90, 1)
        picture = np.concatenate([natural(1, 75, 90, 3, 2)[0], alpha], -1)
        argument = [75, 90, picture.ravel().tolist()]
        whole, cut = (visit.evaluate(TRANSLATE, [*argument, {"maxPixels": most}]) for most in (10_000, 48 * 48))
    assert whole[:2] == [150, 180]
    assert cut == whole
    with load(folder / "generator.onnx", "onnxruntime") as generator:
        expected = generator.translate(picture)
    ours = np.array(whole[2], np.uint8).reshape(150, 180, 4)
    assert np.abs(ours[..., :3].astype(int) - expected[..., :3]).max() <= 1
