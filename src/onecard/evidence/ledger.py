"""What was measured, kept for good: an append-only file with one JSON object a line.

A record is written whole under a lock and flushed before `record` returns. A last line that its writer did not finish is skipped by
readers and cut off by the next writer; any other line that cannot be read is an error with its number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from onecard.errors import DiskFull, InputError, MachineError, ResultError, StoreBusy

SCHEMA = 1
LOCK_TIMEOUT_S = 30.0


class Measurement(BaseModel):
    """One line: what kind of thing was measured (such as serving-memory), when (ISO 8601), and what came out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = Field(SCHEMA, ge=1, le=SCHEMA)
    kind: str = Field(pattern=r"^[a-z][a-z0-9._-]{0,63}$")
    at: str
    payload: dict[str, JsonValue]

    @field_validator("at")
    @classmethod
    def _is_a_time(cls, value: str) -> str:
        datetime.fromisoformat(value)
        return value


class Ledger:
    """Measurements in one file. Safe for several processes; a kill or a full disk loses at most the record being written."""

    def __init__(self, file: Path, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        self.file = file
        self.lock_timeout_s = lock_timeout_s

    def record(self, kind: str, payload: dict[str, Any], at: str) -> Measurement:
        """Appends one measurement. InputError for what cannot be written as JSON, DiskFull, StoreBusy; the file is then as it was."""
        try:
            measurement = Measurement(kind=kind, payload=payload, at=at)
            line = json.dumps(measurement.model_dump(), allow_nan=False, separators=(",", ":")) + "\n"
        except (ValidationError, ValueError, RecursionError) as error:
            raise InputError(
                f"cannot be recorded: {_problem(error)}", where=f"measurement {kind!r} at {at!r}"
            ) from None
        with self._locked():
            self._append(line.encode())
        return measurement

    def read(self, kind: str | None = None) -> list[Measurement]:
        """Every measurement, or those of a kind, in the order of recording; empty when there is no file. ResultError names the line."""
        return [measurement for measurement in self._measurements() if kind in (None, measurement.kind)]

    def _measurements(self) -> Iterator[Measurement]:
        try:
            lines = self.file.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise ResultError(f"cannot be read: {error.strerror}", where=str(self.file)) from None
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            measurement = _parsed(line)
            if measurement is not None:
                yield measurement
            elif number < len(lines):
                raise ResultError(
                    "a line that is not a measurement",
                    where=f"{self.file}:{number}",
                    next_step="mend the line or delete it",
                )

    def _append(self, line: bytes) -> None:
        """One write at the end, taken back if it fails half way."""
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            end = content.rfind(b"\n") + 1
            tail = content[end:]
            if tail and _parsed(tail.decode(errors="replace")) is not None:
                end, line = len(content), b"\n" + line
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            try:
                left = memoryview(line)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            except BaseException:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the file's lock; the system's errors become ours."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.file}.lock", timeout=self.lock_timeout_s):
                yield
        except Timeout:
            raise StoreBusy("somebody else is writing to it", where=str(self.file), next_step="try again") from None
        except OSError as error:
            if error.errno in (ENOSPC, EDQUOT, EFBIG):
                raise DiskFull(
                    "no room for a measurement", where=str(self.file), next_step="free some space; nothing was changed"
                ) from error
            raise MachineError(f"the disk refuses: {error.strerror or error}", where=str(self.file)) from error


def _parsed(line: str) -> Measurement | None:
    try:
        return Measurement.model_validate_json(line)
    except ValidationError:
        return None


def _problem(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors()[0]
    return f"{'.'.join(str(key) for key in fault['loc'])}: {fault['msg']}"
