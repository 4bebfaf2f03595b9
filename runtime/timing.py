"""Time several functions so that they can be compared: interleaved, warmed up.

    turns = interleaved({"a": here(run_a), "b": here(run_b)}, seconds=3.0, iterations=50)
    speedup = ratio(undisturbed(turns["a"]), undisturbed(turns["b"]))   # a's time over b's, with a 95 % interval

Each competitor is a function of a call number, which selects a fresh input from its pool. It runs in this process
(`here`) or in its own (benchmarks/isolated.py). Competitors take short turns in a new random order each round, so that
clock drift and other load on the machine affect all of them alike. A round is one turn of each competitor. Ratios are
taken within rounds, and their intervals resample blocks of consecutive rounds, so that drift widens the interval.

The memory addresses that a network gets make it one or two percent faster or slower until it is closed, so two copies
of the same network differ. Competitors that can be restarted are therefore restarted between turns, which puts this
variation into the interval. Those that take long to start are restarted only a few times.
"""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import GanEdgeError

TURN_SECONDS, TURN_CALLS = 0.005, 4
"""Seconds and calls that a turn lasts at least: short turns keep the machine's state equal within a round, and give
many rounds."""
TURN_LONGEST = 0.02
"""Seconds after which a turn ends even with fewer than `TURN_CALLS` calls, but never with none."""
WAKES = 0.1
"""Each turn begins with one untimed call, which wakes the thread pool and fills the caches, unless a call takes this
many seconds or more: then it makes no difference."""
OF_SLOWEST = 0.1
"""Turns last at least this share of the slowest competitor's call. Otherwise fast competitors would need so many
rounds that the slowest is called far more often than needed."""
LOOK_SECONDS = 0.002
"""Interval at which this process's other threads are checked between turns, until all sleep: thread pools that spin
while they wait for work (ONNX Runtime's for 45 ms) would take cores from the next competitor."""
PAUSE_SECONDS = 0.05
"""Length of that pause where the system does not report thread states."""
PAUSE_LONGEST = 0.25
"""Longest such pause, even if threads are still running."""
TASKS = Path("/proc/self/task")
"""Where Linux reports the state of each thread."""
SETTLED = 0.05
"""Warm-up ends when the median of its last block is within this share of the one before."""
WARMUP_BLOCKS = 20
"""Most blocks of warm-up."""
QUARTER = 0.25
"""Quantile of a turn's calls that ratios use."""
WIDER = 1.1
"""Factor by which an interval is wider than the bootstrap quantiles, because twenty blocks underestimate the spread
(Student's t with 19 degrees of freedom over the normal quantile, times the root of 20/19; Hesterberg 2015, "expanded
percentile")."""
RESAMPLES = 2000
"""Draws of a bootstrap interval."""
STRETCHES = 20
"""Number of blocks into which the rounds are divided for resampling."""
DRAWN = 2**20
"""Values resampled at a time, which bounds the memory for long measurements."""
LEVEL = 0.95
"""Confidence level of intervals."""
MEDIAN_ROUNDS = 4
"""Turns of each function in `median_seconds`."""
HOPELESS = 2.0
"""A long call that takes so many times as long as the fastest has one turn there: it will not be chosen."""
RENEWAL = 0.5
"""Most time that a competitor may spend on restarts, as a share of the time for which it was timed."""
WARM_SECONDS, WARM_CALLS = 0.02, 2
"""Untimed seconds and calls after a restart, at least."""
PRECISE = 0.01
"""Half the width of a ratio's interval below which it is precise enough to stop."""
LONGEST = 4.0
"""Multiple of the requested seconds after which timing stops even if ratios are still imprecise."""
LOOK_ROUNDS, LOOK_SHARE = 5, 0.1
"""Rounds between two checks of that precision: at least this many, and at least this share of the rounds so far."""
ALONE_TURNS = 100
"""Number of turns into which `one_by_one` divides a competitor's times."""
FEWEST = 6
"""Rounds below which there is no interval: the range of five values holds the median in fewer than 95 % of cases."""
UNQUIET = 0.2
"""Spread between rounds above which a machine counts as busy."""

Competitor = Callable[[int], object]
"""Makes the call of a number; where it returns `OwnTime`, that counts instead of the time until it returned."""
Turns = dict[str, list[NDArray[np.float64]]]


class OwnTime(float):
    """Seconds that a call took by a clock nearer to it: in a browser, that is without the way there and back."""


@dataclass(frozen=True)
class Timed:
    """A competitor as the scheduler sees it."""

    turn: Callable[[int, float, bool], NDArray[np.float64]]
    """Runs a turn as `take_turn` does, from the number of its first call, the least seconds if that is longer than
    usual, and whether an untimed call comes first. Returns the seconds of each call."""
    renew: Callable[[], float] | None = None
    """Restarts it and warms it up briefly; returns the seconds that took."""


