"""The context curve against a server that counts and has a limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.benchmark.context_curve import ContextCurve, ContextPlan, context_lengths, parse_contexts
from onecard.benchmark.prompts import given_prompts
from onecard.errors import InputError

Serve = Callable[..., Any]


def plan(url: str, **changes: Any) -> ContextPlan:
    given = {"url": url, "prompts": {"explainer": given_prompts(["x"], "x")}, "contexts": (64, 128), "new_tokens": 8}
    return ContextPlan(**{**given, "requests": 2, "repeats": 2, "timeout_s": 20, **changes})


def test_prompts_have_the_length_that_was_asked_for_and_no_common_begin(serve: Serve) -> None:
    with serve(tokens=8, counts_words=True) as server:
        result = ContextCurve(plan(server.url)).run()
        texts = [seen.body["messages"][0]["content"] for seen in server.seen if "messages" in seen.body][3:]
    assert [(step.context_tokens, step.repeat) for step in result.steps] == [(64, 1), (64, 2), (128, 1), (128, 2)]
    assert {request.prompt_tokens for request in result.steps[0].requests} == {56}
    assert {request.prompt_tokens for request in result.steps[3].requests} == {120}
    counted = [text.split()[0] for text in texts if len(text.split()) > 100]
    assert len(set(counted)) == len(counted)
    assert result.kind == "context" and result.how.contexts == (64, 128) and result.complete


def test_a_length_that_is_refused_ends_the_curve_and_keeps_the_rest(serve: Serve) -> None:
    with serve(tokens=8, counts_words=True, context=100) as server:
        curve = ContextCurve(plan(server.url, contexts=(64, 100, 128), repeats=1))
        result = curve.run()
    assert curve.refused == 128 and not result.complete
    assert [step.requests[0].outcome for step in result.steps] == ["ok", "ok", "error"]
    assert "more than 100 tokens" in (result.stopped_because or "")


@given(limit=st.integers(40, 200_000), new=st.integers(1, 20))
def test_lengths_double_up_to_the_limit(limit: int, new: int) -> None:
    lengths = context_lengths(limit, new)
    assert lengths[-1] == limit and list(lengths) == sorted(set(lengths))
    assert all(length >= new + 16 for length in lengths)


def test_lengths_without_room_are_refused() -> None:
    with pytest.raises(InputError, match="no room"):
        context_lengths(30, 16)
    assert parse_contexts("512, 256,512", 16) == (256, 512)
    for text in ("", "a", "10", "-5", "64,,65"):
        with pytest.raises(InputError, match="not a list"):
            parse_contexts(text, 16)
