"""The folder for a browser as it is written: its files, what is refused, and what is said where no browser is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ganedge.export import export, to_web
from ganedge.runtime.engines import EngineInfo, browser
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.web_folder import NAME, read_web_folder


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "chromium", lambda: None)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm package of made-up files, and a module that takes them by their hashes."""
    about = {"version": "1.2.3", "base": "https://cdn.example/ort/"}
    dist = tmp_path / "package" / "dist"
    dist.mkdir(parents=True)
    for engine in browser.PROVIDERS:
        about[engine] = {}
        for name in (f"{engine}.mjs", f"{engine}.wasm"):
            (dist / name).write_bytes(name.encode())
            about[engine][name] = to_web.integrity(name.encode())
    monkeypatch.setattr(to_web, "runtime", lambda: about)
    return tmp_path


@pytest.mark.usefixtures("no_browser")
def test_the_folder_holds_everything_and_the_module_is_small(artifact: Path, tmp_path: Path) -> None:
    folder = export(artifact, format="web", output=tmp_path / "web").path
    names = {
        "index.html",
        "page.js",
        "page.css",
        "icon.svg",
        "ganedge.js",
        "generator.onnx",
        "generator.onnx.proof.npz",
        NAME,
    }
    assert {path.name for path in folder.iterdir()} == names
    module = (folder / "ganedge.js").read_text("utf-8")
    assert len(module.encode()) <= 30_000
    assert module.count("https://") == 1, "one address of a third party, the one of the CDN"
    constant = re.search(r'^const \w+=(\{"version".*\});$', module, re.MULTILINE)
    assert constant is not None
    assert json.loads(constant[1]) == to_web.runtime()
    about = read_web_folder(folder)
    assert about.origin == "https://cdn.jsdelivr.net"
    assert about.manifest.digest == json.loads((folder / NAME).read_text())["digest"]
    assert (folder / "generator.onnx").read_bytes() == artifact.read_bytes()


@pytest.mark.usefixtures("no_browser")
def test_with_vendor_the_folder_names_no_third_party(artifact: Path, tmp_path: Path, package: Path) -> None:
    folder = export(artifact, format="web", vendor=package, output=tmp_path / "web").path
    files = {path.name for path in (folder / "onnxruntime").iterdir()}
    assert files == {"wasm.mjs", "wasm.wasm", "webgpu.mjs", "webgpu.wasm"}
    for path in (folder / "index.html", folder / "page.js", folder / "page.css", folder / "ganedge.js"):
        assert "://" not in path.read_text("utf-8"), path
    about = read_web_folder(folder)
    assert about.origin == ""
    assert "http" not in about.policy()
    again = export(artifact, format="web", output=folder).path
    assert not (again / "onnxruntime").exists(), "an export without --vendor removes what an earlier one put there"


