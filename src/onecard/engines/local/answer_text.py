"""Tokens become text while they arrive: what is given out is final, whole characters, and stops before a stop string.

Both classes are pure. A token may end inside a character, and a stop string may begin in one token and end in another, so each
holds back what could still change. A character that is incomplete when the answer ends is never given out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoding shows for bytes that are not, or not yet, a character


class Detokenizer:
    """Decodes an answer token by token.

    `decode` maps ids to text. Text is the difference between two decodings that share a first part, because tokenizers drop or add
    a space at the beginning of what they decode (the method of Hugging Face's text-generation-inference).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0  # ids before are never decoded again
        self._whole = 0  # ids before end with a whole character, and all their text is given out
        self._given = 0  # characters given out of the text of ids[_whole:]

    def add(self, token: int) -> str:
        """The text that is certain with this token, possibly empty."""
        self._ids.append(token)
        text = self._text()
        certain = text.rstrip(INCOMPLETE)
        piece, self._given = certain[self._given :], max(self._given, len(certain))
        if text and text == certain:
            self._context, self._whole, self._given = self._whole, len(self._ids), 0
        return piece

    def instead(self, token: int) -> str:
        """The text another token would have at this place, incomplete characters and all; nothing changes."""
        before = self._decode(self._ids[self._context :])
        return self._decode([*self._ids[self._context :], token])[len(before) :]

    def _text(self) -> str:
        """The text of ids[_whole:]."""
        before = self._decode(self._ids[self._context : self._whole])
        return self._decode(self._ids[self._context :])[len(before) :]


class StopStrings:
    """Cuts a text before the stop string that is complete first; of two that are complete at once, before the longer."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """The part of the text so far that is certainly no beginning of a stop string. Empty once `stopped`."""
        if self.stopped:
            return ""
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._give(min(found)[1])
        return self._give(len(self._held) - self._undecided())

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        return self._give(len(self._held))

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = min(len(self._held), max((len(stop) - 1 for stop in self._stops), default=0))
        return next((n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._stops)), 0)

    def _give(self, length: int) -> str:
        given, self._held = self._held[:length], "" if self.stopped else self._held[length:]
        return given
