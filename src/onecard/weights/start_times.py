"""The last cold start of this machine, part by part: what `onecard serve` took to be ready, or `onecard doctor` to answer once.

Only a start that imported the libraries counts: one in a process that has them already says nothing about the next. A memory and no
more: what cannot be written is left out, and never stops a start.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from onecard.weights.places import user_cache

LIBRARY = "torch"  # the heaviest of those a start imports
FIRST_TOKEN, READY = "its first token", "being served"


@dataclass(frozen=True)
class Start:
    """Seconds of each part, in order, until `until`. `model` is what was opened, `at` when it was begun (UTC, ISO 8601)."""

    at: str
    model: str
    parts: tuple[tuple[str, float], ...]
    until: str = FIRST_TOKEN


def kept_file() -> Path:
    """Where the last start lies."""
    return user_cache() / "onecard" / "cold-start.json"


def read_start() -> Start | None:
    """The last start; None without one, or for a file that is none."""
    try:
        said = json.loads(kept_file().read_bytes())
        parts = tuple((str(name), float(seconds)) for name, seconds in said["parts"])
        return Start(str(said["at"]), str(said["model"]), parts, str(said.get("until", FIRST_TOKEN)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def keep_start(start: Start) -> None:
    """Puts it in the place of the last one, whole. Never raises."""
    file = kept_file()
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as out:
            out.write(json.dumps(asdict(start)))
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


class StartClock:
    """Times the parts of one start. Parts of the same name add up."""

    def __init__(self) -> None:
        self.cold = LIBRARY not in sys.modules
        self.at = datetime.now(UTC).isoformat(timespec="seconds")
        self._seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """The block is this part."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begun

    def done(self, model: str) -> None:
        """Everything is loaded: keeps the start, when it was a cold one."""
        if self.cold:
            parts = tuple((name, round(seconds, 3)) for name, seconds in self._seconds.items())
            keep_start(Start(self.at, model, parts, READY))
