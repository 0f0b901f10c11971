"""Likelihoods from a server by URL: asks whether it gives them, and writes prompts in the base's own chat template for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onecard.engines.local.tokens import chat_text, stop_ids
from onecard.evaluation.exam import Exam
from onecard.evaluation.over_url_scores import Render, cannot_score, scoring
from onecard.evaluation.suite import Score
from onecard.fleet.loader import LoadedFleet
from onecard.fleet.schema import Preset
from onecard.weights.inventory import resolve
from onecard.wire.client import Client


async def scores_over_url(
    client: Client,
    who: Mapping[str, tuple[str, Mapping[str, Preset]]],
    exam: Exam,
    tokenizer: Any,
    loaded: LoadedFleet,
    model_id: str,
) -> tuple[dict[str, Score], str]:
    """What scores texts for each of `who`, or none and the reason. Nothing is asked when the suite needs no likelihoods."""
    if not exam.needs_scores:
        return {}, "the suite did not ask for them"
    if tokenizer is None:
        return {}, "the base's tokenizer, whose chat template the prompts need, is not on this machine"
    for asked, _ in who.values():
        if why := await cannot_score(client, asked):
            return {}, why
    render = rendering(tokenizer, stop_ids(tokenizer, resolve(model_id, loaded.folder)))
    return {rival: scoring(client, asked, presets, render) for rival, (asked, presets) in who.items()}, ""


def rendering(tokenizer: Any, stops: Sequence[int]) -> Render:
    """Prompt and answer as one chat in the base's template, the answer up to its end-of-turn token, as in `engine.score`."""
    ends = [str(tokenizer.decode([stop])) for stop in stops]
    begin = tokenizer.bos_token or ""

    def render(prompt: str, text: str) -> tuple[str, str]:
        turns = [{"role": "user", "content": prompt}]
        before = chat_text(tokenizer, turns, answer_next=True)
        whole = chat_text(tokenizer, [*turns, {"role": "assistant", "content": text}], answer_next=False)
        answer = whole[len(before) :] if whole.startswith(before) else text
        last = max((answer.rfind(end) + len(end) for end in ends if end in answer), default=len(answer))
        # The server puts a begin-of-text token before any text itself; two of them are another prompt.
        return (before.removeprefix(begin) if begin else before), answer[:last]

    return render
