"""Server-sent events as OpenAI streams them: `data: {...}` lines, a blank line after each, `data: [DONE]` at the end."""

from __future__ import annotations

from onecard.errors import EngineFailed

DONE = "[DONE]"
LARGEST_EVENT_BYTES = 8 * 2**20


def encode_event(data: str) -> bytes:
    """One event. JSON has no line breaks outside its escapes, so one data line is enough."""
    return f"data: {data}\n\n".encode()


class EventReader:
    """Turns the bytes of a stream, cut anywhere, into the data of its events.

    Other fields and comments are skipped. Lines end with LF or CR LF. EngineFailed for bytes that are not UTF-8 and for an event
    without end.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._rest = bytearray()
        self._data: list[str] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[str]:
        """The events that are whole now."""
        self._rest += piece
        found: list[str] = []
        if b"\n" in piece:
            *lines, rest = self._rest.split(b"\n")
            self._rest = bytearray(rest)
            found = [event for line in lines for event in self._line(bytes(line))]
        if len(self._rest) + self._size > LARGEST_EVENT_BYTES:
            raise EngineFailed("streamed an event without end", where=self._where)
        return found

    def finish(self) -> list[str]:
        """The event at the end of a stream whose last blank line is missing."""
        last = bytes(self._rest)
        self._rest.clear()
        return self._line(last) + self._line(b"")

    def _line(self, line: bytes) -> list[str]:
        line = line.removesuffix(b"\r")
        if not line:
            event, self._data, self._size = "\n".join(self._data), [], 0
            return [event] if event else []
        if line.startswith(b"data:"):
            try:
                self._data.append(line[5:].removeprefix(b" ").decode("utf-8"))
            except UnicodeDecodeError as error:
                raise EngineFailed("streamed bytes that are not UTF-8", where=self._where) from error
            self._size += len(line)
        return []
