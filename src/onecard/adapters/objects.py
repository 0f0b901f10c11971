"""An object store as the adapter store needs it, and what its errors mean to a person.

One promise carries everything: `create` makes an object whole or not at all, and of several who create the same key exactly one
is told True. Log, aliases, version numbers and their agreement are built on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from onecard.errors import DiskFull, InputError, MachineError, OnecardError


@dataclass(frozen=True)
class StoredObject:
    """One object. `modified_s` is seconds since 1970 by the clock of the store, None where it tells none."""

    key: str
    size_bytes: int
    modified_s: float | None


class Objects(Protocol):
    """Keys are relative to the store, parts joined by "/". Everything raises OnecardError for what a person can mend."""

    @property
    def url(self) -> str:
        """Where the store is, for messages."""

    def read(self, key: str) -> bytes | None:
        """The content, or None when there is no such object."""

    def read_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """What `read` gives for each key, together where the store can."""

    def chunks(self, found: StoredObject) -> Iterator[bytes]:
        """The content in pieces that fit into memory."""

    def create(self, key: str, content: bytes) -> bool:
        """Makes a new object; False, and nothing changed, when there is one or somebody else makes it at this moment."""

    def put(self, key: str, content: bytes) -> None:
        """Makes or replaces an object at once; of two who do, the last one stays."""

    def upload(self, file: Path, key: str) -> None:
        """Makes an object of a local file; it is there whole or not at all."""

    def delete(self, keys: Sequence[str]) -> None:
        """Deletes one after the other; what is not there is passed over."""

    def names(self, folder: str) -> list[str]:
        """Names directly below a folder, objects and folders alike; empty when there is none."""

    def below(self, folder: str) -> list[StoredObject]:
        """Every object below a folder."""


_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound", "TokenRetrievalError",
    "SSOTokenLoadError", "UnauthorizedSSOTokenError", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
}  # fmt: skip
_TIMES_OUT = {"ConnectTimeoutError", "ReadTimeoutError", "FSTimeoutError", "TimeoutError", "ServerTimeoutError"}
_NO_HOST = {
    "EndpointConnectionError", "ConnectionClosedError", "HTTPClientError", "ClientConnectorError", "ConnectionError",
    "ConnectionRefusedError", "ClientConnectorDNSError", "gaierror", "ProxyConnectionError", "SSLError",
}  # fmt: skip
_DENIED = {"PermissionError", "AccessDenied", "AllAccessDisabled", "AccountProblem", "403"}
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName", "ParamValidationError"}
_NO_ROOM = {"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded", "507"}


def signs(error: BaseException) -> set[str]:
    """The names of an error's classes and of the errors behind it, and the codes that a server gave."""
    found: set[str] = set()
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            break
        found.update(kind.__name__ for kind in type(seen).__mro__)
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            found.add(str(response.get("Error", {}).get("Code", "")))
        seen = seen.__cause__ or seen.__context__
    return found


def said(error: Exception, url: str, key: str = "") -> OnecardError:
    """The error of a store's library as one of ours, with the next step. `key` is what was asked for when it came."""
    found = signs(error)
    if found & _NO_BUCKET:
        return InputError("no such bucket", where=url, next_step="make the bucket, or correct the name in the URL")
    if found & _CREDENTIALS:
        return MachineError(
            "no credentials that this store accepts",
            where=url,
            next_step="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    if found & _DENIED:
        return MachineError(
            "access denied",
            where=url,
            next_step="give these credentials the right to list, read, write and delete below this URL",
        )
    if found & _TIMES_OUT:
        return MachineError("no answer in time", where=url, next_step="look at the network, and try again")
    if found & _NO_HOST:
        return MachineError(
            f"the store's host cannot be reached ({_line(error)})",
            where=url,
            next_step="look at the network and at AWS_ENDPOINT_URL, if that is set",
        )
    if found & _NO_ROOM:
        return DiskFull("the store has no room", where=url, next_step="free some space there and do it again")
    return MachineError(
        f"the store refuses: {_line(error)}",
        where=f"{url}/{key}".rstrip("/"),
        next_step="look at what is there now, and try again",
    )


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
