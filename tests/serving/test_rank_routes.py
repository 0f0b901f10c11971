"""Re-ranking over HTTP with the real engine: the order is that of the likelihoods under the agent's own adapter."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from onecard.engines.engine import GenerationRequest, Message
from onecard.serving.answerers import Answerer
from onecard.serving.rank_routes import reranked
from onecard.wire.rerank import RerankRequest

ROWS = Path(__file__).parents[2] / "examples" / "data" / "rerank-test.jsonl"
ROW = json.loads(ROWS.read_text(encoding="utf-8").splitlines()[0])
QUERY, TEXTS = ROW["prompt"], ROW["candidates"]


def ask(real, body: dict[str, Any], route: str = "/v1/rerank") -> httpx.Response:
    return httpx.post(f"{real.url}{route}", json=body, timeout=60)


def test_texts_are_ordered_by_their_likelihood_under_the_agents_adapter(real) -> None:
    who = real.service.directory.find("ranker")
    prompt = GenerationRequest(messages=(Message("user", QUERY),), adapter=who.digest)
    expected = asyncio.run(who.engine.score(prompt, TEXTS))
    response = ask(real, {"model": "ranker", "query": QUERY, "documents": TEXTS})
    results = response.json()["results"]
    assert [one["relevance_score"] for one in results] == pytest.approx(sorted(expected, reverse=True))
    assert {one["index"]: one["relevance_score"] for one in results} == pytest.approx(dict(enumerate(expected)))
    assert all(one["document"] == {"text": TEXTS[one["index"]]} for one in results)
    assert response.json()["model"] == "ranker@v0001"
    assert response.headers["x-onecard-digest"] == who.digest and response.headers["x-onecard-adapter"] == "rank@v0001"
    scores = ask(real, {"model": "ranker", "text_1": QUERY, "text_2": TEXTS}, "/v1/score").json()["data"]
    assert [one["score"] for one in scores] == pytest.approx(expected) and [one["index"] for one in scores] == [
        0,
        1,
        2,
        3,
    ]


def test_another_agent_and_the_base_score_otherwise(real) -> None:
    """Any agent ranks, whatever its task; each with its own adapter."""
    found = {
        model: ask(real, {"model": model, "text_1": QUERY, "text_2": TEXTS[0]}, "/v1/score").json()["data"][0]["score"]
        for model in ("ranker", "explainer", "plain", "base")
    }
    assert found["plain"] == found["base"] and len(set(found.values())) == 3


def test_only_the_best_without_their_texts(real) -> None:
    body = {"model": "ranker@v0001", "query": QUERY, "candidates": [{"text": text} for text in TEXTS]}
    results = ask(real, {**body, "top_n": 2, "return_documents": False}).json()["results"]
    whole = ask(real, body).json()["results"]
    assert [(r["index"], r["relevance_score"]) for r in results] == [
        (r["index"], r["relevance_score"]) for r in whole[:2]
    ]
    assert all("document" not in one for one in results)


def test_a_batch_of_candidates_scores_as_each_alone(real) -> None:
    together = ask(real, {"model": "ranker", "text_1": QUERY, "text_2": TEXTS * 3}, "/v1/score").json()["data"]
    for place, text in enumerate(TEXTS):
        alone = ask(real, {"model": "ranker", "text_1": QUERY, "text_2": text}, "/v1/score").json()["data"][0]["score"]
        assert together[place]["score"] == pytest.approx(alone, abs=0.03)  # bf16


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"query": QUERY, "documents": TEXTS}, 400, "model"),
        ({"model": "nobody", "query": QUERY, "documents": TEXTS}, 404, "model"),
        ({"model": "ranker", "query": QUERY}, 400, None),
        ({"model": "ranker", "query": QUERY, "documents": TEXTS, "candidates": TEXTS}, 400, None),
        ({"model": "ranker", "query": QUERY, "documents": []}, 400, None),
        ({"model": "ranker", "query": QUERY, "documents": ["a", ""]}, 400, "documents[1]"),
        ({"model": "ranker", "query": QUERY, "documents": TEXTS, "top_k": 3}, 400, "top_k"),
        ({"model": "ranker", "query": QUERY, "documents": TEXTS, "top_n": 0}, 400, "top_n"),
        ({"model": "ranker", "query": QUERY, "documents": TEXTS, "preset": "loud"}, 400, "preset"),
        ({"model": "ranker", "query": QUERY, "documents": ["a"] * 1001}, 400, "documents"),
        ({"model": "ranker", "query": "word " * 400, "documents": TEXTS}, 400, "request"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_mistakes_are_named(real, body: dict[str, Any], status: int, param: str | None) -> None:
    response = ask(real, body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert param is None or error["param"] == param


def test_equal_scores_keep_their_order() -> None:
    asked = RerankRequest(model="a", query="q", documents=("x", "y", "z"))
    who = Answerer("a", "base", engine=None)  # type: ignore[arg-type]
    assert [one.index for one in reranked(asked, who, [-2.0, -1.0, -2.0]).results] == [1, 0, 2]
