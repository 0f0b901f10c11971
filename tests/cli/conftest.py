"""The hub of tests/weights for the verbs that may ask one: tests are no package, so its fixtures are found by their path."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "onecard_tests_weights_conftest", Path(__file__).parents[1] / "weights" / "conftest.py"
)
assert _spec is not None and _spec.loader is not None
_weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_weights)

hub_server = _weights.hub_server
own_environment = _weights.own_environment
hub = _weights.hub
