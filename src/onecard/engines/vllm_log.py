"""What a vLLM said last, in one line a person can act on."""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 300
TAIL_BYTES = 200_000
_PREFIX = re.compile(r"^(\([A-Za-z_]+ ?\w* pid=\d+\) )?((INFO|WARNING|ERROR|DEBUG) [\d-]+ [\d:]+ )?(\[[^\]]*\] )?")
_CAUSE = re.compile(r"^(\w+\.)*\w*(Error|Exception|Interrupt): \S")
# Errors that only say that another process had one.
_ECHO = (
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "EngineDeadError",
    "EngineCore encountered",
)


def tail(log: Path) -> str:
    """The end of a log; empty when there is none."""
    try:
        with log.open("rb") as reader:
            reader.seek(max(log.stat().st_size - TAIL_BYTES, 0))
            return reader.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def last_words(log: str) -> str:
    """The last error that names a cause, else the last line; without the prefixes that vLLM's logger writes."""
    lines = [plain for line in log.splitlines() if (plain := _PREFIX.sub("", line).strip())]
    causes = [line for line in lines if _CAUSE.match(line) and not any(echo in line for echo in _ECHO)]
    return ((causes or lines or ["it said nothing"])[-1])[:LONGEST]


def last_line(log: str) -> str:
    """How far it came: the last line."""
    lines = [plain for line in log.splitlines() if (plain := _PREFIX.sub("", line).strip())]
    return (lines or ["it said nothing"])[-1][:LONGEST]