@dataclass(frozen=True)
class Figures:
    """Summary of one competitor's times; seconds unless stated otherwise."""

    iterations: int
    """Timed calls."""
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    longest: float
    spread: float
    """Interquartile range of the turns' medians as a share of the overall median: above 0.2 the machine was busy."""


@dataclass(frozen=True)
class Ratio:
    """Speed-up with its confidence interval; the bounds are NaN if there are too few rounds."""

    value: float
    low: float
    high: float


def here(run: Competitor, renew: Callable[[], object] | None = None) -> Timed:
    """A competitor timed in this process; each turn starts when all other threads sleep.

    Args:
        run: Makes one call.
        renew: Restarts it.
    """

    def turn(first: int, least: float, wakes: bool) -> NDArray[np.float64]:
        _wait_for_sleep()
        return take_turn(run, first, least, wakes)

    return Timed(turn, None if renew is None else partial(renewed, renew, run))


def interleaved(
    competitors: Mapping[str, Timed],
    seconds: float,
    iterations: int,
    turns: Turns | None = None,
    failed: dict[str, Exception] | None = None,
    ready: Callable[[], object] = lambda: None,
    known: Collection[tuple[str, str]] | None = None,
    between: Callable[[], object] = lambda: None,
) -> Turns:
    """Time every competitor until each has run for `seconds` and `iterations` times.

    On a busy machine timing continues until ratios are precise to `PRECISE`, or a competitor has run for `LONGEST`
    times `seconds`. If there are ratios, there are at least `FEWEST` rounds, so that each ratio has an interval.

    Args:
        competitors: What to time, by name.
        seconds: Least seconds for each.
        iterations: Least calls of each.
        turns: Filled with the times, which remain available after an interruption; a new table by default.
        failed: Filled with the errors of competitors that failed, while the others continue. Without it the first
            error is raised.
        ready: Called once, after the warm-up.
        known: Pairs whose ratio has to be precise; by default each competitor with the first.
        between: Called between rounds, while nothing is timed.

    Returns:
        For each competitor one array per turn, the seconds of each call. No timed call is left out.
    """
    turns = {} if turns is None else turns
    medians_of = _warm({name: competitor.turn for name, competitor in competitors.items()}, turns, failed)
    names = list(medians_of)
    long = OF_SLOWEST * max(medians_of.values(), default=0.0)
    spent, timed, calls = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    ready()
    order = random.Random(0)  # noqa: S311 - the same order in every run
    rounds, look = 0, 0
    pairs = [(names[0], name) for name in names[1:]] if known is None else known
    while names:
        if all(timed[name] >= seconds and calls[name] >= iterations for name in names):
            unsure = [pair for pair in pairs if turns.keys() >= set(pair)]
            longest = max((timed[name] for pair in unsure for name in pair), default=0.0)
            if not unsure or (rounds >= FEWEST and longest >= LONGEST * seconds):
                break
            if rounds >= look:
                if not _vague(turns, unsure):
                    break
                look = rounds + max(LOOK_ROUNDS, round(LOOK_SHARE * rounds))
        for name in order.sample(names, len(names)):
            competitor = competitors[name]
            with noted(name, failed):
                if competitor.renew is not None and spent[name] < RENEWAL * timed[name]:
                    spent[name] += competitor.renew()
                turn = competitor.turn(calls[name], long, medians_of[name] < WAKES)
                turns[name].append(turn)
                timed[name] += float(turn.sum())
                calls[name] += len(turn)
                continue
            names.remove(name)
            del turns[name]
        rounds += 1
        between()
    return turns


def median_seconds(calls: Sequence[Callable[[], object]], seconds: float, first: Sequence[float] = ()) -> list[float]:
    """Median seconds of each call: `MEDIAN_ROUNDS` turns of each, which together take `seconds` or one call a turn.

    A turn starts when all other threads sleep, and with an untimed call if calls are short. Long calls vary less: two
    turns are enough, and one where the call is clearly slower than another. A single function has two turns as well.
    Of two calls the shorter counts: other processes only ever lengthen calls.

    Args:
        calls: What to time.
        seconds: See above.
        first: Seconds that each took when it was called before: a long one needs no untimed call then, and is clearly
            slower only if it was slow there, too.
    """
    turns: list[list[NDArray[np.float64]]] = [[] for _ in calls]
    wakes = [taken < WAKES for taken in first] or [True for _ in calls]
    before = list(first) or [math.inf for _ in calls]
    rounds = MEDIAN_ROUNDS if len(calls) > 1 else 2
    end = time.monotonic() + rounds * seconds * len(calls)
    for number in range(rounds):
        if number > 1 and time.monotonic() > end:
            break
        slow = max(WAKES, HOPELESS * min((turn[0].min() for turn in turns if turn), default=0.0))
        for index, call in enumerate(calls):
            if number and min(before[index], turns[index][0].min()) >= slow:
                continue  # Slow in each of two calls, where there were two: other processes disturb single ones.
            _wait_for_sleep()
            turns[index].append(take_turn(lambda _, call=call: call(), 0, seconds / rounds, wakes[index]))  # type: ignore[misc]
            wakes[index] = turns[index][0].min() < WAKES
    return [float(np.quantile(np.concatenate(taken), 0.5, method="lower")) for taken in turns]


