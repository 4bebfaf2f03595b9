"""Figures that decide: intervals, what counts as a change, what is best, and a page that hostile names cannot break."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganedge.benchmarks import arithmetic, compare, conditions, latency, page, process, recommend, report
from ganedge.benchmarks.competitor import ALONE, EAGER, NOT_ASKED
from ganedge.benchmarks.studies import results
from ganedge.runtime import timing
from ganedge.runtime.cli.page import LONGEST, labels
from ganedge.runtime.engines import ort
from ganedge.runtime.errors import EngineError, GanEdgeError, InputError
from ganedge.runtime.manifest import Port

ROUNDS = 60


def _row(name: str, seconds: float, batch: int, drift: np.ndarray, random: np.random.Generator) -> dict[str, Any]:
    rounds = seconds * drift * np.exp(random.normal(0, 0.03, ROUNDS))
    figures = {"iterations": ROUNDS, "mean": seconds, "p50": seconds, "p90": seconds, "p95": seconds}
    figures |= {"p99": 2 * seconds, "longest": 3 * seconds, "spread": 0.1}
    row = {"competitor": name, "precision": "fp32", "batch": batch, "figures": figures, "split": None}
    row |= {"images_per_s": batch / seconds, "speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1}
    fidelity = {"psnr": None, "ssim": None, "max_abs": None, "same": None}
    if name != EAGER:
        fidelity = {"psnr": 30 + 1e4 * seconds, "ssim": 0.9, "max_abs": 0.1, "same": True}
    return {**row, **fidelity, "peak_share": 0.5, "rounds": rounds.tolist(), "quantiles": rounds.tolist()}


@functools.cache
def _machine() -> dict[str, object]:
    """Asked once: looking up the versions of all packages takes a second."""
    return conditions.machine(2)


def fake(competitors: int = 2, seed: int = 0, slower: float = 1.0, name: str = "net {}.onnx, fast") -> dict[str, Any]:
    """A report of a machine whose speed wanders by a factor of two while all competitors take turns."""
    random = np.random.default_rng(seed)
    drift = np.exp(np.cumsum(random.normal(0, 0.05, ROUNDS))) * random.uniform(0.7, 1.4)
    results = []
    for batch in (1, 8):
        results.append(_row(EAGER, 0.004 * batch, batch, drift, random))
        results += [
            _row(name.format(i), 0.001 * (i + 1) * batch * slower, batch, drift, random) for i in range(competitors)
        ]
    costs = {"engine": "x", "precision": "fp32", "device": "cpu", "file": "net.onnx", "digest": "", "bytes": 10**6}
    costs |= {"macs": 10**6, "cold_start_s": 0.5, "peak_bytes": 10**8}
    method = {"timed": "calls", "warmup": "some", "order": "turns", "interval": "95%", "seconds": 1.0, "iterations": 5}
    return {
        "schema": latency.SCHEMA, "partial": False, "machine": _machine(), "conditions": {},
        "method": {**method, "strict": False, "device": "cpu"}, "reference": EAGER, "absent": {"other": "not here"},
        "competitors": {row["competitor"]: costs for row in results},
        "peak": {"flops": {"fp32": 1e11}, "bandwidth": 1e10, "how": "x"},
        "yardstick": {str(batch): {"sort": (0.001 * drift).tolist()} for batch in (1, 8)},
        "results": results, "warnings": [],
        "inputs": [{"name": "latent", "role": "latent", "dtype": "float32", "shape": [100]}], "size": "",
        "distance": None, "failed": [], "command": "gan-bench net.onnx", "choice": None,
    }  # fmt: skip


def test_an_interval_holds_what_is_there() -> None:
    held = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        drift = np.exp(np.cumsum(random.normal(0, 0.1, 60)))
        a, b = (drift * np.exp(random.normal(0, 0.1, 60)) for _ in range(2))
        found = timing.ratio(1.5 * a, b)
        held += found.low <= 1.5 <= found.high
    assert 88 <= held <= 100


def test_what_lasts_for_many_rounds_widens_the_interval() -> None:
    """Half of the time a neighbour was at work: 200 rounds are two observations, not 200."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.02, 400)
    lasting = noise + np.repeat(random.choice((0.0, 0.2), 8), 50)
    shuffled = random.permutation(lasting)
    together, apart = (np.ptp(np.quantile(timing.resampled(values), (0.025, 0.975))) for values in (lasting, shuffled))
    assert together > 2 * apart
    assert len(timing.resampled(noise[:7])) == timing.RESAMPLES


