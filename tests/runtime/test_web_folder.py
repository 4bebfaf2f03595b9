"""Folders for a browser: their description, what was exchanged or damaged, and the proof in Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ganedge.runtime.engines import EngineInfo, browser
from ganedge.runtime.errors import ArtifactError, EngineError
from ganedge.runtime.manifest import Parity, read_artifact, write_artifact
from ganedge.runtime.verify import verify, verify_in_browser
from ganedge.runtime.web_folder import NAME, WebFolder, read_web_folder, write_description

PROOF = Parity("onnxruntime-web 1 wasm (Chromium 1)", "fp32", 2, (1,), 0.0, 0.0, None, None, 0.0, "maxabs=0.0001", True)


@pytest.fixture
def folder(artifact: Path, tmp_path: Path) -> Path:
    """Artifact, proof and description, without page and module."""
    path = tmp_path / "web"
    path.mkdir()
    shutil.copy(artifact, path / "generator.onnx")
    shutil.copy(artifact.with_name(f"{artifact.name}.proof.npz"), path / "generator.onnx.proof.npz")
    manifest, _ = read_artifact(artifact)
    write_description(path, WebFolder(manifest, "1.2.3", "https://cdn.example", (PROOF,), refused=("webgpu",)))
    return path


def test_what_is_written_is_read(folder: Path) -> None:
    about = read_web_folder(folder)
    assert (about.runtime, about.origin, about.refused) == ("1.2.3", "https://cdn.example", ("webgpu",))
    assert about.parity == (PROOF,)
    assert about.untested == {}
    write_description(folder, replace(about, untested={"webgpu": "no 16-bit floats"}))
    assert read_web_folder(folder).untested == {"webgpu": "no 16-bit floats"}
    older = "".join(line for line in (folder / NAME).read_text("utf-8").splitlines(True) if "no 16-bit" not in line)
    (folder / NAME).write_text(older.replace('"untested": {\n }', '"of later": 1'), "utf-8")
    assert read_web_folder(folder).untested == {}, "a folder that was written before engines were recorded as untested"
    assert about.manifest == read_artifact(folder / "generator.onnx")[0]


def test_the_policy_names_the_origin_only_where_there_is_one(folder: Path) -> None:
    about = read_web_folder(folder)
    assert "connect-src 'self' https://cdn.example;" in about.policy()
    local = WebFolder(about.manifest, "1.2.3").policy()
    assert "https" not in local
    assert "script-src 'self' 'wasm-unsafe-eval';" in local
    for policy in (about.policy(), local):
        assert policy.startswith("default-src 'none';")
        assert "unsafe-inline" not in policy
        assert "'unsafe-eval'" not in policy


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda _: "{", "is damaged: it is no JSON object"),
        (lambda _: "[]", "is damaged: it is no JSON object"),
        (lambda text: text.replace('"schema": 1', '"schema": 9'), "is from a newer ganedge"),
        (lambda text: text.replace('"runtime": "1.2.3"', '"runtime": 3'), "is damaged"),
        (lambda text: text.replace("https://cdn.example", "https://x; script-src *"), "is damaged"),
        (lambda text: text.replace('"parity"', '"poverty"'), "is damaged"),
        (lambda text: text.replace('"untested": {}', '"untested": []'), "is damaged"),
        (lambda text: text.replace('"samples": 2', '"samples": -2'), "is damaged"),
        (lambda text: text.replace("sha256:", "sha256:0"), "is not the artifact that this folder was exported with"),
    ],
)
def test_a_damaged_description_is_one_line(folder: Path, change: Callable[[str], str], line: str) -> None:
    text = (folder / NAME).read_text("utf-8")
    assert change(text) != text
    (folder / NAME).write_text(change(text), "utf-8")
    with pytest.raises(ArtifactError, match=line) as caught:
        read_web_folder(folder)
    assert "\n" not in str(caught.value)


def test_an_exchanged_or_damaged_artifact_is_refused(folder: Path, command: Callable[..., Any]) -> None:
    path = folder / "generator.onnx"
    manifest, model = read_artifact(path)
    path.write_bytes(write_artifact(model, replace(manifest, unproven="exchanged")))
    done = command("gan-run", "verify", folder)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "is not the artifact that this folder was exported with: export it again" in done.err
    path.write_bytes(model[:-7] + b"damaged")
    with pytest.raises(ArtifactError, match=r"generator.onnx: "):
        verify_in_browser(folder)


def test_the_commands_take_the_folder(folder: Path, command: Callable[..., Any]) -> None:
    assert all(check.passed for check in verify(folder))
    done = command("gan-run", "verify", folder)
    assert done.code == 0
    assert f"next: gan-run verify {folder} --browser" in done.out + done.err
    shown = command("gan-run", "info", folder)
    assert "onnxruntime-web 1 wasm, fp32" in shown.out
    assert "webgpu is not used, it did not pass at the export" in shown.out
    about = read_web_folder(folder)
    write_description(folder, replace(about, refused=(), untested={"webgpu": "no WebGPU"}, unproven="not yet"))
    shown = command("gan-run", "info", folder)
    assert "webgpu was not proven at the export: no WebGPU" in shown.out
    assert "not proven at the export (not yet)" in shown.out
    write_description(folder, about)
    assert f"python3 -m http.server --directory {folder}" in shown.out + shown.err
    refused = command("gan-run", "verify", folder / "generator.onnx", "--browser")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--browser is for a folder that gan-export --format web wrote" in refused.err
    (folder / NAME).unlink()
    gone = command("gan-run", "verify", folder, "--browser")
    assert gone.code == 1
    assert "is no folder that gan-export --format web wrote" in gone.err


def exported(artifact: Path, vendor: Path, folder: Path) -> Path:
    """A folder with the artifact's stored proof, of which two inputs are kept: one in each engine is enough here."""
    pytest.importorskip("onnx")
    from ganedge.export.artifact import VerifiedArtifact
    from ganedge.export.to_web import write_web

    manifest, model = read_artifact(artifact)
    path = write_web(folder / "web", VerifiedArtifact(model, manifest, ()), None, vendor, lambda _: None)
    with np.load(artifact.with_name(f"{artifact.name}.proof.npz")) as stored:
        arrays = {name: stored[name] if stored[name].ndim == 0 else stored[name][:2] for name in stored}
    np.savez(path / "generator.onnx.proof.npz", **arrays)
    return path


