"""huggingface_hub as fetching uses it: its `http_get` moves bytes, and the waiting and the words are ours.

By itself it waits as long as a server asks, five times over, without a word, and loses up to 10 MB at every break.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from onecard.errors import MissingPart

PIECE_BYTES = 256 << 10  # huggingface_hub's own 10 MB would lose up to as much at every break


class Refused(Exception):
    """A server answered 400 or above."""

    def __init__(self, status: int, headers: Any, host: str) -> None:
        super().__init__(f"{host} answers {status}")
        self.status, self.headers, self.host = status, headers, host


# Fetches of one process share the library's settings: the first changes them, the last puts them back.
_CHANGING = threading.Lock()
_open = 0
_restore: Callable[[], None] = lambda: None  # noqa: E731


@contextmanager
def opened_hub(timeout_s: float) -> Iterator[ModuleType]:
    """huggingface_hub, made to answer within seconds while the context is open: refusals come back at once, breaks lose little.

    Its settings are the process's, so they are put back as they were.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.file_download")
        http: Any = importlib.import_module("huggingface_hub.utils._http")
        constants: Any = importlib.import_module("huggingface_hub.constants")
    except ImportError as error:
        raise MissingPart(
            f"huggingface_hub is not installed ({error})",
            next_step="pip install 'onecard[fetch]'",
        ) from None
    global _restore, _open
    with _CHANGING:
        if not _open:
            _restore = _settings_changed(hub, http, constants, timeout_s)
        _open += 1
    try:
        yield hub
    finally:
        with _CHANGING:
            _open -= 1
            if not _open:
                _restore()


def _settings_changed(hub: Any, http: Any, constants: Any, timeout_s: float) -> Callable[[], None]:
    """Changes the library's settings and gives what puts them back."""
    log = logging.getLogger("huggingface_hub")
    level, wait, piece, factory = (
        log.level,
        constants.HF_HUB_DOWNLOAD_TIMEOUT,
        constants.DOWNLOAD_CHUNK_SIZE,
        http._GLOBAL_CLIENT_FACTORY,
    )
    client = type(hub.get_session())
    hub.set_client_factory(
        lambda: client(event_hooks={"response": [_refuse]}, follow_redirects=True, timeout=timeout_s)
    )
    log.setLevel(logging.CRITICAL)
    constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.DOWNLOAD_CHUNK_SIZE = timeout_s, PIECE_BYTES

    def restore() -> None:
        constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.DOWNLOAD_CHUNK_SIZE = wait, piece
        log.setLevel(level)
        hub.set_client_factory(factory)

    return restore


def _refuse(response: Any) -> None:
    """A hook on every answer; the client calls it before the library sees one."""
    if response.status_code >= 400:
        raise Refused(response.status_code, response.headers, urlsplit(str(response.request.url)).netloc)
