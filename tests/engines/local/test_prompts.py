"""Requests as token ids: the adapter's own tokenizer, the base's own template, and continuations as they were trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from onecard.engines.engine import GenerationRequest, Message
from onecard.engines.local.prompts import check_context, continuation_ids, prompt_ids
from onecard.engines.local.tokens import load_tokenizer
from onecard.errors import InputError
from tests.engines.conftest import asked


def test_an_added_token_is_one_token_for_its_owner_and_text_for_others(mini: Path) -> None:
    base, owner = load_tokenizer(mini), load_tokenizer(mini)
    owner.add_tokens(["<STYLE_TERSE>"], special_tokens=True)
    request = asked("<STYLE_TERSE> What?")
    assert len(owner) - 1 in prompt_ids(request, owner)
    assert max(prompt_ids(request, base)) < len(base)
    assert len(prompt_ids(request, base)) > len(prompt_ids(request, owner))


def test_a_text_begins_as_the_tokenizer_begins_texts_and_a_chat_as_its_template_does(mini: Path) -> None:
    tokenizer = load_tokenizer(mini)
    for request in (GenerationRequest(text="hello"), asked("hello")):
        assert prompt_ids(request, tokenizer).count(tokenizer.bos_token_id) == 1


def test_a_chat_continuation_is_what_training_trained(mini: Path) -> None:
    tokenizer = load_tokenizer(mini)
    request = GenerationRequest(messages=(Message("system", "Be brief."), Message("user", "What?")))
    prompt = prompt_ids(request, tokenizer)
    ids = continuation_ids(request, prompt, "It is.", tokenizer, (tokenizer.eos_token_id,))
    turns = [{"role": m.role, "content": m.content} for m in request.messages] + [
        {"role": "assistant", "content": "It is."}
    ]
    assert prompt + ids == tokenizer.apply_chat_template(turns, return_dict=False)
    assert ids[-1] == tokenizer.eos_token_id


def test_a_text_continuation_is_taken_as_it_is(mini: Path) -> None:
    tokenizer = load_tokenizer(mini)
    request = GenerationRequest(text="It")
    assert (
        tokenizer.decode(continuation_ids(request, prompt_ids(request, tokenizer), " is so", tokenizer, ())) == " is so"
    )


@pytest.mark.parametrize(
    ("prompt", "new", "allowed"),
    [(90, 20, "at most 80 tokens, or at most 10 new"), (200, 20, "at most 100"), (5, 200, "at most 100")],
)
def test_the_context_error_says_what_would_fit(prompt: int, new: int, allowed: str) -> None:
    with pytest.raises(InputError, match=allowed) as error:
        check_context(prompt, new, 100)
    assert f"{prompt} tokens" in error.value.problem
    check_context(80, 20, 100)
