"""Which engine `auto` takes, the proof on the device, and what the doctor finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from ganedge.runtime import ArtifactError, EngineError, doctor, engines, load, timing, tuning
from ganedge.runtime.engines import ort, ov
from ganedge.runtime.fidelity import difference, read_gate
from ganedge.runtime.generator import Generator
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import Measurement, read_artifact, write_artifact
from ganedge.runtime.tuning import Choice, Trial
from ganedge.runtime.verify import verify

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def with_proofs(artifact: Path, path: Path, *names: str) -> Path:
    """A copy whose manifest holds only the proofs of some engines."""
    manifest, model = read_artifact(artifact)
    kept = tuple(proof for proof in manifest.parity if proof.engine.split()[0] in names)
    path.write_bytes(write_artifact(model, replace(manifest, parity=kept)))
    return path


def test_auto_takes_what_was_proven(artifact: Path, tmp_path: Path) -> None:
    with load(with_proofs(artifact, tmp_path / "a.onnx", "openvino")) as generator:
        assert generator.engine.name == "openvino"
    with load(with_proofs(artifact, tmp_path / "b.onnx")) as generator:
        assert generator.engine.name == "onnxruntime"


def test_tune_is_remembered_and_taken(command: Command, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = command("gan-run", "tune", artifact, "--seconds", 0.05)
    assert done.code == 0, done.err
    digest = read_artifact(artifact)[0].digest
    choice = tuning.recall(digest)
    assert choice is not None
    assert f"fastest: {choice.engine}" in done.err
    for name in engines.MODULES:
        version = load(artifact, name).engine.version
        tuning.remember(digest, Choice(name, version, "cpu"))
        assert load(artifact).engine.name == name
    tuning.remember(digest, Choice("openvino", "0.0", "cpu"))
    assert load(artifact).engine.name == "onnxruntime", "another version was not measured"
    tuning.remember(digest, Choice("openvino", "0.0", "cpu"))
    for text in ("{", "[]", '{"x": 1}'):
        tuning.cache_file().write_text(text)
        assert tuning.recall(digest) is None
        tuning.remember(digest, choice)
        assert tuning.recall(digest) == choice


def test_a_cache_that_cannot_be_written(
    command: Command, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = command("gan-run", "tune", artifact, "--seconds", 0.05)
    assert done.code == 0, done.err
    assert "not remembered: cannot write" in done.err
    assert load(artifact).engine.name == "onnxruntime"


def test_the_fastest_that_is_close_enough() -> None:
    slow, fast, wrong = (
        Trial(Choice(name, "1", "cpu"), time, psnr)
        for name, time, psnr in (("onnxruntime", 3.0, None), ("openvino", 2.0, 55.0), ("openvino", 1.0, 39.0))
    )
    assert tuning.best([slow, fast, wrong]) is fast
    assert tuning.best([slow, wrong]) is slow


def test_one_that_gives_nan_is_never_chosen(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, model = read_artifact(artifact)
    whole = np.zeros((1, 1, 8, 8), np.float32)
    holed = whole.copy()
    holed[0, 0, 0, 0] = np.nan

    class Fake:
        def __init__(self, output: Any) -> None:
            self.output = output

        def run(self, _feeds: Any) -> Any:
            return [self.output]

        def close(self) -> None: ...

    found = [(Choice(name, "1", "cpu"), Fake(output)) for name, output in (("a", whole), ("b", holed))]
    monkeypatch.setattr(tuning, "started", lambda *_: found)
    monkeypatch.setattr(timing, "median_seconds", lambda *_: [2.0, 1.0])
    assert tuning.best(tuning.tune(model, manifest, 1, 0.01, None)).choice.engine == "a"


def test_a_plainly_slower_way_is_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def times(*work: float) -> list[float]:
        calls.clear()
        first = [tuning.Call([], [], 2 * seconds, seconds) for seconds in work]
        return tuning._times([partial(calls.append, index) for index in range(len(work))], 2, 0.0, first)

    slow = 2 * timing.WAKES
    taken = times(slow, 3 * slow, 4 * slow, 13 * slow)
    assert set(calls) == {0, 2}, "of each group the fast one"
    assert taken[1::2] == [6 * slow, 26 * slow]
    assert set(calls) == {0, 2}
    times(slow, 1.9 * slow, slow, slow)
    assert set(calls) == {0, 1, 2, 3}
    times(timing.WAKES / 100, timing.WAKES / 2)
    assert set(calls) == {0, 1}, "short calls are cheap"


def test_an_engine_that_takes_long_to_start_is_tried_in_no_other_precision(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, data = read_artifact(artifact)
    asked: list[str | None] = []

    def start(*settings: Any) -> Any:
        asked.append(settings[-1])
        return SimpleNamespace(info=SimpleNamespace(version="1", device="CPU"))

    monkeypatch.setattr(tuning, "start", start)
    monkeypatch.setattr(tuning, "ways", lambda _: [("openvino", None), ("openvino", "bf16")])
    tuning.started(data, manifest, None)
    assert asked == [None, "bf16"]
    monkeypatch.setattr(tuning, "LONG_START", -1.0)
    tuning.started(data, manifest, None)
    assert asked == [None, "bf16", None]


def test_a_lower_precision_is_given_or_refused(artifact: Path) -> None:
    model = artifact.read_bytes()
    for compute in ("bf16", "fp16"):
        if compute in ov.precisions():
            assert engines.start(model, "fp32", "openvino", "cpu", None, compute).info.precision.startswith(compute)
        else:
            with pytest.raises(EngineError, match="cannot compute in"):
                engines.start(model, "fp32", "openvino", "cpu", None, compute)
    with pytest.raises(EngineError, match="int3"):
        engines.start(model, "fp32", "openvino", "cpu", None, "int3")
    with pytest.raises(EngineError, match="own precision"):
        engines.start(model, "fp32", "onnxruntime", "cpu", None, "bf16")


def test_weights_that_are_computed_stay_in_the_artifacts_own_precision(artifact: Path) -> None:
    """Preparing them in a lower one may never end, as seen of a StyleGAN3."""
    ports = [
        helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 4, 8, 8]), ("s", [4, 4, 3, 3]))
    ]
    result = helper.make_tensor_value_info("y", 1, [1, 4, 6, 6])
    nodes = [helper.make_node("Sigmoid", ["s"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ports, [result]), opset_imports=[helper.make_opsetid("", 18)]
    )
    assert engines.start(model.SerializeToString(), "fp32", "openvino", "cpu", None).info.precision
    lower = ov.precisions()
    if not lower:
        pytest.skip("this processor computes in no lower precision with openvino")
    with pytest.raises(EngineError, match="computed weights"):
        engines.start(model.SerializeToString(), "fp32", "openvino", "cpu", None, lower[0])
    assert engines.start(artifact.read_bytes(), "fp32", "openvino", "cpu", None, lower[0]).info.precision


def test_bindings_give_what_plain_calls_give(artifact: Path) -> None:
    plain = ort.start(artifact.read_bytes(), "fp32", "cpu", 1)
    bound = ort.BoundOnnxRuntime(plain._session, plain.info, graphs=False, memory="cpu")
    random = np.random.default_rng(0)
    for batch in (2, 2, 3, 2):
        feeds = {"latent": random.standard_normal((batch, 6)).astype(np.float32)}
        np.testing.assert_array_equal(bound.run(feeds)[0], plain.run(feeds)[0])
        assert all(part >= 0 for part in bound.parts(feeds))
    with pytest.raises(EngineError, match="could not run"):
        bound.run({"latent": np.zeros((2, 7), np.float32)})
    with pytest.raises(EngineError, match="could not run"):
        bound.parts({"latent": np.zeros((2, 7), np.float32)})
    generator = Generator(read_artifact(artifact)[0], bound)
    parts = generator.parts(np.zeros((2, 6), np.float32))
    assert parts is not None
    assert parts[1] > 0
    assert load(artifact, "onnxruntime", "cpu").parts(np.zeros((2, 6), np.float32)) is None, "nothing is copied"


def test_verify_holds_the_engines_against_each_other(command: Command, artifact: Path, tmp_path: Path) -> None:
    """Where the stored proof was not taken along."""
    (tmp_path / "g.onnx").write_bytes(artifact.read_bytes())
    done = command("gan-run", "verify", tmp_path / "g.onnx")
    assert done.code == 0, done.err
    assert "openvino" in done.err
    assert "passed 2 × maxabs=0.0001" in done.err


def test_verify_holds_them_against_the_stored_reference(command: Command, artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(artifact.read_bytes())
    inputs = real_inputs(read_artifact(path)[0].interface)
    with load(path) as generator:
        output = generator.run(*inputs)
    np.savez(tmp_path / "g.onnx.proof.npz", input0=inputs[0], output=output)
    assert all(check.passed and check.against == "g.onnx.proof.npz" for check in verify(path))
    np.savez(tmp_path / "g.onnx.proof.npz", input0=inputs[0], output=output + 0.01)
    done = command("gan-run", "verify", path)
    assert done.code == 1
    assert "FAILED maxabs=0.0001" in done.err
    np.savez(tmp_path / "g.onnx.proof.npz", other=output)
    with pytest.raises(ArtifactError, match="no stored proof"):
        verify(path)


def test_verify_needs_something_to_compare_with(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "g.onnx").write_bytes(artifact.read_bytes())
    monkeypatch.setattr("ganedge.runtime.verify.installed", lambda name: name == "onnxruntime")
    with pytest.raises(EngineError, match="nothing to compare with"):
        verify(tmp_path / "g.onnx")


def test_figures_and_gates(artifact: Path) -> None:
    port = read_artifact(artifact)[0].interface.output
    wanted = np.zeros((2, 1, 8, 8), np.float32)
    off = wanted.copy()
    off[1] += 0.02
    found = difference(off, wanted, port)
    assert found.max_abs == pytest.approx(0.02)
    assert found.psnr == pytest.approx(40.0, abs=1e-3), "the worst item: 0.02 of a range of 2"
    assert read_gate("psnr=39.9").holds(found)
    assert not read_gate("psnr=40.1").holds(found)
    assert read_gate("psnr=46").holds(found, slack=2)
    assert not read_gate("maxabs=0.009").holds(found)
    off[0, 0, 0, 0] = np.nan
    assert not read_gate("none").holds(difference(off, wanted, port))


def test_pictures_are_made_up_for_verify(make: Callable[..., Path]) -> None:
    path = make([helper.make_node("Neg", ["x"], ["y"])], multiple=48)
    (inputs,) = real_inputs(read_artifact(path)[0].interface, 2)
    assert inputs.shape == (2, 3, 96, 96)
    assert inputs.std() > 0.2
    assert not np.array_equal(inputs[0], inputs[1])
    assert all(check.passed for check in verify(path))


def test_doctor(command: Command, tmp_path: Path) -> None:
    done = command("gan-run", "doctor", "--selftest", "-o", tmp_path / "first.png")
    assert done.code == 0, done.err
    assert "onnxruntime" in done.out
    with Image.open(tmp_path / "first.png") as image:
        assert np.asarray(image).std() > 10
    report = json.loads(command("gan-run", "doctor", "--json").out)
    built_here = filter(engines.installed, doctor.FLAVOURS)
    assert {engine["name"] for engine in report["engines"]} == {
        *engines.MODULES,
        *built_here,
        *filter(engines.installed, ("ncnn",)),
    }
    assert report["packages"]["numpy"] == np.__version__


def test_the_tiny_artifact_is_sound() -> None:
    onnx.checker.check_model(onnx.load_from_string(doctor.tiny_artifact()), full_check=True)


def test_the_doctor_knows_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed, what it would run on, and what running an .engine lacks."""
    here = {"tensorrt": SimpleNamespace(__version__="10.3.0"), "cuda.bindings.runtime": None}
    monkeypatch.setattr(doctor, "installed", lambda name: name == "tensorrt")
    monkeypatch.setattr(doctor.trt_builder, "compute_capability", lambda: "sm87")

    def module(name: str, *_: object) -> object:
        if name not in here:
            raise ImportError(name)
        return here[name]

    monkeypatch.setattr(doctor.importlib, "import_module", module)
    assert ("engine", "tensorrt 10.3.0: sm87") in doctor.rows(doctor.examine())
    del here["cuda.bindings.runtime"]
    monkeypatch.setattr(doctor.trt_builder, "compute_capability", lambda: "")
    shown = next(value for name, value in doctor.rows(doctor.examine()) if value.startswith("tensorrt "))
    assert "10.3.0 runs no .engine files here: no NVIDIA GPU" in shown
    assert "pip install cuda-python" in shown


