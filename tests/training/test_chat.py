"""One row as ids: the prompt is what serving sends, the labels are the answer and its end of turn, nothing else."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.engines.engine import GenerationRequest, Message
from onecard.engines.local.prompts import prompt_ids
from onecard.errors import DataError, InputError
from onecard.fleet.presets import apply_preset
from onecard.fleet.schema import Preset
from onecard.training.chat import IGNORED, TurnsDiffer
from onecard.training.rows import Row

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(str.strip)
TERSE = Preset(token="<STYLE_TERSE>")
CHATML = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
FORGETFUL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]"
    "{% else %}{% if loop.last %}(new){% endif %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)


def row(prompt: str = "What is a mutex?", completion: str = "A lock.", preset: str | None = None) -> Row:
    return Row(prompt, completion, preset, "rows.jsonl:1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(prompt=TEXT, completion=TEXT)
def test_labels_cover_exactly_completion_and_end_of_turn(chat, prompt, completion):
    one = chat.encode(row(prompt, completion))
    learned = [label for label in one.labels if label != IGNORED]
    assert list(one.labels) == [IGNORED] * one.prompt_tokens + learned
    assert list(one.ids[one.prompt_tokens :]) == learned
    assert chat.tokenizer.decode(learned) == f" {completion}</s>"
    assert learned[-1] == chat.tokenizer.eos_token_id and learned.count(learned[-1]) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(prompt=TEXT, styled=st.booleans())
def test_the_prompt_is_what_serving_sends(chat, prompt, styled):
    chat.tokenizer.add_tokens([TERSE.token], special_tokens=True)
    presets = {"default": Preset(), "terse": TERSE}
    one = replace(chat, presets=presets).encode(row(prompt, preset="terse" if styled else None))
    asked = apply_preset(TERSE, prompt) if styled else prompt
    request = GenerationRequest(messages=(Message("user", asked),))
    assert list(one.ids[: one.prompt_tokens]) == prompt_ids(request, chat.tokenizer)
    assert (chat.tokenizer.convert_tokens_to_ids(TERSE.token) in one.ids) == (styled or TERSE.token in prompt)


def test_a_plain_prompt_is_what_serving_sends_for_text(chat):
    one = replace(chat, chat_template=False).encode(row(completion=" A lock."))
    request = GenerationRequest(text="What is a mutex?")
    assert list(one.ids[: one.prompt_tokens]) == prompt_ids(request, chat.tokenizer)
    assert chat.tokenizer.decode(one.ids[one.prompt_tokens :]) == " A lock.</s>"


def test_rows_without_a_preset_follow_the_default_one(chat):
    chat.tokenizer.add_tokens([TERSE.token], special_tokens=True)
    for presets in ({"plain": Preset(), "default": TERSE}, {"terse": TERSE, "plain": Preset()}):
        named = replace(chat, presets=presets)
        expected = "default" if "default" in presets else "terse"
        assert named.encode(row()).ids == named.encode(row(preset=expected)).ids != chat.encode(row()).ids


def test_what_a_template_writes_after_the_end_of_turn_is_neither_read_nor_learned(chat):
    plain = chat.encode(row()).ids
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace(
        "+ eos_token }}", "+ eos_token + '\\n' + eos_token }}"
    )
    assert chat.encode(row()).ids == plain


def test_an_end_of_turn_is_learned_even_when_the_template_writes_none(chat):
    plain = chat.encode(row()).ids
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace("+ eos_token }}", "}}")
    assert chat.encode(row()).ids == plain


def test_prompt_and_answer_are_cut_where_serving_cuts_them(chat):
    """A template without a space before the answer: the last prompt token and the first of the answer would become one."""
    chat.tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    asked = chat.tokenizer.apply_chat_template([{"role": "user", "content": "the mut"}], add_generation_prompt=True)
    one = chat.encode(row("the mut", "ex"))
    assert list(one.ids[: one.prompt_tokens]) == list(asked["input_ids"])
    assert chat.tokenizer.decode(one.ids) == "<s>the mutex</s>"
    together = chat.tokenizer("the mutex</s>")["input_ids"]
    assert list(one.ids) != together, "the example must be one where tokens would merge"


@pytest.mark.parametrize("template", [True, False])
def test_a_completion_that_ends_itself_is_refused(chat, template):
    with pytest.raises(DataError, match=r"holds the end-of-turn token </s>") as error:
        replace(chat, chat_template=template).encode(row(completion="A lock.</s> And more."))
    assert error.value.where == "rows.jsonl:1"


def test_a_template_that_rewrites_the_prompt_once_answered_is_refused(chat):
    chat.tokenizer.chat_template = "{{ messages | length }} {{ messages[-1]['content'] }}"
    with pytest.raises(DataError, match="writes the prompt differently"):
        chat.encode(row())


def test_a_base_without_a_template_is_refused_unless_the_recipe_says_so(chat):
    chat.tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        chat.encode(row())
    assert replace(chat, chat_template=False).encode(row()).trained_tokens > 1


def talk(*said: str, system: str | None = None, preset: str | None = None) -> Row:
    """A conversation: user and assistant in turn."""
    turns = [("system", system)] if system else []
    turns += [("assistant" if place % 2 else "user", content) for place, content in enumerate(said)]
    return Row("", "", preset, "rows.jsonl:1", tuple(turns))


def learned_parts(one, tokenizer) -> list[str]:
    """The decoded stretches that are learned."""
    runs = groupby(zip(one.ids, one.trained, strict=True), key=lambda pair: pair[1])
    return [tokenizer.decode([token for token, _ in run]) for learned, run in runs if learned]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(said=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_every_answer_of_a_conversation_is_learned_and_nothing_else(chat, said):
    one = chat.encode(talk(*(text for pair in said for text in pair)))
    assert learned_parts(one, chat.tokenizer) == [f" {answer}</s>" for _, answer in said]
    assert one.trained_tokens == sum(one.trained) == sum(label != IGNORED for label in one.labels)
    assert len(one.ids) == len(one.trained) == len(one.labels)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(said=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_before_every_answer_stands_what_serving_sends(chat, said):
    row = talk(*(text for pair in said for text in pair))
    one = chat.encode(row)
    starts = [place for place, learned in enumerate(one.trained) if learned and not one.trained[place - 1]]
    for place, start in zip(row.answers, starts, strict=True):
        request = GenerationRequest(messages=tuple(Message(*turn) for turn in row.turns[:place]))
        assert list(one.ids[:start]) == prompt_ids(request, chat.tokenizer)


def test_the_system_turn_is_read_and_not_learned(chat):
    chat.tokenizer.chat_template = CHATML
    one = chat.encode(talk("What is a mutex?", "A lock.", system="Be brief."))
    assert learned_parts(one, chat.tokenizer) == ["A lock.</s>"]
    assert "Be brief." in chat.tokenizer.decode(one.ids[: one.prompt_tokens])


def test_a_template_that_rewrites_earlier_turns_asks_for_one_answer_at_a_time(chat):
    """As templates do that drop earlier reasoning: what was learned first is not what stands there later."""
    chat.tokenizer.chat_template = FORGETFUL
    row = talk("What?", "That.", "And?", "This.")
    with pytest.raises(TurnsDiffer, match="turn 4"):
        chat.encode(row)
    alone = [chat.encode(one) for one in row.one_answer_each()]
    assert [learned_parts(one, chat.tokenizer) for one in alone] == [["(new)That.</s>"], ["(new)This.</s>"]]
    request = GenerationRequest(messages=tuple(Message(*turn) for turn in row.turns[:3]))
    assert list(alone[1].ids[: alone[1].prompt_tokens]) == prompt_ids(request, chat.tokenizer)


def test_a_presets_token_stands_before_the_last_question_as_serving_puts_it(chat):
    chat.tokenizer.add_tokens([TERSE.token], special_tokens=True)
    styled = replace(chat, presets={"terse": TERSE})
    row = talk("What?", "That.", "And?", "This.")
    with pytest.raises(TurnsDiffer):
        styled.encode(row)
    first, second = (styled.encode(one) for one in row.one_answer_each())
    token = chat.tokenizer.convert_tokens_to_ids(TERSE.token)
    assert first.ids.count(token) == second.ids.count(token) == 1
    assert second.ids.index(token) > list(second.ids).index(chat.tokenizer.eos_token_id)


def test_a_conversation_needs_the_template(chat):
    with pytest.raises(DataError, match="chat_template: false"):
        replace(chat, chat_template=False).encode(talk("What?", "That.", "And?", "This."))


@pytest.mark.parametrize("template", [True, False])
def test_a_pair_is_two_answers_to_the_same_ids(chat, template):
    pair = replace(chat, chat_template=template).encode_pair(replace(row(), rejected="A door."))
    assert pair.chosen.ids[: pair.prompt_tokens] == pair.rejected.ids[: pair.prompt_tokens]
    assert pair.chosen.ids == replace(chat, chat_template=template).encode(row()).ids
    assert learned_parts(pair.rejected, chat.tokenizer) == [" A door.</s>" if template else "A door.</s>"]
    assert pair.longest == max(len(pair.chosen.ids), len(pair.rejected.ids))


def test_only_the_preferred_answer_of_a_conversation_is_compared(chat):
    pair = chat.encode_pair(replace(talk("What?", "That.", "And?", "This."), completion="This.", rejected="No."))
    assert learned_parts(pair.chosen, chat.tokenizer) == [" This.</s>"]
    assert learned_parts(pair.rejected, chat.tokenizer) == [" No.</s>"]
    assert "That." in chat.tokenizer.decode(pair.rejected.ids)
