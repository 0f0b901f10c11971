"""The OpenAPI description of routes that read their bodies themselves: GET /openapi.json, for people, clients and fuzzers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

PLACE = "#/components/schemas/{model}"


def body_of(shape: type[BaseModel]) -> dict[str, Any]:
    """What a route adds to its own description: a required JSON body of this shape."""
    schema = {"$ref": PLACE.format(model=shape.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def add_description(app: FastAPI, shapes: Sequence[type[BaseModel]]) -> None:
    """Makes `app` describe itself with the schemas of `shapes`, built once when first asked for."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            described = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, schemas = models_json_schema([(shape, "validation") for shape in shapes], ref_template=PLACE)
            described.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
            app.openapi_schema = described
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # FastAPI's documented way