def one_by_one(
    competitors: Mapping[str, Competitor],
    seconds: float,
    iterations: int,
    turns: Turns | None = None,
    failed: dict[str, Exception] | None = None,
    ready: Callable[[], object] = lambda: None,
    between: Callable[[], object] = lambda: None,
) -> Turns:
    """Time one competitor after the other without pauses: each call begins as soon as the previous one returns.

    Args:
        competitors: What to time, by name.
        seconds: Least seconds for each.
        iterations: Least calls of each.
        turns: Filled with the times, as in `interleaved`.
        failed: Filled with errors, as in `interleaved`.
        ready: Called once, after the warm-up.
        between: Called between two competitors.

    Returns:
        For each competitor that was timed, the seconds of its calls, divided into `ALONE_TURNS` turns. Because
        competitors run at different times, intervals of their ratios do not include drift between them.
    """
    turns = {} if turns is None else turns
    names = list(_warm({name: here(run).turn for name, run in competitors.items()}, turns, failed))
    ready()
    for name in names:
        _wait_for_sleep()
        with noted(name, failed):
            run = competitors[name]
            times: list[float] = []
            begin = before = time.perf_counter()
            while before - begin < seconds or len(times) < max(iterations, ALONE_TURNS):
                before = _time(run, len(times), before, times)
            turns[name] += np.array_split(np.array(times), ALONE_TURNS)
        if not turns[name]:
            del turns[name]
        between()
    return turns


def _warm(
    competitors: Mapping[str, Callable[[int, float, bool], NDArray[np.float64]]],
    turns: Turns,
    failed: dict[str, Exception] | None,
) -> dict[str, float]:
    """Warm up every competitor and give it an entry in `turns`; returns the last median call of each, seconds."""
    medians_of = {}
    for name, turn in competitors.items():
        with noted(name, failed):
            medians_of[name] = _warm_up(turn)
    turns.update({name: [] for name in medians_of})
    return medians_of


@contextlib.contextmanager
def noted(name: str, failed: dict[str, Exception] | None) -> Iterator[None]:
    """Store a competitor's error in `failed`; without such a table, raise it."""
    try:
        yield
    except (GanEdgeError, MemoryError) as error:
        if failed is None:
            raise
        failed[name] = error


def whole_rounds(turns: Turns) -> Turns:
    """`turns` without an interrupted last round and without competitors that had no turn yet."""
    rounds = min((len(times) for times in turns.values() if times), default=0)
    return {name: times[:rounds] for name, times in turns.items() if times}


def figures(turns: Sequence[NDArray[np.float64]]) -> Figures:
    """Summarise one competitor's times."""
    times = np.concatenate(turns)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(times, (50, 90, 95, 99)))
    low, high = np.percentile(medians(turns), (25, 75))
    return Figures(
        len(times), float(times.mean()), p50, p90, p95, p99, float(times.max()), float(high - low) / max(p50, 1e-12)
    )


def medians(turns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The median of each turn, seconds."""
    return np.array([float(np.median(turn)) for turn in turns])


def undisturbed(turns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The lower quartile of each turn, seconds, from which ratios are computed.

    Other processes only ever lengthen calls, and long calls more often than short ones, so medians would favour the
    faster competitor (figures in benchmarks/LOG.md). The percentiles in reports include all calls.
    """
    return np.array([float(np.quantile(turn, QUARTER)) for turn in turns])


def ratio(slow: Sequence[float] | NDArray[np.float64], fast: Sequence[float] | NDArray[np.float64]) -> Ratio:
    """Time of the first over time of the second.

    Args:
        slow: Seconds for each turn of the first, see `undisturbed`.
        fast: The same for the second, from the same rounds.

    Returns:
        The median over the rounds, and a bootstrap interval that resamples blocks of rounds.
    """
    logarithms = np.log(np.asarray(slow, np.float64) / np.asarray(fast, np.float64))
    if len(logarithms) < FEWEST:
        return Ratio(float(np.exp(np.median(logarithms))), np.nan, np.nan)
    middle = float(np.median(logarithms))
    low, high = interval(resampled(logarithms), middle)
    return Ratio(float(np.exp(middle)), float(np.exp(low)), float(np.exp(high)))


def interval(draws: NDArray[np.float64], middle: float, level: float = LEVEL) -> tuple[float, float]:
    """Confidence interval of a statistic from its bootstrap draws.

    Args:
        draws: As `resampled` returns them, or the difference of two such arrays.
        middle: The statistic of the original sample.
        level: Confidence level.
    """
    low, high = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2))
    return middle + WIDER * (float(low) - middle), middle + WIDER * (float(high) - middle)


