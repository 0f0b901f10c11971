"""Prompts for a server's completions, written here in the embedded base's own template: the very tokens that the engine scores."""

from __future__ import annotations

from pathlib import Path

from onecard.cli.evaluate_url_scores import rendering
from onecard.engines.engine import GenerationRequest, Message
from onecard.engines.local.prompts import continuation_ids, prompt_ids
from onecard.engines.local.tokens import load_tokenizer, stop_ids, written_ids
from onecard.weights.inventory import resolve

FOLDER = resolve("embedded:mini", Path())


def test_the_text_sent_has_the_tokens_that_the_engine_scores() -> None:
    tokenizer = load_tokenizer(FOLDER)
    stops = stop_ids(tokenizer, FOLDER)
    before, answer = rendering(tokenizer, stops)("What is a heap?", "A heap is a tree.")
    request = GenerationRequest(messages=(Message("user", "What is a heap?"),))
    prompt = prompt_ids(request, tokenizer)
    assert written_ids(tokenizer, answer) == continuation_ids(request, prompt, "A heap is a tree.", tokenizer, stops)
    begin = tokenizer.bos_token or ""
    assert written_ids(tokenizer, begin + before if not before.startswith(begin) else before) == prompt


def test_a_begin_of_text_token_is_left_to_the_server() -> None:
    class Tokenizer:
        chat_template = "x"
        bos_token = "<s>"

        def decode(self, ids: list[int]) -> str:
            return "</s>"

        def apply_chat_template(self, turns, tokenize: bool, add_generation_prompt: bool) -> str:
            answered = f" {turns[1]['content']}</s>\n" if len(turns) > 1 else ""
            return f"<s>[INST] {turns[0]['content']} [/INST]{answered}"

    assert rendering(Tokenizer(), (2,))("why", "so") == ("[INST] why [/INST]", " so</s>")