def test_a_slowdown_is_found_and_none_where_there_is_none() -> None:
    for seed in range(20):
        before = fake(seed=seed)
        assert all(change.verdict == "same" for change in compare.changes(before, fake(seed=seed + 100)))
        found = compare.changes(before, fake(seed=seed + 100, slower=1.1))
        assert all(change.verdict == "slower" for change in found if change.competitor != EAGER)


def test_the_command_compares(command: Callable[..., Any], tmp_path: Path) -> None:
    before, after = tmp_path / "a.json", tmp_path / "b.json"
    before.write_text(json.dumps(fake()))
    after.write_text(json.dumps(fake(seed=1, slower=1.2)))
    done = command("gan-bench", "compare", before, after)
    assert done.code == 1
    lines = done.out.splitlines()
    assert len(lines) == 1 + len(fake()["results"]), "one line each, after the baseline"
    assert all(line.startswith("slower") == (EAGER not in line) for line in lines[1:])
    assert command("gan-bench", "compare", after, before).code == 0
    spoilt = fake()
    spoilt["results"][1]["same"] = False
    after.write_text(json.dumps(spoilt))
    done = command("gan-bench", "compare", before, after)
    assert (done.code, "unfaithful" in done.out) == (1, True)
    with pytest.raises(InputError, match="nothing to compare"):
        compare.changes(fake(), fake() | {"results": []})


def test_the_best_and_the_front() -> None:
    found = recommend.choose(fake(), recommend.read_choice("psnr>=45, p99"))
    assert found[1].best == "net 1.onnx, fast"  # The faster one has 40 dB.
    assert found[1].front == (EAGER, "net 0.onnx, fast", "net 1.onnx, fast")
    assert recommend.choose(fake(), recommend.read_choice("images_per_s"))[8].best == "net 0.onnx, fast"
    with pytest.raises(GanEdgeError, match="nothing measured meets"):
        recommend.check(recommend.decide(fake(), recommend.read_choice("p50<0.0001, p99")))
    blind = fake()
    blind["reference"] = None
    for row in blind["results"]:
        row["same"] = None
    with pytest.raises(GanEdgeError, match="has psnr: give the generator"):
        recommend.decide(blind, recommend.read_choice("psnr>=35, p99"))


@pytest.mark.parametrize("count", [1, 30])
def test_reports_stand_hostile_names(count: int) -> None:
    name = "<script>alert(1)</script>|$x_{}$ \u001b[2J\n.onnx"
    made = fake(count, name=name.replace("{}", "{0}"))
    html = page.render(made, {}, None)
    assert "<script" not in html
    assert "\u001b" not in html
    assert html.count("<svg") == 4
    text = report.markdown(made)
    assert "<script" not in text
    assert len(text.splitlines()) < 2 * (count + 1) + 20
    shown = report.table(made)
    assert "\u001b" not in shown


def test_names_in_plots_can_be_told_apart() -> None:
    long = "dcgan64-of-all-the-faces-there-are-int8-{}.onnx, onnxruntime"
    names = [long.format(place) for place in range(30)]
    assert len(set(labels(names))) == 30
    assert all(len(label) <= LONGEST for label in labels(names))
    same_ends = [f"{place}{'x' * 60}" for place in range(10, 13)]
    assert len(set(labels([f"{'y' * 9}{name}" for name in same_ends]))) == 3
    drawn = page.distribution(fake(30, name=long)["results"][:31])
    assert all(drawn.count(f"-{place}.onnx, onnxruntime") >= 1 for place in range(30))


