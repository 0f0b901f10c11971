"""Result files: one JSON document per measurement, with every request in it, and a CSV beside it with one row per step.

Only what was seen is stored; medians and percentiles are computed from the requests each time (`summaries.py`), so a summary can never
disagree with its data. Files are written to a temporary name, flushed and renamed: a reader never sees half of one.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from onecard.errors import DiskFull, ResultError
from onecard.evidence.summaries import summarize

SCHEMA = 2

# Number n turns a document of schema n into one of schema n + 1, on reading: old files stay readable and are never rewritten.
# 2 added open loops, context lengths and deadlines; every new key has a default that says what schema 1 meant.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: lambda document: document}

CSV_COLUMNS = (
    *("model", "quantization", "engine", "adapters", "callers", "repeat", "requests"),
    *("p50_ms", "p95_ms", "p99_ms", "avg_ms", "ttft_p50_ms", "itl_p50_ms", "rps", "tokens_s", "gpu_mem_gib", "errors"),
)

Outcome = Literal["ok", "refused", "error", "broken", "timeout"]


class Record(BaseModel):
    """A frozen record that refuses unknown keys, infinities and NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, populate_by_name=True
    )


class RequestRecord(Record):
    """One counted request. Times are seconds since the step began, on one monotonic clock.

    `intended_s` is when the request was meant to start; latency and time to first token count from there, so that neither the load
    generator's own delay nor a frozen server can hide. `pieces_s` are the arrivals of the pieces of a streamed answer; the first piece is
    the first token.
    """

    caller: int = Field(ge=0)
    prompt: int = Field(ge=0, description="Row of the prompt file, from 0.")
    agent: str
    preset: str | None = None
    intended_s: float
    sent_s: float
    first_token_s: float | None = None
    pieces_s: tuple[float, ...] = ()
    end_s: float
    outcome: Outcome
    prompt_tokens: int | None = Field(None, ge=0, description="As the server counted them; null: it does not say.")
    new_tokens: int | None = Field(None, ge=0, description="As the server counted them; null: it does not say.")
    http_status: int | None = None
    adapter: str | None = Field(None, description="Who answered: the header x-onecard-adapter.")
    detail: str | None = Field(None, description="What went wrong, in the server's words.")
    deadline_ms: float | None = Field(None, gt=0, description="From the intended start; null: it had none.")

    @model_validator(mode="after")
    def _times_are_in_order(self) -> RequestRecord:
        times = (self.intended_s, self.sent_s, *self.pieces_s, self.end_s)
        if any(later < earlier for earlier, later in pairwise(times)):
            raise ValueError("intended_s, sent_s, pieces_s, end_s must not run backwards")
        if self.first_token_s != (self.pieces_s[0] if self.pieces_s else None):
            raise ValueError("first_token_s must be the first of pieces_s")
        return self


class MemorySample(Record):
    """Memory the service said it held, bytes. `kind` is gpu for a card, process for the resident set on a CPU."""

    moment: Literal["before", "after"]
    kind: Literal["gpu", "process"]
    bytes: int = Field(ge=0)


class Step(Record):
    """One load held for a while: `callers` callers, each sending its next request when its previous answer has ended, or, when
    there is a rate, requests that come by a schedule however long the answers take.
    """

    callers: int = Field(ge=1, description="By a schedule: the most requests that were under way at once.")
    rate_rps: float | None = Field(
        None, gt=0, description="Requests a second the schedule asked for; null: closed loop."
    )
    context_tokens: int | None = Field(None, ge=1, description="Prompt and answer together, as asked for.")
    repeat: int = Field(ge=1)
    started_at: str = Field(description="UTC, ISO 8601.")
    warmup_requests: int = Field(0, ge=0, description="Sent before the step and not counted.")
    complete: bool = True
    loop_lag_p99_ms: float | None = Field(None, description="How late the generator's own event loop ran.")
    loop_lag_max_ms: float | None = None
    memory: tuple[MemorySample, ...] = ()
    requests: tuple[RequestRecord, ...] = ()


class What(Record):
    """What was measured. Null where the server does not say."""

    url: str
    agents: tuple[str, ...]
    presets: tuple[str, ...] = ()
    model: str | None = None
    quantization: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    adapters: tuple[str, ...] = Field((), description="name@version of every adapter that could answer.")
    fleet: str | None = Field(None, description="The fleet's name.")
    fleet_digest: str | None = None


class Where(Record):
    """The machine that sent the load and, when the service ran on it too, the machine that was measured."""

    server: Literal["this process", "this machine", "another machine"]
    card: str | None = Field(None, description="The card the service reported.")
    driver: str | None = None
    cpu: str
    cores: int
    ram_gib: float
    system: str
    versions: dict[str, str]


