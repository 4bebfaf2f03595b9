"""Time several functions so that they can be compared: interleaved, warmed up.

    turns = interleaved({"a": here(run_a), "b": here(run_b)}, seconds=3.0, iterations=50)
    found = ratio(turns["a"], turns["b"])           # how many times as fast b is, with a 95 % interval

Each competitor is a function of an iteration number, which it uses to take a fresh input from its pool, in this
process (`here`) or in one of its own (`apart`). They take turns in short blocks, in an order that is new each round, so
that a drifting clock or a busy neighbour hits all alike. One turn of each is a round; ratios are taken within rounds
and intervals by resampling stretches of whole rounds, so that drift is in them.

Where in memory a network happens to lie makes it a percent or two faster or slower for as long as it lives, so that two
copies of one are never alike. Competitors that can be started anew are, between turns, again and again: the interval
then holds that too, as far as there were starts: one that takes long to start is started a few times only.
"""

from __future__ import annotations

import contextlib
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
"""Length of one competitor's turn and the least calls in it: short, so that a round is over before the machine has
changed, and many rounds fit in."""
TURN_LONGEST = 0.02
"""It ends here with fewer calls, but never with none."""
WAKES = 0.1
"""One more call comes before those of a turn and is not timed: it wakes threads and fills caches, which a generator
that runs all the time does not have to do. Not where a call takes so long, seconds: there it makes no difference."""
OF_SLOWEST = 0.1
"""Where one call of the slowest takes long, the others' turns are longer: this share of it. Else the slowest would be
called again and again until those have been timed for long enough."""
LOOK_SECONDS = 0.002
"""Between two turns in one process it is looked at so often, until no other thread of it works: pools that spin while
they wait for work (ONNX Runtime's for 45 ms) would take the next one's cores."""
PAUSE_SECONDS = 0.05
"""How long that lasts where the system does not tell."""
PAUSE_LONGEST = 0.25
"""And at the longest, whoever still works."""
TASKS = Path("/proc/self/task")
"""Where Linux tells what each thread is about."""
SETTLED = 0.05
"""Warm-up ends when the median of its last block is within this share of the one before."""
WARMUP_BLOCKS = 20
"""Warm-up ends here at the latest."""
QUARTER = 0.25
"""The share of a turn's calls that are as fast as the figure its ratios are made of."""
WIDER = 1.1
"""How much wider an interval is than the quantiles of what was drawn: twenty stretches tell their own spread no better
(Student's t of 19 over the normal quantile, times the root of 20/19; Hesterberg 2015, "expanded percentile")."""
RESAMPLES = 2000
"""Draws of a bootstrap interval."""
STRETCHES = 20
"""Parts of all rounds, of which an interval draws some again."""
DRAWN = 2**20
"""Values drawn at once: hours of rounds would not fit into the memory otherwise."""
LEVEL = 0.95
"""How sure an interval is."""
MEDIAN_ROUNDS = 4
"""Turns of each where only medians are asked for."""
RENEWAL = 0.5
"""Share of the time it is timed for that a competitor may spend on being started anew."""
WARM_SECONDS, WARM_CALLS = 0.02, 2
"""What is not timed after that: at least so long, and so many calls."""
PRECISE = 0.01
"""Half the width of a ratio's interval at which it is known well enough to stop."""
LONGEST = 4.0
"""Times as long as asked for: when one has run for that, it stops all the same."""
LOOK_ROUNDS, LOOK_SHARE = 5, 0.1
"""Rounds between two looks at that: at least so many, and that share of those there are."""
ALONE_TURNS = 100
"""What the times of one that was timed alone are cut into."""
FEWEST = 6
"""Rounds below which no interval is given: the range of five holds the median less often than 95 %."""
UNQUIET = 0.2
"""Spread between rounds above which a machine counts as busy."""

Competitor = Callable[[int], object]
Turns = dict[str, list[NDArray[np.float64]]]


@dataclass(frozen=True)
class Timed:
    """One that takes turns."""

    turn: Callable[[int, float, bool], NDArray[np.float64]]
    """Takes a turn as `take_turn` does: the number of its first call, the seconds it is to last where that is longer
    than usual, and whether a call that is not timed comes before. Gives the time of each call, seconds."""
    renew: Callable[[], float] | None = None
    """Starts it anew and warms it up a little; gives the seconds that took."""


