"""What a base's tokenizer and chat template do to every row alike, seen on a probe: habits that are legal and cost quality."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onecard.engines.local.tokens import chat_text, text_ids, written_ids
from onecard.errors import OnecardError
from onecard.training.chat import ChatFormat
from onecard.training.remarks import Remark

PROBE = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]


def template_facts(chat: ChatFormat) -> dict[str, Any]:
    """Who writes the begin-of-text token, and whether the template ends an answer with a stop token; for tables and JSON."""
    tokenizer, begin = chat.tokenizer, chat.tokenizer.bos_token_id
    plain = text_ids(tokenizer, "What?")
    facts: dict[str, Any] = {
        "bos": tokenizer.bos_token,
        "tokenizer_adds_bos": begin is not None and plain[:1] == [begin],
        "template_writes_bos": None,
        "template_ends_turn": None,
        "template_depends_on_the_date": None,
    }
    if not chat.chat_template or not tokenizer.chat_template:
        return facts
    try:
        before = chat_text(tokenizer, PROBE[:1], answer_next=True)
        whole = chat_text(tokenizer, PROBE, answer_next=False)
    except OnecardError:
        return facts  # a template that refuses turns is told with the rows it refuses
    prompt = written_ids(tokenizer, before)
    return facts | {
        "template_writes_bos": begin is not None and prompt[:1] == [begin],
        "template_ends_turn": any(token in chat.stop_ids for token in written_ids(tokenizer, whole[len(before) :])),
        "template_depends_on_the_date": "strftime_now" in str(tokenizer.chat_template),
    }


def template_remarks(chat: ChatFormat) -> Iterator[Remark]:
    """Warnings about the template, with the base as their place."""
    facts, where = template_facts(chat), "chat template"
    if facts["tokenizer_adds_bos"] and facts["template_writes_bos"] is False:
        said = f"prompts begin without {facts['bos']}, which the tokenizer puts before any other text"
        yield Remark(where, said, "write bos_token at the start of the template, unless the base was made without it")
    if facts["template_ends_turn"] is False:
        token = chat.tokenizer.eos_token or chat.tokenizer.convert_ids_to_tokens(chat.stop_ids[0])
        yield Remark(
            where,
            f"it ends no answer with a stop token; {token} is put there and learned",
            "name the template's own end of turn as eos_token_id in generation_config.json if it has one",
        )
    if facts["template_depends_on_the_date"]:
        yield Remark(where, "it writes today's date: prompts served later will differ from those learned", None)
