"""Runs a service over HTTP until it is told to stop, and stops it gracefully: what is in flight may finish, for a while.

SIGTERM and Ctrl-C both mean "stop": new connections are refused, requests in flight have `grace_s` to finish, then the engines end and
what is left gets one clear error. A second Ctrl-C does not wait.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import uvicorn

from onecard.errors import EngineFailed
from onecard.serving.app import create_app
from onecard.serving.listening import url_of
from onecard.serving.service import Service
from onecard.serving.settings import Settings

log = logging.getLogger("onecard.serving")
GRACE_S = 30.0
KEEP_ALIVE_S = 75.0  # longer than clients keep idle connections, so that none is closed under a request


@dataclass(frozen=True)
class Running:
    """A service that answers at `url`."""

    url: str
    service: Service


class GracefulServer(uvicorn.Server):
    """uvicorn's server with our way of stopping."""

    def __init__(self, service: Service, grace_s: float, settings: Settings) -> None:
        super().__init__(_config(service, grace_s, settings))
        self._service = service
        self._grace_s = grace_s
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.stop()
        giving_up = asyncio.get_running_loop().call_later(self._grace_s, self._end_engines)
        try:
            await super().shutdown(sockets)
        finally:
            giving_up.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Remembers no signal: uvicorn would raise it again at the end, and a stop on request would look like a crash."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
            if self._loop is not None:  # from Python 3.12 on the stop waits for open connections: end them
                self._loop.call_soon_threadsafe(self._end_engines)
        self.should_exit = True

    def _end_engines(self) -> None:
        """In a thread: an engine may take a moment to end, and the answers it fails have to be sent meanwhile."""
        threading.Thread(target=self._service.close, name="onecard-end-engines", daemon=True).start()


def run(
    service: Service,
    listening: socket.socket,
    *,
    grace_s: float = GRACE_S,
    settings: Settings = Settings(),  # noqa: B008  # frozen
) -> bool:
    """Serves until SIGTERM or Ctrl-C; the service is closed afterwards. False when a second Ctrl-C cut it short.

    SIGHUP makes every agent answer with what the store says now; an agent whose new version is bad keeps its old one.
    """
    server = GracefulServer(service, grace_s, settings)
    try:
        with reloading_on_hangup(service, settings):
            server.run(sockets=[listening])
    finally:
        listening.close()
        service.close()
    return not server.force_exit


@contextmanager
def reloading_on_hangup(service: Service, settings: Settings) -> Iterator[None]:
    """Lets SIGHUP reload the adapters, where the system has that signal. Only in the main thread."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return

    def hang_up(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=reload, args=(service, settings), name="onecard-reload", daemon=True).start()

    before = signal.signal(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def reload(service: Service, settings: Settings) -> None:
    """Asks the store again and tells the log what came of it."""
    if service.residency is None:
        return
    changes, problems = service.residency.reload()
    told = [f"{change.agent}: {change.before} -> {change.now}" for change in changes]
    if settings.log is not None:
        settings.log.tell("reload", changes=told, problems=problems)
    for problem in problems:
        log.error("reload: %s", problem)


@contextmanager
def run_in_background(
    service: Service,
    listening: socket.socket,
    *,
    grace_s: float = GRACE_S,
    settings: Settings = Settings(),  # noqa: B008  # frozen
) -> Iterator[Running]:
    """Serves from a thread while the context is open; the service is closed afterwards."""
    server = GracefulServer(service, grace_s, settings)
    failure: list[BaseException] = []
    started = threading.Event()

    async def serve() -> None:
        startup = server.startup

        async def and_tell(sockets: Any = None) -> None:
            await startup(sockets)
            started.set()

        server.startup = and_tell  # type: ignore[method-assign]
        await server.serve(sockets=[listening])

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failure.append(error)
        finally:
            started.set()

    url = url_of(listening)
    thread = threading.Thread(target=work, name="onecard-service", daemon=True)
    thread.start()
    try:
        started.wait()
        if failure:
            raise EngineFailed(f"the service did not start ({failure[0]})", where=url) from failure[0]
        yield Running(url, service)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
        service.close()


def _config(service: Service, grace_s: float, settings: Settings) -> uvicorn.Config:
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    return uvicorn.Config(
        create_app(service, settings),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="critical",  # errors are logged once, by the application
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(KEEP_ALIVE_S),
        timeout_graceful_shutdown=int(grace_s) + 10,  # after the engines have ended; only a hung connection gets here
    )