def resampled(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Medians of `RESAMPLES` bootstrap resamples of `values`.

    This is a circular block bootstrap (Politis & Romano 1992): it draws blocks of consecutive rounds, 1/`STRETCHES` of
    all rounds each. A disturbance that lasts many rounds then counts as one event, whereas drawing single rounds would
    count it many times and make the interval too narrow.
    """
    random = np.random.default_rng(seed)
    length = max(1, len(values) // STRETCHES)
    count = -(-len(values) // length)
    at_once = max(1, DRAWN // len(values))
    parts = []
    for begin in range(0, RESAMPLES, at_once):
        first = random.integers(0, len(values), (min(at_once, RESAMPLES - begin), count, 1))
        chosen = ((first + np.arange(length)) % len(values)).reshape(len(first), -1)[:, : len(values)]
        parts.append(np.median(values[chosen], axis=1))
    return np.concatenate(parts)


def take_turn(run: Competitor, first: int, least: float = 0.0, wakes: bool = True) -> NDArray[np.float64]:
    """Time the calls of one turn.

    Args:
        run: What to call.
        first: Number of the first timed call.
        least: Least seconds, if that is longer than a usual turn.
        wakes: Whether to make an untimed call first.

    Returns:
        Seconds of each call, at least one.
    """
    times: list[float] = []
    short, longest = max(TURN_SECONDS, least), max(TURN_LONGEST, least)
    if wakes:
        run(first - 1)
    begin = before = time.perf_counter()
    while before - begin < (longest if len(times) < TURN_CALLS else short) or not times:
        before = _time(run, first + len(times), before, times)
    return np.array(times)


def _time(run: Competitor, number: int, before: float, times: list[float]) -> float:
    """Make one call and note its seconds; returns when it ended, which is when the next one begins."""
    result = run(number)
    after = time.perf_counter()
    times.append(result if isinstance(result, OwnTime) else after - before)
    return after


def _wait_for_sleep() -> None:
    """Wait until this process's other threads have gone to sleep."""
    if not TASKS.is_dir():
        time.sleep(PAUSE_SECONDS)
        return
    end = time.perf_counter() + PAUSE_LONGEST
    time.sleep(LOOK_SECONDS)
    while time.perf_counter() < end and _others_work():
        time.sleep(LOOK_SECONDS)


def _others_work() -> bool:
    """Whether another thread of this process is running or ready to run."""
    own = str(threading.get_native_id())
    for task in TASKS.iterdir():
        try:
            state = (task / "stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except OSError:  # The thread has ended.
            continue
        if state == "R" and task.name != own:
            return True
    return False


def renewed(renew: Callable[[], object], run: Competitor) -> float:
    """Restart a competitor and warm it up briefly; returns the seconds that took."""
    begin = time.perf_counter()
    renew()
    warm, calls = time.perf_counter() + WARM_SECONDS, 0
    while calls < WARM_CALLS or time.perf_counter() < warm:
        run(calls)
        calls += 1
    return time.perf_counter() - begin


def _warm_up(turn: Callable[[int, float, bool], NDArray[np.float64]]) -> float:
    """Run until the median call settles, so that allocators, caches and just-in-time compilers are warm; return it."""
    last = float("inf")
    for _ in range(WARMUP_BLOCKS):
        median = float(np.median(turn(0, 0.0, False)))
        settled = abs(median / last - 1) < SETTLED
        last = median
        if settled:
            break
    return last


def _vague(turns: Turns, pairs: Collection[tuple[str, str]]) -> bool:
    """Whether a ratio is not precise enough yet."""
    rounds = {name: undisturbed(turns[name]) for name in {name for pair in pairs for name in pair}}
    ratios = (ratio(rounds[first], rounds[second]) for first, second in pairs)
    return not all(known.high / known.low <= (1 + PRECISE) ** 2 for known in ratios)  # False for NaN as well.
