"""Latency against context length: the same callers, prompts that grow up to the limit, answers of one length.

What is asked for is tokens of prompt and answer together; what was sent is the server's own count, in every record. A length the server
refuses ends the curve there, and is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onecard.benchmark.campaign import Campaign, Keep, Target, run_campaign
from onecard.benchmark.http_stream import StreamClient
from onecard.benchmark.lengths import Yardstick, text_of
from onecard.benchmark.load import StepRun, closed_loop
from onecard.benchmark.measuring_lengths import measured_yardstick
from onecard.benchmark.prompts import Prompt, Question
from onecard.benchmark.traffic import Unseen, Watching
from onecard.errors import InputError
from onecard.evidence.results import How, RequestRecord, ResultFile, Step

SHORTEST_CONTEXT = 128


@dataclass(frozen=True)
class ContextPlan(Target):
    """`contexts` are tokens of prompt and answer together, `new_tokens` those of the answer."""

    contexts: tuple[int, ...] = ()
    new_tokens: int = 16
    callers: int = 1
    requests: int = 5
    repeats: int = 3

    def as_how(self) -> How:
        return self.how(
            callers=(self.callers,),
            contexts=self.contexts,
            lengths={"answer": str(self.new_tokens)},
            requests=self.requests,
            repeats=self.repeats,
            warmup_requests=1,
        )


def context_lengths(limit: int, new_tokens: int) -> tuple[int, ...]:
    """Powers of two and the limit itself. InputError when no prompt is left beside the answer."""
    least = new_tokens + 16
    if limit < least:
        problem = f"a context of {limit} tokens has no room for an answer of {new_tokens} and a prompt"
        raise InputError(problem, where="--new-tokens", allowed=f"at most {limit - 16}" if limit > 16 else None)
    found, length = [], SHORTEST_CONTEXT
    while length < limit:
        if length >= least:
            found.append(length)
        length *= 2
    return (*found, limit)


def parse_contexts(text: str, new_tokens: int) -> tuple[int, ...]:
    """Lengths as written: 512,1024,4096; sorted, each once. InputError otherwise."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and new_tokens + 16 <= int(part) <= 10_000_000 for part in parts):
        allowed = f"512,1024,4096; each at least {new_tokens + 16} (the answer and a short prompt)"
        raise InputError(f"'{text}' is not a list of context lengths", where="--contexts", allowed=allowed)
    return tuple(sorted({int(part) for part in parts}))


class ContextCurve:
    """One run of a plan; `run` as `Sweep.run`."""

    def __init__(
        self,
        plan: ContextPlan,
        watching: Watching | None = None,
        *,
        keep: Keep | None = None,
        done: ResultFile | None = None,
    ) -> None:
        self.plan = plan
        self.refused: int | None = None
        self._watching = watching or Unseen()
        self.campaign = Campaign(plan, "context", plan.as_how(), self._watching, keep=keep, done=done)

    def run(self) -> ResultFile:
        return run_campaign(self.campaign, self.measure)

    async def measure(self) -> None:
        plan = self.plan
        measured = {(step.context_tokens, step.repeat) for step in self.campaign.steps}
        async with self.campaign:
            agent = next(iter(plan.prompts))
            measure = await measured_yardstick(self.campaign.client, agent, plan.presets[:1])
            for context in plan.contexts:
                for repeat in range(1, plan.repeats + 1):
                    if (context, repeat) not in measured:
                        step = await self._step(agent, measure, context, repeat)
                        if self.campaign.nothing_answered(step, f"a context of {context} tokens"):
                            self.refused = context
                            return

    async def _step(self, agent: str, measure: Yardstick, context: int, repeat: int) -> Step:
        plan = self.plan
        asked = self._questions(agent, measure, context, repeat)
        self._watching.step_started(f"context {context:,}, repeat {repeat}", plan.requests * plan.callers)

        async def send(client: StreamClient, run: StepRun, on_request: Callable[[RequestRecord], None]) -> None:
            warm = [[own[0]] for own in self._questions(agent, measure, context, 0)]
            if repeat == 1:
                await closed_loop(client, warm, StepRun(), max_new_tokens=plan.new_tokens)
            await closed_loop(client, asked, run, max_new_tokens=plan.new_tokens, on_request=on_request)

        warmed = plan.callers if repeat == 1 else 0
        return await self.campaign.step(
            send, repeat=repeat, callers=plan.callers, context_tokens=context, warmup_requests=warmed
        )

    def _questions(self, agent: str, measure: Yardstick, context: int, repeat: int) -> Sequence[Sequence[Question]]:
        """Prompts that all differ from their first word on, so that no cache of prefixes answers for the model."""
        plan = self.plan
        words = measure.words_up_to(context - plan.new_tokens)
        preset = plan.presets[0] if plan.presets else None
        return [
            [
                Question(agent, preset, Prompt(number, text_of(words, first + number)), max_new_tokens=plan.new_tokens)
                for number in range(plan.requests)
            ]
            for caller in range(plan.callers)
            for first in [100_000 + ((plan.seed * 100 + repeat) * plan.callers + caller) * plan.requests]
        ]
