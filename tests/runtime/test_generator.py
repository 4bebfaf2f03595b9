"""The API a device uses: shapes, seeds, batches, threads, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ganedge.runtime import EngineError, Generator, InputError, MissingExtra, UsageError, engines, load
from ganedge.runtime.latents import LatentStream
from ganedge.train import run_folder

ENGINES = ("onnxruntime", "openvino")


@pytest.mark.parametrize("engine", ENGINES)
def test_it_draws_what_the_trained_generator_draws(tiny_run: Path, artifact: Path, engine: str) -> None:
    network, _ = run_folder.read(tiny_run).generator()
    latents = LatentStream("normal", (6,), 5).take(9)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(latents)).numpy()
    with load(artifact, engine=engine) as generator:
        np.testing.assert_allclose(generator.run(latents), wanted, atol=1e-5)
        drawn = generator.sample(9, seed=5)
        assert drawn.shape == (9, 16, 16, 1)
        assert drawn.dtype == np.uint8
        shown = np.clip((wanted.transpose(0, 2, 3, 1) + 1) * 127.5, 0, 255)
        assert np.abs(drawn - shown).max() <= 0.51


def test_the_seed_decides_and_the_batch_does_not(artifact: Path) -> None:
    with load(artifact, batch=3) as small, load(artifact) as large:
        whole = large.sample(10, seed=1)
        assert np.abs(small.sample(10, seed=1).astype(int) - whole).max() <= 1
        np.testing.assert_array_equal(large.sample(4, seed=1), whole[:4])
        assert not np.array_equal(large.sample(10, seed=2), whole)
        assert not np.array_equal(large.sample(10), large.sample(10))


def test_a_notebook_shows_a_table_without_markup_of_the_file(artifact: Path) -> None:
    generator = load(artifact, engine="onnxruntime")
    shown = generator._repr_html_()
    assert "latent-to-image, fp32" in shown
    assert "onnxruntime" in shown
    interface = generator.manifest.interface
    named = replace(interface, inputs=(replace(interface.inputs[0], name="<script>&"),))
    hostile = Generator(replace(generator.manifest, interface=named), generator._engine)
    assert "<th>&lt;script&gt;&amp;</th>" in hostile._repr_html_()
    generator.close()
    assert "closed" in generator._repr_html_()


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_do_not_meet(artifact: Path, engine: str) -> None:
    with load(artifact, engine=engine) as generator, ThreadPoolExecutor(8) as pool:
        serial = [generator.sample(2, seed=seed) for seed in range(40)]
        for drawn, wanted in zip(pool.map(lambda seed: generator.sample(2, seed=seed), range(40)), serial, strict=True):
            np.testing.assert_array_equal(drawn, wanted)


def test_a_signal_is_survived_whatever_the_order_of_closing(artifact: Path) -> None:
    code = (
        "import signal, sys; from ganedge.runtime import load; "
        "one, two = (load(sys.argv[1], 'openvino', threads=1) for _ in range(2)); "
        "one.sample(1); two.sample(1); one.close(); "
        "three = load(sys.argv[1], 'openvino'); two.close(); three.sample(1); three.close(); "
        "signal.signal(signal.SIGINT, lambda *_: print('handled')); signal.raise_signal(signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", code, artifact], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_it_says_what_runs(artifact: Path, half_artifact: Path) -> None:
    with load(artifact, engine="onnxruntime", device="cpu", threads=1) as generator:
        info = generator.engine
        assert (info.name, info.provider, info.device, info.precision) == (
            "onnxruntime",
            "CPUExecutionProvider",
            "cpu",
            "fp32",
        )
        assert "onnxruntime" in repr(generator)
    with load(half_artifact, engine="onnxruntime", device="cpu") as generator:
        assert generator.engine.precision == "fp32 (fp16 weights)"


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 6)), "float64"),
        (np.zeros((2, 7), np.float32), "shape"),
        (np.zeros((0, 6), np.float32), "batch of 1 or more"),
        (np.zeros(6, np.float32), "shape"),
        (np.full((2, 6), np.nan, np.float32), "NaN"),
        ([[0.0] * 6], "numpy array"),
    ],
)
def test_arrays_that_do_not_fit(artifact: Path, array: object, said: str) -> None:
    with load(artifact) as generator, pytest.raises(InputError, match=said):
        generator.run(array)  # type: ignore[arg-type]


def test_requests_that_make_no_sense(artifact: Path) -> None:
    with load(artifact) as generator:
        with pytest.raises(UsageError, match="n is 0"):
            generator.sample(0)
        with pytest.raises(UsageError, match="not conditional"):
            generator.sample(1, label=3)
        with pytest.raises(InputError, match="takes 1 input"):
            generator.run()
    with pytest.raises(UsageError, match="closed"):
        generator.sample(1)
    generator.close()
    for arguments, said in (
        ({"engine": "magic"}, "unknown engine 'magic'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"threads": 0}, "threads is 0"),
        ({"batch": 0}, "batch is 0"),
    ):
        with pytest.raises(UsageError, match=said):
            load(artifact, **arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA, so it is not refused")
def test_what_is_not_here_is_refused(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"ganedge\[gpu\]"):
        load(artifact, engine="onnxruntime", device="cuda")
    monkeypatch.setattr(engines, "installed", lambda name: name == "onnxruntime")
    with pytest.raises(MissingExtra, match=r"ganedge\[openvino\]"):
        load(artifact, engine="openvino")
    monkeypatch.setattr(engines, "installed", lambda name: False)
    with pytest.raises(EngineError, match="no engine is installed"):
        load(artifact)


def test_an_engine_with_a_smallest_batch_is_filled_up(artifact: Path) -> None:
    """As TensorRT has it: one below the profile's smallest is refused by the engine itself."""
    with load(artifact, "onnxruntime") as plain:
        inner, seen = plain._running(), []

        def run(feeds: Any) -> Any:
            seen.append(len(feeds["latent"]))
            assert 4 <= seen[-1] <= 8, "outside the profile"
            return inner.run(feeds)

        engine: Any = SimpleNamespace(info=inner.info, run=run, close=lambda: None)
        expected = plain.sample(18, seed=0)
        with Generator(plain.manifest, engine, 8, least=4) as generator:
            np.testing.assert_allclose(generator.sample(18, seed=0).astype(int), expected, atol=1)
            assert seen == [8, 8, 4]
            assert len(generator.compute(*generator.sample_inputs(1, seed=0))) == 1
