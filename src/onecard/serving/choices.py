"""Every answer to one request: `n` of them for each of its prompts, generated side by side and told apart by their index."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from onecard.engines.engine import Chunk
from onecard.serving.answer import Answer, WholeAnswer
from onecard.serving.answerers import Answerer


class Choices:
    """Answers of one answerer, at least one; an answer's index is its place. One that fails ends them all: half a response is none.

    The `n` answers to a prompt stand together, and the prompt is counted once for them.
    """

    def __init__(self, answers: Sequence[Answer], n: int = 1) -> None:
        self.answers = tuple(answers)
        self.n = n

    @property
    def who(self) -> Answerer:
        return self.answers[0].who

    @property
    def preset(self) -> str:
        return self.answers[0].preset

    @property
    def headers(self) -> dict[str, str]:
        """Who answered; the longest time that one of the answers waited."""
        return max(self.answers, key=lambda answer: answer.queue_s).headers

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, known once begun."""
        return sum(answer.prompt_tokens for answer in self.answers[:: self.n])

    async def begin(self) -> None:
        """Waits for the first piece of every answer. Raises what the first failing one raises, all closed by then."""
        await self._together([answer.begin() for answer in self.answers])

    async def whole(self) -> list[WholeAnswer]:
        """Every answer to its end."""
        return await self._together([answer.whole() for answer in self.answers])

    async def chunks(self) -> AsyncIterator[tuple[int, Chunk]]:
        """The pieces of all answers as they come, each with its answer's index."""
        if len(self.answers) == 1:
            async for chunk in self.answers[0].chunks():
                yield 0, chunk
            return
        arriving = {index: answer.chunks() for index, answer in enumerate(self.answers)}
        waiting = {asyncio.ensure_future(anext(pieces, None)): index for index, pieces in arriving.items()}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for piece in done:
                    index = waiting.pop(piece)
                    said = piece.result()
                    if said is not None:
                        yield index, said
                        waiting[asyncio.ensure_future(anext(arriving[index], None))] = index
        finally:
            for piece in waiting:
                piece.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await self.aclose()

    async def aclose(self) -> None:
        """Cancels what is still being generated. Safe to call twice."""
        for answer in self.answers:
            await answer.aclose()

    async def _together(self, work: list) -> list:  # type: ignore[type-arg]
        if len(work) == 1:
            return [await work[0]]
        tasks = [asyncio.ensure_future(one) for one in work]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.aclose()
            raise
