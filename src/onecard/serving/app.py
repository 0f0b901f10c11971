"""The service over HTTP: OpenAI's routes, /generate, ranking, administration, /health, /ready and /metrics.

Routes only translate: body to record, record to the service, answer to JSON or to a stream. The lifespan ends the engines.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from onecard import __version__
from onecard.serving.access import Access
from onecard.serving.admin_routes import admin_routes
from onecard.serving.body import read_record
from onecard.serving.dashboard import add_dashboard
from onecard.serving.description import add_description, body_of
from onecard.serving.error_answers import add_access, add_error_answers
from onecard.serving.json_answer import json_answer
from onecard.serving.leaving import EventStream, unless_client_leaves
from onecard.serving.metrics import CONTENT_TYPE
from onecard.serving.observing import Observing, observe
from onecard.serving.openai_answers import chat_events, completion_events, whole_chat, whole_completion
from onecard.serving.rank_routes import rank_routes
from onecard.serving.service import Service
from onecard.serving.settings import Settings
from onecard.wire.admin import LoadRequest, PromoteRequest, RollbackRequest
from onecard.wire.chat import ChatRequest, CompletionRequest
from onecard.wire.generate import GenerateAnswer, GenerateRequest
from onecard.wire.rerank import RerankRequest, ScoreRequest

DESCRIBED: list[type[BaseModel]] = [
    ChatRequest, CompletionRequest, GenerateRequest, RerankRequest, ScoreRequest,
    PromoteRequest, RollbackRequest, LoadRequest,
]  # fmt: skip


def create_app(service: Service, settings: Settings = Settings()) -> FastAPI:  # noqa: B008  # frozen
    """The application around a service whose engines are loaded. Its shutdown closes the service."""
    access = Access(settings.keys)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(service.close)

    app = FastAPI(
        title="onecard",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # the documentation pages load scripts from the internet
        redoc_url=None,
    )
    add_error_answers(app)
    for router in (
        _openai_routes(service, access),
        rank_routes(service, access),
        _own_routes(service, access),
        admin_routes(service, access),
    ):
        app.include_router(router)
    add_description(app, DESCRIBED)
    add_dashboard(app, service, settings.expected)
    add_access(app, access)
    app.add_middleware(Observing, metrics=service.metrics, log=settings.log)
    return app


def _openai_routes(service: Service, access: Access) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models", summary="Every name a request may use")
    async def models() -> Response:
        return json_answer(service.models().model_dump())

    @router.get("/v1/models/{name}", summary="One of these names")
    async def model(name: str) -> Response:
        return json_answer(service.model(name).model_dump())

    @router.post("/v1/chat/completions", summary="Chat", openapi_extra=body_of(ChatRequest))
    async def chat(request: Request) -> Response:
        asked = await read_record(request, ChatRequest, service.limits)
        answer = service.chat(asked)
        access.demand_infer(request, answer.who.agent)
        observe(request, asked, answer)
        if asked.stream:
            await unless_client_leaves(request.receive, answer.begin())
            return EventStream(answer, chat_events(answer, usage=asked.includes_usage))
        whole = await unless_client_leaves(request.receive, whole_chat(answer))
        return json_answer(whole, answer.headers)

    @router.post("/v1/completions", summary="Complete a text", openapi_extra=body_of(CompletionRequest))
    async def complete(request: Request) -> Response:
        asked = await read_record(request, CompletionRequest, service.limits)
        answer = service.complete(asked)
        access.demand_infer(request, answer.who.agent)
        observe(request, asked, answer)
        if asked.stream:
            await unless_client_leaves(request.receive, answer.begin())
            return EventStream(answer, completion_events(answer, usage=asked.includes_usage))
        whole = await unless_client_leaves(request.receive, whole_completion(answer))
        return json_answer(whole, answer.headers)

    return router


def _own_routes(service: Service, access: Access) -> APIRouter:
    router = APIRouter()

    @router.post("/generate", summary="Answer a prompt in a style", openapi_extra=body_of(GenerateRequest))
    async def generate(request: Request) -> Response:
        asked = await read_record(request, GenerateRequest, service.limits)
        answer = service.generate(asked)
        access.demand_infer(request, answer.who.agent)
        observe(request, asked, answer)
        whole = await unless_client_leaves(request.receive, answer.whole())
        said = GenerateAnswer(
            response=whole.text, style=answer.preset, tokens=whole.tokens, latency_s=round(whole.latency_s, 6)
        )
        return json_answer(said.model_dump(), answer.headers)

    @router.get("/health", summary="Who is served, and the memory it takes")
    async def health() -> Response:
        found = await asyncio.to_thread(service.health)  # counting memory may take a while
        return json_answer(found.model_dump(), status=200 if found.status == "ok" else 503)

    @router.get("/ready", summary="Whether requests are answered now")
    async def ready() -> Response:
        await asyncio.to_thread(service.check_ready)
        return json_answer({"ready": True})

    @router.get("/metrics", summary="Counts and times for Prometheus")
    async def metrics() -> Response:
        health = await asyncio.to_thread(service.health)
        return Response(service.metrics.text(health), media_type=CONTENT_TYPE)

    return router
