"""One file from the hub to a whole blob: resumed where it broke off, hashed, and only then given its name.

huggingface_hub 2.4 moves the bytes (`http_get`, with ranges). Its hf_hub_download is not used: it downloads to a file of a random name
and deletes it when it fails, so nothing of a kill is resumed, and it takes a blob for whole by its name. Its other protocol (hf-xet) is
not used either: one way to fetch is one way to resume and to check, on every hub.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from onecard.errors import InputError, MachineError, OnecardError
from onecard.weights.fetch import FileState, Listing, RemoteFile, wait_before_next
from onecard.weights.fetch_cache import RepoPlace, digest_of, discard, publish
from onecard.weights.fetch_faults import disk_fault, network_fault, refusal_fault
from onecard.weights.fetch_library import Refused
from onecard.weights.hub_access import Access

PLAIN_LIMIT_BYTES = 50 * 10**9  # huggingface.co hands larger files out by hf-xet only


class Stopped(Exception):
    """Somebody asked to stop; what has come stays on the disk."""


@dataclass
class Track:
    """What is to be seen of one file while it is fetched."""

    listing: Listing
    file: RemoteFile
    done_bytes: int = 0
    phase: str = "waiting"  # waiting, fetching, checking, whole
    note: str = ""


@dataclass(frozen=True)
class Courier:
    """Fetches files by one access into one cache. `stop` ends every wait and every transfer within a piece."""

    by: Access
    cache: Path
    stop: threading.Event
    hub: ModuleType

    def fetch(self, one: FileState, track: Track) -> None:
        """A file that is not whole becomes a blob. MachineError, DiskFull or InputError when it cannot; Stopped when asked to."""
        place = RepoPlace(self.cache, track.listing.repo)
        try:
            place.lock(one.file).parent.mkdir(parents=True, exist_ok=True)
            place.partial(one.file).parent.mkdir(parents=True, exist_ok=True)
            with self._held(place.lock(one.file), track):
                if not self._came_meanwhile(place, one, track):
                    discard(place, one, track.listing.commit)
                    self._bring(place, one.file, track)
                track.done_bytes, track.phase = one.file.size, "whole"
        except OnecardError:
            raise
        except OSError as error:
            raise disk_fault(error, self.cache) from None

    def _held(self, lock: Path, track: Track) -> Any:
        """The blob's lock; waits, visibly, for another process that fetches it."""
        from filelock import FileLock, Timeout

        held = FileLock(str(lock))
        while True:
            try:
                return held.acquire(timeout=0.5)
            except Timeout:
                track.note = "another process fetches it"
                if self.stop.is_set():
                    raise Stopped from None

    def _came_meanwhile(self, place: RepoPlace, one: FileState, track: Track) -> bool:
        """Whether another process, or a second name of the same content, brought it since the plan was made."""
        blob = place.blob(one.file)
        if one.state == "damaged" or not blob.is_file() or blob.stat().st_size != one.file.size:
            return False
        return self._digest(blob, one.file, track) == one.file.digest

    def _bring(self, place: RepoPlace, file: RemoteFile, track: Track) -> None:
        """Downloads and checks; what came wrong is thrown away and asked for once more from its first byte."""
        partial = place.partial(file)
        for again in (True, False):
            resumed = partial.is_file() and partial.stat().st_size > 0
            self._download(partial, file, track)
            if self._digest(partial, file, track) == file.digest:
                publish(place, file)
                return
            partial.unlink()
            track.note = (
                "what was there did not belong to it: fetched again" if resumed else "came damaged: fetched again"
            )
            if not again:
                break
        raise MachineError(
            "what came is not what the hub lists: its hash differs, twice",
            where=_where(self.by, track),
            next_step="it was thrown away; a proxy may change files on their way: try another network, or another endpoint",
        )

    def _download(self, partial: Path, file: RemoteFile, track: Track) -> None:
        """The missing bytes, over as many breaks as it takes, as long as something comes between two of them."""
        _check_length(file, self.by, track)
        tries = 0
        with partial.open("ab") as writer:
            if writer.tell() > file.size:
                writer.truncate(0)
            while True:
                writer.seek(0, 2)
                before = writer.tell()
                track.done_bytes, track.phase = before, "fetching"
                if before >= file.size:
                    return
                failed = self._attempt(writer, before, file, track)
                writer.flush()
                writer.seek(0, 2)
                tries = 0 if writer.tell() > before else tries
                if failed is None:
                    continue
                wait_s = wait_before_next(failed.status, failed.retry_after_s, tries)
                if wait_s is None:
                    raise failed.error
                tries += 1
                track.note = f"{failed.error.problem}: again in {wait_s:g} s"
                if self.stop.wait(wait_s):
                    raise Stopped

    def _attempt(self, writer: Any, before: int, file: RemoteFile, track: Track) -> _Failure | None:
        """One request through huggingface_hub. What may pass comes back as a failure, what may not is raised."""
        where = _where(self.by, track)
        http = importlib.import_module(type(self.hub.get_session()).__module__.partition(".")[0])
        url = self.hub.hf_hub_url(
            track.listing.repo, file.name, revision=track.listing.commit, endpoint=self.by.endpoint
        )
        try:
            self.hub.file_download.http_get(
                url,
                writer,
                resume_size=before,
                headers=_headers(self.by),
                expected_size=file.size,
                displayed_filename=file.name,
                tqdm_class=_counter(self.stop, track),
            )
        except Stopped:
            writer.flush()
            raise
        except Refused as refused:
            if refused.status == 416:
                writer.truncate(0)
                return _Failure(0, None, network_fault("the hub does not know the range that was asked for", where))
            return _Failure(
                refused.status,
                _retry_after(refused.headers),
                refusal_fault(refused, self.by, track.listing.repo, file.name),
            )
        except http.TimeoutException:
            raise network_fault(
                f"no byte came within {self.by.timeout_s:g} s, several times",
                where,
                "HF_HUB_DOWNLOAD_TIMEOUT=60 waits longer",
            ) from None
        except http.ConnectError as error:
            raise network_fault(
                f"{urlsplit(url).netloc} cannot be reached ({error})",
                where,
                "check the network, HF_ENDPOINT and HTTPS_PROXY",
            ) from None
        except (http.HTTPError, http.StreamError) as error:
            return _Failure(0, None, network_fault(f"the connection broke ({error or type(error).__name__})", where))
        except OSError as error:
            if error.errno is not None:
                raise
            return _Failure(
                0, None, network_fault("the answer broke off before its end", where)
            )  # http_get: "Consistency check failed"
        return None

    def _digest(self, path: Path, file: RemoteFile, track: Track) -> str:
        track.phase, track.done_bytes = "checking", 0

        def moved(count: int) -> None:
            track.done_bytes += count
            if self.stop.is_set():
                raise Stopped

        return digest_of(path, file.digest, moved)