def test_what_the_doctor_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    release = tmp_path / "release"
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n")
    monkeypatch.setattr(doctor, "TEGRA", release)
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name != "pillow" else "")
    monkeypatch.setattr(doctor, "installed", lambda name: False)
    assert "JetPack" not in " ".join(doctor.problems()), "a TensorRT that pip did not bring is JetPack's own"
    assert doctor._by_pip("numpy")
    monkeypatch.setattr(doctor, "_by_pip", lambda name: True)
    assert doctor.jetpack() == "JetPack 6 (L4T 36.4.3)"
    found = " ".join(doctor.problems())
    for said in ("overwrite each other", "beside the one of JetPack", "no engine is installed", "pillow is missing"):
        assert said in found
    done = command("gan-run", "doctor")
    assert done.code == 1
    assert "is not installed: pip install 'ganedge[cpu]'" in done.out


def measurement(engine: str, milliseconds: float, **changes: Any) -> Measurement:
    """What an export on this machine measured."""
    known = {
        "version": load_version(engine),
        "device": "cpu",
        "processor": tuning.processor(),
        "threads": engines.cores(),
        "compute": "",
    }
    return Measurement(engine=engine, milliseconds=milliseconds, **{**known, **changes})


def load_version(engine: str) -> str:
    return engines.package_version(engine)