@dataclass(frozen=True)
class Figures:
    """What one competitor's times come to; seconds unless said otherwise."""

    iterations: int
    """Timed calls."""
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    longest: float
    spread: float
    """Distance of the quartiles of the turns' medians, as a share of the median over all: above 0.2 the machine was
    busy."""


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one is as another, with the interval that holds it; NaN where rounds are too few."""

    value: float
    low: float
    high: float


def here(run: Competitor, renew: Callable[[], object] | None = None) -> Timed:
    """One that takes its turns in this process, each after all other threads have gone to sleep.

    Args:
        run: One call of it.
        renew: What starts it anew.
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

    On a busy machine this goes on until ratios are known to `PRECISE`, or a competitor has run for `LONGEST` times
    `seconds`; where there are ratios, there are at least `FEWEST` rounds, so that each has an interval.

    Args:
        competitors: What to time, by name.
        seconds: At least this long each.
        iterations: At least this often each.
        turns: Where the times go, so that they are there after an interruption; a new table by default.
        failed: Where the errors of those go that could not go on; the others do. Without it an error ends everything.
        ready: Called once, when all are warm.
        known: Pairs whose ratio has to be known; by default each with the first.
        between: Called between rounds, while nothing is timed.

    Returns:
        For each, the times of its turns in seconds, one array a turn. Every timed call is in them.
    """
    turns = {} if turns is None else turns
    medians_of = _warm({name: competitor.turn for name, competitor in competitors.items()}, turns, failed)
    names = list(medians_of)
    long = OF_SLOWEST * max(medians_of.values(), default=0.0)
    spent, timed, calls = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    ready()
    order = random.Random(0)  # noqa: S311 - the same in every run, and no one's secret
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


def median_seconds(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Median seconds of each call: `MEDIAN_ROUNDS` turns of each, which together take `seconds` or one call a turn.

    Before each turn the threads of the others go to sleep, and one call that is not timed wakes its own, where a call
    is short.
    """
    turns: list[list[NDArray[np.float64]]] = [[] for _ in calls]
    wakes = [True for _ in calls]
    end = time.monotonic() + MEDIAN_ROUNDS * seconds * len(calls)
    for number in range(MEDIAN_ROUNDS):
        if number > 1 and time.monotonic() > end:  # Calls that take so long differ less from one to the next.
            break
        for index, call in enumerate(calls):
            _wait_for_sleep()
            turns[index].append(take_turn(lambda _, call=call: call(), 0, seconds / MEDIAN_ROUNDS, wakes[index]))  # type: ignore[misc]
            wakes[index] = turns[index][0].min() < WAKES
    return [float(np.median(np.concatenate(taken))) for taken in turns]


def one_by_one(
    competitors: Mapping[str, Competitor],
    seconds: float,
    iterations: int,
    turns: Turns | None = None,
    failed: dict[str, Exception] | None = None,
    ready: Callable[[], object] = lambda: None,
    between: Callable[[], object] = lambda: None,
) -> Turns:
    """Time each competitor by itself without a pause: the next call begins as soon as the one before is done.

    Args:
        competitors: What to time, by name.
        seconds: Each at least this long.
        iterations: Each at least this often.
        turns: Where the times go.
        failed: As `interleaved` has it.
        ready: Called once, when all are warm.
        between: Called between two competitors.

    Returns:
        For each that had its time, its times in seconds, cut into as many turns for all. What drifts between two
        competitors is in no interval that these make: they were not timed at the same time.
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
                run(len(times))
                after = time.perf_counter()
                times.append(after - before)
                before = after
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
    """Warm all up; of those that could be, the last median call, seconds; each gets a place in the table."""
    medians_of = {}
    for name, turn in competitors.items():
        with noted(name, failed):
            medians_of[name] = _warm_up(turn)
    turns.update({name: [] for name in medians_of})
    return medians_of


@contextlib.contextmanager
def noted(name: str, failed: dict[str, Exception] | None) -> Iterator[None]:
    """Put an error of a competitor's where errors go, if there is such a place."""
    try:
        yield
    except (GanEdgeError, MemoryError) as error:
        if failed is None:
            raise
        failed[name] = error