@dataclass(frozen=True)
class _Failure:
    """A request that brought no whole file. `status` 0: the connection broke."""

    status: int
    retry_after_s: float | None
    error: OnecardError


def _headers(by: Access) -> dict[str, str]:
    """The token goes to the endpoint; the client drops it when a redirect leads to another host."""
    authority = {"authorization": f"Bearer {by.token}"} if by.token else {}
    return {"accept-encoding": "identity", "user-agent": "onecard", **authority}


def _counter(stop: threading.Event, track: Track) -> Callable[..., Any]:
    """What http_get takes for a progress bar: counts bytes, and ends the transfer when asked to."""

    class Counter:
        def __init__(self, *, initial: int = 0, **_: Any) -> None:
            track.done_bytes, track.note = initial, ""

        def __enter__(self) -> Counter:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: int) -> None:
            track.done_bytes += count
            if stop.is_set():
                raise Stopped

    return Counter


def _retry_after(headers: Any) -> float | None:
    said = str(headers.get("retry-after", "")).strip()
    return float(said) if said.isdigit() and len(said) < 10 else None


def _check_length(file: RemoteFile, by: Access, track: Track) -> None:
    if file.size > PLAIN_LIMIT_BYTES and urlsplit(by.endpoint).hostname == "huggingface.co":
        raise InputError(
            f"{file.size:,} bytes, and the hub hands files above {PLAIN_LIMIT_BYTES:,} out by hf-xet only",
            where=_where(by, track),
            next_step=f"`hf download {track.listing.repo}` fetches it into the same cache; then run this again, which checks it",
        )


def _where(by: Access, track: Track) -> str:
    return f"{by.endpoint}/{track.listing.repo}: {track.file.name}"
