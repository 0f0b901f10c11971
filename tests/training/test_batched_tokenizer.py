"""Reading ahead changes no id and no text, whatever is written."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.training.batched_tokenizer import BatchedTokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.just("<s>[INST] a </s>")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.lists(st.tuples(TEXT, st.booleans()), max_size=6), other=TEXT)
def test_the_ids_are_those_of_the_tokenizer(tokenizer, texts, other):
    batched = BatchedTokenizer(tokenizer)
    batched.read_ahead(texts)
    for text, special in [*texts, (other, True), (other, False)]:
        assert batched(text, add_special_tokens=special) == {
            "input_ids": tokenizer(text, add_special_tokens=special)["input_ids"]
        }


def test_a_rendering_is_the_tokenizers_own_and_made_once(tokenizer):
    turns = [{"role": "user", "content": "What?"}]
    batched = BatchedTokenizer(tokenizer)
    for _ in range(2):
        for answer_next in (True, False):
            how = {"tokenize": False, "add_generation_prompt": answer_next}
            assert batched.apply_chat_template(turns, **how) == tokenizer.apply_chat_template(turns, **how)
    tokenizer.chat_template = "changed"
    how = {"tokenize": False, "add_generation_prompt": True}
    assert batched.apply_chat_template(turns, **how) != "changed" == batched.chat_template
