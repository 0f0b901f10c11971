"""/generate refuses what it does not know."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from onecard.wire.generate import GenerateRequest


@pytest.mark.parametrize("wrong", [{"styel": "terse"}, {"prompt": ""}, {"style": ""}, {"temperature": 1}], ids=str)
def test_misspelt_and_empty_fields_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GenerateRequest.model_validate({"prompt": "what?", **wrong})
