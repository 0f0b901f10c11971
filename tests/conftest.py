"""Property tests draw fresh examples on a developer's machine and the same ones in CI, where a verdict must be repeatable.

No test fails because a machine is slow: hypothesis' deadline and its check for slow data are off.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("untimed", **UNTIMED)
settings.register_profile("ci", derandomize=True, **UNTIMED)
settings.load_profile("ci" if os.environ.get("CI") else "untimed")