def with_manifest(artifact: Path, path: Path, **changes: Any) -> Path:
    """A copy whose manifest says something else."""
    manifest, model = read_artifact(artifact)
    path.write_bytes(write_artifact(model, replace(manifest, **changes)))
    return path


def test_auto_takes_what_the_export_measured_on_such_a_machine(artifact: Path, tmp_path: Path) -> None:
    faster = (measurement("onnxruntime", 2.0), measurement("openvino", 1.0))
    with load(with_manifest(artifact, tmp_path / "a.onnx", measured=faster)) as generator:
        assert generator.engine.name == "openvino"
    for change in ({"processor": "another"}, {"threads": 999}, {"version": "0.0"}):
        elsewhere = (measurement("openvino", 1.0, **change),)
        with load(with_manifest(artifact, tmp_path / "b.onnx", measured=elsewhere)) as generator:
            assert generator.engine.name == "onnxruntime", change
    tuning.remember(
        read_artifact(tmp_path / "a.onnx")[0].digest, Choice("onnxruntime", load_version("onnxruntime"), "cpu")
    )
    with load(tmp_path / "a.onnx") as generator:
        assert generator.engine.name == "onnxruntime", "what was measured here last counts most"


def test_auto_prefers_the_engine_that_the_graph_was_made_for(artifact: Path, tmp_path: Path) -> None:
    with load(with_manifest(artifact, tmp_path / "a.onnx", made_for="openvino")) as generator:
        assert generator.engine.name == "openvino"
    with load(with_manifest(artifact, tmp_path / "b.onnx", made_for="tensorrt")) as generator:
        assert generator.engine.name == "onnxruntime"


