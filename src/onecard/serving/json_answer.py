"""A JSON response. Text that no encoding can carry (a lone surrogate of a request) is escaped instead of failing."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response


def json_answer(body: Any, headers: dict[str, str] | None = None, status: int = 200) -> Response:
    """UTF-8 with the characters as they are, where they can be."""
    text = json.dumps(body, ensure_ascii=False)
    try:
        content = text.encode()
    except UnicodeEncodeError:
        content = json.dumps(body).encode()
    return Response(content, status, headers, media_type="application/json")