def whole_rounds(turns: Turns) -> Turns:
    """The same without the round that an interruption cut short, and without those that had no turn yet."""
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
    """The lower quartile of each turn, seconds: what ratios are made of.

    A neighbour only ever makes a call longer, and a long call more often than a short one, so that medians of the slow
    and of the fast are not disturbed alike. benchmarks/LOG.md has figures. All calls are in the percentiles.
    """
    return np.array([float(np.quantile(turn, QUARTER)) for turn in turns])


def ratio(slow: Sequence[float] | NDArray[np.float64], fast: Sequence[float] | NDArray[np.float64]) -> Ratio:
    """How many times as fast the second is as the first.

    Args:
        slow: What each turn of one comes to, see `undisturbed`, seconds.
        fast: The same of the other, from the same rounds.

    Returns:
        The median over the rounds, and a bootstrap interval that resamples stretches of rounds.
    """
    logarithms = np.log(np.asarray(slow, np.float64) / np.asarray(fast, np.float64))
    if len(logarithms) < FEWEST:
        return Ratio(float(np.exp(np.median(logarithms))), np.nan, np.nan)
    middle = float(np.median(logarithms))
    low, high = interval(resampled(logarithms), middle)
    return Ratio(float(np.exp(middle)), float(np.exp(low)), float(np.exp(high)))


def interval(draws: NDArray[np.float64], middle: float, level: float = LEVEL) -> tuple[float, float]:
    """Where a figure lies, from what it came to when it was drawn again.

    Args:
        draws: As `resampled` gives them, or a difference of two.
        middle: The figure itself.
        level: How sure.
    """
    low, high = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2))
    return middle + WIDER * (float(low) - middle), middle + WIDER * (float(high) - middle)


def resampled(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Medians of `values` drawn again with replacement, `RESAMPLES` times.

    What is drawn are stretches of neighbouring rounds, a `STRETCHES`th of all each: a circular block bootstrap (Politis
    & Romano 1992). What lasts for many rounds, such as a neighbour at work for a second, counts as one event then,
    where rounds drawn one by one would take it for many.
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
    """Call for one turn's time.

    Args:
        run: What to call.
        first: Number of the first call that is timed.
        least: How long to go on, seconds, where that is longer than a turn.
        wakes: Whether a call that is not timed comes before.

    Returns:
        Seconds of each call, of one at least.
    """
    times: list[float] = []
    short, longest = max(TURN_SECONDS, least), max(TURN_LONGEST, least)
    if wakes:
        run(first - 1)
    begin = before = time.perf_counter()
    while before - begin < (longest if len(times) < TURN_CALLS else short) or not times:
        run(first + len(times))
        after = time.perf_counter()
        times.append(after - before)
        before = after
    return np.array(times)


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
    """Whether another thread of this process runs, or wants to."""
    own = str(threading.get_native_id())
    for task in TASKS.iterdir():
        try:
            state = (task / "stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except OSError:  # It has ended.
            continue
        if state == "R" and task.name != own:
            return True
    return False


def renewed(renew: Callable[[], object], run: Competitor) -> float:
    """Start anew and warm up a little; give the time that took, seconds."""
    begin = time.perf_counter()
    renew()
    warm, calls = time.perf_counter() + WARM_SECONDS, 0
    while calls < WARM_CALLS or time.perf_counter() < warm:
        run(calls)
        calls += 1
    return time.perf_counter() - begin


def _warm_up(turn: Callable[[int, float, bool], NDArray[np.float64]]) -> float:
    """Run until the median settles, and give it: allocators, caches and just-in-time compilers have done their work."""
    last = float("inf")
    for _ in range(WARMUP_BLOCKS):
        median = float(np.median(turn(0, 0.0, False)))
        settled = abs(median / last - 1) < SETTLED
        last = median
        if settled:
            break
    return last


def _vague(turns: Turns, pairs: Collection[tuple[str, str]]) -> bool:
    """Whether a ratio is not well known yet."""
    rounds = {name: undisturbed(turns[name]) for name in {name for pair in pairs for name in pair}}
    ratios = (ratio(rounds[first], rounds[second]) for first, second in pairs)
    return not all(known.high / known.low <= (1 + PRECISE) ** 2 for known in ratios)  # NaN is not known either.
