"""/admin/adapters: what is in memory, and promote, roll back, load, unload. Scope `admin`. Routes only translate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from onecard.errors import Refusal
from onecard.serving.access import Access
from onecard.serving.body import read_record
from onecard.serving.description import body_of
from onecard.serving.json_answer import json_answer
from onecard.serving.residency import Change, Residency
from onecard.serving.service import Service
from onecard.wire.admin import AdapterRows, ChangeAnswer, LoadRequest, PromoteRequest, RollbackRequest


def admin_routes(service: Service, access: Access) -> APIRouter:
    """The routes of one service. Changes run beside the event loop: they wait for the engine."""
    router = APIRouter()

    async def changed(work: Callable[[], Change]) -> Response:
        change = await asyncio.to_thread(work)
        held = [part.bytes for part in service.health().memory.parts if part.name.startswith("adapter ")]
        said = ChangeAnswer(
            agent=change.agent,
            before=change.before,
            now=change.now,
            digest=change.digest,
            leaving=change.leaving,
            adapter_bytes=sum(held),
        )
        return json_answer(said.model_dump())

    @router.get("/admin/adapters", summary="Versions in the store and in memory")
    async def adapters(request: Request) -> Response:
        access.demand_admin(request)
        rows = await asyncio.to_thread(_residency(service).rows)
        return json_answer(AdapterRows(data=tuple(rows)).model_dump())

    @router.post(
        "/admin/adapters/promote", summary="Put a version into production", openapi_extra=body_of(PromoteRequest)
    )
    async def promote(request: Request) -> Response:
        access.demand_admin(request)
        asked = await read_record(request, PromoteRequest, service.limits)
        desk = _residency(service)
        return await changed(lambda: desk.promote(asked.agent, asked.version, reason=asked.reason, force=asked.force))

    @router.post(
        "/admin/adapters/rollback", summary="Take back the last promotion", openapi_extra=body_of(RollbackRequest)
    )
    async def rollback(request: Request) -> Response:
        access.demand_admin(request)
        asked = await read_record(request, RollbackRequest, service.limits)
        desk = _residency(service)
        return await changed(lambda: desk.rollback(asked.agent, reason=asked.reason))

    @router.post("/admin/adapters/load", summary="Answer as agent@version as well", openapi_extra=body_of(LoadRequest))
    async def load(request: Request) -> Response:
        access.demand_admin(request)
        asked = await read_record(request, LoadRequest, service.limits)
        desk = _residency(service)
        return await changed(lambda: desk.load(asked.agent, asked.version))

    @router.post("/admin/adapters/unload", summary="Take such a version out again", openapi_extra=body_of(LoadRequest))
    async def unload(request: Request) -> Response:
        access.demand_admin(request)
        asked = await read_record(request, LoadRequest, service.limits)
        desk = _residency(service)
        return await changed(lambda: desk.unload(asked.agent, asked.version))

    return router


def _residency(service: Service) -> Residency:
    if service.residency is None:
        raise Refusal("this service was started without a store: its adapters stay as they are")
    return service.residency
