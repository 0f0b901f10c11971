"""The JSON schema editors use describes every key."""

from __future__ import annotations

from onecard.fleet.schema import fleet_json_schema


def test_schema_refuses_unknown_keys_and_explains_the_known() -> None:
    schema = fleet_json_schema()
    assert schema["additionalProperties"] is False
    model = schema["$defs"]["ModelSpec"]["properties"]
    assert "tokens" in model["context"]["description"]
    bare = [
        f"{name}.{key}"
        for name, part in schema["$defs"].items()
        for key, value in part.get("properties", {}).items()
        if not value.get("description")
    ]
    assert len(bare) <= 40, bare
