"""Scores are what separate forward passes over prompt and continuation compute, whatever else is scored beside them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.engines.engine import GenerationRequest, TellsLogprobs
from onecard.engines.local import scoring
from onecard.engines.local.engine import LocalEngine
from onecard.engines.local.loading import LoadedBase
from onecard.engines.local.scoring import mean_log_likelihoods, prompt_log_probabilities
from onecard.engines.local.shared_model import SharedModel
from tests.engines.conftest import load_plain

TOKENS = st.integers(3, 400)


@pytest.fixture(scope="module")
def base(mini: Path) -> LoadedBase:
    return load_plain(mini)


@pytest.fixture(scope="module")
def engine(mini: Path):
    opened = LocalEngine.open(
        mini, model_id="embedded:mini", fingerprint="f" * 64, quantization="none", double_quantization=True,
        dtype="fp32", device="cpu", context=256, concurrency=2,
    )  # fmt: skip
    yield opened
    opened.close()


def separately(base: LoadedBase, prompt: Sequence[int], continuation: Sequence[int]) -> float:
    """One plain forward pass of transformers over the whole text."""
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([[*prompt, *continuation]])).logits[0]
    told = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
    return float(told.gather(1, torch.tensor(continuation)[:, None]).mean())


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.lists(TOKENS, min_size=1, max_size=30),
    continuations=st.lists(st.lists(TOKENS, min_size=1, max_size=12), min_size=1, max_size=6),
)
def test_scores_equal_separate_forward_passes(
    base: LoadedBase, prompt: list[int], continuations: list[list[int]]
) -> None:
    found = mean_log_likelihoods(SharedModel(base), None, prompt, continuations)
    assert found == pytest.approx([separately(base, prompt, one) for one in continuations], abs=2e-5)


def test_eight_candidates_after_200_tokens_go_through_the_layers_once_each(base: LoadedBase) -> None:
    """The prompt is computed once: the layers see its 200 tokens and the candidates' own, whatever their number."""
    model, seen = SharedModel(base), []
    forward = model.forward

    def counting(adapters, ids, *rest, **named):
        seen.append(ids.numel())
        return forward(adapters, ids, *rest, **named)

    model.forward = counting  # type: ignore[method-assign]
    prompt, continuations = [5 + n % 300 for n in range(200)], [[40 + n] * 9 for n in range(8)]
    found = mean_log_likelihoods(model, None, prompt, continuations)
    assert seen == [200, 8 * 8]
    assert found == pytest.approx([separately(base, prompt, one) for one in continuations], abs=2e-5)


def test_more_candidates_than_fit_at_once_change_nothing(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, continuations = [7, 8, 9], [[10 + n, 20, 30 + n][: 1 + n % 3] for n in range(7)]
    together = mean_log_likelihoods(SharedModel(base), None, prompt, continuations)
    monkeypatch.setattr(scoring, "PREFILL_TOKENS", 2)  # the prompt in pieces as well, one candidate at a time
    assert mean_log_likelihoods(SharedModel(base), None, prompt, continuations) == pytest.approx(together, abs=2e-5)
    assert mean_log_likelihoods(SharedModel(base), None, prompt, []) == []


def test_a_prompts_own_tokens(base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LOGIT_COLUMNS", 3)
    prompt = [1, 40, 50, 60, 70, 80, 90, 41]
    told = prompt_log_probabilities(SharedModel(base), None, prompt, top=2)
    assert told[0] == (None, [])
    for place in range(1, len(prompt)):
        own, top = told[place]
        assert own == pytest.approx(separately(base, prompt[:place], [prompt[place]]), abs=2e-5)
        assert len(top) == 2 and top[0][1] >= top[1][1] and top[0][1] >= own - 1e-9


def test_an_engine_tells_a_text_token_by_token(engine: LocalEngine) -> None:
    assert isinstance(engine, TellsLogprobs)
    text = "A stack holds caf\u00e9s \U0001f600 and naïve rows."
    told = asyncio.run(engine.prompt_logprobs(GenerationRequest(text=text, top_logprobs=3)))
    assert "".join(token.text for token in told).endswith(text)
    assert told[0].logprob is None and all(token.logprob is not None for token in told[1:])
    assert all(len(token.top) == 3 for token in told[1:])


def test_an_answer_tells_its_tokens_and_the_likeliest_instead(engine: LocalEngine) -> None:
    async def ask(top: int | None) -> tuple[str, list]:
        request = GenerationRequest(text="A hash table is", max_new_tokens=12, top_logprobs=top)
        chunks = [chunk async for chunk in engine.generate(request)]
        return "".join(c.text for c in chunks), [token for c in chunks for token in c.logprobs]

    plain, nothing = asyncio.run(ask(None))
    text, told = asyncio.run(ask(3))
    assert nothing == [] and text == plain == "".join(token.text for token in told)
    for token in told:  # greedy: the token is the likeliest
        assert token.logprob == token.top[0][1] and token.text == token.top[0][0]
        assert sum(math.exp(value) for _, value in token.top) <= 1 + 1e-9
    again = asyncio.run(engine.prompt_logprobs(GenerationRequest(text="A hash table is" + text, top_logprobs=0)))
    tail = [token.logprob for token in again[-len(told) :]]
    assert tail == pytest.approx([token.logprob for token in told], abs=1e-4)
