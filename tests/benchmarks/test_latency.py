"""gan-bench: the figures add up, and a wrong artifact is called one."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from torch import Tensor, nn

from ganedge.benchmarks import competitor, input_pool, latency, process, reference, report
from ganedge.runtime import engines, load, timing
from ganedge.runtime.engine_file import EngineIdentity
from ganedge.runtime.engines import browser, ov
from ganedge.runtime.errors import EngineError
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import Interface, Port, read_artifact, write_artifact
from ganedge.runtime.web_folder import WebFolder, read_web_folder, write_description

Command = Callable[..., Any]


def test_turns_are_interleaved_and_nothing_is_dropped() -> None:
    calls: list[str] = []
    turns = timing.interleaved(
        {
            "a": timing.here(lambda _: calls.append("a")),
            "b": timing.here(lambda _: (calls.append("b"), time.sleep(0.001))),
        },
        0.3,
        20,
    )
    assert set(turns) == {"a", "b"}
    assert all(len(turn_list) >= 3 for turn_list in turns.values())
    timed = sum(len(turn) for turn_list in turns.values() for turn in turn_list)
    assert timed <= len(calls)
    changes = sum(1 for one, other in itertools.pairwise(calls) if one != other)
    assert changes >= 4
    assert timing.figures(turns["b"]).p50 >= 0.001


def test_a_turn_ends_by_time_and_calls() -> None:
    calls: list[int] = []

    def take(seconds: float) -> np.ndarray:
        calls.clear()
        return timing.take_turn(lambda number: (calls.append(number), time.sleep(seconds)), 7)

    quick = take(0.0005)
    assert timing.TURN_SECONDS <= quick.sum() < timing.TURN_LONGEST
    assert calls[:2] == [6, 7], "the call that wakes it is one more"
    assert len(calls) == len(quick) + 1, "and every other is timed"
    steady = take(0.012)
    assert len(steady) >= timing.TURN_CALLS or steady.sum() >= timing.TURN_LONGEST
    assert steady.sum() > timing.TURN_SECONDS
    assert len(take(0.2)) == 1
    assert len(timing.take_turn(lambda _: time.sleep(0.2), 0, 0.0, wakes=False)) == 1


def test_a_call_may_bring_its_own_time() -> None:
    quick = timing.take_turn(lambda _: (time.sleep(0.003), timing.OwnTime(0.001))[1], 0)
    assert set(quick) == {0.001}
    assert len(quick) < 10, "a turn ends by this process's clock"
    turns = timing.one_by_one({"a": lambda _: timing.OwnTime(0.5)}, 0.001, 2)
    assert set(np.concatenate(turns["a"])) == {0.5}


class _Page:
    """A browser whose engine returns what ONNX Runtime returns and takes 2 ms."""

    def __init__(self, folder: Path) -> None:
        self.folder = read_web_folder(folder)
        self.closed = False
        self.processor_time = lambda: 0.0

    def start(self, provider: str, threads: int | None) -> Any:
        if provider == "webgpu":
            raise browser.MissingFeature(provider, "this browser has no WebGPU")
        info = engines.EngineInfo("onnxruntime-web", f"1 {provider}", "Chromium 1", "cpu", "fp32")
        generator = load(self.folder_path, "onnxruntime")
        held: list[Any] = []
        return SimpleNamespace(
            info=info,
            run=lambda feeds: [generator.run(*feeds.values())],
            hold=lambda batches: held.extend(batches),
            seconds=lambda number: (held[number], 0.002)[1],
        )

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def web_folder(artifact: Path, tmp_path: Path) -> Path:
    """A folder for the browser, without page and module."""
    folder = tmp_path / "digits-web"
    folder.mkdir()
    shutil.copy(artifact, folder / "generator.onnx")
    write_description(folder, WebFolder(read_artifact(artifact)[0], "1.2.3"))
    return folder


def test_a_web_folder_is_timed_by_its_page(artifact: Path, web_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "Browser", _Page)
    monkeypatch.setattr(_Page, "folder_path", web_folder / "generator.onnx", raising=False)
    settings = latency.Settings((1,), engine="onnxruntime", seconds=0, iterations=2, processes=1)
    result = latency.measure([artifact, web_folder], settings=settings)
    row = next(row for row in result["results"] if row["competitor"] == "digits-web, wasm")
    assert (row["figures"]["p50"], row["same"]) == (0.002, True)
    assert result["competitors"]["digits-web, wasm"]["engine"] == "onnxruntime-web 1 wasm (Chromium 1)"
    assert result["absent"]["digits-web, webgpu"] == "webgpu: this browser has no WebGPU"
    assert result["method"]["clocked"].startswith("digits-web, wasm: ")
    assert not [text for text in result["warnings"] if "cold start" in text or "not measured" in text]


def test_without_chromium_the_other_artifacts_are_measured(
    command: Command, artifact: Path, web_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser, "_has_playwright", lambda: True)
    monkeypatch.setattr(browser, "chromium", lambda: None)
    quick = ("--engine", "onnxruntime", "--batch", 1, "--seconds", 0, "--iterations", 2, "--processes", 0)
    done = command("gan-bench", artifact, web_folder, *quick)
    assert done.code == 0
    shown = "".join((done.out + done.err).split())  # It is broken into lines, also within the path.
    assert "digits-webwasnotmeasured:noChromiumwasfound:installone(apt-getinstallchromium)" in shown
    done = command("gan-bench", web_folder, *quick)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "nothing to measure here: digits-web, wasm: no Chromium was found" in done.err


def test_a_web_folder_is_timed_in_chromium(
    artifact: Path, vendor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganedge.export.artifact import VerifiedArtifact
    from ganedge.export.to_web import write_web

    manifest, model = read_artifact(artifact)
    folder = write_web(tmp_path / "web", VerifiedArtifact(model, manifest, ()), None, vendor, lambda _: None)
    monkeypatch.setattr(browser, "PROVIDERS", ("wasm",))
    settings = latency.Settings((2,), engine="onnxruntime", seconds=0, iterations=2, processes=0)
    result = latency.measure([artifact, folder], settings=settings)
    row = next(row for row in result["results"] if row["competitor"] == "web, wasm")
    assert row["same"] is True
    assert 0 < row["figures"]["p50"] < 10


def test_a_slow_one_is_not_called_until_the_fast_have_had_their_time() -> None:
    turns = timing.interleaved(
        {"slow": timing.here(lambda _: time.sleep(0.3)), "fast": timing.here(lambda _: time.sleep(0.0005))}, 0.3, 5
    )
    assert 5 <= len(turns["slow"]) <= 12, "by turns of 5 ms it would have been 60 times"
    assert min(float(turn.sum()) for turn in turns["fast"]) >= 0.8 * timing.OF_SLOWEST * 0.3


def test_a_turn_waits_for_threads_that_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    spun = threading.Event()

    def spin() -> None:
        end = time.perf_counter() + 0.06
        while time.perf_counter() < end:
            np.sort(np.zeros(20_000))
        spun.set()

    thread = threading.Thread(target=spin)
    thread.start()
    timing._wait_for_sleep()
    assert spun.is_set(), "a turn would have begun beside it"
    thread.join()
    monkeypatch.setattr(timing, "_others_work", lambda: True)
    begin = time.perf_counter()
    timing._wait_for_sleep()
    assert time.perf_counter() - begin >= timing.PAUSE_LONGEST, "whoever still works"
    monkeypatch.setattr(timing, "TASKS", Path("/nowhere"))
    begin = time.perf_counter()
    timing._wait_for_sleep()
    assert time.perf_counter() - begin >= timing.PAUSE_SECONDS, "where the system does not tell"


def test_a_competitor_is_started_anew_and_not_for_longer_than_half_its_time() -> None:
    events: list[str] = []

    def slow_start() -> None:
        events.append("new")
        time.sleep(0.03)

    turns = timing.interleaved(
        {
            "a": timing.here(lambda _: (events.append("call"), time.sleep(0.002)), slow_start),
            "b": timing.here(lambda _: time.sleep(0.002)),
        },
        0.4,
        20,
    )
    timed = sum(float(turn.sum()) for turn in turns["a"])
    assert 2 <= events.count("new") <= 1 + timing.RENEWAL * timed / 0.05
    place = events.index("new")
    assert events[place + 1 : place + 3] == ["call", "call"], "warm before it is timed"
    assert sum(map(len, turns["a"])) <= events.count("call") - timing.WARM_CALLS * events.count("new")


def test_what_is_started_anew_gives_the_same(artifact: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ours,), _ = competitor.artifact_competitors([artifact], "onnxruntime", "cpu", 1)
    manifest = read_artifact(artifact)[0]
    inputs = real_inputs(manifest.interface, 2)
    network = reference.open_reference(reference.ReferenceSpec(str(tiny_run)), manifest)
    eager, _ = reference.competitors(network, inputs, "cpu", 1, ("eager", "channels-last"))
    assert reference.MAKERS["compile"](network, inputs, "cpu").renew is None, "that would compile again"
    for one in (ours, *eager):
        assert one.renew is not None
        before = one.run(inputs)
        one.renew()
        np.testing.assert_array_equal(one.run(inputs), before)

    real, broken = competitor.load, True

    def load(*arguments: Any, **options: Any) -> Any:
        if broken:
            raise EngineError("no memory")
        return real(*arguments, **options)

    monkeypatch.setattr(competitor, "load", load)
    with pytest.raises(EngineError, match="no memory"):
        ours.renew()  # type: ignore[misc]
    with pytest.raises(EngineError, match="no memory"):
        ours.run(inputs)
    broken = False
    assert ours.run(inputs).shape[0] == 2, "started again when it is needed"
    ours.close()


def test_a_module_that_cannot_be_copied_is_measured_all_the_same() -> None:
    class Locked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 3)
            self.lock = threading.Lock()

    inputs = [np.zeros((2, 3), np.float32)]
    (eager,), _ = reference.competitors(Locked().eval(), inputs, "cpu", 1, ("eager",))
    assert eager.renew is None
    assert eager.run(inputs).shape == (2, 3)


def test_it_goes_on_until_ratios_are_known() -> None:
    random = np.random.default_rng(0)

    def turns(rounds: int, noise: float) -> timing.Turns:
        return {name: list(np.exp(random.normal(0, noise, (rounds, 9)).mean(1, keepdims=True))) for name in "ab"}

    assert not timing._vague(turns(20, 0.01), [("a", "b")])
    assert timing._vague(turns(20, 1.0), [("a", "b")])

    def erratic(_: int) -> None:
        time.sleep(random.choice((0.0005, 0.03)))

    asked = 0.1
    found = timing.interleaved({"a": timing.here(erratic), "b": timing.here(lambda _: time.sleep(0.001))}, asked, 5)
    timed = [sum(float(turn.sum()) for turn in found[name]) for name in "ab"]
    assert max(timed) >= timing.LONGEST * asked, "it never settles"
    assert max(timed) < 2 * timing.LONGEST * asked, "and there is an end"
    bounded = timing.interleaved({"a": timing.here(erratic), "b": timing.here(lambda _: None)}, asked, 5, known=())
    assert sum(float(turn.sum()) for turn in bounded["b"]) < 1.5 * asked, "no ratio has to be known"


def test_figures() -> None:
    figures = timing.figures([np.arange(1, 51) / 1000, np.arange(51, 101) / 1000])
    assert figures.iterations == 100
    assert figures.p50 == pytest.approx(0.0505)
    assert figures.p90 == pytest.approx(0.0901)
    assert figures.longest == 0.1
    assert figures.mean == pytest.approx(0.0505)


def test_the_command(command: Command, artifact: Path, half_artifact: Path, tiny_run: Path, tmp_path: Path) -> None:
    done = command(
        "gan-bench", artifact, half_artifact, "--against", tiny_run, "--batch", "1,3", "--seconds", 0.05,
        "--iterations", 3, "--json", tmp_path / "out.json", "--engine", "onnxruntime", "--processes", 1,
        "--markdown", tmp_path / "out.md", "--html", tmp_path / "out.html", "--choose", "psnr>=35, p99",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out.json").read_text())
    assert "{" not in done.out, "JSON is in its file"
    assert max(len(line) for line in done.out.splitlines() if not line.startswith("full report")) <= 100
    assert done.out.count("fastest with the same pictures, relative to eager PyTorch") == 1
    assert f"full report: {tmp_path / 'out.json'}" in done.out
    assert "timed:" not in done.out, "method is for --verbose"
    assert len(report["results"]) == 6
    for result in report["results"]:
        figures = result["figures"]
        assert figures["iterations"] >= 3
        assert 0 < figures["p50"] <= figures["p90"] <= figures["p95"] <= figures["p99"] <= figures["longest"]
        assert result["images_per_s"] == pytest.approx(result["batch"] / figures["mean"])
        assert result["same"] is (None if result["competitor"] == "eager PyTorch" else True)
        assert result["speedup_low"] <= result["speedup"] <= result["speedup_high"]
    assert report["machine"]["threads"] >= 1
    assert report["reference"] == "eager PyTorch"
    for costs in report["competitors"].values():
        assert costs["macs"] > 0
        assert costs["cold_start_s"] > 0
    assert "speed-up" in done.out
    assert "best p99 at batch 3" in done.out
    assert (tmp_path / "out.md").read_text().count("\n| ") == 1 + 6
    assert "data:image/png;base64," in (tmp_path / "out.html").read_text()


def test_a_wrong_artifact_is_called_wrong(command: Command, artifact: Path, tiny_run: Path, tmp_path: Path) -> None:
    manifest, data = read_artifact(artifact)
    model = onnx.load_from_string(data)
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.1), weights.name))
    (tmp_path / "wrong.onnx").write_bytes(write_artifact(model.SerializeToString(), manifest))
    done = command(
        "gan-bench", tmp_path / "wrong.onnx", "--against", tiny_run, "--batch", 2, "--seconds", 0.02, "--iterations", 2,
        "--processes", 0, "--json", "-",
    )  # fmt: skip
    assert json.loads(done.out)["results"][1]["same"] is False
    assert "NO," in done.err
    assert done.code == 1
    assert "not the same pictures" in done.err


def test_without_a_run_there_is_no_eager(command: Command, artifact: Path) -> None:
    line = [artifact, "--batch", 1, "--seconds", 0.02, "--iterations", 2, "--processes", 0, "--json", "-"]
    report = json.loads(command("gan-bench", *line).out)
    results = report["results"]
    assert [result["competitor"].split(", ")[1] for result in results][:2] == ["onnxruntime", "openvino"]
    assert report["reference"] == "generator.onnx, onnxruntime"
    assert results[1]["same"] is True
    assert "eager PyTorch" in report["absent"]
    assert any("ort-tensorrt" in name for name in report["absent"])
    assert all(result["speedup"] is None for result in results)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("{artifact}", "--batch", "0"), 2, "--batch is '0'"),
        (("{artifact}", "--batch", "a,b"), 2, "--batch is 'a,b'"),
        (("{artifact}", "--device", "tpu"), 2, "tpu"),
        (("{artifact}", "--engine", "tensorflow"), 2, "engine 'tensorflow'"),
        (("{artifact}", "--against", "{here}", "--torch", "jit"), 2, "--torch 'jit'"),
        (("{artifact}", "--torch", "all"), 2, "--torch describes the generator to compare with"),
        (("{artifact}", "--features", "inception"), 2, "--features is for FID and KID"),
        (("{artifact}", "--choose", "fid<=9, p99"), 2, "nothing measured will have fid: add --fid"),
        (("{artifact}", "--choose", "memory", "--processes", "0"), 2, "nothing measured will have memory"),
        (("{artifact}", "--strict", "--batch", "1,2"), 2, "--strict is single stream"),
        (("{artifact}", "--strict", "--seconds", "60"), 2, "--strict asks for 600 s and 1024 calls at least"),
        (("{artifact}", "--choose", "psnr>35"), 2, "name one figure"),
        (("{artifact}", "--choose", "beauty>=3, p99"), 2, "'beauty>=3' is neither"),
        (("compare", "{artifact}", "{artifact}"), 1, "is no report"),
        (("compare", "a.json", "b.json"), 1, "cannot read a.json"),
        (("{artifact}", "--seconds", "nan"), 2, "--seconds nan: give 0 to 86400"),
        (("{artifact}", "--seconds", "inf"), 2, "--seconds inf: give 0 to 86400"),
        (("train", "--seconds", "nan"), 2, "--seconds nan: give 0 to 86400"),
        (("{artifact}", "--json", "{here}"), 2, "is a folder"),
        (("{artifact}", "--html", "{artifact}/page.html"), 1, "no folder that can be written to"),
        (("missing.onnx",), 1, "cannot read missing.onnx"),
        (("{artifact}", "--against", "{here}"), 1, "is not a run"),
    ],
)
def test_mistakes_get_one_line(
    command: Command, artifact: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = command("gan-bench", *(argument.format(artifact=artifact, here=tmp_path) for argument in arguments))
    assert done.code == code, done.err
    assert said in done.err
    assert done.err.count("\n") == 1


def test_one_by_one_goes_on_without_a_pause() -> None:
    calls: list[str] = []
    turns = timing.one_by_one(
        {"a": lambda _: (calls.append("a"), time.sleep(0.001)), "b": lambda _: calls.append("b")}, 0.2, 300
    )
    timed = {name: float(sum(turn.sum() for turn in found)) for name, found in turns.items()}
    assert timed["a"] >= 0.2
    assert {len(found) for found in turns.values()} == {timing.ALONE_TURNS}
    assert all(sum(map(len, found)) >= 300 for found in turns.values())
    last_a = len(calls) - 1 - calls[::-1].index("a")
    assert calls[last_a + 1 :].count("b") >= 300, "one is done before the next begins"


def test_strict_is_one_after_the_other(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "STRICT_SECONDS", 0.05)
    settings = latency.Settings((1,), engine="onnxruntime", seconds=0.05, iterations=1024, processes=0, strict=True)
    found = latency.measure([artifact], settings=settings)
    assert found["results"][0]["figures"]["iterations"] >= 1024
    assert "as soon as the previous one is done" in found["method"]["order"]
    assert not {"renewed", "longer"} & found["method"].keys()


def test_strict_keeps_those_that_were_done(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "STRICT_SECONDS", 0.05)

    def change(subject: latency.Subject) -> None:
        calls = iter(range(10**6))
        run = subject.competitors[1].run

        def stops(arrays: Any) -> Any:
            if next(calls) > 500:
                raise KeyboardInterrupt
            return run(arrays)

        object.__setattr__(subject.competitors[1], "run", stops)

    settings = latency.Settings((1,), engine="onnxruntime", seconds=0.05, iterations=1024, processes=0, strict=True)
    monkeypatch.setattr(timing, "WARMUP_BLOCKS", 1)
    found = latency.measure([artifact, artifact], settings=settings, change=change)
    assert found["partial"] is True
    assert f"{artifact}, onnxruntime" in [row["competitor"] for row in found["results"]]


def test_inputs_are_more_than_the_caches_hold(artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "index3").mkdir()
    (tmp_path / "index3" / "size").write_text("64K\n")
    monkeypatch.setattr(input_pool, "CACHES", tmp_path)
    monkeypatch.setattr(input_pool, "BEYOND", 2.0)
    interface = read_artifact(artifact)[0].interface
    batches, said = input_pool.make(interface, 4)
    assert said == {"batches": len(batches), "bytes": sum(one[0].nbytes for one in batches), "cache_bytes": 65536}
    assert said["bytes"] >= 2 * 65536
    assert len({one[0].tobytes() for one in batches}) == len(batches), "all are different"
    shape: tuple[int | str, ...] = ("batch", 3, 16, 16)
    ports = [Port(name, "image", "float32", shape, "NCHW", (-1.0, 1.0)) for name in ("given", "made")]
    monkeypatch.setattr(input_pool, "PICTURES", 8)
    pictures, said = input_pool.make(Interface("image-to-image", (ports[0],), (ports[1],)), 2)
    assert said["bytes"] >= 2 * 65536
    assert len(pictures) * 2 > 2 * input_pool.PICTURES
    assert len({one[0].tobytes() for one in pictures}) == len(pictures), "moved pictures are other pictures"


def test_a_fixed_batch_does_not_count_twice(artifact: Path) -> None:
    interface = read_artifact(artifact)[0].interface
    first, *rest = interface.inputs
    fixed = replace(interface, inputs=(replace(first, shape=(4, *first.shape[1:])), *rest))
    assert latency._macs(artifact, fixed) == latency._macs(artifact, interface)


def test_one_that_gives_nan_is_no_reference(artifact: Path, tiny_run: Path) -> None:
    def change(subject: latency.Subject) -> None:
        eager = subject.competitors[0]
        run = eager.run
        object.__setattr__(eager, "run", lambda arrays: np.full_like(run(arrays), np.nan))

    settings = latency.Settings((1,), engine="onnxruntime", seconds=0, iterations=2, processes=0)
    found = latency.measure([artifact, artifact], str(tiny_run), settings, change=change)
    assert [row["competitor"] for row in found["results"]] == [
        f"{artifact}, onnxruntime",
        f"{artifact}, onnxruntime #2",
    ]
    assert found["results"][1]["same"] is True
    assert [(one["competitor"], "NaN" in one["reason"]) for one in found["failed"]] == [(competitor.EAGER, True)]


def test_a_module_that_refuses_a_batch_is_no_crash(artifact: Path) -> None:
    class Single(nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            assert len(latent) == 1, "one at a time"
            return latent

    inputs = [np.zeros((1, 4), np.float32)]
    (eager,), _ = reference.competitors(Single(), inputs, "cpu", 1, ("eager",))
    with pytest.raises(EngineError, match="could not run this generator: one at a time"):
        eager.run([np.zeros((2, 4), np.float32)])


def test_pytorch_alone_is_measured_where_no_engine_runs(
    artifact: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise EngineError("no engine for that")

    monkeypatch.setattr(competitor, "load", load)
    monkeypatch.setattr(competitor, "ENGINES", ("onnxruntime", "ort-tensorrt"))
    settings = latency.Settings((1,), seconds=0, iterations=2, processes=0)
    found = latency.measure([artifact], str(tiny_run), settings)
    assert [row["competitor"] for row in found["results"]] == [competitor.EAGER]
    assert found["absent"]["generator.onnx, onnxruntime"] == "no engine for that"
    assert found["competitors"][competitor.EAGER]["macs"] > 0
    with pytest.raises(EngineError, match=r"nothing to measure here: .*no engine for that"):
        latency.measure([artifact], settings=settings)


def test_an_engine_of_tensorrt_is_absent_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name it has where it is measured, by which `compare` finds that it is gone."""
    identity = EngineIdentity("tensorrt_rtx", "1.2", "sm87", ())
    monkeypatch.setattr(competitor, "read_sidecar", lambda _: (None, identity))
    found, absent = competitor.artifact_competitors([Path("generator.engine")], "all", "cpu", 1)
    assert found == []
    assert absent == {"generator.engine, tensorrt_rtx": "TensorRT computes on a GPU: give --device cuda"}


