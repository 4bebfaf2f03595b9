"""A model repository as Triton's own definition reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from ganedge.export import to_triton
from ganedge.export.abilities import abilities
from ganedge.export.spec import FORMATS
from ganedge.runtime.manifest import Interface, Manifest, Port, read_artifact

Command = Callable[..., Any]
model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient: ganedge[dev]")


def parsed(text: str) -> Any:
    return text_format.Parse(text, model_config.ModelConfig())


def test_a_repository_from_an_artifact(command: Command, artifact: Path, tmp_path: Path) -> None:
    done = command(
        "gan-export",
        artifact,
        "--format",
        "onnx,triton",
        "--batch",
        "1,4,8",
        "--instances",
        "2",
        "-o",
        tmp_path / "all",
    )
    assert done.code == 0, done.err
    place = tmp_path / "all" / "generator.triton" / "generator"
    config = parsed((place / "config.pbtxt").read_text("ascii"))
    assert (config.name, config.backend, config.max_batch_size) == ("generator", "onnxruntime", 8)
    assert (config.input[0].name, list(config.input[0].dims)) == ("latent", [6])
    assert list(config.output[0].dims) == [1, 16, 16]
    assert config.input[0].data_type == model_config.TYPE_FP32
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.instance_group[0].count == 2
    manifest, _ = read_artifact(place / "1" / "model.onnx")
    assert manifest.digest in config.parameters["ganedge"].string_value
    assert (tmp_path / "all" / "generator.onnx").is_file()


def test_open_sizes_labels_and_a_fixed_batch() -> None:
    picture = Port('in "é', "image", "uint8", ("batch", "height", "width", 3), "NHWC", (0.0, 255.0))
    larger = Port("out", "image", "uint8", ("batch", "2*height", "2*width", 3), "NHWC", (0.0, 255.0))
    label = Port("label", "label", "int64", ("batch",), "N")
    interface = Interface("image-to-image", (picture, label), (larger,), None, ("cat", "dog"))
    config = parsed(to_triton.config("x", Manifest(interface, "fp32", "none"), "tensorrt", (1, 1, 1), 1))
    assert [port.name for port in config.input] == ['in "é', "label"]
    assert list(config.input[0].dims) == [-1, -1, 3]
    assert config.input[0].data_type == model_config.TYPE_UINT8
    assert list(config.input[1].dims) == [1]
    assert list(config.input[1].reshape.shape) == []
    assert config.input[1].HasField("reshape")
    assert config.HasField("dynamic_batching")
    assert config.instance_group[0].kind == model_config.ModelInstanceGroup.KIND_GPU
    fixed = Port("z", "latent", "float32", (4, 6), "NC")
    image = Port("image", "image", "float32", (4, 1, 8, 8), "NCHW", (-1.0, 1.0))
    interface = Interface("latent-to-image", (fixed,), (image,), "normal")
    config = parsed(to_triton.config("y", Manifest(interface, "fp32", "none"), "onnxruntime", (1, 4, 16), 1))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [4, 6]
    assert not config.HasField("dynamic_batching")


def test_mistakes_get_one_line(
    command: Command, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--format", "triton", "--triton-backend", "tensorrt", "-o", tmp_path / "models")
    done = command("gan-export", artifact, *options)
    assert done.code == 2
    assert "--format trt,triton" in done.err
    monkeypatch.setattr(to_triton.trt_builder, "flavour", lambda *_: ("tensorrt_rtx", None))
    done = command("gan-export", artifact, "--format", "trt,triton", *options[2:])
    assert done.code == 2
    assert "TensorRT for RTX" in done.err
    (tmp_path / "file").write_text("")
    done = command("gan-export", artifact, "--format", "triton", "-o", tmp_path / "file")
    assert done.code == 2
    assert "model repository is a folder" in done.err
    assert not (tmp_path / "models").exists()


def test_what_this_machine_can_do(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    done = command("gan-export", "--list")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 1 + 4 * len(FORMATS), "a row for each format and precision"
    assert any(line.startswith("onnx") and "int8" in line and "onnxruntime 1." in line for line in lines)
    half = next(line for line in lines if line.startswith("onnx") and "bf16" in line)
    assert "onnxruntime" not in half, "it has no bf16 on the CPU"
    assert "openvino" in half
    monkeypatch.setattr("ganedge.runtime.engines.installed", lambda name: False)
    none = {(one.format, one.precision): one for one in abilities()}
    assert none["onnx", "fp32"].run.startswith("no: no engine")
    assert none["onnx", "int8"].build.startswith("no: calibration needs onnxruntime")
    assert "ganedge[rtx]" in none["trt", "fp16"].build
