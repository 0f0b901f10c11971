"""Asking a hub for a file or a range of one: httpx with limits on time, size and where a redirect may lead.

The token goes to the endpoint only, never to the host of a redirect. What is read is what was asked for: no address that stands in a
file is ever followed, and an answer longer than its limit is left unread. Failures of the network are MachineErrors.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from onecard.errors import InputError, MachineError, OnecardError
from onecard.weights.hub_access import Access
from onecard.weights.hub_faults import WITHOUT_HUB, broke_off, fault, timed_out, too_slow, unreachable

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

MAX_REDIRECTS = 5
REQUEST_LIMIT_S = 120.0  # a server that drips keeps every single read within its timeout
HEADERS_LIMIT_BYTES = 256_000_000  # of all shards together
PAUSES_S = (0.3, 1.0)  # before each further try after a failure that may pass
_AGAIN = {500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Answer:
    """A whole small file. `commit` is the one the revision stood for, where the hub says so."""

    body: bytes
    commit: str | None


class _PassingFailure(Exception):
    """A failure that a second try may not meet; `error` is what it is if it stays."""

    def __init__(self, error: OnecardError) -> None:
        self.error = error


class _TooSlow(Exception):
    """A body that comes drop by drop."""


class HubSession:
    """A conversation with one hub; safe to use from several threads.

    with HubSession(access()) as hub:
        hub.file("org/name", "main", "config.json", 10_000_000)
    """

    def __init__(self, access: Access) -> None:
        self.access = access
        self._budget = HEADERS_LIMIT_BYTES
        self._lock = threading.Lock()

    def __enter__(self) -> HubSession:
        import httpx

        try:
            self._client = httpx.Client(follow_redirects=False, timeout=self.access.timeout_s)
        except (ImportError, ValueError, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise MachineError(
                f"no connection can be made with the proxy or certificates of this environment ({error})",
                where="HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE",
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def page(self, repo: str) -> str:
        """The repository's own page, for people."""
        return f"{self.access.endpoint}/{repo}"

    def file(self, repo: str, revision: str, file: str, limit_bytes: int) -> Answer:
        """A small file of a repository, whole. InputError when it is longer than the limit, UnknownName when it is not there."""
        return self._ask(self._resolve(repo, revision, file), repo, file, limit_bytes)

    def about(self, repo: str, revision: str, limit_bytes: int, *, blobs: bool = False) -> Answer:
        """The hub's own record of a repository, as JSON; `blobs`: with the size and hash of every file."""
        path = f"{self.access.endpoint}/api/models/{quote(repo)}/revision/{quote(revision, safe='')}"
        path += "?blobs=true" if blobs else ""
        return self._ask(path, repo, "its record", limit_bytes)

    def range(self, repo: str, revision: str, file: str, start: int, length: int) -> tuple[bytes, int | None]:
        """Up to `length` bytes of a file from `start` on (fewer only where it ends), and the file's size where the hub says it."""
        self._spend(length, repo, file)
        url = self._resolve(repo, revision, file)
        return _again(lambda: self._range_once(url, repo, file, start, length))

    def _resolve(self, repo: str, revision: str, file: str) -> str:
        return f"{self.access.endpoint}/{quote(repo)}/resolve/{quote(revision, safe='')}/{quote(file, safe='')}"

    def _ask(self, url: str, repo: str, file: str, limit_bytes: int) -> Answer:
        return _again(lambda: self._file_once(url, repo, file, limit_bytes))

    def _file_once(self, url: str, repo: str, file: str, limit_bytes: int) -> Answer:
        with self._open(url, repo, file, {}) as (response, commit):
            said = response.headers.get("content-length", "")
            body = b"" if said.isdigit() and int(said) > limit_bytes else _read(response, limit_bytes + 1)
            if (said.isdigit() and int(said) > limit_bytes) or len(body) > limit_bytes:
                raise InputError(
                    f"{file} is larger than {limit_bytes:,} bytes, so it is not read",
                    where=self.page(repo),
                    next_step="a file of this kind is some kilobytes: look at what it is",
                )
            return Answer(body, commit)

    def _range_once(self, url: str, repo: str, file: str, start: int, length: int) -> tuple[bytes, int | None]:
        wanted = {"Range": f"bytes={start}-{start + length - 1}"}
        with self._open(url, repo, file, wanted) as (response, _):
            if response.status_code == 206:
                return self._part(response, repo, file, start, length)
            if response.status_code == 416:
                return b"", None
            # A server without ranges sends the file from its start: what was asked for is taken out of it and the rest left.
            said = response.headers.get("content-length", "")
            body = _read(response, start + length)
            size = int(said) if said.isdigit() else None
            if len(body) < start + length and size is not None and len(body) < size:
                raise _PassingFailure(broke_off(self._where(repo, file)))
            return body[start:], size

    def _part(
        self, response: httpx.Response, repo: str, file: str, start: int, length: int
    ) -> tuple[bytes, int | None]:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
        if match is None or int(match[1]) != start or int(match[2]) >= start + length:
            raise InputError(
                "the hub answered with another part of the file than was asked for",
                where=self._where(repo, file),
                next_step=f"a proxy may stand between; {WITHOUT_HUB}",
            )
        size = None if match[3] == "*" else int(match[3])
        expected = int(match[2]) - start + 1
        body = _read(response, expected)
        if len(body) < expected or (size is not None and expected < min(length, size - start)):
            raise _PassingFailure(broke_off(self._where(repo, file)))
        return body, size

    @contextmanager
    def _open(
        self, url: str, repo: str, file: str, headers: dict[str, str]
    ) -> Iterator[tuple[httpx.Response, str | None]]:
        """The answer at the end of the redirects, its body unread, and the commit that the hub named on the way."""
        import httpx

        commit: str | None = None
        try:
            for _ in range(MAX_REDIRECTS + 1):
                sent = {"Accept-Encoding": "identity", "User-Agent": "onecard", **headers, **self._authority(url)}
                with self._client.stream("GET", url, headers=sent) as response:
                    commit = commit or _commit(response.headers.get("x-repo-commit"))
                    if response.has_redirect_location:
                        url = self._next(url, response.headers["location"], repo, file)
                        continue
                    if response.status_code >= 400 and response.status_code != 416:
                        self._fail(response, url, repo, file)
                    yield response, commit
                    return
        except _TooSlow:
            raise too_slow(REQUEST_LIMIT_S, self._where(repo, file)) from None
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            raise _PassingFailure(broke_off(self._where(repo, file))) from None
        except httpx.TimeoutException:
            raise timed_out(urlsplit(url).netloc, self.access.timeout_s, self._where(repo, file)) from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise unreachable(urlsplit(url).netloc, str(error), self._where(repo, file)) from None
        raise InputError(
            f"the hub redirects more than {MAX_REDIRECTS} times",
            where=self._where(repo, file),
            next_step=WITHOUT_HUB,
        )

    def _authority(self, url: str) -> dict[str, str]:
        """The token, for the endpoint itself and nobody else."""
        if self.access.token and _origin(url) == _origin(self.access.endpoint):
            return {"Authorization": f"Bearer {self.access.token}"}
        return {}

    def _next(self, url: str, location: str, repo: str, file: str) -> str:
        """Where a redirect leads: by http or https, and never from https back to http."""
        try:
            target = urljoin(url, location)
            scheme, host, _ = _origin(target)
            fine = bool(host) and (scheme == "https" or (scheme == "http" and urlsplit(url).scheme == "http"))
        except ValueError:
            fine = False
        if not fine:
            raise InputError(
                "the hub redirects to an address that is not https",
                where=self._where(repo, file),
                next_step=f"nothing was asked there; {WITHOUT_HUB}",
            )
        return target

    def _fail(self, response: httpx.Response, url: str, repo: str, file: str) -> None:
        status = response.status_code
        if _origin(url) == _origin(self.access.endpoint):
            error = fault(
                status, response.headers, repo=repo, file=file, page=self.page(repo), has_token=bool(self.access.token)
            )
        else:
            error = MachineError(
                f"the hub's file store answers {status}", where=self._where(repo, file), next_step="try again"
            )
        raise _PassingFailure(error) if status in _AGAIN else error

    def _where(self, repo: str, file: str) -> str:
        return f"{self.page(repo)}: {file}"

    def _spend(self, length: int, repo: str, file: str) -> None:
        with self._lock:
            self._budget -= length
            if self._budget < 0:
                raise InputError(
                    f"the headers of {repo} together are over {HEADERS_LIMIT_BYTES:,} bytes",
                    where=self._where(repo, file),
                    next_step="no checkpoint needs that: look at what it is",
                )


def _again(ask: Callable[[], T]) -> T:
    """Asks once, and again after a pause for each failure that may pass."""
    for pause_s in PAUSES_S:
        try:
            return ask()
        except _PassingFailure:
            time.sleep(pause_s)
    try:
        return ask()
    except _PassingFailure as failure:
        raise failure.error from None


def _read(response: httpx.Response, limit_bytes: int) -> bytes:
    """The body's first bytes up to a limit; the rest stays unread. _TooSlow when it takes too long."""
    ends_s = time.monotonic() + REQUEST_LIMIT_S
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) >= limit_bytes:
            break
        if time.monotonic() > ends_s:
            raise _TooSlow
    return bytes(body[:limit_bytes])


def _commit(said: str | None) -> str | None:
    return said if said and _COMMIT.fullmatch(said) else None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
