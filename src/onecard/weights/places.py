"""Where models and caches live on this machine, by the same environment variables that the Hugging Face libraries read."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def hub_cache() -> Path:
    """Where downloads are kept: HF_HUB_CACHE, ONECARD_MODELS, HF_HOME/hub, or huggingface/hub in the user's cache."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "ONECARD_MODELS"):
        if cache := os.environ.get(name):
            return Path(cache).expanduser()
    home = Path(os.environ.get("HF_HOME") or user_cache() / "huggingface")
    return home.expanduser() / "hub"
