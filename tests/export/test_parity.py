"""The proof finds what is wrong: artifacts that were spoilt on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from ganedge.export import export, export_all, from_torch, parity, phases, to_onnx
from ganedge.export.artifact import make
from ganedge.export.open_source import open_source
from ganedge.export.source import SourceSpec
from ganedge.export.spec import ExportSpec
from ganedge.runtime import engines, load, tuning
from ganedge.runtime import verify as verification
from ganedge.runtime.errors import EngineError, GanEdgeError, UsageError
from ganedge.runtime.fidelity import Gate, difference, read_gate
from ganedge.runtime.manifest import Interface, Manifest, Port, read_artifact


def test_every_installed_engine_is_asked(artifact: Path) -> None:
    proofs = read_artifact(artifact)[0].parity
    assert [proof.engine.split()[0] for proof in proofs] == ["onnxruntime", "openvino"]
    assert all(proof.batches == (1, 4, 5, 16) for proof in proofs)


def test_a_wrong_artifact_is_not_written(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*arguments: object) -> onnx.ModelProto:
        model = to_onnx.to_onnx(*arguments)  # type: ignore[arg-type]
        weights = model.graph.initializer[0]
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.1), weights.name))
        return model

    monkeypatch.setattr(from_torch, "to_onnx", spoilt)
    with pytest.raises(GanEdgeError, match="other pictures than the generator"):
        export(tiny_run, output=tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())


class Wrong:
    """An engine whose results are too bright."""

    def __init__(self, engine: engines.Engine) -> None:
        self._engine, self.info = engine, engine.info

    def run(self, feeds: Any) -> Any:
        """As an engine does."""
        return [output + np.float32(0.3) for output in self._engine.run(feeds)]

    def close(self) -> None:
        """As an engine does."""
        self._engine.close()


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The engines in this set compute wrongly; the set may be changed."""
    start, names = engines.start, {"openvino"}

    def started(model: bytes, precision: str, name: str, *more: Any, **options: Any) -> Any:
        engine = start(model, precision, name, *more, **options)
        return Wrong(engine) if engine.info.name in names else engine

    monkeypatch.setattr(engines, "start", started)
    return names


