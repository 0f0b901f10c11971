"""What a manifest must say, and that those written before read as they did."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
from pydantic import ValidationError

from onecard.adapters.manifest import Manifest


def test_a_manifest_of_before_origins_reads_as_trained_here(makes: ModuleType) -> None:
    written = json.loads(makes.a_manifest().model_dump_json())
    del written["origin"]
    manifest = Manifest.model_validate(written)
    assert manifest.trained_here and manifest.run.steps == 3 and manifest.schema_version == 1


@pytest.mark.parametrize("missing", ["training", "data_sha256"])
def test_what_a_training_knows_is_missing_only_where_there_was_none(makes: ModuleType, missing: str) -> None:
    written = json.loads(makes.a_manifest().model_dump_json())
    del written[missing]
    for origin in (None, {"address": "writer/style@v0001", "trained_here": True}):
        with pytest.raises(ValidationError, match=f"{missing} missing, and origin does not say"):
            Manifest.model_validate(written | {"origin": origin})
    elsewhere = {"address": "a folder", "trained_here": False, "unknown": [missing]}
    assert not Manifest.model_validate(written | {"origin": elsewhere}).trained_here
