"""/v1/rerank and /v1/score: routes that only translate."""

from __future__ import annotations

import time
from uuid import uuid4

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from onecard.serving.access import Access
from onecard.serving.answerers import Answerer
from onecard.serving.body import read_record
from onecard.serving.description import body_of
from onecard.serving.json_answer import json_answer
from onecard.serving.leaving import unless_client_leaves
from onecard.serving.observing import observe
from onecard.serving.ranking import best_first
from onecard.serving.service import Service
from onecard.wire.rerank import (
    Document,
    RerankAnswer,
    RerankRequest,
    RerankResult,
    ScoreAnswer,
    Scored,
    ScoreRequest,
)


def rank_routes(service: Service, access: Access) -> APIRouter:
    """Both routes of one service."""
    router = APIRouter()

    @router.post(
        "/v1/rerank", summary="Order texts by their likelihood as answers", openapi_extra=body_of(RerankRequest)
    )
    async def rerank(request: Request) -> Response:
        asked = await read_record(request, RerankRequest, service.limits)
        ranking = service.rank(asked.model, asked.query, asked.texts, asked.preset, "documents")
        access.demand_infer(request, ranking.who.agent)
        observe(request, asked, ranking)
        scores = await unless_client_leaves(request.receive, ranking.scores())
        return json_answer(reranked(asked, ranking.who, scores).model_dump(exclude_none=True), ranking.headers)

    @router.post("/v1/score", summary="The likelihood of texts as answers", openapi_extra=body_of(ScoreRequest))
    async def score(request: Request) -> Response:
        asked = await read_record(request, ScoreRequest, service.limits)
        ranking = service.rank(asked.model, asked.text_1, asked.texts, asked.preset, "text_2")
        access.demand_infer(request, ranking.who.agent)
        observe(request, asked, ranking)
        scores = await unless_client_leaves(request.receive, ranking.scores())
        data = tuple(Scored(index=index, score=value) for index, value in enumerate(scores))
        said = ScoreAnswer(id=f"score-{uuid4().hex}", created=int(time.time()), model=ranking.who.name, data=data)
        return json_answer(said.model_dump(), ranking.headers)

    return router


def reranked(asked: RerankRequest, who: Answerer, scores: list[float]) -> RerankAnswer:
    """The results, best first."""
    return RerankAnswer(
        id=f"rerank-{uuid4().hex}",
        model=who.name,
        results=tuple(
            RerankResult(
                index=place,
                relevance_score=scores[place],
                document=Document(text=asked.texts[place]) if asked.return_documents else None,
            )
            for place in best_first(scores, asked.top_n)
        ),
    )
