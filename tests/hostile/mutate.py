"""Ways to damage bytes, each a pure function of the bytes and a seeded generator.

damaged, how = mutate(data, random.Random(7))
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

EXTREMES = (b"\x00", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff" * 8, b"\x00" * 8, b"\xff" * 10)
"""Numbers that sizes and offsets seldom are."""
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**12,
    -(10**30),
    0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x" * 5000,
    "\x1b[2J\x1b]0;owned\x07",
    "a\nb",
    "\u202egnp.exe",
    "\ud800",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "nan",
    "-1",
    [],
    {},
    [[]],
    [None],
    {"$tensor": "missing"},
    {"a": {"b": {}}},
    [1e9] * 3,
    "1" * 5000,
)
"""What JSON may hold where something else is meant."""


def truncated(data: bytes, rng: random.Random) -> bytes:
    """Cut off at one of 64 regions, or a few bytes before the end."""
    if rng.random() < 0.2:
        return data[: -rng.randint(1, 16)]
    return data[: len(data) * rng.randrange(64) // 64 + rng.randrange(max(1, len(data) // 64))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """One to eight bits the other way round, the first kilobyte twice as often."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        end = min(1024, len(changed)) if rng.random() < 0.5 else len(changed)
        changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwritten(data: bytes, rng: random.Random) -> bytes:
    """A stretch of noise, zeros or ones, or an extreme number, over what was there."""
    patch = rng.choice((*EXTREMES, rng.randbytes(rng.randint(1, 64)), bytes(rng.randint(1, 256))))
    start = rng.randrange(len(data))
    return (data[:start] + patch + data[start + len(patch) :])[: max(len(data), start + len(patch))]


def cut_out(data: bytes, rng: random.Random) -> bytes:
    """A stretch missing, so that all behind it moves."""
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, max(1, len(data) // 4)) :]


def doubled(data: bytes, rng: random.Random) -> bytes:
    """A stretch twice."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randint(1, max(1, len(data) // 4)))
    return data[:end] + data[start:]


def prolonged(data: bytes, rng: random.Random) -> bytes:
    """Something behind the end."""
    return data + rng.choice((b"\x00", b"\n", rng.randbytes(40), data[:100], data))


def replaced(data: bytes, rng: random.Random) -> bytes:
    """Something else altogether: nothing, zeros, noise, text, another format's first bytes."""
    beginnings = (
        b"",
        b"\x00" * 64,
        b"PK\x03\x04",
        b"\x80\x04",
        b"\x89PNG\r\n\x1a\n",
        b"version https://git-lfs",
        b"{}",
        b"[]",
    )
    return rng.choice((*beginnings, rng.randbytes(rng.randint(1, 500))))


def odd_json(data: bytes, rng: random.Random) -> bytes:
    """One value of a JSON document replaced by one that it cannot mean, or removed."""
    said = json.loads(data)
    places = _places(said)
    parent, key = places[rng.randrange(len(places))]
    if rng.random() < 0.15:
        del parent[key]
    else:
        parent[key] = rng.choice(ODD_VALUES)
    return json.dumps(said).encode("utf-8", "surrogatepass")


def odd_line(data: bytes, rng: random.Random) -> bytes:
    """One line of a text replaced, emptied or joined by an odd one."""
    odd = (
        b"",
        b"\xff\xfe\x00",
        b"missing.png,x",
        b'"',
        b"a" * 200_000,
        b"\x00",
        b"../../../../etc/passwd,x",
        b"-o,x",
        b"\x1b[2J,x",
        b'{"step": NaN}',
        b'{"step": 1e400}',
        b"[]",
        b"{}",
        b'{"step": 3, "loss_d": "x"}',
        b",,,,",
        b"  ",
    )
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    lines[place : place + rng.randrange(2)] = [rng.choice(odd)]
    return b"\n".join(lines)


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    truncated,
    truncated,
    flipped,
    flipped,
    overwritten,
    cut_out,
    doubled,
    prolonged,
    replaced,
)


def mutate(data: bytes, rng: random.Random, *more: Callable[[bytes, random.Random], bytes]) -> tuple[bytes, str]:
    """Damage `data` in one way, or in one of `more` half of the time; give it and the way's name."""
    how = rng.choice(more) if more and rng.random() < 0.5 else rng.choice(BYTES)
    return how(data, rng), how.__name__


def _places(said: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON document."""
    items = said.items() if isinstance(said, dict) else enumerate(said) if isinstance(said, list) else ()
    return [place for key, value in items for place in ((said, key), *_places(value))]
