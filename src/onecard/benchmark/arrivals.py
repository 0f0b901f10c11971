"""When requests are meant to start in an open loop: a schedule that does not wait for answers.

Pure: a schedule is decided by its words and a seed, never by a clock, so the same words and seed give the same moments to the last bit.
"""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

from onecard.errors import DataError, InputError

ALLOWED = "poisson:RATE, constant:RATE, bursts:RATE:SIZE (rates in requests a second), trace:FILE or trace:FILE:SPEED"
FASTEST_RPS = 100_000.0
# What published traces call the moment, the prompt's and the answer's tokens (Azure's LLM traces, Mooncake's, plain words).
AT = ("at_s", "timestamp", "arrived_at", "time")
PROMPT = ("prompt_tokens", "contexttokens", "input_length", "num_prefill_tokens")
ANSWER = ("new_tokens", "generatedtokens", "output_length", "num_decode_tokens")


@dataclass(frozen=True)
class Arrival:
    """One request of a schedule: its moment, seconds from the schedule's begin, and what a trace says of it."""

    at_s: float
    prompt_tokens: int | None = None
    new_tokens: int | None = None
    agent: str | None = None


@dataclass(frozen=True)
class Arrivals:
    """A schedule. `rate_rps` is its mean rate; `trace` holds the rows of a replayed file and is empty for the others."""

    kind: Literal["poisson", "constant", "bursts", "trace"]
    rate_rps: float
    burst: int = 1
    trace: tuple[Arrival, ...] = ()
    words: str = ""

    def at_rate(self, rate_rps: float) -> Arrivals:
        """The same shape at another mean rate; a trace is replayed slower or faster."""
        speed = rate_rps / self.rate_rps
        rows = tuple(replace(row, at_s=row.at_s / speed) for row in self.trace)
        return replace(self, rate_rps=rate_rps, trace=rows)

    def moments(self, seed: int, repeat: int = 1) -> Iterator[Arrival]:
        """The arrivals in order; without end, except for a trace."""
        if self.kind == "trace":
            return iter(self.trace)
        if self.kind == "constant":
            return (Arrival(number / self.rate_rps) for number in count())
        if self.kind == "bursts":
            return (Arrival((number // self.burst) * self.burst / self.rate_rps) for number in count())
        return _poisson(self.rate_rps, random.Random(f"onecard arrivals {seed} {repeat}"))

    def first(self, requests: int, seed: int, repeat: int = 1) -> list[Arrival]:
        return list(islice(self.moments(seed, repeat), requests))


def _poisson(rate_rps: float, generator: random.Random) -> Iterator[Arrival]:
    """Independent exponential gaps, the first one too: what many independent people amount to."""
    at_s = 0.0
    while True:
        at_s += generator.expovariate(rate_rps)
        yield Arrival(at_s)


def parse_arrivals(text: str) -> Arrivals:
    """A schedule from its words (ALLOWED). InputError for others, DataError for a trace that cannot be replayed."""
    kind, _, rest = text.partition(":")
    if kind == "trace" and rest:
        return _traced(text, rest)
    parts = rest.split(":")
    rates = [_number(part) for part in parts]
    right = {"poisson": 1, "constant": 1, "bursts": 2}.get(kind)
    if right != len(parts) or any(rate is None for rate in rates):
        raise InputError(f"'{text}' is not a schedule of arrivals", where="--arrivals", allowed=ALLOWED)
    rate, size = rates[0], rates[1] if right == 2 else 1.0
    assert rate is not None and size is not None
    if not 0 < rate <= FASTEST_RPS or not 1 <= size <= FASTEST_RPS or size != int(size):
        allowed = f"a rate above 0 and at most {FASTEST_RPS:g}, a whole number of requests in a burst"
        raise InputError(f"'{text}' cannot be sent", where="--arrivals", allowed=allowed)
    return Arrivals("poisson" if right == 1 and kind == "poisson" else _kind(kind), rate, int(size), words=text)


def _kind(text: str) -> Literal["constant", "bursts"]:
    return "constant" if text == "constant" else "bursts"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _traced(words: str, rest: str) -> Arrivals:
    """`FILE` or `FILE:SPEED`; a speed of 2 replays in half the time."""
    name, colon, last = rest.rpartition(":")
    speed = _number(last) if colon and not Path(rest).exists() else None
    if speed is not None and speed <= 0:
        raise InputError(f"a speed of {speed:g} replays nothing", where="--arrivals", allowed="above 0")
    file = Path(name if speed is not None else rest)
    rows = read_trace(file)
    span_s = rows[-1].at_s
    rate = (len(rows) - 1) / span_s if span_s else float(len(rows))
    return Arrivals("trace", rate, trace=tuple(rows), words=words).at_rate(rate * (speed or 1.0))


def read_trace(file: Path) -> list[Arrival]:
    """Rows of a CSV or JSONL file in order of time, the first at 0. DataError says file and line.

    The moment is seconds, or an ISO time; Mooncake's whole milliseconds are known by their file's `input_length`.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError("no such trace", where=str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(file)) from None
    lines = text.splitlines()
    rows = _json_rows(file, lines) if text.lstrip().startswith("{") else _csv_rows(lines)
    found = [_arrival(f"{file}:{number}", row) for number, row in rows]
    if not found:
        raise DataError("no arrivals in it", where=str(file), next_step="give rows with at_s, or TIMESTAMP")
    begin = min(row.at_s for row in found)
    return sorted((replace(row, at_s=row.at_s - begin) for row in found), key=lambda row: row.at_s)


def _json_rows(file: Path, lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise DataError("not a JSON object", where=f"{file}:{number}", allowed="one JSON object a line")
            yield number, row


def _csv_rows(lines: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in enumerate(csv.DictReader(lines), 2):
        yield number, {key: value for key, value in row.items() if key}


def _arrival(where: str, row: dict[str, Any]) -> Arrival:
    low = {key.strip().lower(): value for key, value in row.items()}
    found = next((low[name] for name in AT if low.get(name) not in (None, "")), None)
    at_s = _moment(found)
    if at_s is None:
        raise DataError(f"no moment in it ({found!r})", where=where, allowed="at_s in seconds, or an ISO TIMESTAMP")
    if "input_length" in low and "at_s" not in low:
        at_s /= 1000
    agent = low.get("agent")
    return Arrival(at_s, _tokens(where, low, PROMPT), _tokens(where, low, ANSWER), str(agent) if agent else None)


def _moment(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    number = _number(str(value))
    if number is not None:
        return number
    try:
        # Azure's traces carry seven digits of a second; datetime reads six.
        head, dot, digits = str(value).partition(".")
        return datetime.fromisoformat(head + (dot + digits[:6] if digits[:6].isdecimal() else "")).timestamp()
    except ValueError:
        return None


def _tokens(where: str, row: dict[str, Any], names: tuple[str, ...]) -> int | None:
    found = next((row[name] for name in names if row.get(name) not in (None, "")), None)
    if found is None:
        return None
    number = _number(str(found))
    if number is None or number < 0 or number != int(number):
        raise DataError(f"{found!r} is not a number of tokens", where=where)
    return max(int(number), 1)
