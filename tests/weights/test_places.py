"""The same folders as the Hugging Face libraries themselves."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from onecard.weights.places import hub_cache, user_cache

NAMES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.mark.parametrize(
    "settings", [{}, {"XDG_CACHE_HOME": "/x"}, {"HF_HOME": "~/h"}, {"HF_HOME": "/h", "HF_HUB_CACHE": "/c"}], ids=str
)
def test_the_cache_is_where_the_hub_library_has_it(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    pytest.importorskip("huggingface_hub")
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
    theirs = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert str(hub_cache()) == theirs.stdout.strip()


def test_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(user_cache()) == "/x"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert str(user_cache()) == "/home/ada/.cache"
