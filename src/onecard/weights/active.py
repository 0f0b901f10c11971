"""The record `.active_model`: which model of this folder is active, in which form, by which plan.

One small JSON file. It is written whole under a lock to a temporary name, flushed and renamed, so that whoever reads it sees the old
record or the new one; a kill, a full disk or two hundred writers at once leave one whole file.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from errno import EDQUOT, EFBIG, ENOSPC, EROFS
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from onecard.errors import DiskFull, InputError, MachineError, OnecardError, StoreBusy, nearest
from onecard.weights.inventory import weight_files

FORMAT = 1
NAME = ".active_model"
LOCK_TIMEOUT_S = 30.0
LIMIT_BYTES = 1_000_000
ANEW = "`onecard use ROLE|PATH|ID` writes it anew"

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
# What ends a line or moves a cursor has no place in a name, a path or a value, and halves of surrogates cannot be written.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_text(text: str) -> str:
    """The text itself; ValueError when it holds control characters or what no encoding can write."""
    if found := _UNPRINTABLE.search(text):
        raise ValueError(f"{text!a} holds {found[0]!a}, which no name, path or value may")
    return text


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), strict=True)

    @field_validator("*", mode="after")
    @classmethod
    def _printable(cls, value: Any) -> Any:
        return check_text(value) if isinstance(value, str) else value


class ActivePlan(_Record):
    """The plan a model was activated by. `by` names it: a model of a fleet file, a role of the catalog, or the model alone."""

    by: str
    need_bytes: int = Field(ge=0)
    available_bytes: int
    fits: bool
    calibrated: bool = False


class ActiveModel(_Record):
    """What is active. `id` is the model, `repository` what an engine is told to load (a hub id, which may be a copy in another form,
    or a folder), `path` where it lay on the disk when it was activated (None: nowhere). `asked` is what the person wrote; `context` is
    tokens, `concurrency` callers at once.
    """

    schema_: Literal[1] = Field(1, alias="schema")
    id: str = Field(min_length=1)
    repository: str = Field(min_length=1)
    path: str | None = None
    quantization: Literal["none", "int8", "nf4", "awq", "gptq", "fp8"]
    context: int = Field(ge=16)
    concurrency: int = Field(ge=1)
    engine: str
    card: str
    asked: str
    activated_at: Annotated[AwareDatetime, Field(strict=False)]
    plan: ActivePlan
    env: dict[Annotated[str, Field(pattern=VARIABLE)], str] = Field(default_factory=dict)
    onecard: str = ""

    @field_validator("env", mode="after")
    @classmethod
    def _printable_env(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: check_text(text) for name, text in value.items()}


def active_file(folder: Path) -> Path:
    """Where the record of a folder lies."""
    return folder / NAME


def read_active(folder: Path) -> ActiveModel | None:
    """The record of a folder, None when nothing is active there.

    InputError that names the key for a damaged or half-edited one, MachineError when the system does not let us read it.
    """
    file = active_file(folder)
    try:
        with file.open("rb") as reader:
            raw = reader.read(LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise InputError("a folder, and the record is a file", where=str(file), next_step="move it away") from None
    except OSError as error:
        raise MachineError(f"cannot be read: {error.strerror or error}", where=str(file)) from None
    return _parsed(raw, file)


def write_active(folder: Path, record: ActiveModel, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> Path:
    """Puts the record in place of the folder's old one and returns its file.

    StoreBusy when others hold the lock for too long, DiskFull, InputError for a folder that does not exist, MachineError for one that
    cannot be written. Whatever interrupts it leaves the old record.
    """
    file = active_file(folder)
    text = record.model_dump_json(by_alias=True, indent=2) + "\n"
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), next_step="make it first, or name another")
    try:
        with FileLock(f"{file}.lock", timeout=lock_timeout_s, poll_interval=0.01):
            _replace(file, text.encode())
    except Timeout:
        raise StoreBusy(
            f"somebody else has been writing it for {lock_timeout_s:g} s", where=str(file), next_step="try again"
        ) from None
    except OSError as error:
        raise _refused(file, error) from None
    return file


def files_gone(record: ActiveModel) -> str | None:
    """What is missing of the files that lay on the disk when the model was activated, as a sentence; None when all are there."""
    if record.path is None:
        return None
    folder = Path(record.path)
    try:
        if not folder.is_dir():
            return f"its files are gone: no folder {folder}"
        if not (folder / "config.json").is_file():
            return f"its files are gone: no config.json in {folder}"
        files = weight_files(folder)
        missing = [file.name for file in files if not file.is_file()]
    except (OnecardError, OSError) as error:
        return f"its files cannot be read: {getattr(error, 'problem', error)}"
    if missing or not files:
        return f"its files are gone: {', '.join(missing) or 'no weights'} in {folder}"
    return None


def _replace(file: Path, content: bytes) -> None:
    """Temporary name, flush, rename. The lock is held, so the name is always the same and what a kill left is overwritten."""
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as writer:
            writer.write(content)
            writer.flush()
            os.fsync(writer.fileno())
        temporary.replace(file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(file.parent)


def _flush_folder(folder: Path) -> None:
    """The new name on the disk too, where the system lets a folder be flushed; the record is in place either way."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refused(file: Path, error: OSError) -> MachineError:
    old = " (what was active stays so)" if file.exists() else ""
    if error.errno in (ENOSPC, EDQUOT, EFBIG):
        return DiskFull(
            f"no room on the disk for the record{old}",
            where=str(file),
            next_step="free some space: `onecard weights list` shows what models take",
        )
    kind = "the folder is read-only" if error.errno == EROFS else f"cannot be written: {error.strerror or error}"
    return MachineError(
        f"{kind}{old}", where=str(file), next_step="check the folder's permissions, or name another with --fleet"
    )


def _parsed(raw: bytes, file: Path) -> ActiveModel:
    if len(raw) > LIMIT_BYTES:
        raise InputError(f"larger than {LIMIT_BYTES:,} bytes, so not a record", where=str(file), next_step=ANEW)
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        said = "empty" if not raw.strip() else f"not valid JSON ({error})"
        raise InputError(f"the record is damaged: {said}", where=str(file), next_step=ANEW) from None
    if not isinstance(value, dict):
        raise InputError("the record is damaged: not a JSON object", where=str(file), next_step=ANEW)
    form = value.get("schema")
    if isinstance(form, int) and form > FORMAT:
        raise InputError(
            f"written by a newer onecard (format {form}, this one reads {FORMAT})",
            where=str(file),
            next_step=f"upgrade onecard, or {ANEW}",
        )
    try:
        return ActiveModel.model_validate_json(raw)
    except ValidationError as error:
        raise _explained(error, file) from None


def _explained(error: ValidationError, file: Path) -> InputError:
    """The fault as the key it is at; a misspelt key also makes the right one missing, so it is told first."""
    faults = error.errors(include_url=False)
    fault = min(faults, key=lambda one: one["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        model = ActivePlan if fault["loc"][0] == "plan" else ActiveModel
        known = [field.alias or name for name, field in model.model_fields.items()]
        problem = f"unknown key '{fault['loc'][-1]}'{nearest(str(fault['loc'][-1]), known)}"
    elif fault["type"] == "missing":
        problem = "the key is missing"
    else:
        shown = fault["input"]
        got = f", got {shown!r}" if isinstance(shown, str | int | float | bool) or shown is None else ""
        problem = fault["msg"].removeprefix("Value error, ") + got
    more = f" ({len(faults) - 1} more after this one)" if len(faults) > 1 else ""
    return InputError(f"the record is damaged: {problem}{more}", where=f"{file}: {path}", next_step=ANEW)
