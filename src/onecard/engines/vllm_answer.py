"""One answer of vLLM on its way: its token ids become the chunks that the in-process engine would give. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onecard.engines.engine import Chunk, FinishReason, GenerationRequest
from onecard.engines.local.answer_text import Detokenizer, StopStrings
from onecard.errors import EngineFailed


class VllmAnswer:
    """Collects ids into text. `finished` once it has given its last chunk."""

    def __init__(
        self,
        request: GenerationRequest,
        prompt_tokens: int,
        stop_ids: Sequence[int],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self.finished = False
        self._prompt_tokens = prompt_tokens
        self._stop_ids = frozenset(stop_ids)
        self._detokenizer, self._stops = Detokenizer(decode), StopStrings(request.stop)
        self._at_start = bool(
            request.messages
        )  # chat answers lose the white space that their template puts before them
        self._text, self._tokens = "", 0

    def take(self, ids: Sequence[int], finish_reason: str | None) -> Chunk | None:
        """The chunk that is certain with these ids, if any; EngineFailed for an end that is neither stop nor length."""
        ended = False
        for token in ids:
            self._tokens += 1
            if ended := token in self._stop_ids:
                break
            self._write(self._detokenizer.add(token))
            if self._stops.stopped:
                break
        reason: FinishReason | None = "stop" if ended or self._stops.stopped else None
        if reason is None and finish_reason is not None:
            if finish_reason not in ("stop", "length"):
                raise EngineFailed(f"vLLM gave the request up ({finish_reason})", next_step="ask again")
            reason = "stop" if finish_reason == "stop" else "length"
        if reason is not None:
            self.finished = True
            self._text += self._stops.finish()
        return self._chunk(reason) if reason or self._text else None

    def _write(self, text: str) -> None:
        if self._at_start:
            text = text.lstrip()
            self._at_start = not text
        self._text += self._stops.add(text)

    def _chunk(self, reason: FinishReason | None) -> Chunk:
        chunk = Chunk(self._text, self._tokens, self._prompt_tokens, reason)
        self._text, self._tokens = "", 0
        return chunk
