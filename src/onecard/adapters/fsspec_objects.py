"""Objects at an fsspec URL. fsspec and the part for the URL's scheme are imported on first use only: the plain install has neither.

Where `create` is atomic, so that a store may be there:
- s3://, s3a:// (s3fs): PutObject with If-None-Match: *. AWS has it since August 2024; a server that ignores it is refused.
- gs://, gcs:// (gcsfs): an upload with ifGenerationMatch=0. az://, abfs:// (adlfs): one with overwrite=False. Both read in
  those libraries' sources and checked by the marker below, but run by us only on S3 and in memory.
- memory://: under a lock of this process; other processes have a memory of their own.
Every other filesystem is refused, because two who promote at once could both be told that they did.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from onecard.adapters.objects import StoredObject, said, signs
from onecard.errors import InputError, MissingPart, OnecardError

CHUNK_BYTES = 8 << 20
PARTS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "memory": "fsspec"}
MARKER = "onecard-store.json"
_ALLOWED = f"a local folder, or a URL with {', '.join(f'{scheme}://' for scheme in PARTS)}"
_S3_OPTIONS = {
    "use_listings_cache": False,
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 2, "mode": "standard"}},
}
_memory_lock = threading.Lock()


class FsspecObjects:
    """Safe for threads, and for a process that forks: each process opens a filesystem of its own."""

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if scheme not in PARTS:
            raise InputError(
                f"a store cannot be at {scheme}://, which does not promise that only one of two who create a file succeeds",
                where=url,
                allowed=_ALLOWED,
            )
        parts = rest.rstrip("/").split("/")
        if not all(re.fullmatch(r"[^\x00-\x1f?*#\[\]{}\\]+", part) and part not in (".", "..") for part in parts):
            raise InputError("not the URL of a store", where=url, allowed=f"{scheme}://bucket/prefix")
        self._url, self._scheme = f"{scheme}://{'/'.join(parts)}", scheme
        self._opened: tuple[int, Any] | None = None
        self._opening = threading.Lock()
        self._checked = False

    @property
    def url(self) -> str:
        return self._url

    def read(self, key: str) -> bytes | None:
        with self._errors(key):
            try:
                return bytes(self._fs.cat_file(self._path(key)))
            except FileNotFoundError as error:
                _raise_if_no_bucket(error)
                return None

    def read_all(self, keys: Sequence[str]) -> list[bytes | None]:
        if not keys:
            return []
        with self._errors():
            paths = [self._path(key) for key in keys]
            found = self._fs.cat(paths, on_error="return")
            return [_content(found[path]) for path in paths]

    def chunks(self, found: StoredObject) -> Iterator[bytes]:
        for start in range(0, found.size_bytes, CHUNK_BYTES):
            with self._errors(found.key):
                end = min(start + CHUNK_BYTES, found.size_bytes)
                piece = bytes(self._fs.cat_file(self._path(found.key), start=start, end=end))
            yield piece

    def create(self, key: str, content: bytes) -> bool:
        if not self._checked:
            self._check_create()
        return self._create(key, content)

    def put(self, key: str, content: bytes) -> None:
        with self._errors(key):
            self._fs.pipe_file(self._path(key), content)

    def upload(self, file: Path, key: str) -> None:
        if self._scheme == "memory":
            self.put(key, file.read_bytes())  # put_file would make folders there, which stay when they are empty
            return
        with self._errors(key):
            self._fs.put_file(str(file), self._path(key))

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with self._errors(key), suppress(FileNotFoundError):
                self._fs.rm_file(self._path(key))

    def names(self, folder: str) -> list[str]:
        with self._errors(folder):
            try:
                found = self._fs.ls(self._path(folder), detail=False)
            except FileNotFoundError as error:
                _raise_if_no_bucket(error)
                return []
        return sorted({name for path in found if (name := str(path).rstrip("/").rpartition("/")[2])})

    def below(self, folder: str) -> list[StoredObject]:
        start = self._path(folder)
        with self._errors(folder):
            try:
                found = self._fs.find(start, detail=True)
            except FileNotFoundError as error:
                _raise_if_no_bucket(error)
                return []
        root = self._path("")
        return [
            StoredObject(path[len(root) :].lstrip("/"), int(info.get("size") or 0), _modified_s(info))
            for path, info in sorted(found.items())
            if path.startswith(f"{start}/")
        ]

    def _create(self, key: str, content: bytes) -> bool:
        with self._errors(key):
            try:
                if self._scheme == "memory":
                    with _memory_lock:
                        self._fs.pipe_file(self._path(key), content, mode="create")
                else:
                    self._fs.pipe_file(self._path(key), content, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if signs(error) & {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
                    return False
                raise
        return True

    def _check_create(self) -> None:
        """Creates the store's marker twice: a server that lets both succeed would lose promotions, and is refused."""
        marker, content = MARKER, b'{"schema_version": 1}\n'
        if self._create(marker, content) and self._create(marker, content):
            raise InputError(
                "this server ignores If-None-Match, so two who promote at once could both be told that they did",
                where=self.url,
                next_step="use a server with conditional writes (AWS S3, MinIO, Ceph from Squid on), or a local folder",
            )
        self._checked = True

    @property
    def _fs(self) -> Any:
        with self._opening:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), self._open())
            return self._opened[1]

    def _open(self) -> Any:
        part = PARTS[self._scheme]
        try:
            import fsspec

            options = _S3_OPTIONS if part == "s3fs" else {}
            filesystem = fsspec.filesystem(self._scheme, skip_instance_cache=self._scheme != "memory", **options)
        except ImportError:
            extra = f"pip install {part}" if part in ("gcsfs", "adlfs") else "pip install 'onecard[store]'"
            raise MissingPart(f"{part} is not installed", where=self.url, next_step=extra) from None
        if part == "s3fs":
            filesystem.retries = 2  # its own tries, around botocore's: a dead host is told within seconds
        return filesystem

    def _path(self, key: str) -> str:
        root = self._url.partition("://")[2]
        path = f"{root}/{key}".rstrip("/") if key else root
        return f"/{path}" if self._scheme == "memory" else path

    @contextmanager
    def _errors(self, key: str = "") -> Iterator[None]:
        try:
            yield
        except OnecardError:
            raise
        except Exception as error:
            raise said(error, self.url, key) from error


def _raise_if_no_bucket(error: FileNotFoundError) -> None:
    if "NoSuchBucket" in signs(error):
        raise error


def _content(found: bytes | Exception) -> bytes | None:
    if isinstance(found, FileNotFoundError):
        _raise_if_no_bucket(found)
        return None
    if isinstance(found, Exception):
        raise found
    return bytes(found)


def _modified_s(info: dict[str, Any]) -> float | None:
    for key in ("LastModified", "mtime", "updated", "created"):
        at = info.get(key)
        if isinstance(at, datetime):
            return at.timestamp()
        if isinstance(at, int | float):
            return float(at)
    return None
