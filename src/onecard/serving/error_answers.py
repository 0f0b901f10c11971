"""Every error leaves the service in OpenAI's shape: ours, the framework's, and the ones nobody expected."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onecard.errors import OnecardError
from onecard.serving.leaving import ClientLeft
from onecard.serving.openai_answers import INTERNAL
from onecard.wire.faults import ErrorBody, Fault, fault_of, type_of

log = logging.getLogger("onecard.serving")
CODES = {404: "route_not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_content_type"}


def error_answer(status: int, fault: Fault, headers: dict[str, str] | None = None) -> Response:
    """The answer with this fault. ASCII escapes: a message may quote what no encoding can carry."""
    body = json.dumps(ErrorBody(error=fault).model_dump())
    return Response(body, status, headers, media_type="application/json")


def add_error_answers(app: FastAPI) -> None:
    """Makes `app` answer every error in OpenAI's shape."""

    @app.exception_handler(OnecardError)
    async def ours(request: Request, error: OnecardError) -> Response:
        return error_answer(error.http_status, fault_of(error))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        code = CODES.get(error.status_code, "http_error")
        message = error.detail if error.detail != HTTPStatus(error.status_code).phrase else _explain(request, error)
        return error_answer(
            error.status_code,
            Fault(message=message, type=type_of(error.status_code), code=code),
            dict(error.headers or {}),
        )

    @app.exception_handler(RequestValidationError)
    async def of_the_framework(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return error_answer(
            400, Fault(message=f"{place}: {first['msg']}", type=type_of(400), code="invalid_request", param=place)
        )

    @app.exception_handler(ClientLeft)
    @app.exception_handler(ClientDisconnect)
    async def nobody_waits(request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # never seen: the connection is gone

    app.add_middleware(UnexpectedErrors)


class UnexpectedErrors:
    """The last resort: an error nobody thought of is logged and answered without its details.

    The framework's own last resort answers too, and then closes the connection under the client's next request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def noticing_the_beginning(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, receive, noticing_the_beginning)
        except Exception:
            if scope["type"] != "http" or began:
                raise
            log.exception("while a request to %s was answered", ascii(scope["path"]))
            await error_answer(500, INTERNAL)(scope, receive, send)


def _explain(request: Request, error: HTTPException) -> str:
    """A sentence where the framework gives only the status's name. The path is not quoted: it may hold anything."""
    if error.status_code == 404:
        return "no such route; GET /openapi.json lists them"
    if error.status_code == 405:
        return f"not with {request.method[:20]}; allowed: {(error.headers or {}).get('allow', 'see /openapi.json')}"
    return str(error.detail)