def test_multiply_accumulates(artifact: Path) -> None:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 3, 8, 8]), ("y", None)))
    w = helper.make_tensor("w", TensorProto.FLOAT, (5, 3, 3, 3), [0.0] * 135)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    model = helper.make_model(helper.make_graph([node], "g", [x], [y], [w])).SerializeToString()
    assert arithmetic.multiply_accumulates(model, {"x": (2, 3, 8, 8)}) == 2 * 5 * 64 * 27


def test_the_state_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    for path, text in {
        "devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave", "class/hwmon/hwmon1/in1_label": "VDD_IN",
        "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000", "class/hwmon/hwmon1/in1_input": "5000",
        "class/thermal/thermal_zone0/temp": "51000", "class/hwmon/hwmon1/curr1_input": "2000",
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
    found = conditions.conditions(tmp_path)
    assert found["governor"] == "powersave"
    assert found["clock_mhz"] == 1500
    assert found["temperature_c"] == 51
    assert found["power_w"] == {"VDD_IN": 10.0}


def test_an_interruption_leaves_what_was_measured(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARMUP_BLOCKS", 1)  # On a busy machine it may take forty calls to settle.
    calls = {"left": 40}

    def change(subject: latency.Subject) -> None:
        one = subject.competitors[0]
        run = one.run

        def stops(arrays: Any) -> Any:
            calls["left"] -= 1
            if calls["left"] == 0:
                raise KeyboardInterrupt
            time.sleep(0.01)
            return run(arrays)

        subject.competitors[0] = replace(one, run=stops, recipe=None)

    settings = latency.Settings((1,), engine="onnxruntime", seconds=60, processes=0)
    found = latency.measure([artifact], settings=settings, change=change)
    assert found["partial"] is True
    assert [row["competitor"] for row in found["results"]] == ["generator.onnx, onnxruntime"]
    json.dumps(found, allow_nan=False)
    assert "PARTIAL" in report.table(copy.deepcopy(found))


def test_one_that_fails_takes_nothing_from_the_others(
    command: Callable[..., Any], artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = latency._open

    def breaks(*given: Any) -> latency.Subject:
        subject = opened(*given)
        last = subject.competitors[-1]
        run = last.run

        def fails(arrays: Any) -> Any:
            if len(arrays[0]) > 1:
                raise EngineError("no memory left for that")
            return run(arrays)

        subject.competitors[-1] = replace(last, run=fails, recipe=None)
        return subject

    monkeypatch.setattr(latency, "_open", breaks)
    done = command(
        "gan-bench", artifact, artifact, "--engine", "onnxruntime", "--batch", "1,2", "--seconds", 0.02,
        "--iterations", 2, "--processes", 0, "--json", tmp_path / "out.json", "--html", tmp_path / "out.html",
    )  # fmt: skip
    found = json.loads((tmp_path / "out.json").read_text())
    first, second = f"{artifact}, onnxruntime", f"{artifact}, onnxruntime #2"
    assert [(row["competitor"], row["batch"]) for row in found["results"]] == [(first, 1), (second, 1), (first, 2)]
    assert found["failed"] == [{"competitor": second, "batch": 2, "reason": "no memory left for that"}]
    assert found["partial"] is False
    assert done.code == 1
    assert f"{second}, batch 2: no memory left for that" in done.err
    assert "Failed:" in (tmp_path / "out.html").read_text()


def test_where_nothing_runs_that_is_the_error(artifact: Path) -> None:
    def change(subject: latency.Subject) -> None:
        def fails(arrays: Any) -> Any:
            raise EngineError("the device is gone")

        subject.competitors[0] = replace(subject.competitors[0], run=fails, recipe=None)

    settings = latency.Settings((1,), engine="onnxruntime", seconds=0, iterations=1, processes=0)
    with pytest.raises(EngineError, match=r"nothing could be measured: .*the device is gone"):
        latency.measure([artifact], settings=settings, change=change)


def test_a_process_that_fails_costs_its_own_figures_only() -> None:
    failed: dict[str, str] = {}
    good, bad = (
        [sys.executable, "-c", code]
        for code in ("print('device 7')\nprint('peak 5')\nprint('query 1000')", "raise SystemExit('no such engine')")
    )
    found = process.measure({"bad": bad, "good": good}, 1, failed)
    assert found.keys() == {"good"}
    assert (found["good"]["peak_bytes"], found["good"]["device_bytes"]) == (5, 7)
    assert found["good"]["cold_start_s"] < 0, "the query's time is subtracted"
    assert "no such engine" in failed["bad"]


def test_work_of_others_is_told_from_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten seconds of a core, three are ours, two another's and the rest idle or waiting for a disk."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    clock = {"now": 100.0, "own": 7.0}
    monkeypatch.setattr(conditions.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(os, "times", lambda: (clock["own"], 0.0, 0.0, 0.0, 0.0))
    ticks = os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "stat"
    stat.write_text("cpu  1 1 1 1 1 1 1 1 0 0\ncpu3 0 0 0 0 0 0 0 0 0 0\n")
    others = conditions.Others(root=tmp_path)
    clock.update(now=110.0, own=10.0)
    stat.write_text(f"cpu3 {4 * ticks} 0 0 {3 * ticks} {2 * ticks} 0 0 {ticks} 0 0\n")
    assert others.share() == pytest.approx(0.2)
    stat.unlink()
    assert others.share() is None


def test_reports_of_other_sizes_and_schemas(tmp_path: Path) -> None:
    wide = fake()
    wide["inputs"] = [{"name": "input", "role": "image", "dtype": "float32", "shape": [3, 64, 128]}]
    with pytest.raises(InputError, match="float32 3 × 64 × 128 after: measure both with the same --size"):
        compare.changes(fake(), wide)
    old = {name: value for name, value in fake().items() if name not in compare.LATER} | {"schema": 3}
    old["yardstick"] = {batch: sticks["sort"] for batch, sticks in old["yardstick"].items()}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old | {"peak": {"flops": 1e11, "how": "x"}}))
    read = compare.read(path)
    assert all(change.verdict == "same" for change in compare.changes(read, read))
    assert "fp32 100 GFLOP/s" in report.table(read, verbose=True)
    with pytest.raises(InputError, match="schema 3, the other 5"):
        compare.changes(read, fake())
    path.write_text(json.dumps({"schema": 2, "kind": "training", "results": []}))
    with pytest.raises(InputError, match="is a report of training"):
        compare.read(path)


def test_what_is_gone_is_a_regression(command: Callable[..., Any], tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    after = fake(seed=1)
    lost = after["results"].pop()
    after["failed"] = [{"competitor": lost["competitor"], "batch": 8, "reason": "no memory left"}]
    after["results"] = [row for row in after["results"] if row["competitor"] != "net 0.onnx, fast"]
    after["absent"]["net 0.onnx, fast"] = "it does not load"
    for path, made in zip(paths, (fake(), after), strict=True):
        path.write_text(json.dumps(made))
    done = command("gan-bench", "compare", *paths)
    assert done.code == 1
    assert [line for line in done.out.splitlines() if line.startswith("gone")] == [
        "gone       batch 1, net 0.onnx, fast: it does not load",
        "gone       batch 8, net 0.onnx, fast: it does not load",
        "gone       batch 8, net 1.onnx, fast: no memory left",
    ]
    for reason in (f"{NOT_ASKED} (--torch bf16)", f"{ALONE}: give --against"):
        after["absent"] = {"net 0.onnx, fast": reason}
        assert {change.batch for change in compare.changes(fake(), after) if change.verdict == "gone"} == {8}


def test_costs_and_closeness_are_compared() -> None:
    after = copy.deepcopy(fake())
    after["competitors"]["net 1.onnx, fast"] = {**after["competitors"]["net 1.onnx, fast"], "bytes": 2 * 10**6}
    after["results"][1]["psnr"] -= 5
    said = compare.differences(fake(), after)
    assert said == [
        "net 1.onnx, fast: 1.0 MB of weights or file before, 2.0 after",
        "net 0.onnx, fast, batch 1: PSNR 40.0 dB before, 35.0 after",
    ]


def test_the_state_while_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 100.0}
    monkeypatch.setattr(conditions.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    heat, speed, joules = (
        tmp_path / path
        for path in (
            "class/thermal/thermal_zone0/temp", "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
            "class/powercap/intel-rapl:0/energy_uj",
        )
    )  # fmt: skip
    for zone, holds in (("0", "package-0"), ("1", "psys")):  # The board's counter holds the package's once more.
        place = tmp_path / f"class/powercap/intel-rapl:{zone}"
        place.mkdir(parents=True)
        (place / "name").write_text(f"{holds}\n")
        (place / "energy_uj").write_text("7\n")
    watch = None
    for step, (degrees, kilohertz) in enumerate([(40, 3_000_000), (85, 2_000_000), (70, 2_900_000)]):
        for path, value in ((heat, 1000 * degrees), (speed, kilohertz), (joules, 30_000_000 * step)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        watch = watch or conditions.Watch("cpu", tmp_path)
        watch.look()
        watch.look()  # A moment later: not taken down again.
        clock["now"] += 3
    assert watch is not None
    assert watch.figures() == {"clock_mhz": 2000.0, "temperature_c": 85.0, "power_w package": pytest.approx(60 / 6)}
    assert watch.warnings() == [
        "clock_mhz fell from 3000 to 2000 while it was measured: fix the clocks, or let it cool down"
    ]


def test_a_clock_that_rises_from_rest_has_not_fallen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "WATCH_SECONDS", 0.0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    speed = tmp_path / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq"
    speed.parent.mkdir(parents=True)
    watch = conditions.Watch("cpu", tmp_path)
    for kilohertz in (800_000, 3_000_000, 2_900_000):
        speed.write_text(f"{kilohertz}\n")
        watch.look()
    assert watch.figures()["clock_mhz"] == 800
    assert not watch.warnings()


def test_a_few_rounds_decide_nothing() -> None:
    """One turn of each, as an early Ctrl-C leaves it: no interval, and no verdict."""
    found = timing.ratio([2.0, 2.1], [1.0, 1.0])
    assert found.value == pytest.approx(2.05, rel=0.01)
    assert np.isnan([found.low, found.high]).all()
    before, after = fake(), fake(slower=1.5)
    for one in (before, after):
        for row in one["results"]:
            row["rounds"] = row["rounds"][:5]
            row["speedup_low"] = row["speedup_high"] = None
        one["yardstick"] = {batch: {"sort": sticks["sort"][:5]} for batch, sticks in one["yardstick"].items()}
    assert {change.verdict for change in compare.changes(before, after)} == {"unclear"}
    assert "2.00x (too few rounds)" in report.table(before)


def test_what_was_timed_strictly_needs_no_yardstick() -> None:
    def strict(**given: Any) -> dict[str, Any]:
        one = fake(**given)
        one["method"] |= {"strict": True, "yardstick": ""}
        one["results"] = [row for row in one["results"] if row["competitor"] != EAGER and row["batch"] == 1]
        for row in one["results"]:
            row["rounds"] = (np.array(row["rounds"]) / fake(**given)["yardstick"]["1"]["sort"] * 0.001).tolist()
        return one | {"yardstick": {}}

    found = compare.changes(strict(), strict(seed=1, slower=1.2))
    assert {(change.verdict, change.baseline) for change in found} == {("slower", compare.CLOCK)}
    assert {change.verdict for change in compare.changes(strict(), strict(seed=1))} == {"same"}


def test_a_gpu_is_not_held_against_a_processor() -> None:
    """Without PyTorch a sort is all there is: on a GPU it decides nothing."""

    def on_gpu(yardstick: str, **given: Any) -> dict[str, Any]:
        one = fake(**given)
        one["method"] |= {"device": "cuda", "yardstick": yardstick}
        one["yardstick"] = {batch: {yardstick: sticks["sort"]} for batch, sticks in one["yardstick"].items()}
        return one | {"results": [row for row in one["results"] if row["competitor"] != EAGER]}

    for yardstick, verdict in (("sort", "unclear"), ("product", "slower")):
        found = compare.changes(on_gpu(yardstick), on_gpu(yardstick, seed=1, slower=1.3))
        assert {change.verdict for change in found} == {verdict}


def test_each_is_held_against_the_network_in_its_engine() -> None:
    """A machine on which one library is slowed down and another is not: PyTorch beside them tells nothing."""

    def report_of(torch_slower: float, engine: str = "x", slower: float = 1.0, seed: int = 0) -> dict[str, Any]:
        one = fake(seed=seed, slower=slower)
        for row in one["results"]:
            if row["competitor"] == EAGER:
                row["rounds"] = (torch_slower * np.array(row["rounds"])).tolist()
        one["competitors"] = {name: {**costs, "engine": engine} for name, costs in one["competitors"].items()}
        one["competitors"][EAGER]["engine"] = "PyTorch 2"
        for sticks in one["yardstick"].values():
            sticks[engine] = [0.2 * value for value in sticks["sort"]]
        return one

    def found(before: dict[str, Any], after: dict[str, Any]) -> set[tuple[str, str]]:
        changes = compare.changes(before, after)
        return {(change.verdict, change.baseline) for change in changes if change.competitor != EAGER}

    before = report_of(1.0)
    assert found(before, report_of(1.2, seed=1)) == {("same", compare.NETWORK)}
    assert found(before, report_of(1.2, slower=1.2, seed=1)) == {("slower", compare.NETWORK)}
    other = found(before, report_of(1.2, engine="x 2", seed=1))
    assert other == {("faster", EAGER)}, "another version of the engine: the network may be what has changed"
    (change,) = [one for one in compare.changes(before, report_of(1.2)) if one.competitor == EAGER and one.batch == 1]
    assert (change.baseline, change.verdict) == (compare.YARDSTICK, "slower")


def test_the_peak_of_each_kind_of_number(monkeypatch: pytest.MonkeyPatch) -> None:
    here = arithmetic.peak(1, "cpu")
    assert here["flops"].keys() == {"fp32", "bf16", "int8"}
    assert min(*here["flops"].values(), here["bandwidth"]) > 1e6
    assert (arithmetic.number_type("fp32 (fp16 weights)"), arithmetic.number_type("int8")) == ("fp32", "int8")
    monkeypatch.setattr(arithmetic, "_product", _no_device)
    there = arithmetic.peak(1, "cuda")
    assert (there["flops"], there["bandwidth"]) == ({}, None)
    assert "PyTorch could not on cuda: no CUDA GPUs are available" in there["how"]


def test_a_broken_engine_costs_its_peak_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def overwritten() -> Any:
        raise EngineError("onnxruntime is installed and does not start")

    monkeypatch.setattr(ort, "package", overwritten)
    found = arithmetic.peak(1, "cpu")
    assert found["flops"].keys() == {"fp32", "bf16"}
    assert "onnxruntime is installed and does not start" in found["how"]
    assert arithmetic.number_type("fp32 (TF32 allowed)") == "tf32", "which is not FP32's peak"


def test_a_gpu_that_cuda_does_not_show_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(line: list[str], **_: Any) -> Any:
        asked.append(line)
        return subprocess.CompletedProcess(line, 0, "512", "")

    monkeypatch.setattr(conditions.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(conditions.subprocess, "run", run)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert conditions.gpu_memory() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert conditions.gpu_memory() == 512 * 2**20
    assert asked[-1][-2:] == ["-i", "2"]
    asked.clear()
    conditions.Watch("cpu").look()
    assert not asked, "nothing runs there"


def test_hours_of_rounds_fit_into_the_memory() -> None:
    values = np.random.default_rng(0).normal(0, 1, 60_000)
    tracemalloc.start()
    draws = timing.resampled(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e8
    assert draws.shape == (timing.RESAMPLES,)
    assert abs(draws.std() - 1.2533 / np.sqrt(60_000)) < 1e-3


def _no_device(*_: Any) -> float:
    raise RuntimeError("no CUDA GPUs are available\nand more")


@pytest.mark.parametrize(
    "change",
    [
        {"method": None}, {"machine": {}}, {"machine": {"versions": []}}, {"yardstick": []}, {"partial": "no"},
        {"inputs": [3]}, {"inputs": {"a": 1}}, {"results": [{}]}, {"results": ["x"]}, {"competitors": 3},
    ],
)  # fmt: skip
def test_a_damaged_report_is_one_line(command: Callable[..., Any], tmp_path: Path, change: dict[str, Any]) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    for path, made in zip(paths, (fake(), {**fake(), **change}), strict=True):
        path.write_text(json.dumps(made))
    done = command("gan-bench", "compare", *paths)
    assert (done.code, done.err.count("\n")) == (1, 1), done.err


def test_ctrl_c_writes_the_partial_report(
    command: Callable[..., Any], artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "measure", lambda *a, **k: fake() | {"partial": True})
    done = command("gan-bench", artifact, "--json", tmp_path / "out.json", "--html", tmp_path / "out.html")
    assert done.code == 130
    assert json.loads((tmp_path / "out.json").read_text())["partial"] is True
    assert "Partial:" in (tmp_path / "out.html").read_text()


def test_a_busy_machine_is_named() -> None:
    assert latency.warnings([], others=None, load=0.2, cores=2) == []
    assert "load 3.0" in latency.warnings([], others=None, load=3.0, cores=2)[0]
    assert latency.warnings([], others=0.02, load=3.0, cores=2) == []  # The load is this program's own.
    assert "30% of the core" in latency.warnings([], others=0.3, load=0.0, cores=1)[0]
    loud = {"figures": {"spread": 0.5}}
    assert "50%" in latency.warnings([loud], others=0.0, load=None, cores=2)[0]


def test_the_table_keeps_warnings_and_plots_do_not_mix_batches(tmp_path: Path) -> None:
    report = fake() | {"warnings": ["the machine was not quiet"], "failed": []}
    (tmp_path / "here.json").write_text(json.dumps(report))
    report["results"][1] |= {"psnr": None, "same": True}
    report["results"][4] |= {"psnr": None, "same": True}
    text = results.tables(results.Committed({"here": report}, {}, {}))
    assert "warning: the machine was not quiet" in text
    assert "`gan-bench net.onnx`" in text
    assert "| identical |" in text
    (tmp_path / "results.md").write_text(results.BEGIN + results.END)
    line = [
        sys.executable,
        "-m",
        "ganedge.benchmarks.studies.results",
        "--folder",
        tmp_path,
        "--document",
        tmp_path / "results.md",
    ]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for batch in (1, 8):
        drawn = (tmp_path / f"here-batch{batch}.svg").read_text()
        assert drawn.count("net 0.onnx, fast") == 1
        assert "#2" not in drawn


@pytest.mark.parametrize("count", [1, 30])
def test_pictures_of_all_stand_on_the_page(count: int) -> None:
    made = fake(count)
    random = np.random.default_rng(0)
    names = dict.fromkeys(row["competitor"] for row in made["results"])
    pictures: dict[str, Any] = {name: random.uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32) for name in names}
    port = Port("image", "image", "float32", ("batch", 3, 8, 8), "NCHW", (-1.0, 1.0))
    html = page.render(made, pictures, port)
    assert html.count("<img") == 2 * (count + 1) - 1, "each picture, and its difference from the reference's"
    assert html.count("<figcaption>") == count + 1
