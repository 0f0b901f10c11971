"""Property tests draw fresh examples on a developer's machine and the same ones in CI, where a verdict must be repeatable."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