@pytest.mark.usefixtures("wrong")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_engine_that_computes_wrongly_does_not_veto(
    tiny_run: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GANEDGE_TUNE", "0")
    lines: list[str] = []
    out = tmp_path / "g.onnx"
    (made,) = export_all(tiny_run, precision=precision, output=out, progress=lines.append)
    assert made.manifest.proven == ("onnxruntime",)
    assert list(read_artifact(out)[0].failed) == ["openvino"]
    (line,) = [line for line in lines if "auto will not choose it" in line]
    assert "openvino gives other pictures" in line
    assert "% of the output's range" in line
    assert "worst for a batch of" in line
    # In use: auto takes the other engine, also where this one was remembered; asked for, it is refused.
    manifest = made.manifest
    tuning.remember(read_artifact(out)[0].digest, tuning.Choice("openvino", "2026.4", "cpu"))
    with load(out) as generator:
        assert generator.engine.name == "onnxruntime"
    with pytest.raises(EngineError, match=r"openvino failed the proof.*% of the output's range.*use --engine auto"):
        load(out, "openvino")
    assert [choice for choice, _ in tuning.ways(manifest)] == ["onnxruntime"]
    assert [check.engine.split()[0] for check in verification.verify(out)] == ["onnxruntime"]
    with pytest.raises(GanEdgeError, match="other pictures than the generator"):
        export_all(tiny_run, precision=precision, output=tmp_path / "h.onnx", engines="openvino")
    assert not (tmp_path / "h.onnx").exists()


@pytest.mark.usefixtures("wrong")
def test_an_unchanged_artifact_keeps_its_verdicts(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "g.onnx"
    export(tiny_run, output=out)
    (again,) = export_all(out, output=tmp_path / "again.onnx")
    assert list(again.manifest.failed) == ["openvino"]
    assert any("recorded in the source artifact" in line for line in again.lines())
    with pytest.raises(GanEdgeError, match="openvino"):
        export_all(out, output=tmp_path / "third.onnx", engines="openvino")


def test_where_only_failed_engines_are_installed(
    tiny_run: Path, tmp_path: Path, wrong: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "g.onnx"
    export(tiny_run, output=out)
    monkeypatch.setattr(tuning, "installed", lambda name: name == "openvino")
    with pytest.raises(EngineError, match=r"openvino failed the proof .* install onnxruntime, which passed"):
        load(out)


def test_no_engine_passes(tiny_run: Path, tmp_path: Path, wrong: set[str]) -> None:
    wrong.add("onnxruntime")
    with pytest.raises(GanEdgeError) as refused:
        export_all(tiny_run, precision="int8", output=tmp_path / "g.onnx")
    message = str(refused.value)
    for part in ("onnxruntime", "openvino", "% of the output's range", "where the gate is 35 dB", "--calibrate 500"):
        assert part in message, part
    assert "--tolerance psnr=" in message
    assert not list(tmp_path.glob("g*"))


def test_the_engine_of_for_has_to_pass(tiny_run: Path, tmp_path: Path, wrong: set[str]) -> None:
    with pytest.raises(GanEdgeError, match=r"openvino .* is off by .* onnxruntime passed"):
        export_all(tiny_run, precision="int8", engine="openvino", output=tmp_path / "g.onnx")
    (made,) = export_all(tiny_run, precision="int8", engine="onnxruntime", output=tmp_path / "g.onnx")
    assert (made.manifest.made_for, made.manifest.proven) == ("onnxruntime", ("onnxruntime",))


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO cannot load anything."""
    pytest.importorskip("openvino", reason="it is the engine that refuses")
    start = engines.start

    def refuse(model: bytes, precision: str, name: str, *more: Any, **options: Any) -> Any:
        if name == "openvino":
            raise EngineError("OpenVINO cannot load this model: no such operation")
        return start(model, precision, name, *more, **options)

    monkeypatch.setattr(engines, "start", refuse)
    monkeypatch.setattr(verification, "start", refuse)


@pytest.mark.usefixtures("refusing")
def test_one_engine_does_not_veto_the_others(artifact: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    (made,) = export_all(artifact, precision="fp16", output=tmp_path / "g.onnx", progress=lines.append)
    assert [proof.engine.split()[0] for proof in made.parity] == ["onnxruntime"]
    assert "openvino cannot run it, and auto will not choose it: OpenVINO cannot load this model" in "\n".join(lines)
    assert [check.engine.split()[0] for check in verification.verify(made.path)] == ["onnxruntime"]
    with pytest.raises(EngineError, match="no such operation"):
        export_all(artifact, precision="fp16", engines="onnxruntime,openvino", output=tmp_path / "h.onnx")
    with pytest.raises(EngineError, match="no such operation"):
        export_all(artifact, precision="int8", engine="openvino", output=tmp_path / "i.onnx")
    assert not list(tmp_path.glob("[hi]*"))


@pytest.mark.usefixtures("refusing")
def test_an_engine_that_is_proven_has_to_run(artifact: Path) -> None:
    with pytest.raises(EngineError, match="no such operation"):
        verification.verify(artifact)


def test_engines_are_checked() -> None:
    with pytest.raises(UsageError, match="unknown engine"):
        ExportSpec(engines="tensorflow")
    assert ExportSpec(engines="ort").engines == ("onnxruntime",)


ROUGH = '''
import torch
import torch.nn.functional as F
from torch import nn


class Rough(nn.Module):
    """Normalises what hardly varies: what FP32 rounds off there shows in the pictures."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)])
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(F.instance_norm(layer(x) * 0.04 + 3.0, eps=1e-9))
        return torch.tanh(self.head(x))


class Fine(Rough):
    """The same without that."""

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return torch.tanh(self.head(x))
'''


@pytest.mark.parametrize(
    ("name", "share", "passes"), [("Rough", 1.3e-4, True), ("Rough", 1e-2, False), ("Fine", 1.3e-4, False)]
)
def test_the_gate_of_fp32_tells_rounding_from_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, share: float, passes: bool
) -> None:
    """An engine that is off by more than 1e-4 in one place passes where eager FP32 itself is far from FP64."""
    (tmp_path / "nets.py").write_text(ROUGH)
    model = open_source(f"{tmp_path / 'nets.py'}:{name}", SourceSpec(input="3x32x32", kind="image"))
    reference = model.reference
    assert reference is not None

    class Off:
        """An engine that gives what eager PyTorch gives, but for one value of each picture."""

        info = engines.EngineInfo("onnxruntime", "1", "CPU", "cpu", "fp32")

        def run(self, feeds: Any) -> Any:
            """As an engine does."""
            output = np.array(reference(list(feeds.values())))
            output[:, 0, 0, 0] += np.float32(2 * share)  # The range is 2.
            return [output]

        def close(self) -> None:
            """As an engine does."""

    monkeypatch.setattr(engines, "start", lambda *_, **__: Off())
    if not passes:
        with pytest.raises(GanEdgeError, match="other pictures than the generator"):
            make(model, ExportSpec())
        return
    made = make(model, ExportSpec())
    assert any("rounds much in FP32" in note for note in made.notes)
    gate = read_gate(made.parity[0].tolerance)
    assert gate.max_abs is not None
    assert 1e-4 < gate.max_abs < 1e-3
    assert gate.psnr is not None
    assert 75 <= gate.psnr <= 100


def test_the_size_to_prove_at_is_that_of_the_folder_where_nothing_else_says(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(ROUGH)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, size in enumerate(((48, 40), (56, 72), (200, 40))):
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)).save(
            folder / f"{index}.png"
        )
    model = open_source(f"{tmp_path / 'nets.py'}:Fine", SourceSpec(input="3xHxW", kind="image"))
    made = make(model, ExportSpec(calibrate=folder))
    assert all((40, 40) in proof.sizes for proof in made.parity)


LATENT = Port("z", "latent", "float32", ("batch", 3), "NC")
IMAGE = Port("x", "image", "float32", ("batch", 1, "height", "width"), "NCHW", (0.0, 2.0))
DRAWN = Interface("latent-to-image", (LATENT,), (replace(IMAGE, shape=("batch", 1, 4, 4)),), "normal")
TRANSLATED = Interface("image-to-image", (IMAGE,), (replace(IMAGE, name="y"),))


class Faulty:
    """An engine that gives what `change` makes of the outputs, whose shapes are those of what should come out."""

    def __init__(self, name: str, cases: list[parity.Case], change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.info = engines.EngineInfo(name, "1.0", "CPU", "cpu", "fp32")
        self.sizes: list[int] = []
        self.is_closed = False
        self._cases, self._change = cases, change

    def run(self, feeds: Any) -> list[np.ndarray]:
        """As an engine does; it finds the outputs by the inputs."""
        (array,) = feeds.values()
        self.sizes.append(len(array))
        for case in self._cases:
            for begin in range(len(case.reference)):
                if np.array_equal(array, case.inputs[0][begin : begin + len(array)]):
                    return [self._change(case.reference[begin : begin + len(array)].copy())]
        raise AssertionError("inputs that are not those of a case")

    def close(self) -> None:
        """As an engine does."""
        self.is_closed = True


def case(count: int, *sides: int) -> parity.Case:
    random = np.random.default_rng(count)
    inputs = random.uniform(size=(count, 1, *sides) if sides else (count, 3)).astype(np.float32)
    return parity.Case([inputs], random.uniform(0.5, 1.5, (count, 1, *(sides or (4, 4)))).astype(np.float32))


def test_a_proof_goes_through_every_batch_size_and_names_the_worst_input() -> None:
    cases = [case(24)]
    worst = float(cases[0].reference[7, 0, 0, 0])

    def brighter(outputs: np.ndarray) -> np.ndarray:
        outputs[outputs == worst] += 0.5
        outputs[:, 0, 1, 1] += 0.25
        return outputs

    engine = Faulty("onnxruntime", cases, brighter)
    seen: list[phases.Phase] = []
    with phases.reported_to(seen.append):
        proof = parity.prove_in(engine, Manifest(DRAWN, "fp32", "none"), cases, Gate(max_abs=0.3))  # type: ignore[arg-type]
    assert engine.sizes == [1, 5, 16, 1, 1]
    assert seen == [phases.Phase("comparing in onnxruntime", index, 5) for index in range(5)]
    changed = cases[0].reference.copy()
    changed[7, 0, 0, 0] += 0.5
    changed[:, 0, 1, 1] += 0.25
    figures = difference(changed, cases[0].reference, DRAWN.output, 2.0)
    assert (proof.engine, proof.precision, proof.samples, proof.batches) == (
        "onnxruntime 1.0 (CPU)",
        "fp32",
        24,
        (1, 5, 16),
    )
    assert (proof.max_abs, proof.mean_abs) == pytest.approx((0.5, figures.mean_abs))
    assert (proof.psnr, proof.ssim) == pytest.approx((figures.psnr, figures.ssim))
    assert (proof.nonfinite, proof.span, proof.sizes, proof.worst) == (0, 2, (), "a batch of 16")
    assert (proof.tolerance, proof.passed) == ("maxabs=0.3", True), "of a range of 2"


def test_a_proof_with_pictures_of_several_sizes() -> None:
    cases = [case(3, 4, 6), case(5, 8, 4), case(2, 4, 6)]

    def spoilt(outputs: np.ndarray) -> np.ndarray:
        if outputs.shape[2:] == (8, 4) and len(outputs) == 3:
            outputs[1, 0, 0, 0] = np.nan
        return outputs

    engine = Faulty("openvino", cases, spoilt)
    manifest = Manifest(TRANSLATED, "fp32", "none")
    proof = parity.prove_in(engine, manifest, cases, Gate(psnr=20.0))  # type: ignore[arg-type]
    assert engine.sizes == [1, 2, 1, 3, 1, 1, 1]
    assert (proof.samples, proof.batches, proof.sizes) == (10, (1, 2, 3), ((4, 6), (8, 4)))
    assert (proof.worst, proof.passed) == ("a batch of 3 at 8x4", False)
    assert proof.nonfinite == pytest.approx(1 / 160)
    engine = Faulty("openvino", cases, lambda outputs: outputs)
    proof = parity.prove_in(engine, manifest, cases, Gate(psnr=20.0), (4,))  # type: ignore[arg-type]
    assert (engine.sizes, proof.psnr, proof.passed) == ([3, 4, 1, 2], None, True)
    fixed = replace(TRANSLATED, inputs=(replace(IMAGE, shape=(2, 1, 4, 6)),))
    engine = Faulty("openvino", cases[2:], lambda outputs: outputs)
    parity.prove_in(engine, replace(manifest, interface=fixed), cases[2:], Gate(), (1,))  # type: ignore[arg-type]
    assert engine.sizes == [2]
    last = replace(IMAGE, shape=("batch", "height", "width", 1), layout="NHWC")
    assert parity._size(last, parity.Case([np.zeros((1, 5, 7, 1))], np.zeros(1))) == (5, 7)


def started(monkeypatch: pytest.MonkeyPatch, cases: list[parity.Case], errors: dict[str, float | None]) -> list[Faulty]:
    """Engines that are off by so much, or that do not run the model."""
    running: list[Faulty] = []

    def start(model: bytes, precision: str, name: str, device: str, threads: int | None) -> Faulty:
        assert (model, precision, device, threads) == (b"model", "fp16", "cpu", None)
        error = errors[name]
        if error is None:
            raise EngineError(f"{name} cannot run it")
        running.append(Faulty(name, cases, lambda outputs: outputs + np.float32(error)))
        return running[-1]

    monkeypatch.setattr(engines, "readers", lambda precision: [*errors, "missing"] if precision == "fp16" else [])
    monkeypatch.setattr(engines, "installed", lambda name: name != "missing")
    monkeypatch.setattr(engines, "start", start)
    return running


def test_engines_that_refuse_and_engines_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, manifest, gate = [case(4)], Manifest(DRAWN, "fp16", "none"), Gate(max_abs=0.01)
    running = started(monkeypatch, cases, {"a": None, "b": 0.5, "c": 0.0})
    proofs, refusals = parity.prove(b"model", manifest, cases, gate)
    assert [(proof.engine_name, proof.passed) for proof in proofs] == [("b", False), ("c", True)]
    assert refusals == {"a": "a cannot run it"}
    assert [engine.is_closed for engine in running] == [True, True]
    assert parity.prove(b"model", manifest, cases, gate, ("b",))[1] == refusals
    with pytest.raises(EngineError, match="a cannot run it"):
        parity.prove(b"model", manifest, cases, gate, ("a",))
    assert parity.missed(proofs) == []
    assert parity.missed(proofs, ("b", "c")) == [proofs[0]]
    assert parity.missed(proofs[:1]) == [proofs[0]], "none passed"
    started(monkeypatch, cases, {"a": None})
    with pytest.raises(EngineError, match="a cannot run it"):
        parity.prove(b"model", manifest, cases, gate)
    started(monkeypatch, cases, {})
    assert parity.prove(b"model", manifest, cases, gate) == ((), {})


def test_the_others_are_not_tried_while_the_decisive_engine_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, manifest, gate = [case(4)], Manifest(DRAWN, "fp16", "none"), Gate(max_abs=0.01)
    prove = partial(parity.prove, b"model", manifest, cases, gate)
    tried = started(monkeypatch, cases, {"a": 0.0, "b": 0.5, "c": None})
    assert [proof.engine_name for proof in prove(decisive="b")[0]] == ["b"]
    assert len(tried) == 1
    assert [proof.engine_name for proof in prove(decisive="a")[0]] == ["a", "b"]
    assert [proof.engine_name for proof in prove(decisive="c")[0]] == ["a", "b"], "it does not run this model at all"


def test_engines_of_a_proof_stay_open_for_the_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, manifest, gate = [case(4)], Manifest(DRAWN, "fp16", "none"), Gate(max_abs=0.01)
    tried = started(monkeypatch, cases, {"a": 0.0, "b": None, "c": 0.5})
    with parity.Running() as running:
        parity.prove(b"model", manifest, cases, gate, running=running)
        assert list(running.engines) == ["a", "c"]
        assert not any(engine.is_closed for engine in tried)
        calls = len(tried[0].sizes)
        first = running.engines["a"].first({"latent": cases[0].inputs[0][:1]})
        assert len(tried[0].sizes) == calls, "the proof called it with these inputs"
        np.testing.assert_array_equal(first.outputs[0], cases[0].reference[:1])
        running.engines["a"].first({"latent": cases[0].inputs[0][1:2]})
        assert len(tried[0].sizes) == calls + 1
        parity.prove(b"model", manifest, cases, gate, running=running)
        assert [engine.is_closed for engine in tried] == [True, True, False, False], "those of the proof before"
    assert all(engine.is_closed for engine in tried)


def test_an_artifact_that_is_not_written_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, gate = Manifest(DRAWN, "fp16", "none"), Gate(max_abs=0.01)
    cases = [replace(case(4), reference=np.ones((4, 1, 4, 4), np.float32))]
    started(monkeypatch, cases, {"b": 0.3, "c": 0.0, "d": 0.1})
    proofs = parity.prove(b"model", manifest, cases, gate)[0]
    off = "is off by {} % of the output's range ({} dB) where the gate is 1 %, worst for a batch of 1"
    both = f"b 1.0 (CPU) {off.format(15, 16.5)}; d 1.0 (CPU) {off.format(5, '26.0')}"
    start = "not exported, the {} gives other pictures than the generator: "
    assert parity.explain(proofs, "fp32") == (
        f"{start.format('artifact')}{both}; c passed. Next: leave out what requires the others, and auto uses c, or "
        "accept it with --tolerance psnr=16"
    )
    assert parity.explain(proofs[:1], "fp16", "the first layer", "page") == (
        f"{start.format('page')}{both.partition(';')[0]}; most is lost in the first layer. Next: export in FP32, or "
        "accept it with --tolerance psnr=16"
    )
    assert parity.explain(proofs[:1], "int8").endswith(
        "Next: calibrate with more inputs (--calibrate 500, or a folder of pictures), or --for another engine, or "
        "--fp16, or accept it with --tolerance psnr=16"
    )
    for change in ({"nonfinite": 0.5}, {"psnr": None}, {"psnr": 1.0}):
        assert parity.explain([replace(proofs[0], **change)], "fp32").endswith("Next: check the generator's weights")  # type: ignore[arg-type]
    nearly = replace(proofs[0], psnr=1.01)
    assert parity.explain([nearly, proofs[2]], "fp32").endswith("Next: accept it with --tolerance psnr=1")
