"""Request bodies: read up to a limit, parsed strictly, and every mistake named by its place in the body."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request

from onecard.errors import InputError
from onecard.serving.limits import Limits

Record = TypeVar("Record", bound=BaseModel)


async def read_record(request: Request, shape: type[Record], limits: Limits) -> Record:
    """The body as a record. InputError for what is wrong in it; 408, 413 and 415 for what is wrong with it as a whole.

    Only application/json is read: a page in a browser cannot send that to another site without being allowed to.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"content-type is '{kind[:60]}', not application/json")
    try:
        async with asyncio.timeout(limits.body_s):
            body = await _read(request, limits.body_bytes)
    except TimeoutError:
        raise HTTPException(
            408, f"the body did not arrive within {limits.body_s:g} s", {"connection": "close"}
        ) from None
    return parse_record(body, shape)


def parse_record(body: bytes, shape: type[Record]) -> Record:
    """Strict JSON: text is not a number, a number is not a truth value. InputError names the first mistake and its place."""
    try:
        return shape.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise _input_error(body, error) from None


async def _read(request: Request, limit: int) -> bytes:
    said = request.headers.get("content-length", "")
    if said.isdecimal() and (len(said) > 15 or int(said) > limit):
        raise _too_large(limit)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is over the limit of {limit:,} bytes")


def _input_error(body: bytes, error: ValidationError) -> InputError:
    """A field that may be of several kinds fails once for each of them: the mistake is the one deepest in the body."""
    found = error.errors(include_url=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return InputError(f"the body is not JSON ({found[0]['msg'].removeprefix('Invalid JSON: ')})")
    value = from_json(body)
    places = [_place(value, one["loc"], one["type"] == "missing") for one in found]
    deepest = max(places, key=len)
    mistakes = [one for one, place in zip(found, places, strict=True) if place == deepest]
    where, kind = _written(deepest), mistakes[0]["type"]
    if kind == "missing":
        return InputError("is missing", where=where)
    if kind == "extra_forbidden":
        return InputError("is not a field of this request", where=where)
    allowed = dict.fromkeys(mistake["msg"].removeprefix("Input should be ") for mistake in mistakes)
    return InputError(f"{_short(mistakes[0]['input'])} is refused", where=where, allowed=" or ".join(allowed))


def _place(value: Any, location: tuple[int | str, ...], missing: bool) -> tuple[int | str, ...]:
    """The parts of a location that are in the body, or are missing there; the others are the validator's own names."""
    place: list[int | str] = []
    for number, part in enumerate(location):
        if isinstance(part, int) and isinstance(value, list) and part < len(value):
            value = value[part]
        elif isinstance(value, dict) and (part in value or (missing and number == len(location) - 1)):
            value = value.get(part)
        else:
            continue
        place.append(part)
    return tuple(place)


def _written(place: tuple[int | str, ...]) -> str | None:
    """`messages[0].content`; None for the body as a whole."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.lstrip(".")[:200] or None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
