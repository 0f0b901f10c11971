"""What one encoded row must come up to, checked on its ids: the faults of a row, none of which a falling loss would show."""

from __future__ import annotations

from collections.abc import Iterator

from onecard.engines.engine import GenerationRequest, Message
from onecard.engines.local.prompts import prompt_ids
from onecard.errors import DataError
from onecard.training.chat import ChatFormat, EncodedRow


def row_faults(one: EncodedRow, chat: ChatFormat, max_length: int) -> Iterator[DataError]:
    """Every fault of one training sequence. `max_length` in tokens."""
    where, stops = one.row.where, set(chat.stop_ids)
    if len(one.ids) > max_length:
        yield DataError(
            f"the row has {len(one.ids)} tokens",
            where=where,
            allowed=f"at most {max_length} (max_length of the recipe); rows are never cut",
            next_step="shorten the row or raise max_length",
        )
    if not any(learned and token not in stops for token, learned in zip(one.ids, one.trained, strict=True)):
        yield DataError(
            "no token of the answer is learned",
            where=where,
            allowed="at least one beside the end of turn",
            next_step="see whether the chat template writes what the assistant says",
        )
    if not ends_trained(one, chat.stop_ids):
        yield DataError(
            "an answer's end of turn is not learned, so the model would not stop",
            where=where,
            allowed=f"one of the stop ids {', '.join(map(str, chat.stop_ids))} at the end of each answer",
        )
    begin = chat.tokenizer.bos_token_id
    if begin is not None and one.ids[:2] == (begin, begin):
        yield DataError(
            f"the row begins with two {chat.tokenizer.bos_token}",
            where=where,
            allowed="one begin-of-text token",
            next_step="take one out of the chat template, or out of the prompt",
        )
    if one.prompt_tokens and one.prompt_tokens < len(one.ids) and one.ids[one.prompt_tokens - 1] in stops:
        token = chat.tokenizer.convert_ids_to_tokens(one.ids[one.prompt_tokens - 1])
        yield DataError(
            f"the prompt ends with the end-of-turn token {token}, and the answer would come after it",
            where=where,
            next_step="set add_eos_token: false in the base's tokenizer_config.json, or mend the template",
        )
    if (place := _differs_from_serving(one, chat)) is not None:
        yield DataError(
            f"serving would send another prompt: it differs at token {place}",
            where=where,
            allowed="the prompt of the request, token for token",
        )


def ends_trained(one: EncodedRow, stops: tuple[int, ...]) -> bool:
    """Whether every learned stretch ends with a learned stop id."""
    ends = [
        token
        for token, learned, next_learned in zip(one.ids, one.trained, (*one.trained[1:], False), strict=True)
        if learned and not next_learned
    ]
    return bool(ends) and all(token in stops for token in ends)


def answer_starts(trained: tuple[bool, ...]) -> list[int]:
    """Places where what is learned begins."""
    return [place for place, learned in enumerate(trained) if learned and not (place and trained[place - 1])]


def _differs_from_serving(one: EncodedRow, chat: ChatFormat) -> int | None:
    """The first id, from 0, where a request for one of the answers would differ from what stands before it; None when all agree."""
    starts = answer_starts(one.trained)
    places = one.row.answers
    if len(starts) != len(places):
        return starts[-1] if starts else 0
    for place, start in zip(places, starts, strict=True):
        asked = chat.asked(one.row, place)
        if chat.chat_template:
            request = GenerationRequest(messages=tuple(Message(turn["role"], turn["content"]) for turn in asked))
        else:
            request = GenerationRequest(text=asked[-1]["content"])
        sent = tuple(prompt_ids(request, chat.tokenizer))
        if sent != one.ids[:start]:
            pairs = zip(sent, one.ids[:start], strict=False)
            return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(sent), start))
    return None
