"""A server's reply while it is read: never beyond its time, never without bound, and every body that is not what it should be an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from onecard.errors import EngineFailed
from onecard.wire.faults import ErrorBody, error_of

Record = TypeVar("Record", bound=BaseModel)
LARGEST_ANSWER_BYTES = 64 * 2**20


class Reply:
    """A response whose body is not read yet. Reading ends at `end_s` of the event loop's clock with TimeoutError."""

    def __init__(self, response: httpx.Response, end_s: float) -> None:
        self._response = response
        self._end_s = end_s

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def where(self) -> str:
        """The URL that was asked."""
        return str(self._response.url)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. The time limit runs while bytes are awaited, not in the consumer's own work."""
        arriving = self._response.aiter_bytes()
        while True:
            async with asyncio.timeout_at(self._end_s):
                piece = await anext(arriving, None)
            if piece is None:
                return
            yield piece

    async def whole(self) -> bytes:
        """The whole body; EngineFailed for one that does not end."""
        body = bytearray()
        async for piece in self.pieces():
            body += piece
            if len(body) > LARGEST_ANSWER_BYTES:
                raise EngineFailed("an answer without end", where=self.where)
        return bytes(body)

    async def record(self, shape: type[Record]) -> Record:
        """The body as a record; EngineFailed for anything else, and the server's own error when the body is one."""
        return read_record(await self.whole(), shape, self.where)


def read_record(body: bytes, shape: type[Record], where: str) -> Record:
    """As `Reply.record`, for a body or an event at hand."""
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        raise_fault_inside(body, where)
        raise EngineFailed(f"not an answer of this API ({_first(error)})", where=where) from error


def raise_fault_inside(body: bytes, where: str) -> None:
    """Raises the server's error when the body is one, whatever its status said."""
    try:
        fault = ErrorBody.model_validate_json(body)
    except ValidationError:
        return
    status = fault.error.code if isinstance(fault.error.code, int) else 500
    raise error_of(status, fault.model_dump_json().encode(), where)


def _first(error: ValidationError) -> str:
    """The first thing wrong with a body, without its content."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"
