"""One request on its way: from prompt ids to the chunks its caller sees. The worker feeds it logits; it decides when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from onecard.engines.engine import Chunk, FinishReason, GenerationRequest, TokenLogprob
from onecard.engines.local.answer_text import Detokenizer, StopStrings
from onecard.engines.local.sampling import Sampler, likeliest
from onecard.engines.local.shared_model import Resident
from onecard.errors import EngineFailed, OnecardError

Deliver = Callable[[Chunk | OnecardError], None]


@dataclass(frozen=True)
class Prompt:
    """A request as the model takes it. `chat` answers lose the white space that their template puts before them."""

    ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    chat: bool


class Answer:
    """Collects tokens into text and delivers it. `finished` once it has delivered its last chunk or an error, or was cancelled."""

    def __init__(
        self,
        request: GenerationRequest,
        prompt: Prompt,
        adapter: Resident | None,
        decode: Callable[[Sequence[int]], str],
        deliver: Deliver,
    ) -> None:
        self.prompt_ids = prompt.ids
        self.adapter = adapter
        self.last_token = prompt.ids[-1]
        self.finished = False
        self._deliver = deliver
        self._stop_ids = frozenset(prompt.stop_ids)
        self._left = request.max_new_tokens
        self._sampler = Sampler(request.temperature, request.top_p, request.seed)
        self._detokenizer = Detokenizer(decode)
        self._stops = StopStrings(request.stop)
        self._at_start = prompt.chat
        self._text, self._tokens = "", 0  # not delivered yet
        self.spell = decode  # how tokens without text, such as special ones, are written as alternatives
        self._top = request.top_logprobs
        self._logprobs: list[TokenLogprob] = []
        self._asked_at = time.monotonic()
        self._queue_s = 0.0

    def start(self) -> None:
        """Its prefill begins: the waiting is over."""
        self._queue_s = time.monotonic() - self._asked_at

    def take(self, logits: torch.Tensor) -> None:
        """Picks the next token from its logits [its vocabulary] and delivers the text that is certain now."""
        if bool(torch.isnan(logits).any()):
            self.fail(
                EngineFailed("the model computed NaN for this request", next_step="check its adapter and its prompt")
            )
            return
        self.last_token = self._sampler.pick(logits)
        self._tokens += 1
        self._left -= 1
        ended = self.last_token in self._stop_ids
        if not ended:
            self._add(self.last_token, logits)
        reason: FinishReason | None = "stop" if ended or self._stops.stopped else "length" if self._left == 0 else None
        if reason:
            self._text += self._stops.finish()
        if reason or self._text:
            self._send(reason)

    def cancel(self) -> None:
        """Nobody waits for it any more; safe from any thread."""
        self.finished = True

    def fail(self, error: OnecardError) -> None:
        """Ends with an error, once."""
        if not self.finished:
            self.finished = True
            self._deliver(error)

    def _add(self, token: int, logits: torch.Tensor) -> None:
        if self._top is None:
            self._write(self._detokenizer.add(token))
            return
        own, top = likeliest(logits, token, self._top)
        others = tuple((self._detokenizer.instead(other) or self.spell([other]), value) for other, value in top)
        text = self._detokenizer.add(token)
        self._logprobs.append(TokenLogprob(text, own, others))
        self._write(text)

    def _write(self, text: str) -> None:
        if self._at_start:
            text = text.lstrip()
            self._at_start = not text
        self._text += self._stops.add(text)

    def _send(self, reason: FinishReason | None) -> None:
        chunk = Chunk(self._text, self._tokens, len(self.prompt_ids), reason, self._queue_s, tuple(self._logprobs))
        self._text, self._tokens, self._queue_s = "", 0, 0.0
        self._logprobs = []
        self.finished = self.finished or reason is not None
        self._deliver(chunk)
