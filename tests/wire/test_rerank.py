"""Re-ranking requests: two names for the texts, one of them given."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from onecard.wire.rerank import RerankRequest, ScoreRequest


def test_texts_come_as_text_or_as_objects_under_either_name() -> None:
    for name in ("documents", "candidates"):
        asked = RerankRequest.model_validate({"model": "a", "query": "q", name: ["x", {"text": "y"}]})
        assert asked.texts == ("x", "y")
    assert ScoreRequest.model_validate({"model": "a", "text_1": "q", "text_2": "x"}).texts == ("x",)
    assert ScoreRequest.model_validate({"model": "a", "text_1": "q", "text_2": ["x", "y"]}).texts == ("x", "y")


@pytest.mark.parametrize(
    "wrong",
    [{}, {"documents": []}, {"documents": ["x"], "candidates": ["x"]}, {"documents": [""]}, {"documents": [{"txt": "x"}]},
     {"documents": ["x"], "top_n": 0}, {"documents": ["x"], "topn": 1}, {"documents": ["x"], "query": ""}],
    ids=str,
)  # fmt: skip
def test_what_would_change_the_order_silently_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RerankRequest.model_validate({"model": "a", "query": "q", **wrong})