class How(Record):
    """The load as it was asked for."""

    load: Literal["closed", "open"] = Field(
        "closed",
        description="closed: a caller sends when its previous answer has ended. open: by a schedule of arrivals.",
    )
    callers: tuple[int, ...] = Field(description="Empty for an open loop.")
    arrivals: str | None = Field(None, description="The schedule of an open loop, as it was written.")
    contexts: tuple[int, ...] = Field(
        (), description="Context lengths asked for, tokens of prompt and answer together."
    )
    shares: dict[str, float] = Field(
        {}, description="What part of the requests each agent was meant to get; empty: equal."
    )
    lengths: dict[str, str] = Field(
        {}, description="Distributions of `prompt` and `answer` tokens, as they were written."
    )
    deadline_ms: float | None = Field(None, gt=0)
    percentile: float | None = Field(
        None, gt=0, lt=100, description="Of the requests, so many percent are to be in time."
    )
    stop: str | None = Field(None, description="When a step ends before its requests are sent: the rule, in words.")
    requests: int = Field(ge=1, description="Counted requests of each caller in each repeat; open loop: in each step.")
    repeats: int = Field(ge=1)
    warmup_requests: int = Field(ge=0, description="Uncounted requests of each caller before the first repeat.")
    max_new_tokens: int | None = None
    seed: int
    timeout_s: float
    prompts: str = Field(description="File name or description of the prompts.")
    prompts_sha256: str
    prompts_rows: int
    command: str | None = Field(None, description="The command line that repeats it.")


class ResultFile(Record):
    """One measurement."""

    schema_version: int = Field(SCHEMA, alias="schema")
    kind: Literal["sweep", "context", "steady", "mix", "limit"] = "sweep"
    started_at: str
    ended_at: str
    complete: bool = True
    stopped_because: str | None = Field(None, description="Why a partial result is partial.")
    what: What
    where: Where
    how: How
    steps: tuple[Step, ...]


def read_results(file: Path) -> ResultFile:
    """One result file; older schemas are migrated. ResultError for one that is missing, empty, broken or from a newer onecard."""
    document = _read_json(file)
    schema = document.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise ResultError(
            "not a result file: it has no schema number",
            where=f"{file}: schema",
            next_step="give a JSON file that `onecard bench` wrote",
        )
    if schema > SCHEMA:
        raise ResultError(
            f"written by a newer onecard (schema {schema})",
            where=f"{file}: schema",
            allowed=f"1 to {SCHEMA}",
            next_step="update onecard",
        )
    for number in range(schema, SCHEMA):
        document = {**MIGRATIONS[number](document), "schema": number + 1}
    try:
        return ResultFile.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        problem = fault["msg"].removeprefix("Value error, ")
        raise ResultError(
            f"the record is broken: {problem[0].lower()}{problem[1:]}",
            where=f"{file}: {key}",
            next_step="measure again; result files are not meant to be edited",
        ) from None


def write_results(file: Path, result: ResultFile) -> Path:
    """Writes the JSON and, beside it, the CSV; returns the CSV's path. DiskFull or ResultError when that cannot be done."""
    table = file.with_suffix(".csv")
    write_atomically(table, to_csv(result))
    write_atomically(file, to_json(result))
    return table


def to_json(result: ResultFile) -> str:
    """The document as text with one line per request, so that a person can read it and `diff` can compare it."""
    document = result.model_dump(mode="json", by_alias=True)
    steps = document.pop("steps")
    lines = json.dumps(document, indent=2, ensure_ascii=False)[:-2] + ',\n  "steps": ['
    for number, step in enumerate(steps):
        requests = step.pop("requests")
        rows = ",\n".join("      " + json.dumps(row, ensure_ascii=False) for row in requests)
        head = json.dumps(step, ensure_ascii=False)[:-1]
        lines += f'{"," if number else ""}\n    {head}, "requests": [\n{rows}\n    ]}}'
    return lines + "\n  ]\n}\n"


def to_csv(result: ResultFile) -> str:
    """One row per step under CSV_COLUMNS; an empty cell means: not known, or too few requests to say."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for step in result.steps:
        summary = summarize(step)
        row: dict[str, Any] = {
            "model": result.what.model or ";".join(result.what.agents),
            "quantization": result.what.quantization,
            "engine": result.what.engine,
            "adapters": ";".join(result.what.adapters),
            "callers": step.callers,
            "repeat": step.repeat,
        }
        for column in CSV_COLUMNS[len(row) :]:
            value = getattr(summary, column)
            row[column] = round(value, 3) if isinstance(value, float) else value
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    return text.getvalue()


def write_atomically(file: Path, content: str | bytes) -> None:
    """Temporary name in the same folder, flush to the disk, rename: `file` is whole or as it was before."""
    temporary: str | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise _cannot_write(file, error) from None
    except BaseException:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise


def _cannot_write(file: Path, error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("the disk is full", where=str(file), next_step="free space or write to another folder")
    return ResultError(
        f"cannot be written: {error.strerror or error}", where=str(file), next_step="choose another path"
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ResultError("no such file", where=str(file), next_step="`onecard bench sweep` writes one") from None
    except UnicodeDecodeError:
        raise ResultError("not a text file", where=str(file), next_step="give the .json of a measurement") from None
    except OSError as error:
        raise ResultError(f"cannot be read: {error.strerror}", where=str(file)) from None
    if not text.strip():
        raise ResultError("the file is empty", where=str(file), next_step="measure again with `onecard bench sweep`")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        hint = "give the .json beside it" if file.suffix == ".csv" else "the file was cut or edited: measure again"
        raise ResultError("not valid JSON", where=f"{file}:{line}", next_step=hint) from None
    if not isinstance(document, dict):
        raise ResultError("not a result file", where=str(file), next_step="give a JSON file that `onecard bench` wrote")
    return document
