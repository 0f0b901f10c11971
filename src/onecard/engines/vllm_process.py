"""vLLM's OpenAI server as a managed child: started, watched, started again after a crash, drained, and never left behind.

It listens on loopback under a key of its own, in a temporary folder of its own. While it is not ready every use is an EngineFailed
that says what happened and what follows. Who kills what when a side dies stands in `vllm_guard.py`.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import httpx

from onecard.engines import vllm_guard
from onecard.engines.vllm_log import last_line, last_words, tail
from onecard.engines.vllm_restarts import Restarts
from onecard.errors import EngineFailed, MissingPart, OnecardError

log = logging.getLogger("onecard.engines.vllm")

SERVER = "vllm.entrypoints.openai.api_server"
START_S = 600.0  # a large checkpoint is read, compiled and captured in minutes
GRACE_S = 20.0
State = Literal["starting", "ready", "restarting", "failed", "stopped"]


class VllmProcess:
    """One server. `command` is what is run before the arguments; `arguments` and `environment` are asked for at every start.

    `on_restart` is called when a restarted server answers, before it counts as ready.
    """

    def __init__(
        self,
        command: Sequence[str],
        arguments: Callable[[str, int, float], list[str]],
        environment: Callable[[str, Path], dict[str, str]],
        *,
        where: str,
        start_s: float = START_S,
        grace_s: float = GRACE_S,
        restarts: Restarts | None = None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._command, self._arguments, self._environment = tuple(command), arguments, environment
        self._where, self._start_s, self._grace_s = where, start_s, grace_s
        self._restarts, self._on_restart = restarts or Restarts(), on_restart
        self.key = secrets.token_urlsafe(32)
        self.name = f"base-{secrets.token_hex(6)}"  # shows that the server which answers is this one
        self.url = ""
        self.started_count = 0
        self._folder = Path(tempfile.mkdtemp(prefix="onecard-vllm-"))
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._ended = threading.Event()
        self._stop = threading.Event()
        self._state: State = "starting"
        self._why = "it is starting"
        self._ends_s: tuple[float, ...] = ()
        self._changing = threading.Lock()
        self._watcher = threading.Thread(target=self._watch, name="onecard-vllm", daemon=True)

    @property
    def state(self) -> State:
        return self._state

    @property
    def log_file(self) -> Path:
        return self._folder / "vllm.log"

    @property
    def pid(self) -> int | None:
        """The server's process, which leads the group of everything it started."""
        return self._pid

    @property
    def folder(self) -> Path:
        """The temporary folder that goes with it."""
        return self._folder

    def start(self) -> None:
        """Starts it and waits until it answers; EngineFailed with how far it came, MissingPart without an interpreter."""
        try:
            self._launch()
            self._wait_until_ready()
        except BaseException:
            self.stop(drain=False)
            raise
        self._state, self._why = "ready", ""
        self._watcher.start()

    def check(self) -> None:
        """EngineFailed unless it can be asked now."""
        if self._state != "ready":
            raise self.failure()

    def failure(self) -> EngineFailed:
        """Why it cannot be asked."""
        following = {
            "restarting": "ask again shortly", "starting": "ask again shortly", "failed": "see why, then start the service again",
        }.get(self._state)  # fmt: skip
        return EngineFailed(self._why or "vLLM does not answer", where=self._where, next_step=following)

    def restart(self, why: str) -> None:
        """Kills it now; it comes back as after a crash."""
        log.warning("vLLM of %s is restarted: %s", self._where, why)
        self._kill()

    def stop(self, *, drain: bool = True, idle: Callable[[], bool] = lambda: False) -> None:
        """Ends it; with `drain` it takes no new requests and finishes those in flight, until `idle` or for `grace_s`. Safe to call twice.

        `idle` ends the waiting because a draining vLLM also waits for connections that are only kept open.
        """
        self._stop.set()
        with self._changing:
            if self._state != "failed":
                self._state, self._why = "stopped", "the engine is closed"
            guard = self._guard
            if guard is not None and guard.stdin is not None:
                with suppress(OSError, ValueError):
                    if drain:
                        guard.stdin.write(b"t")
                        guard.stdin.flush()
                        end_s = time.monotonic() + self._grace_s + 5
                        while guard.poll() is None and not idle() and time.monotonic() < end_s:
                            time.sleep(0.05)
                with suppress(OSError, ValueError):
                    guard.stdin.close()
                with suppress(subprocess.TimeoutExpired):
                    guard.wait(15)
            self._sweep()
        if self._watcher.is_alive() and self._watcher is not threading.current_thread():
            self._watcher.join(5)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self) -> None:
        """A new server under a new guard, on a port that was free a moment ago."""
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        scratch = self._folder / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        command = [*self._command, *self._arguments(self.name, port, self._grace_s)]
        guarded = [sys.executable, "-I", vllm_guard.__file__, str(self._folder), str(self._grace_s + 2), *command]
        try:
            guard = subprocess.Popen(
                guarded, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
                env=self._environment(self.key, scratch),
            )  # fmt: skip
        except OSError as error:
            raise MissingPart(f"vLLM cannot be started: {error}", where=self._where) from error
        assert guard.stdout is not None
        first = guard.stdout.readline().decode().split()
        if len(first) != 2 or first[0] != "started":
            guard.wait()
            raise MissingPart(f"{self._command[0]} cannot be run", where="ONECARD_VLLM_PYTHON")
        self._guard, self._pid = guard, int(first[1])
        self._ended = threading.Event()
        self.started_count += 1
        threading.Thread(target=_hear, args=(guard, self._ended), daemon=True).start()

    def _wait_until_ready(self) -> None:
        """Until the server lists our name under our key; EngineFailed when it ends or takes longer than `start_s`."""
        end_s = time.monotonic() + self._start_s
        with httpx.Client(trust_env=False, timeout=5, headers={"authorization": f"Bearer {self.key}"}) as client:
            while not self._answers(client):
                if self._ended.wait(0.1):
                    raise EngineFailed(
                        f"vLLM ended while it started: {last_words(tail(self.log_file))}", where=self._where
                    )
                if self._stop.is_set():
                    raise EngineFailed("the engine is closed", where=self._where)
                if time.monotonic() > end_s:
                    raise EngineFailed(
                        f"vLLM did not answer within {self._start_s:g} s; it came as far as: {last_line(tail(self.log_file))}",
                        where=self._where,
                    )

    def _answers(self, client: httpx.Client) -> bool:
        try:
            if client.get(f"{self.url}/health").status_code != 200:
                return False
            listed = client.get(f"{self.url}/v1/models")
            return listed.status_code == 200 and self.name in listed.text
        except httpx.HTTPError:
            return False

    def _watch(self) -> None:
        """Waits for the end of the server, and starts it again as long as it is worth it."""
        while True:
            self._ended.wait()
            if self._stop.is_set():
                return
            words = last_words(tail(self.log_file))
            self._ends_s += (time.monotonic(),)
            if (delay_s := self._restarts.delay_s(self._ends_s)) is None:
                self._give_up(words)
                return
            self._state, self._why = "restarting", f"vLLM ended ({words}) and is started again"
            log.error("vLLM of %s ended: %s; it is started again in %.1f s", self._where, words, delay_s)
            if self._stop.wait(delay_s) or not self._again():
                return

    def _again(self) -> bool:
        """One restart. False when it was stopped meanwhile; a start that fails counts as another end."""
        with self._changing:
            if self._stop.is_set():
                return False
            self._sweep()
            try:
                self._launch()
            except OnecardError as error:
                self._why = error.problem
                self._ended.set()
                return True
        try:
            self._wait_until_ready()
            self._on_restart()
        except OnecardError as error:
            self._why = f"vLLM did not come back: {error.problem}"
            self._kill()
            return True
        if not self._stop.is_set():
            self._state, self._why = "ready", ""
            log.warning("vLLM of %s answers again", self._where)
        return True

    def _give_up(self, words: str) -> None:
        self._state = "failed"
        self._why = f"vLLM ended {len(self._ends_s)} times and is not started again; the last time: {words}"
        log.error("%s", self._why)

    def _kill(self) -> None:
        """Ends the server through its guard."""
        guard = self._guard
        if guard is not None and guard.stdin is not None:
            with suppress(OSError, ValueError):
                guard.stdin.close()

    def _sweep(self) -> None:
        """What a killed guard left: the group of the server."""
        if self._pid is not None and self._guard is not None and self._guard.poll() not in (0, None):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signal.SIGKILL)


def _hear(guard: subprocess.Popen[bytes], ended: threading.Event) -> None:
    """Sets `ended` when the guard says so or is gone itself."""
    assert guard.stdout is not None
    with suppress(OSError, ValueError):
        guard.stdout.read()
    guard.wait()
    ended.set()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
