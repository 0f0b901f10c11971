"""The dashboard in a real Chromium, over a service whose engine is the deterministic one of tests/serving."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onecard.serving.listening import listen
from onecard.serving.running import Running, run_in_background
from onecard.serving.settings import Settings

HERE = Path(__file__).parent


def _module(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


driving = _module("onecard_tests_chromium", HERE / "chromium.py")
scenes = _module("onecard_tests_serving_scenes", HERE.parent / "serving" / "conftest.py")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    binary = driving.find_chromium()
    if binary is None:
        pytest.skip("no Chromium: apt install chromium-headless-shell, or name one in $CHROMIUM")
    browser = driving.Chromium(binary)
    yield browser
    browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A fresh page. It fails the test when a script of the page threw, or the browser blocked something or complained."""
    page = chromium.page()
    yield page
    thrown = page.happened("Runtime.exceptionThrown")
    said = [one["entry"]["text"] for one in page.happened("Log.entryAdded") if one["entry"]["source"] != "network"]
    page.close()
    assert (thrown, said) == ([], [])


@pytest.fixture
def fake() -> Any:
    """The engine of the service."""
    return scenes.FakeEngine()


@pytest.fixture
def service(fake: Any) -> Any:
    return scenes.service_of(fake)


@pytest.fixture
def served(service: Any) -> Callable[[Settings], AbstractContextManager[Running]]:
    """Opens the service over HTTP with these settings."""

    @contextmanager
    def opened(settings: Settings) -> Iterator[Running]:
        with run_in_background(service, listen("127.0.0.1", 0), grace_s=5, settings=settings) as running:
            yield running

    return opened
