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
from onecard.serving.access import Access
from onecard.serving.leaving import ClientLeft
from onecard.serving.observing import observation
from onecard.serving.openai_answers import INTERNAL
from onecard.wire.faults import ErrorBody, Fault, fault_of, type_of

log = logging.getLogger("onecard.serving")
CODES = {
    401: "invalid_api_key",
    403: "permission_denied",
    404: "route_not_found",
    405: "method_not_allowed",
    408: "body_too_slow",
    413: "body_too_large",
    415: "unsupported_content_type",
}


def error_answer(status: int, fault: Fault, headers: dict[str, str] | None = None) -> Response:
    """The answer with this fault. ASCII escapes: a message may quote what no encoding can carry."""
    body = json.dumps(ErrorBody(error=fault).model_dump())
    return Response(body, status, headers, media_type="application/json")


def add_error_answers(app: FastAPI) -> None:
    """Makes `app` answer every error in OpenAI's shape."""

    @app.exception_handler(OnecardError)
    async def ours(request: Request, error: OnecardError) -> Response:
        return _noted(request, error.http_status, fault_of(error))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        code = CODES.get(error.status_code, "http_error")
        message = error.detail if error.detail != HTTPStatus(error.status_code).phrase else _explain(request, error)
        fault = Fault(message=message, type=type_of(error.status_code), code=code)
        return _noted(request, error.status_code, fault, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def of_the_framework(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        fault = Fault(message=f"{place}: {first['msg']}", type=type_of(400), code="invalid_request", param=place)
        return _noted(request, 400, fault)

    @app.exception_handler(ClientLeft)
    @app.exception_handler(ClientDisconnect)
    async def nobody_waits(request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # never seen: the connection is gone

    app.add_middleware(UnexpectedErrors)


def add_access(app: FastAPI, access: Access) -> None:
    """Makes `app` look at the key before anything else of a request, the body included."""
    app.add_middleware(KeysFirst, access=access)


class KeysFirst:
    """Answers 401 itself: what stands before the framework has none of its error handlers."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            try:
                self._access.check_key(request)
            except HTTPException as error:
                fault = Fault(message=error.detail, type=type_of(error.status_code), code=CODES[error.status_code])
                answer = _noted(request, error.status_code, fault, dict(error.headers or {}))
                await answer(scope, receive, send)
                return
            except (
                OnecardError
            ) as error:  # the file of keys cannot be read any more: nobody gets in, and the log says why
                log.error("keys: %s", error)
                fault = Fault(message="the keys cannot be read", type=type_of(503), code="machine_error")
                await _noted(request, 503, fault)(scope, receive, send)
                return
        await self._app(scope, receive, send)


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
            await _noted(Request(scope), 500, INTERNAL)(scope, receive, send)


def _noted(request: Request, status: int, fault: Fault, headers: dict[str, str] | None = None) -> Response:
    """The answer with this fault, whose code is what the counts and the log call the refusal."""
    observation(request).code = None if fault.code is None else str(fault.code)
    return error_answer(status, fault, headers)


def _explain(request: Request, error: HTTPException) -> str:
    """A sentence where the framework gives only the status's name. The path is not quoted: it may hold anything."""
    if error.status_code == 404:
        return "no such route; GET /openapi.json lists them"
    if error.status_code == 405:
        return f"not with {request.method[:20]}; allowed: {(error.headers or {}).get('allow', 'see /openapi.json')}"
    return str(error.detail)
