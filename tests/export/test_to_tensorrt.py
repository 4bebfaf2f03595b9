"""Engines, really built where TensorRT for RTX is installed (it needs no GPU), and their descriptions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ganedge.export import abilities, from_onnx, to_tensorrt
from ganedge.export.artifact import ExportSpec, make
from ganedge.export.precision import to_half
from ganedge.export.to_tensorrt import Settings
from ganedge.runtime import engines, load, verify
from ganedge.runtime.engine_file import EngineIdentity, check_engine, read_sidecar, sidecar_path, write_sidecar
from ganedge.runtime.engines import trt, trt_builder
from ganedge.runtime.errors import ArtifactError, EngineError, EngineMismatch, GanEdgeError, UsageError
from ganedge.runtime.fidelity import read_gate
from ganedge.runtime.manifest import Interface, Port, read_artifact

Command = Callable[..., Any]
needs_rtx = pytest.mark.skipif(not engines.installed("tensorrt_rtx"), reason="needs tensorrt-rtx-cu13: ganedge[rtx]")


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_and_what_it_says(command: Command, artifact: Path, tmp_path: Path, precision: str) -> None:
    out = tmp_path / "g.engine"
    options = ["--fp16"] if precision == "fp16" else []
    done = command(
        "gan-export", artifact, "--format", "trt", *options, "--target", "sm86", "--batch", "1,4,8", "-o", out
    )
    assert done.code == 0, done.err
    manifest, identity = read_sidecar(out)
    assert manifest.precision == identity.precision == precision
    assert identity.flavour == "tensorrt_rtx"
    assert identity.targets == ("sm86",)
    assert identity.profiles == {"latent": ((1, 6), (4, 6), (8, 6))}
    assert identity.onnx == "g.onnx"
    assert "not run" in manifest.unproven
    assert not manifest.parity
    assert len(check_engine(out, identity)) == out.stat().st_size
    with np.load(tmp_path / "g.engine.proof.npz") as proof:
        assert len(proof["input0"]) == len(proof["output"]) == 16

    out.write_bytes(out.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="cut off"):
        check_engine(out, identity)
    said = json.loads(sidecar_path(out).read_text())
    for key, value in (
        ("onnx", "../up.onnx"),
        ("flavour", "other"),
        ("profiles", {"latent": [[1], [2, 3], [4]]}),
        ("profiles", {"latent": [[2, 6], [1, 6], [8, 6]]}),
    ):
        sidecar_path(out).write_text(json.dumps({**said, "engine": {**said["engine"], key: value}}))
        with pytest.raises(ArtifactError, match="cannot be right"):
            read_sidecar(out)


@needs_rtx
def test_rtx_has_no_portable_engines(command: Command, artifact: Path, tmp_path: Path) -> None:
    """Its builder would fail for a library that no package of it brings."""
    out = tmp_path / "g.engine"
    done = command("gan-export", artifact, "--format", "trt", "--portable", "--target", "sm86", "-o", out)
    assert done.code == 2
    assert "no lean runtime" in done.err
    assert not out.exists()


def test_a_description_that_is_none(tmp_path: Path) -> None:
    for text, said in (("{", "not JSON"), ("{}", "damaged"), ('{"schema": 99}', "newer")):
        sidecar_path(tmp_path / "g.engine").write_text(text)
        with pytest.raises(ArtifactError, match=said):
            read_sidecar(tmp_path / "g.engine")
    with pytest.raises(ArtifactError, match="beside the engine"):
        read_sidecar(tmp_path / "nowhere.engine")


def test_settings() -> None:
    assert Settings.read(batch="1,4,16", size="64,128,256").size == ((64, 64), (128, 128), (256, 256))
    assert Settings.read(size="64x128,128x128,128x256").size == ((64, 128), (128, 128), (128, 256))
    for given in (
        {"batch": "4,1,16"},
        {"batch": "4"},
        {"size": "64,128"},
        {"size": "256,128,64"},
        {"size": "256x512,512x256,1024x1024"},
    ):
        with pytest.raises(UsageError, match="MIN,OPT,MAX"):
            Settings.read(**given)  # type: ignore[arg-type]


def test_shapes_that_nobody_chose() -> None:
    """Pictures go in one at a time and not larger than a small device has memory for; the room they take is said."""
    given = Port("x", "image", "float32", ("batch", 3, "height", "width"), "NCHW", (-1.0, 1.0), multiple=4)
    larger = replace(given, name="y", shape=("batch", 3, "2*height", "2*width"), multiple=1)
    interface = Interface("image-to-image", (given,), (larger,))
    profiles = to_tensorrt._profiles(interface, Settings())
    assert profiles == {"x": ((1, 3, 32, 32), (1, 3, 256, 256), (1, 3, 512, 512))}
    assert "up to 15.7 MB" in to_tensorrt._room(interface, profiles), "3 × 512 × 512 × 4 bytes, and 4 times that"
    for trained, sides in ((256, (32, 256, 512)), (1024, (32, 1024, 1024)), (30, (16, 32, 512))):
        shapes = to_tensorrt._profiles(interface, Settings(), trained)["x"]
        assert [shape[2] for shape in shapes] == list(sides)
    assert Settings.read(batch="1,2,4").batches(interface) == (1, 2, 4)


class Faked:
    """A TensorRT that ONNX Runtime plays, on a GPU that is there; what it gives is off by `off`."""

    def __init__(self, model: bytes, off: float) -> None:
        self.inner, self.off = engines.start(model, "fp32", "onnxruntime", "cpu", 1), off
        self.info, self.close = self.inner.info, self.inner.close
        self.seen: list[int] = []

    def run(self, feeds: Any) -> list[Any]:
        """Compute, note the batch, and be off."""
        self.seen.append(len(feeds["latent"]))
        return [output + np.float32(self.off) for output in self.inner.run(feeds)]

    def layers(self) -> dict[str, int]:
        """Say what its layers run in, before it is closed and before it ran."""
        assert not self.seen
        return {"fp32": 7}


@pytest.mark.parametrize(
    ("batch", "seen"),
    [("1,4,8", {1, 5, 8, 3}), ("1,1,1", {1}), ("3,3,8", {3})],
)
def test_an_engine_is_proven_where_its_gpu_is(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: str, seen: set[int]
) -> None:
    """It is written only if it gives the same pictures, and remembers what it was held to; elsewhere it is not run."""
    proven = make(from_onnx.of_onnx(artifact), ExportSpec(tolerance=read_gate("maxabs=1e-3")))
    out, said, built = tmp_path / "g.engine", [], trt_builder.Built(b"engine", (), "sm87")
    started: list[Faked] = []
    off = [0.0]

    def start(data: bytes, identity: EngineIdentity) -> Faked:
        assert data == b"engine"
        started.append(Faked(proven.data, off[0]))
        return started[-1]

    def write() -> Any:
        to_tensorrt.write_engine(out.with_suffix(".onnx"), out, proven, Settings.read(batch=batch), said.append)
        return read_sidecar(out)

    monkeypatch.setattr(to_tensorrt, "flavour", lambda targets: ("tensorrt", SimpleNamespace(__version__="10.3.0")))
    monkeypatch.setattr(to_tensorrt, "build", lambda *_: built)
    monkeypatch.setattr(to_tensorrt.trt, "start", start)
    manifest, identity = write()
    assert (manifest.unproven, identity.tolerance) == ("", "maxabs=0.001")
    assert manifest.parity[0].passed
    assert set(started[0].seen) == seen
    assert identity.layers == {"fp32": 7}
    assert "layers of the engine: 7 in fp32" in said
    before, off[0] = out.stat().st_mtime_ns, 0.01
    with pytest.raises(GanEdgeError, match="the engine gives other pictures"):
        write()
    assert out.stat().st_mtime_ns == before
    for other in (trt_builder.Built(b"engine", ("sm86",), "sm87"), trt_builder.Built(b"engine", ("sm86",), "")):
        built = other
        manifest, identity = write()
        assert "not run here" in manifest.unproven
        assert (manifest.parity, identity.tolerance) == ((), "maxabs=0.001")
        assert not identity.layers
    assert str(verify._gate(manifest, identity.tolerance)) == "maxabs=0.001", "not FP32's own"
    built = trt_builder.Built(b"engine", (), "sm87")

    def no_device(*_: Any) -> None:
        raise EngineError("no CUDA device can be used here")

    monkeypatch.setattr(to_tensorrt.trt, "start", no_device)
    assert write()[0].unproven == "engine not run here: no CUDA device can be used here", "but written all the same"
    proven = replace(proven, cases=(), manifest=replace(proven.manifest, parity=()))
    assert "nothing here runs the source to compare with" in write()[0].unproven
    assert "proven, see above" not in said[-1]
    assert not out.with_name("g.engine.proof.npz").exists()


@needs_rtx
def test_fp32_is_no_tf32() -> None:
    import tensorrt_rtx

    builder = tensorrt_rtx.Builder(trt_builder._logger(tensorrt_rtx))
    shapes = {"x": ((1, 3), (1, 3), (1, 3))}
    config = trt_builder._config("tensorrt_rtx", tensorrt_rtx, builder, shapes, trt_builder.Recipe(), ())
    assert not config.get_flag(tensorrt_rtx.BuilderFlag.TF32)


@needs_rtx
def test_mistakes(command: Command, artifact: Path, tmp_path: Path) -> None:
    done = command("gan-export", artifact, "--format", "trt", "--target", "sm12", "-o", tmp_path / "g.engine")
    assert done.code == 2
    assert "sm86" in done.err
    assert not (tmp_path / "g.engine").exists()
    done = command("gan-export", artifact, "--format", "trt", "--fp16", "--dla", "0", "-o", tmp_path / "d.engine")
    assert done.code == 2
    assert "has no DLA" in done.err
    assert not (tmp_path / "d.engine").exists()
    done = command("gan-export", artifact, "-o", artifact)
    assert done.code == 2
    assert "source itself" in done.err


@needs_rtx
def test_the_artifact_that_an_engine_is_built_from_may_lie_there_already(
    command: Command, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "generator.onnx"
    source.write_bytes(artifact.read_bytes())
    done = command("gan-export", source, "--format", "trt", "--target", "sm86")
    assert done.code == 0, done.err
    assert source.read_bytes() == artifact.read_bytes()
    assert read_sidecar(tmp_path / "generator.engine")[1].onnx == source.name
    assert command("gan-run", "rebuild", tmp_path / "generator.engine").code == 0, "its digest is the file's"

    def never(*arguments: object) -> None:
        raise AssertionError("paths are settled before anything is computed")

    monkeypatch.setattr("ganedge.export.artifact.make", never)
    for more in (["--tolerance", "psnr=30"], ["--format", "onnx,trt"], ["--format", "onnx"]):
        done = command("gan-export", source, "--format", "trt", *more)
        assert done.code == 2
        assert "is the source itself" in done.err


@pytest.mark.parametrize("existing", ["fp32 artifact", "other file"])
def test_an_onnx_that_nobody_named_is_not_replaced(
    command: Command, tiny_run: Path, artifact: Path, tmp_path: Path, existing: str
) -> None:
    companion = tmp_path / "w.onnx"
    companion.write_bytes(artifact.read_bytes() if existing == "fp32 artifact" else b"something else")
    before = companion.read_bytes()
    done = command("gan-export", tiny_run, "--format", "trt", "--fp16", "-o", tmp_path / "w.engine")
    assert done.code == 2, done.err
    assert done.err.count("\n") == 1
    assert f"{companion} exists" in done.err
    assert companion.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["w.onnx"]


@needs_rtx
def test_an_engine_may_be_exported_again(command: Command, tiny_run: Path, tmp_path: Path) -> None:
    """The .onnx beside it has the same precision and is its own."""
    for _ in range(2):
        done = command("gan-export", tiny_run, "--format", "trt", "--fp16", "-o", tmp_path / "w.engine")
        assert done.code == 0, done.err
    assert read_artifact(tmp_path / "w.onnx")[0].precision == "fp16"


@needs_rtx
def test_gpus_that_cannot_run_it_are_left_out(command: Command, tiny_run: Path, tmp_path: Path) -> None:
    """Without a GPU and without --target: Turing, for one, has no bf16."""
    done = command("gan-export", tiny_run, "--format", "trt", "--bf16", "-o", tmp_path / "g.engine")
    assert done.code == 0, done.err
    assert "not for sm75, which cannot run it" in done.err
    targets = read_sidecar(tmp_path / "g.engine")[1].targets
    assert "sm86" in targets
    assert "sm75" not in targets
    done = command("gan-export", tiny_run, "--format", "trt", "--bf16", "--target", "sm75", "-o", tmp_path / "h.engine")
    assert done.code == 1
    assert "could not build" in done.err
    assert not (tmp_path / "h.engine").exists()


@needs_rtx
def test_other_types_than_asked_for_are_seen(artifact: Path) -> None:
    import tensorrt_rtx

    model = onnx.load(artifact)
    manifest, _ = read_artifact(artifact)
    network = tensorrt_rtx.Builder(trt_builder._logger(tensorrt_rtx)).create_network(
        trt_builder._strongly_typed(tensorrt_rtx)
    )
    assert tensorrt_rtx.OnnxParser(network, trt_builder._logger(tensorrt_rtx)).parse(artifact.read_bytes())
    to_tensorrt._check_types(tensorrt_rtx, network, model, manifest)
    for wrong in (model, to_half(model, "fp16")):
        with pytest.raises(GanEdgeError, match="graph has"):
            to_tensorrt._check_types(tensorrt_rtx, network, wrong, replace(manifest, precision="fp16"))


@needs_rtx
@pytest.mark.parametrize("remainder", ["fp16", "fp32"])
def test_an_int8_engine_computes_the_rest_in_fp16(
    command: Command, artifact: Path, tmp_path: Path, remainder: str
) -> None:
    out = tmp_path / "g.engine"
    options = ["--int8", *(["--remainder", "fp32"] if remainder == "fp32" else [])]
    options += ["--tolerance", "psnr=20", "--format", "trt", "--target", "sm86", "-o", out]
    done = command("gan-export", artifact, *options)
    assert done.code == 0, done.err
    manifest, identity = read_sidecar(out)
    assert (identity.precision, manifest.remainder) == ("int8", "" if remainder == "fp32" else "fp16")
    model = onnx.load(out.with_suffix(".onnx"))
    assert set(to_tensorrt._computed_in(model)) == {remainder}, "the builder checked that the network has these types"


@needs_rtx
def test_an_engine_is_built_again(
    command: Command, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another version is refused, or on request built from the ONNX beside it and then loaded."""
    out = tmp_path / "g.engine"
    assert command("gan-export", artifact, "--format", "trt", "--target", "sm86", "-o", out).code == 0
    manifest, identity = read_sidecar(out)
    write_sidecar(out, manifest, replace(identity, version="0.1", targets=()))
    asked: list[EngineIdentity] = []

    def start(data: bytes, found: EngineIdentity) -> Any:
        asked.append(found)
        if found.version == "0.1":
            raise EngineMismatch("another version")
        assert data == out.read_bytes()
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(trt, "start", start)
    before = out.read_bytes()
    with pytest.raises(EngineMismatch):
        load(out)
    assert out.read_bytes() == before
    load(out, rebuild=True).close()
    assert [one.version for one in asked] == ["0.1", "0.1", identity.version]
    renewed = read_sidecar(out)[1]
    assert "sm86" in renewed.targets  # It said nothing, so it is for all that can be named.
    assert "sm120" in renewed.targets
    assert read_sidecar(out)[1] == renewed
    assert renewed.profiles == identity.profiles
    assert "built again" in read_sidecar(out)[0].unproven

    out.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="damaged"):
        load(out)
    load(out, rebuild=True).close()
    assert len(check_engine(out, read_sidecar(out)[1])) > 1000
    assert command("gan-run", "rebuild", out).code == 0
    (tmp_path / "g.onnx").write_bytes(b"another")
    done = command("gan-run", "rebuild", out)
    assert done.code == 1
    assert "is not the file" in done.err
    assert command("gan-run", "rebuild", artifact).code == 2


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_builder.engines, "installed", lambda name: False)
    with pytest.raises(EngineError, match=r"ganedge\[rtx\].*the .onnx was written"):
        trt_builder.flavour()
    monkeypatch.setattr(trt_builder.platform, "machine", lambda: "aarch64")
    with pytest.raises(EngineError, match="Jetson has its own"):
        trt_builder.flavour()


