"""The service over HTTP: OpenAI's routes, /generate, /health and /ready.

Routes only translate: body to record, record to the service, answer to JSON or to a stream. The lifespan ends the engines.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import Response

from onecard import __version__
from onecard.serving.body import read_record
from onecard.serving.description import add_description, body_of
from onecard.serving.error_answers import add_error_answers
from onecard.serving.leaving import EventStream, unless_client_leaves
from onecard.serving.openai_answers import chat_events, completion_events, whole_chat, whole_completion
from onecard.serving.service import Service
from onecard.wire.chat import ChatRequest, CompletionRequest
from onecard.wire.generate import GenerateAnswer, GenerateRequest


def create_app(service: Service) -> FastAPI:
    """The application around a service whose engines are loaded. Its shutdown closes the service."""

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
    app.include_router(_openai_routes(service))
    app.include_router(_own_routes(service))
    add_description(app, [ChatRequest, CompletionRequest, GenerateRequest])
    return app


def _openai_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models", summary="Every name a request may use")
    async def models() -> Response:
        return _json(service.models().model_dump())

    @router.get("/v1/models/{name}", summary="One of these names")
    async def model(name: str) -> Response:
        return _json(service.model(name).model_dump())

    @router.post("/v1/chat/completions", summary="Chat", openapi_extra=body_of(ChatRequest))
    async def chat(request: Request) -> Response:
        asked = await read_record(request, ChatRequest)
        answer = service.chat(asked)
        if asked.stream:
            await unless_client_leaves(request.receive, answer.begin())
            return EventStream(answer, chat_events(answer, usage=asked.includes_usage))
        whole = await unless_client_leaves(request.receive, whole_chat(answer))
        return _json(whole, answer.headers)

    @router.post("/v1/completions", summary="Complete a text", openapi_extra=body_of(CompletionRequest))
    async def complete(request: Request) -> Response:
        asked = await read_record(request, CompletionRequest)
        answer = service.complete(asked)
        if asked.stream:
            await unless_client_leaves(request.receive, answer.begin())
            return EventStream(answer, completion_events(answer, usage=asked.includes_usage))
        whole = await unless_client_leaves(request.receive, whole_completion(answer))
        return _json(whole, answer.headers)

    return router


def _own_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/generate", summary="Answer a prompt in a style", openapi_extra=body_of(GenerateRequest))
    async def generate(request: Request) -> Response:
        answer = service.generate(await read_record(request, GenerateRequest))
        whole = await unless_client_leaves(request.receive, answer.whole())
        said = GenerateAnswer(
            response=whole.text, style=answer.preset, tokens=whole.tokens, latency_s=round(whole.latency_s, 6)
        )
        return _json(said.model_dump(), answer.headers)

    @router.get("/health", summary="Who is served, and the memory it takes")
    async def health() -> Response:
        found = await asyncio.to_thread(service.health)  # counting memory may take a while
        return _json(found.model_dump(), status=200 if found.status == "ok" else 503)

    @router.get("/ready", summary="Whether requests are answered now")
    async def ready() -> Response:
        await asyncio.to_thread(service.check_ready)
        return _json({"ready": True})

    return router


def _json(body: Any, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    return Response(json.dumps(body, ensure_ascii=False), status, headers, media_type="application/json")
