"""Competitors in processes of their own: one at a time, and what becomes of them when something ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ganedge.benchmarks import isolated, latency, yardsticks
from ganedge.benchmarks.competitor import EAGER, artifact_competitors
from ganedge.runtime import timing
from ganedge.runtime.errors import EngineError, GanEdgeError, MissingExtra

POOL = [[np.full((1, 3), float(number), np.float32)] for number in range(4)]


class Plain:
    """What the pieces here have in common."""

    renew: Callable[[], None] | None = None

    def close(self) -> None:
        """Nothing to let go."""


@dataclass(frozen=True)
class Counter(Plain):
    """A piece that keeps what it was called with, in a file."""

    path: str

    def over(self, pool: isolated.Pool) -> timing.Competitor:
        """Write down which inputs come."""

        def call(number: int) -> None:
            with open(self.path, "a") as file:  # noqa: PTH123 - as short as it gets
                file.write(f"{pool[number % len(pool)][0][0, 0]:.0f} ")
            time.sleep(0.001)

        return call


@dataclass(frozen=True)
class Ends(Plain):
    """One that is fine until it is called."""

    how: str

    def over(self, _pool: isolated.Pool) -> timing.Competitor:
        """End, one way or another."""

        def call(_: int) -> None:
            if self.how == "memory":
                raise MemoryError("none left")
            if self.how == "raise":
                raise ValueError("not\nthis one")
            os.kill(os.getpid(), getattr(signal, self.how))

        return call


def _refuses() -> isolated.Piece:
    raise EngineError("not here")


def _stuck() -> isolated.Piece:
    time.sleep(60)
    raise AssertionError


def _processes(stage: isolated.Stage) -> list[str]:
    """The state of each process: T where it is stopped."""
    pids = [host._process.pid for host in stage._hosts]
    return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids]


def test_they_take_turns_and_stand_still_between_them(tmp_path: Path) -> None:
    recipes: dict[str, isolated.Recipe | isolated.Piece] = {
        name: isolated.Recipe(partial(Counter, str(tmp_path / name)), host) for name, host in (("a", "x"), ("b", "y"))
    }
    with isolated.Stage("cpu") as stage:
        assert stage.add(recipes) == {}
        timed = stage.timed(POOL)
        assert list(timed) == ["a", "b"]
        assert _processes(stage) == ["T", "T"]
        times = timed["a"].turn(2, 0.0, True)
        assert _processes(stage) == ["T", "T"]
        assert not (tmp_path / "b").exists(), "it is not its turn"
        assert times.min() >= 0.001
        called = (tmp_path / "a").read_text().split()
        assert called[:4] == ["1", "2", "3", "0"], "its inputs come in their order"
        assert len(called) == len(times) + 1, "the first wakes it and is not timed"
        assert len(timed["a"].turn(0, 0.0, False)) >= timing.TURN_CALLS
        assert (tmp_path / "a").read_text().split()[len(called) :][:1] == ["0"]
        before = stage.used()
        turns = timing.interleaved(timed, 0.05, 10)
        assert sum(map(len, turns["b"])) >= 10
        timed["a"].turn(0, 0.3, True)
        assert not Path("/proc/self/stat").exists() or stage.used() > before
        pids = [host._process.pid for host in stage._hosts]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_those_of_one_host_share_a_process(tmp_path: Path) -> None:
    recipes: dict[str, isolated.Recipe | isolated.Piece] = {
        name: isolated.Recipe(partial(Counter, str(tmp_path / name)), "one") for name in "ab"
    }
    with isolated.Stage("cpu") as stage:
        stage.add(recipes)
        assert len(_processes(stage)) == 1
        timed = stage.timed(POOL)
        for name in "ab":
            assert len(timed[name].turn(0, 0.0, True)) >= timing.TURN_CALLS
        stage._hosts[0]._process.kill()
        for name in "ab":
            with pytest.raises(EngineError, match="its process"):
                timed[name].turn(0, 0.0, True)


def test_one_that_ends_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    recipes: dict[str, isolated.Recipe | isolated.Piece] = {
        how: isolated.Recipe(partial(Ends, how), how) for how in ("SIGSEGV", "SIGKILL", "raise", "memory")
    }
    recipes |= {"fine": isolated.Recipe(partial(Counter, str(tmp_path / "fine")), "fine")}
    recipes |= {"refuses": isolated.Recipe(_refuses, "refuses"), "lambda": Counter(str(tmp_path / "here"))}
    failed: dict[str, Exception] = {}
    with isolated.Stage("cpu") as stage:
        assert {name: str(error) for name, error in stage.add(recipes).items()} == {"refuses": "not here"}
        turns = timing.interleaved(stage.timed(POOL), 0.02, 5, failed=failed)
        again = stage.timed(POOL)
        assert len(again["fine"].turn(0, 0.0, True)) >= timing.TURN_CALLS, "with the inputs of another batch size"
    assert turns.keys() == {"fine", "lambda"}
    assert isinstance(failed["memory"], MemoryError)
    assert {name: str(error) for name, error in failed.items() if name != "memory"} == {
        "SIGSEGV": "its process ended with Segmentation fault",
        "SIGKILL": "its process ended with Killed",
        "raise": "ValueError: not this one",
    }


def test_one_that_is_never_ready_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(isolated, "LIMIT", 3.0)
    with isolated.Stage("cpu") as stage:
        failed = stage.add(
            {
                "stuck": isolated.Recipe(_stuck, "stuck"),
                "fine": isolated.Recipe(partial(Counter, str(tmp_path / "fine")), "fine"),
            }
        )
        assert {name: str(error) for name, error in failed.items()} == {
            "stuck": "its process gave no answer within 3 s"
        }
        assert stage.timed(POOL).keys() == {"fine"}


def _lives(pid: int) -> bool:
    """Whether there is such a process; nobody may wait for it here, so that what is left of it counts as none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_inputs_are_written_as_they_are(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pool = [
        [random.normal(size=(2, 3, 4)).astype(np.float32)[:, :, ::-1], np.full((2,), place, np.int64)]
        for place in range(5)
    ]
    latents, labels = (np.load(path, mmap_mode="c") for path in isolated._written(pool, tmp_path))
    np.testing.assert_array_equal(latents, np.concatenate([batch[0] for batch in pool]))
    np.testing.assert_array_equal(labels, np.repeat(np.arange(5), 2))
    assert (latents.dtype, labels.dtype) == (np.float32, np.int64)


def test_inputs_that_cannot_be_taken_are_said_and_no_others_are_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with isolated.Stage("cpu") as stage:
        stage.add({"a": isolated.Recipe(partial(Counter, str(tmp_path / "a")), "a")})
        assert len(stage.timed(POOL)["a"].turn(0, 0.0, True)) >= timing.TURN_CALLS
        monkeypatch.setattr(isolated, "_written", lambda *_: ["/nowhere.npy"])
        timed = stage.timed(POOL)
        with pytest.raises(EngineError, match="could not take the inputs"):
            timed["a"].turn(0, 0.0, True)

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(isolated, "_written", full)
        with pytest.raises(GanEdgeError, match=r"No space left on device.*set TMPDIR"):
            stage.timed(POOL)


def test_an_interruption_during_a_turn_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: dict[str, isolated.Recipe | isolated.Piece] = {
        name: isolated.Recipe(partial(Counter, str(tmp_path / name)), name) for name in "ab"
    }
    pids = []

    def interrupted(_: isolated._Host) -> None:
        raise KeyboardInterrupt

    def measure() -> None:
        with isolated.Stage("cpu") as stage:
            stage.add(recipes)
            pids.extend(host._process.pid for host in stage._hosts)
            timed = stage.timed(POOL)
            monkeypatch.setattr(isolated._Host, "_stop", interrupted)
            timing.interleaved(timed, 60.0, 10)

    with pytest.raises(KeyboardInterrupt):
        measure()
    assert len(pids) == 2
    assert not any(map(_lives, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_none_stays_where_the_one_that_asks_is_killed(tmp_path: Path) -> None:
    """A process that stands still would hold its memory for ever, and hear nothing but SIGKILL."""
    script = """
import sys, time
from ganedge.benchmarks import isolated, yardsticks
with isolated.Stage("cpu") as stage:
    stage.add({"sort": isolated.Recipe(yardsticks.sort, "sort")})
    print(stage._hosts[0]._process.pid, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while _lives(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _lives(pid)


def test_on_a_gpu_all_stay_here(tmp_path: Path) -> None:
    with isolated.Stage("cuda") as stage:
        failed = stage.add(
            {"sort": isolated.Recipe(yardsticks.sort, "sort"), "refuses": isolated.Recipe(_refuses, "r")}
        )
        assert {name: str(error) for name, error in failed.items()} == {"refuses": "not here"}
        assert not stage._hosts
        assert len(stage.timed(POOL)["sort"].turn(0, 0.0, True)) >= timing.TURN_CALLS


def test_what_is_measured_is_in_processes_of_its_own(artifact: Path, tiny_run: Path) -> None:
    """One that cannot be made there is named at each batch size, and the others have yardsticks beside them."""
    broken: list[isolated.Recipe] = []

    def change(subject: latency.Subject) -> None:
        object.__setattr__(subject.competitors[-1], "recipe", isolated.Recipe(_refuses, "refuses"))
        broken.extend(one.recipe for one in subject.competitors if one.recipe is not None)

    settings = latency.Settings((1, 2), engine="onnxruntime", seconds=0.02, iterations=2, processes=0)
    found = latency.measure([artifact, artifact], str(tiny_run), settings, change=change)
    assert len(broken) == 3
    assert [(one["competitor"], one["batch"], one["reason"]) for one in found["failed"]] == [
        (f"{artifact}, onnxruntime #2", 1, "not here"),
        (f"{artifact}, onnxruntime #2", 2, "not here"),
    ]
    assert [row["competitor"] for row in found["results"]] == 2 * [EAGER, f"{artifact}, onnxruntime"]
    engine = found["competitors"][f"{artifact}, onnxruntime"]["engine"]
    for batch in ("1", "2"):
        assert found["yardstick"][batch].keys() == {"sort", engine, found["competitors"][EAGER]["engine"]}
        assert len({len(rounds) for rounds in found["yardstick"][batch].values()}) == 1


@pytest.mark.parametrize("engine", sorted(yardsticks.STARTS))
def test_the_network_is_the_same_in_every_engine(engine: str) -> None:
    for package in ("torch", "onnx", *({engine} - {"PyTorch"})):
        pytest.importorskip(package, reason=f"compares the network in {engine} with PyTorch's")
    expected = np.asarray(yardsticks.STARTS["PyTorch"](1)())
    output = yardsticks.STARTS[engine](1)()
    picture = np.asarray(output[0] if engine != "PyTorch" else output)  # type: ignore[index]
    assert picture.shape == (1, 3, yardsticks.SIDE, yardsticks.SIDE)
    assert 0.01 < np.abs(expected).mean() < 0.9, "neither all zero nor all saturated"
    np.testing.assert_allclose(picture, expected, atol=1e-5)
    stick = yardsticks.network(engine, 1)
    assert stick.renew is not None
    stick.renew()
    stick.over([])(0)
    stick.close()
    stick.over([])(0)
    stick.close()


def test_an_engine_without_the_package_has_no_network(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,), _ = artifact_competitors([artifact], "onnxruntime", "cpu", 1)
    one.close()
    found = yardsticks.recipes([one], "cpu", 1)
    assert list(found) == ["sort", one.engine]
    monkeypatch.setattr(yardsticks, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="onnx"):
        found[one.engine].make()


def test_a_gpu_beside_a_pytorch_for_processors_sorts(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT's engines need no PyTorch, and what is installed may be a build without CUDA."""
    torch = pytest.importorskip("torch", reason="it is PyTorch that is asked for a GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert yardsticks.general("cuda") == "sort"
    assert list(yardsticks.recipes([], "cuda", 1)) == ["sort"]