def test_tensorrt_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can build nothing: that is said before its builder is asked, and in the list. RTX needs none."""
    package = SimpleNamespace(__version__="10.3.0", Builder=lambda log: pytest.fail("the builder was asked"))
    monkeypatch.setattr(trt_builder, "compute_capability", lambda: "")
    monkeypatch.setattr(trt_builder.engines, "installed", lambda name: name in trt_builder.FLAVOURS)
    monkeypatch.setattr(trt_builder.importlib, "import_module", lambda name: package)
    with pytest.raises(EngineError, match=r"tensorrt 10\.3\.0 needs a GPU"):
        trt_builder.build("tensorrt", package, b"", {}, trt_builder.Recipe(), print)
    assert "no: tensorrt 10.3.0 needs a GPU" in abilities._build("trt", "fp32")
    assert [trt_builder.flavour(targets)[0] for targets in (False, True)] == ["tensorrt", "tensorrt_rtx"]
    assert not trt_builder.hindrance("tensorrt_rtx")
    monkeypatch.setattr(trt_builder, "compute_capability", lambda: "sm87")
    assert not trt_builder.hindrance("tensorrt")


def test_a_dla_is_used_or_refused() -> None:
    flags: list[str] = []
    trt = SimpleNamespace(DeviceType=SimpleNamespace(DLA="dla"), BuilderFlag=SimpleNamespace(GPU_FALLBACK="fallback"))
    config = SimpleNamespace(set_flag=flags.append)
    trt_builder._use_dla(trt, SimpleNamespace(num_DLA_cores=2), config, 1)
    assert (config.default_device_type, config.DLA_core, flags) == ("dla", 1, ["fallback"])
    for cores, said in ((0, "has no DLA"), (1, "cores 0 to 0")):
        with pytest.raises(UsageError, match=said):
            trt_builder._use_dla(trt, SimpleNamespace(num_DLA_cores=cores), config, 1)


def large() -> onnx.ModelProto:
    """A generator of 45 MB: a latent through one large layer and transposed convolutions."""
    random = np.random.default_rng(0)
    shapes = {"w0": (100, 512, 4, 4), "w1": (512, 840, 4, 4), "w2": (840, 256, 4, 4), "w3": (256, 3, 4, 4)}
    weights = [
        numpy_helper.from_array((random.standard_normal(shape) / 100).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes, given = [], "z"
    for place, name in enumerate(shapes):
        how = {"strides": [2, 2], "pads": [1] * 4} if place else {}
        nodes.append(helper.make_node("ConvTranspose", [given, name], [f"y{place}"], name + "_layer", **how))
        last = place == len(shapes) - 1
        given = "image" if last else f"x{place}"
        nodes.append(helper.make_node("Tanh" if last else "Relu", [f"y{place}"], [given], f"act{place}"))
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("z", (100, 1, 1)), ("image", (3, 32, 32)))
    ]
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(
        helper.make_graph(nodes, "g", ports[:1], ports[1:], weights), opset_imports=opset, ir_version=10
    )


@needs_rtx
def test_memory_and_size_without_torch(tmp_path: Path) -> None:
    onnx.save(large(), tmp_path / "theirs.onnx")
    assert 43e6 < (tmp_path / "theirs.onnx").stat().st_size < 48e6
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ganedge.export.__main__ import main\n"
        "try: main()\n"  # Not ru_maxrss: a child begins with what its parent had when it was forked.
        "finally: print([line for line in open('/proc/self/status') if 'VmHWM' in line][0].split()[1] + '000')\n"
    )
    sizes = {}
    for precision in ("fp32", "fp16"):
        options = ["--fp16"] if precision == "fp16" else []
        out = tmp_path / f"{precision}.engine"
        arguments = [tmp_path / "theirs.onnx", "--kind", "latent", "--format", "trt", "--target", "sm86", "-o", out]
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments), *options], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) < 1e9, f"{precision}: the process stays under 1 GB"
        sizes[precision] = out.stat().st_size
    assert sizes["fp16"] <= 0.6 * sizes["fp32"]
