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

from ganedge.export import to_tensorrt
from ganedge.export.precision import to_half
from ganedge.export.to_tensorrt import Settings
from ganedge.runtime import engines, load
from ganedge.runtime.engine_file import EngineIdentity, check_engine, read_sidecar, sidecar_path, write_sidecar
from ganedge.runtime.engines import trt, trt_builder
from ganedge.runtime.errors import ArtifactError, EngineError, EngineMismatch, GanEdgeError, UsageError
from ganedge.runtime.manifest import read_artifact

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
    for key, value in (("onnx", "../up.onnx"), ("flavour", "other"), ("profiles", {"latent": [[1], [2, 3], [4]]})):
        sidecar_path(out).write_text(json.dumps({**said, "engine": {**said["engine"], key: value}}))
        with pytest.raises(ArtifactError, match="cannot be right"):
            read_sidecar(out)


def test_a_description_that_is_none(tmp_path: Path) -> None:
    for text, said in (("{", "not JSON"), ("{}", "damaged"), ('{"schema": 99}', "newer")):
        sidecar_path(tmp_path / "g.engine").write_text(text)
        with pytest.raises(ArtifactError, match=said):
            read_sidecar(tmp_path / "g.engine")
    with pytest.raises(ArtifactError, match="beside the engine"):
        read_sidecar(tmp_path / "nowhere.engine")


def test_settings() -> None:
    assert Settings.read(batch="1,4,16", size="64,128,256").size == ((64, 64), (128, 128), (256, 256))
    for given in ({"batch": "4,1,16"}, {"batch": "4"}, {"size": "64,128"}, {"size": "256,128,64"}):
        with pytest.raises(UsageError, match="MIN,OPT,MAX"):
            Settings.read(**given)  # type: ignore[arg-type]


@needs_rtx
def test_mistakes(command: Command, artifact: Path, tmp_path: Path) -> None:
    done = command("gan-export", artifact, "--format", "trt", "--target", "sm12", "-o", tmp_path / "g.engine")
    assert done.code == 2
    assert "sm86" in done.err
    assert not (tmp_path / "g.engine").exists()
    done = command("gan-export", artifact, "--format", "trt", "--fp16", "--dla", "0", "-o", tmp_path / "g.engine")
    assert done.code == 2
    assert "has no DLA" in done.err
    assert not (tmp_path / "g.engine").exists()
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
