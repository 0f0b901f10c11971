"""The error body of OpenAI's API, and the one place where onecard's errors become it and are read back from it.

`code` names the kind of error for programs, `type` its family, `param` the place in the request, `message` the whole sentence.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, ValidationError

from onecard import errors
from onecard.errors import EngineFailed, InputError, MachineError, OnecardError, Overloaded, Refusal, UnknownName

# A code for each class that a request can meet; the most special class of an error wins.
CODES: dict[type[OnecardError], str] = {
    InputError: "invalid_request",
    UnknownName: "model_not_found",
    Refusal: "refused",
    errors.AdapterRefused: "adapter_refused",
    Overloaded: "overloaded",
    MachineError: "machine_error",
    EngineFailed: "engine_failed",
    OnecardError: "internal_error",
}


class Fault(BaseModel):
    """What went wrong with one request."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    message: str
    type: str | None = None
    code: str | int | None = None
    param: str | None = None


class ErrorBody(BaseModel):
    """The whole body: {"error": {...}}."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    error: Fault


def fault_of(error: OnecardError) -> Fault:
    """The fault a client is told. Where an input error has a place, it is the request's parameter."""
    code = next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
    family = "overloaded_error" if isinstance(error, Overloaded) else type_of(error.http_status)
    return Fault(
        message=str(error), type=family, code=code, param=error.where if isinstance(error, InputError) else None
    )


def type_of(status: int) -> str:
    """OpenAI's families of errors by HTTP status."""
    return "server_error" if status >= 500 else "invalid_request_error"


def error_of(status: int, body: bytes, where: str) -> OnecardError:
    """What a server's error answer means, with the server's own words; `where` is the URL that was asked."""
    fault = _read(body)
    text = fault.message if fault else _readable(body)
    problem = f"the server answered {status}: {text}" if text else f"the server answered {status} without a reason"
    kind = _kind(status, str(fault.code) if fault else "")
    return kind(problem, where=where)


def _kind(status: int, code: str) -> type[OnecardError]:
    for kind, known in CODES.items():
        if code == known and kind is not OnecardError:
            return kind
    if status == 404:
        return UnknownName
    if status in (429, 503):
        return Overloaded
    if status == 409:
        return Refusal
    return InputError if 400 <= status < 500 else EngineFailed


def _read(body: bytes) -> Fault | None:
    """The fault in OpenAI's shape; vLLM's older one without the `error` around it is read as well."""
    for shape in (ErrorBody, Fault):
        try:
            found = shape.model_validate_json(body)
        except ValidationError:
            continue
        return found.error if isinstance(found, ErrorBody) else found
    return None


def _readable(body: bytes) -> str:
    """The start of a body that is not in the shape, on one line, without control characters."""
    text = body[:400].decode("utf-8", errors="replace")
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()[:200]
