"""One request to score texts: which an agent's adapter finds most likely as its answer. Every agent can be asked, whatever its task.

A score is the engine's mean log-likelihood per token, so that long texts are not behind short ones. The prompt is computed once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from onecard.engines.engine import GenerationRequest
from onecard.errors import Overloaded
from onecard.serving.answer import Place, headers_of
from onecard.serving.answerers import Answerer


class Ranking:
    """Stands in the service's register while it is computed."""

    def __init__(self, who: Answerer, prompt: GenerationRequest, texts: Sequence[str], place: Place) -> None:
        self.who = who
        self.texts = tuple(texts)
        self.closed = False
        self._prompt = prompt
        self._place = place

    @property
    def headers(self) -> dict[str, str]:
        return headers_of(self.who, self._place.model_id, 0.0)

    async def scores(self) -> list[float]:
        """Nats per token of each text, in their order. InputError for one that is empty or does not fit."""
        self._place.in_flight.add(self)
        try:
            async with asyncio.timeout(self._place.limits.answer_s):
                return await self.who.engine.score(self._prompt, self.texts)
        except TimeoutError:
            raise Overloaded(
                f"no scores within {self._place.limits.answer_s:g} s", where=self.who.name, next_step="send fewer texts"
            ) from None
        finally:
            self.closed = True
            self._place.in_flight.discard(self)


def best_first(scores: Sequence[float], top_n: int | None) -> list[int]:
    """Places of the best scores; equal ones in their own order."""
    return sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:top_n]
