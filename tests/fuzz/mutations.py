"""Damage to files: what disks, editors, torn transfers and malice do to them. A seed always does the same damage."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

VALUES: list[Any] = [
    None, True, -1, 0, 1, 1.5, 10**400, -(2**63), "", "text", "\x00", "\ud800", [], [[]], {}, {"a": 1}, [None] * 3,
    float("nan"), float("inf"), "9" * 5000, "{x,1}", "__class__",
]  # fmt: skip
RAW = [
    b"[" * 20_000, b'{"a":' * 5_000, b"\xff\xfe", b"\x00" * 64, b"1e999999", b"NaN", b"-Infinity", b"\xef\xbb\xbf",
    b"\r\n", b"\x85", b'"', b"\\", b"}{", b"&a [*a, *a]", b"!!python/object/apply:os.system [id]\n", b"0" * 5_000,
]  # fmt: skip


def damaged(data: bytes, seed: str) -> bytes:
    """``data`` after one to three mutations."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        data = chance.choice(MUTATIONS)(data, chance)
    return data


def _flipped(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return data
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def _truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _cut(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + data[start + chance.randrange(1, 200) :]


def _inserted(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.choice(RAW) + data[place:]


def _zeroed(data: bytes, chance: random.Random) -> bytes:
    place, count = chance.randrange(len(data) + 1), chance.randrange(1, 5000)
    return data[:place] + b"\x00" * len(data[place : place + count]) + data[place + count :]


def _digit(data: bytes, chance: random.Random) -> bytes:
    """Another digit somewhere: the file stays well-formed."""
    places = [match.start() for match in re.finditer(rb"\d", data)]
    if not places:
        return data
    place = chance.choice(places)
    return data[:place] + str(chance.randrange(10)).encode() + data[place + 1 :]


def _lines(data: bytes, chance: random.Random) -> bytes:
    """A line dropped, doubled or moved."""
    lines = data.split(b"\n")
    line = lines.pop(chance.randrange(len(lines)))
    for _ in range(chance.randrange(3)):
        lines.insert(chance.randrange(len(lines) + 1), line)
    return b"\n".join(lines)


def _value(data: bytes, chance: random.Random) -> bytes:
    """Some value, key or item of a JSON object in the file replaced, dropped or doubled."""
    lines = data.split(b"\n")
    whole = lines[:1] == [b"{"]
    index = chance.randrange(len(lines))
    try:
        tree = json.loads(data if whole else lines[index])
    except (ValueError, RecursionError):
        return _flipped(data, chance)
    places = list(_places(tree))
    if not places:
        return data
    holder, key = chance.choice(places)
    act = chance.randrange(4)
    if act == 0:
        del holder[key]
    elif act == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif act == 2:
        holder[key] = holder[chance.choice(list(holder))] if isinstance(holder, dict) else [holder[key]]
    else:
        holder[key] = chance.choice(VALUES)
    changed = json.dumps(tree).encode()
    return changed if whole else b"\n".join([*lines[:index], changed, *lines[index + 1 :]])


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        found += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys]
    return found


Mutation = Callable[[bytes, random.Random], bytes]
MUTATIONS: list[Mutation] = [
    _flipped, _truncated, _cut, _inserted, _zeroed, _digit, _digit, _lines, _value, _value, _value,
]  # fmt: skip