def test_a_dcgan_is_verified_in_wasm_and_webgpu(
    artifact: Path, vendor: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    done = command("gan-run", "verify", exported(artifact, vendor, tmp_path), "--browser")
    assert done.code == 0, done.err
    lines = (done.out + done.err).splitlines()
    assert [line.split()[2] for line in lines if line.startswith("onnxruntime-web")] == ["wasm", "webgpu"]
    assert lines[-1].startswith("verified")


class _Zeros:
    """A browser whose engines return zeros."""

    lacks: tuple[str, ...] = ()
    """Engines that it does not have."""

    def __init__(self, folder: Path) -> None:
        self.interface = read_web_folder(folder).manifest.interface

    def __enter__(self) -> _Zeros:
        return self

    def __exit__(self, *reason: object) -> None:
        """Nothing to end."""

    def start(self, provider: str) -> Any:
        if provider in self.lacks:
            raise browser.MissingFeature(provider, "this browser has no WebGPU")
        info = EngineInfo("onnxruntime-web", f"1 {provider}", "Chromium", "cpu", "fp32")
        shape = self.interface.output.item_shape
        run = lambda feeds: [np.zeros((len(next(iter(feeds.values()))), *shape), np.float32)]  # noqa: E731 - short
        return SimpleNamespace(info=info, run=run, close=lambda: None)


def test_other_pictures_fail_unless_the_export_refused_the_engine(
    folder: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "Browser", _Zeros)
    done = command("gan-run", "verify", folder, "--browser")
    assert done.code == 1
    assert "webgpu is not used, it did not pass at the export either" in done.err + done.out
    assert "other pictures than at the export with onnxruntime-web 1 wasm" in done.err + done.out
    monkeypatch.setattr(_Zeros, "lacks", ("webgpu",))
    done = command("gan-run", "verify", folder, "--browser")
    assert "webgpu cannot be verified here: this browser has no WebGPU" in done.err + done.out
    monkeypatch.setattr(_Zeros, "lacks", browser.PROVIDERS)
    with pytest.raises(EngineError, match=r"no engine of this browser can run it: wasm cannot be verified here"):
        verify_in_browser(folder)
    (folder / "generator.onnx.proof.npz").unlink()
    with pytest.raises(EngineError, match=r"nothing to compare with: there is no .*proof.npz"):
        verify_in_browser(folder)