def test_an_engine_that_failed_its_proof_is_never_chosen(artifact: Path, tmp_path: Path) -> None:
    parity = read_artifact(artifact)[0].parity
    parity = tuple(replace(proof, passed="openvino" not in proof.engine) for proof in parity)
    measured = (measurement("onnxruntime", 2.0), measurement("openvino", 1.0))
    path = with_manifest(artifact, tmp_path / "a.onnx", measured=measured, parity=parity, made_for="openvino")
    tuning.remember(read_artifact(path)[0].digest, Choice("openvino", load_version("openvino"), "cpu"))
    with load(path) as generator:
        assert generator.engine.name == "onnxruntime"


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tuning by itself turned on, and the digests it measured."""
    monkeypatch.setenv("GANEDGE_TUNE", "1")
    monkeypatch.setattr(tuning, "QUICK_SECONDS", 0.0)
    digests: list[str] = []
    real = tuning.tune
    monkeypatch.setattr(
        tuning, "tune", lambda m, manifest, *rest: digests.append(manifest.digest) or real(m, manifest, *rest)
    )
    return digests


def test_gan_run_measures_once_and_says_so(command: Command, artifact: Path, tmp_path: Path, tuned: list[str]) -> None:
    sample = ("gan-run", "sample", artifact, "-n", 1, "-o", tmp_path / "a.png")
    first = command(*sample)
    assert first.code == 0, first.err
    assert "fastest engine for this file here" in first.err
    assert "fastest engine" not in command(*sample).err
    assert len(tuned) == 1
    assert "fastest engine" not in command(*sample, "--no-tune").err


def test_load_itself_never_measures_unless_told(artifact: Path, tuned: list[str]) -> None:
    load(artifact).close()
    assert tuned == []
    load(artifact, tune=True).close()
    load(artifact, tune=True).close()
    assert len(tuned) == 1
    load(artifact, engine="openvino", tune=True).close()
    assert len(tuned) == 1, "an engine asked for by name needs no measurement"


def test_where_nothing_can_be_remembered_nothing_is_measured(
    artifact: Path, tmp_path: Path, tuned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    load(artifact, tune=True).close()
    assert tuned == []


HOSTILE = [
    "",
    "null",
    "[]",
    "{",
    "\x00\x01",
    "[" * 5000,
    '{"KEY": null}',
    '{"KEY": []}',
    '{"KEY": {}}',
    '{"KEY": "openvino"}',
    '{"KEY": {"engine": "openvino"}}',
    '{"KEY": {"engine": "tensorrt", "version": "11", "device": "cuda", "compute": null}}',
    '{"KEY": {"engine": "openvino", "version": "0.1", "device": "cpu", "compute": null}}',
    '{"KEY": {"engine": "openvino", "version": 7, "device": "cpu", "compute": null}}',
    '{"KEY": {"engine": "openvino", "version": null, "device": "cpu", "compute": "int2"}}',
    '{"KEY": {"engine": "onnxruntime", "version": "VERSION", "device": "tpu", "compute": null}}',
    '{"KEY": {"engine": "onnxruntime", "version": "VERSION", "device": "cuda", "compute": null}}',
    '{"KEY": {"engine": "onnxruntime", "version": "VERSION", "device": "cpu", "compute": "bf16"}}',
    '{"KEY": {"engine": ["onnxruntime"], "version": "VERSION", "device": "cpu", "compute": null}}',
    '{"KEY": {"engine": "onnxruntime", "version": "VERSION", "device": "cpu", "compute": null, "more": 1}}',
    '{"KEY": {"engine": "../../x", "version": "1", "device": "cpu", "compute": null}}',
    '{"KEY": NaN}',
    '{"KEY": -1e999}',
    '{"KEY": {"engine": NaN, "version": -1, "device": 1e999, "compute": true}}',
    '{"KEY": {"engine": "onnxruntime", "version": "VERSION", "device": {}, "compute": ["bf16"]}}',
    '{"KEY of another machine": {"engine": "openvino", "version": "1", "device": "cpu", "compute": null}}',
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_damaged_or_foreign_choice_is_harmless(artifact: Path, text: str) -> None:
    digest = read_artifact(artifact)[0].digest
    version = load_version("onnxruntime")
    tuning.remember(digest, Choice("onnxruntime", version, "cpu"))
    text = text.replace("KEY", tuning._key(digest, None)).replace("VERSION", version)
    tuning.cache_file().write_text(text)
    with load(artifact) as generator:
        assert generator.engine.name == "onnxruntime"
        assert generator.sample(1, seed=0).shape[0] == 1
    tuning.remember(digest, Choice("onnxruntime", version, "cpu"))
    assert tuning.recall(digest) == Choice("onnxruntime", version, "cpu"), "and is replaced"


def test_info_shows_what_was_measured(command: Command, artifact: Path, tmp_path: Path) -> None:
    path = with_manifest(artifact, tmp_path / "a.onnx", measured=(measurement("openvino", 1.25),), made_for="openvino")
    shown = command("gan-run", "info", path).out
    assert "1.25 ms a call on" in shown
    assert "made for   openvino" in shown