def test_the_report_is_kept_before_it_is_printed(
    command: Command, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the output may be gone: `| head`, or Ctrl-C, which ends `| tee` too."""

    def gone(*_: Any) -> str:
        raise BrokenPipeError

    monkeypatch.setattr(report, "table", gone)
    out = tmp_path / "out.json"
    line = (artifact, "--engine", "onnxruntime", "--batch", 1, "--seconds", 0, "--iterations", 1, "--processes", 0)
    assert command("gan-bench", *line, "--json", out).code == 1
    assert len(json.loads(out.read_text())["results"]) == 1


def test_the_gate_of_what_rounds_to_ten_bits(artifact: Path) -> None:
    (one,), _ = competitor.artifact_competitors([artifact], "onnxruntime", "cpu", 1)
    assert latency._gate_precision(one) == "fp32"
    assert latency._gate_precision(replace(one, computes="fp32 (TF32 allowed)")) == "fp16"
    one.close()


def test_an_interruption_of_cold_starts_leaves_the_times(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(scripts: Any, runs: int, failed: dict[str, str], costs: dict[str, Any]) -> None:
        costs[next(iter(scripts))] = {"cold_start_s": 0.5, "peak_bytes": 9, "device_bytes": None}
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "measure", interrupted)
    settings = latency.Settings((1,), engine="onnxruntime", seconds=0, iterations=2)
    found = latency.measure([artifact], settings=settings)
    assert found["partial"] is True
    assert len(found["results"]) == 1
    assert found["competitors"]["generator.onnx, onnxruntime"]["cold_start_s"] == 0.5


@pytest.mark.parametrize("lower", [(), ("bf16",)])
def test_without_pytorch_everything_else_works(
    artifact: Path, half_artifact: Path, tmp_path: Path, lower: tuple[str, ...]
) -> None:
    """OpenVINO competes in each lower precision that the processor computes in, and says so of one that it does not."""
    hidden = "import importlib.util as u, sys; sys.modules['torch'] = None; real = u.find_spec; "
    hidden += "u.find_spec = lambda name, *rest: None if name == 'torch' else real(name, *rest); "
    hidden += f"from ganedge.runtime.engines import ov; ov.precisions = lambda: {list(lower)}; "
    code = hidden + "from ganedge.benchmarks.__main__ import main; main()"
    arguments = [
        artifact, half_artifact, "--against", "runs/that/nobody/opens", "--batch", "1", "--seconds", "0.02",
        "--iterations", "2", "--processes", "1", "--choose", "psnr>=40, p50", "--json", tmp_path / "out.json",
        "--html", tmp_path / "out.html",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert "torch, which is not installed" in found["absent"][competitor.EAGER]
    able = set(lower) & set(ov.precisions())
    for precision in {*lower} - able:
        reason = found["absent"][f"generator.onnx, openvino {precision}"]
        assert f"asked to compute in {precision}, openvino computes in f32" in reason
    engines = {"onnxruntime", "openvino", *(f"openvino {precision}" for precision in able)}
    assert {row["competitor"].split(", ")[1] for row in found["results"]} == engines
    assert found["reference"] == "generator.onnx, onnxruntime"
    assert "PyTorch is not installed" in found["peak"]["how"]
    assert found["peak"]["flops"].keys() == {"int8"}
    assert found["choice"]["batches"]["1"]["best"] is not None
    assert all(costs["cold_start_s"] > 0 for costs in found["competitors"].values())


def test_start_up_is_measured(artifact: Path, tiny_run: Path) -> None:
    line = [sys.executable, "-m", "ganedge.benchmarks.studies.startup", artifact, "--runs", "1", "--against", tiny_run]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report["seconds"]) == {"bare script", "Python API", "eager PyTorch", "gan-run sample"}
    assert report["bytes"]["eager PyTorch"] > 2 * report["bytes"]["Python API"]


def test_median_seconds_alternates_and_orders() -> None:
    calls: list[str] = []
    slow, fast = timing.median_seconds(
        [lambda: (calls.append("a"), time.sleep(0.004)), lambda: (calls.append("b"), time.sleep(0.001))], 0.05
    )
    assert slow > fast >= 0.001
    turns = "".join(name for name, _ in itertools.groupby(calls))
    assert turns == "ab" * timing.MEDIAN_ROUNDS
    assert calls.count("b") > calls.count("a"), "a turn is a time, not a number of calls"
    assert timing.median_seconds([], 1.0) == []


def test_a_long_call_that_was_made_before_is_timed_at_once() -> None:
    calls: list[str] = []
    long, short = 2 * timing.WAKES, timing.WAKES / 100
    timing.median_seconds(
        [lambda: (calls.append("a"), time.sleep(long)), lambda: (calls.append("b"), time.sleep(short))], 0.01, [long, 0]
    )
    assert calls.count("a") == 1, "neither an untimed call nor a second turn"
    assert calls.count("b") > timing.MEDIAN_ROUNDS


def test_a_disturbed_call_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WAKES", 0.005)
    calls: list[str] = []

    def disturbed() -> None:
        time.sleep(0.1 if "a" not in calls else 0.01)
        calls.append("a")

    def slow() -> None:
        calls.append("b")
        time.sleep(0.02)

    fast, other = timing.median_seconds([disturbed, slow], 0.01, [0.01, 0.02])
    assert fast < other, "its first call was not slow, so the turn with the long one is not the last"


def test_a_long_call_that_is_clearly_slower_has_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WAKES", 0.001)
    calls: list[str] = []
    slow, fast = timing.median_seconds(
        [lambda: (calls.append("a"), time.sleep(0.05)), lambda: (calls.append("b"), time.sleep(0.01))], 0.01
    )
    assert slow > 2 * fast
    assert "".join(name for name, _ in itertools.groupby(calls)) == "ab", "the other has further turns"
