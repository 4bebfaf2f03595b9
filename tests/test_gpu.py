"""What only a CUDA device can show: training there, the engine there, and a benchmark of both on the same device."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganedge.benchmarks import competitor, latency
from ganedge.models import find
from ganedge.runtime import engines, load
from ganedge.runtime.engine_file import read_sidecar
from ganedge.runtime.engines.trt_builder import FLAVOURS
from ganedge.train import checkpoint
from ganedge.train.loop import train
from ganedge.train.settings import Settings

pytestmark = pytest.mark.gpu


def _has_provider() -> bool:
    """Whether this ONNX Runtime, if there is any, runs on CUDA."""
    if not engines.installed("onnxruntime"):
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


needs_provider = pytest.mark.skipif(
    not _has_provider(), reason="needs onnxruntime-gpu; no onnxruntime here has a CUDA provider"
)
needs_tensorrt = pytest.mark.skipif(
    not any(map(engines.installed, FLAVOURS)) or importlib.util.find_spec("cuda") is None,
    reason="needs a TensorRT and cuda-python: ganedge[trt] or ganedge[rtx]",
)
TINY: dict[str, Any] = {"size": 16, "width": 8, "latent": 6, "batch": 16, "sample_every": 4}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_goes_on_where_it_stopped(tmp_path: Path, precision: Any) -> None:
    out = tmp_path / "run"
    for steps in (3, 6):
        settings = Settings(data="digits", out=out, steps=steps, device="cuda", precision=precision, resume=steps > 3)
        train(find("dcgan"), TINY if steps == 3 else {}, settings)
    assert checkpoint.steps(out)[-1] == 6


@pytest.mark.parametrize("name", ["mlp", "dcgan"])
def test_compiled_training_is_the_same_up_to_rounding(tmp_path: Path, name: str) -> None:
    def weights(out: str, **given: Any) -> torch.Tensor:
        small = {"size": 16, "batch": 16, "latent": 6} | ({"width": 8} if name == "dcgan" else {})
        settings = Settings(data="digits", out=tmp_path / out, device="cuda", precision="fp32", **given)
        found = checkpoint.load_latest(train(find(name), small, settings))
        assert found is not None
        learned = (
            tensor
            for state in found[1]["networks"].values()
            for key, tensor in state.items()
            if tensor.is_floating_point() and "running" not in key
        )
        return torch.cat([tensor.flatten() for tensor in learned])

    first, plain, compiled = weights("first", steps=1), weights("plain", steps=3), weights("on", steps=3, compile=True)
    assert (plain - compiled).norm() < 0.1 * (plain - first).norm()


def test_the_gradient_of_instance_norm_of_one_picture() -> None:
    pictures, pull = (torch.randn(1, 4, 6, 8, dtype=torch.float64) for _ in range(2))
    found = []
    for layout, dtype, device in (
        (torch.channels_last, torch.float32, "cuda"),
        (torch.contiguous_format, torch.float64, "cpu"),
    ):
        x = pictures.to(device, dtype).contiguous(memory_format=layout).requires_grad_()
        pulled = pull.to(device, dtype).contiguous(memory_format=layout)
        found.append(torch.autograd.grad(torch.nn.functional.instance_norm(x), x, pulled)[0].double().cpu())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@needs_provider
def test_the_engine_draws_the_same_there(artifact: Path) -> None:
    with load(artifact, "onnxruntime", "cuda") as there, load(artifact, "onnxruntime", "cpu") as here:
        assert there.engine.device == "cuda"
        assert np.abs(there.sample(20, seed=0).astype(int) - here.sample(20, seed=0)).max() <= 1


@needs_tensorrt
def test_a_tensorrt_engine_is_built_loaded_and_verified_there(
    command: Callable[..., Any], artifact: Path, tmp_path: Path
) -> None:
    out = tmp_path / "g.engine"
    done = command("gan-export", artifact, "--format", "trt", "--fp16", "--batch", "1,4,8", "-o", out)
    assert done.code == 0, done.err
    with load(out) as there, load(artifact, "onnxruntime", "cpu") as here, ThreadPoolExecutor(4) as pool:
        expected = here.sample(8, seed=0).astype(int)
        for made in pool.map(lambda _: there.sample(8, seed=0), range(12)):  # From the third call on by the graph.
            assert np.abs(made - expected).max() <= 2
    done = command("gan-run", "verify", out)
    assert done.code == 0, done.err
    assert "passed" in done.err


@needs_tensorrt
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_engine_says_what_its_layers_run_in(
    command: Callable[..., Any], artifact: Path, tmp_path: Path, precision: str
) -> None:
    """TensorRT for RTX chooses kernels on the device and may not say; what is said includes the precision."""
    out = tmp_path / "g.engine"
    done = command("gan-export", artifact, "--format", "trt", f"--{precision}", "--tolerance", "psnr=20", "-o", out)
    assert done.code == 0, done.err
    layers = read_sidecar(out)[1].layers
    if not layers:
        pytest.skip("this TensorRT's engine does not say what its layers run in")
    assert set(layers) <= {"int8", "fp8", "bf16", "fp16", "fp32"}
    assert precision in layers, layers
    assert "layers of the engine: " in done.err


@needs_provider
def test_the_benchmark_keeps_to_one_device(command: Callable[..., Any], artifact: Path, tiny_run: Path) -> None:
    done = command(
        "gan-bench", artifact, "--against", tiny_run, "--device", "cuda", "--engine", "onnxruntime",
        "--batch", 4, "--seconds", 0.1, "--iterations", 5,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert all(result["same"] in (None, True) for result in json.loads(done.out.splitlines()[-1])["results"])


def test_pytorch_is_measured_in_all_its_ways(artifact: Path, tiny_run: Path) -> None:
    settings = latency.Settings(
        (1, 4), device="cuda", torch=tuple(competitor.TORCH), seconds=0.1, iterations=5, processes=1
    )
    found = latency.measure([artifact], str(tiny_run), settings)
    names = {row["competitor"] for row in found["results"]}
    able = set(competitor.TORCH.values()) & names
    lacking = {name: found["absent"].get(name, "failed") for name in set(competitor.TORCH.values()) - names}
    # Only compilers and bf16 may be lacking on a machine with a GPU.
    assert set(lacking) <= {competitor.TORCH[way] for way in ("compile", "reduce-overhead", "bf16")}, lacking
    assert all("ompiler" in why or "riton" in why or "bf16" in why for why in lacking.values()), lacking
    for row in found["results"]:
        assert row["same"] in (None, True), row["competitor"]
        if row["competitor"] in able:
            assert all(part > 0 for part in row["split"].values())
    assert found["peak"]["flops"].keys() >= {"fp32", "fp16", "bf16"}
    assert found["competitors"][competitor.EAGER]["device_bytes"] > 0