@pytest.mark.usefixtures("no_browser")
def test_without_a_browser_it_is_written_and_said(artifact: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    pytest.importorskip("playwright", reason="without it, the missing extra is named instead")
    done = command("gan-export", artifact, "--format", "web", "-o", tmp_path / "web")
    assert done.code == 0
    assert "not proven in a browser (no Chromium was found" in done.err + done.out
    assert f"later: gan-run verify {tmp_path / 'web'} --browser" in done.err + done.out
    assert "no Chromium" in read_web_folder(tmp_path / "web").unproven
    failed = command("gan-run", "verify", tmp_path / "web", "--browser")
    assert failed.code == 1
    assert failed.err.count("\n") == 1
    assert "no Chromium was found: install one (apt-get install chromium), or name it in GANEDGE_CHROMIUM" in failed.err


def test_a_browser_without_playwright_names_the_extra(
    artifact: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "_has_playwright", lambda: False)
    export(artifact, format="web", output=tmp_path / "web")
    failed = command("gan-run", "verify", tmp_path / "web", "--browser")
    assert (failed.code, failed.err.count("\n")) == (1, 1)
    assert "pip install 'ganedge[browser]'" in failed.err
    assert failed.err.startswith("gan-run: ")


class _Fake:
    """A browser whose engines return zeros, or refuse."""

    def __init__(self, shape: tuple[int, ...], refuses: tuple[str, ...] = (), lacks: tuple[str, ...] = ()) -> None:
        self.shape, self.refuses, self.lacks = shape, refuses, lacks

    def __call__(self, folder: Path) -> _Fake:
        return self

    def __enter__(self) -> _Fake:
        return self

    def __exit__(self, *reason: object) -> None:
        """Nothing to end."""

    def start(self, provider: str) -> Any:
        from ganedge.runtime.errors import EngineError

        if provider in self.refuses:
            raise EngineError(f"{provider}: no such layer")
        if provider in self.lacks:
            raise browser.MissingFeature(provider, "this browser has no WebGPU")
        info = EngineInfo("onnxruntime-web", f"1 {provider}", "Chromium", "cpu", "fp32")

        def run(feeds: dict[str, Any]) -> list[Any]:
            return [np.zeros((len(next(iter(feeds.values()))), *self.shape), np.float32)]

        return SimpleNamespace(info=info, run=run, close=lambda: None)


def test_other_pictures_in_the_browser_are_not_exported(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "missing", lambda: "")
    monkeypatch.setattr(browser, "Browser", _Fake(_shape(artifact)))
    with pytest.raises(GanEdgeError, match=r"not exported, the browser gives other pictures .*onnxruntime-web 1 wasm"):
        export(artifact, format="web", output=tmp_path / "web")
    assert list(tmp_path.iterdir()) == []
    accepted = export(artifact, format="web", tolerance="none", output=tmp_path / "web").path
    assert [proof.passed for proof in read_web_folder(accepted).parity] == [True, True]


def test_an_engine_that_cannot_run_it_is_named(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "missing", lambda: "")
    monkeypatch.setattr(browser, "Browser", _Fake(_shape(artifact), ("webgpu",)))
    lines: list[str] = []
    from ganedge.export import export_all

    (made,) = export_all(artifact, format="web", tolerance="none", output=tmp_path / "web", progress=lines.append)
    assert read_web_folder(made.path).refused == ("webgpu",)
    assert "webgpu does not run it: webgpu: no such layer" in lines
    monkeypatch.setattr(browser, "Browser", _Fake(_shape(artifact), browser.PROVIDERS))
    (made,) = export_all(artifact, format="web", tolerance="none", output=tmp_path / "web", progress=lines.append)
    about = read_web_folder(made.path)
    assert (about.parity, about.unproven) == ((), "wasm: no such layer")


def test_what_this_browser_lacks_is_no_refusal(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ganedge.export import export_all

    monkeypatch.setattr(browser, "missing", lambda: "")
    monkeypatch.setattr(browser, "Browser", _Fake(_shape(artifact), lacks=("webgpu",)))
    lines: list[str] = []
    (made,) = export_all(artifact, format="web", tolerance="none", output=tmp_path / "web", progress=lines.append)
    about = read_web_folder(made.path)
    assert (about.refused, about.untested, about.unproven) == ((), {"webgpu": "this browser has no WebGPU"}, "")
    assert len(about.parity) == 1
    assert (
        "webgpu cannot be proven here (this browser has no WebGPU): "
        "the page takes it where a visitor's browser can, and says so"
    ) in lines
    monkeypatch.setattr(browser, "Browser", _Fake(_shape(artifact), lacks=browser.PROVIDERS))
    (made,) = export_all(artifact, format="web", tolerance="none", output=tmp_path / "web", progress=lines.append)
    assert read_web_folder(made.path).unproven == "this browser has no WebGPU"


def _shape(artifact: Path) -> tuple[int, ...]:
    from ganedge.runtime.manifest import read_artifact

    return read_artifact(artifact)[0].interface.output.item_shape


def test_what_is_refused_before_anything_is_computed(artifact: Path, tmp_path: Path, package: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"precision": "bf16"}, r"--bf16: no browser computes it; take --fp16 or --int8"),
        ({"vendor": tmp_path / "package" / "nothing"}, r"there is no wasm.mjs in .*npm pack onnxruntime-web@1.2.3"),
        ({"vendor": package, "format": "onnx"}, r"--vendor is for --format web, and onnx was asked for"),
        ({"output": artifact}, r"is a file: --format web writes a folder"),
        ({"output": artifact.parent}, r"holds files that --format web did not write"),
    ]
    for settings, line in cases:
        with pytest.raises(UsageError, match=line):
            export(artifact, **{"format": "web", **settings})
    (package / "package" / "dist" / "wasm.wasm").write_bytes(b"other")
    with pytest.raises(UsageError, match=r"wasm.wasm is damaged, or not of version 1.2.3"):
        export(artifact, format="web", vendor=package)
