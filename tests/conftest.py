"""Property tests draw fresh examples on a developer's machine and the same ones in CI, where a verdict must be repeatable.

No test fails because a machine is slow: hypothesis' deadline and its check for slow data are off. What onecard remembers of a machine
(fleets, last use, hashes, calibrations) goes to a cache of the tests' own.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

_FONTS = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "matplotlib"
os.environ.setdefault("MPLCONFIGDIR", str(_FONTS))  # its list of fonts takes seconds to make anew
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="onecard-tests-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("untimed", **UNTIMED)
settings.register_profile("ci", derandomize=True, **UNTIMED)
settings.load_profile("ci" if os.environ.get("CI") else "untimed")
