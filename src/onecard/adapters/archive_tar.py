"""The tar file of an archive: plain files in a flat folder and nothing else, written the same way each time, read with suspicion.

Links, devices, sparse files, folders, extended headers, names with a path, a size that differs from the index: all are refused before
a byte of them is written. Nothing is read in one piece that could be large, so a header that lies cannot fill the memory.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from onecard.adapters import durable
from onecard.errors import AdapterRefused, InputError

if TYPE_CHECKING:
    from onecard.adapters.archive import ArchiveIndex

_MEMBER_LIMIT_BYTES = (8 << 30) - 1  # what eleven octal digits hold; larger sizes need extensions, which are refused


def write(target: Path, folder: Path, names: Sequence[str]) -> None:
    """The named files of a folder in one tar, in this order, without owners and times: the same files give the same bytes."""
    with target.open("xb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mode = (folder / name).stat().st_size, 0o644
            if info.size > _MEMBER_LIMIT_BYTES:
                raise InputError(
                    f"{name} has {info.size:,} bytes, too many for a tar", next_step="export to a folder instead"
                )
            with (folder / name).open("rb") as content:
                tar.addfile(info, content)
    with target.open("rb") as written:
        os.fsync(written.fileno())


def read(
    source: Path, folder: Path, index_name: str, parse: Callable[[bytes, str], ArchiveIndex], small_bytes: int
) -> ArchiveIndex:
    """Unpacks a tar into an empty folder and returns its index. AdapterRefused with the reason for anything that is not as listed."""
    descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as raw:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise AdapterRefused("not a plain file", where=str(source))
        try:
            with tarfile.open(fileobj=_Bounded(raw, str(source)), mode="r:", tarinfo=_PlainInfo) as tar:  # type: ignore[call-overload]
                return _unpack(tar, source, folder, index_name, parse, small_bytes)
        except AdapterRefused as error:
            raise AdapterRefused(error.problem, where=error.where or str(source), next_step="export it again") from None
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
            raise AdapterRefused(f"not an archive of an adapter ({str(error)[:200]})", where=str(source)) from None


def _unpack(
    tar: tarfile.TarFile,
    source: Path,
    folder: Path,
    index_name: str,
    parse: Callable[[bytes, str], ArchiveIndex],
    small_bytes: int,
) -> ArchiveIndex:
    first = tar.next()
    if first is None or first.name != index_name or not 0 <= first.size <= small_bytes:
        raise AdapterRefused(f"does not begin with {index_name}", where=str(source))
    index = parse(_stream(tar, first).read(small_bytes), f"{source}: {index_name}")
    total = sum(file.bytes for file in index.files.values())
    if (free := durable.free_bytes(folder)) < total + durable.SPARE_BYTES:
        raise durable.disk_full(folder, total, free)
    missing = dict(index.files)
    while member := tar.next():
        listed = missing.pop(member.name, None)
        if listed is None or member.size != listed.bytes:
            raise AdapterRefused(
                f"{ascii(member.name)[:120]} with {member.size:,} bytes is not in {index_name}", where=str(source)
            )
        if _copy(_stream(tar, member), folder / member.name) != listed.sha256:
            raise AdapterRefused(
                f"altered: the digest of {member.name} is not the one of the archive", where=str(source)
            )
    if missing:
        raise AdapterRefused(f"cut off: {', '.join(sorted(missing))} is missing", where=str(source))
    return index


class _PlainInfo(tarfile.TarInfo):
    """A member that may be a plain file and nothing else; tarfile would act on extensions before we could look."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _PlainInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.linkname or info.size < 0:
            kind = ascii(info.type.decode("latin-1"))
            raise AdapterRefused(f"{ascii(info.name)[:120]} is not a plain file (type {kind})")
        return info


class _Bounded:
    """A file that is only read in small pieces."""

    def __init__(self, raw: IO[bytes], where: str) -> None:
        self._raw, self._where = raw, where
        self.name, self.seek, self.tell = where, raw.seek, raw.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 32 << 20:
            raise AdapterRefused(f"a header that wants {size:,} bytes at once", where=self._where)
        return self._raw.read(size)


def _stream(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = tar.extractfile(member)
    if stream is None:  # which tarfile says of what is no file, and nothing else got here
        raise AdapterRefused(f"{ascii(member.name)[:120]} has no content")
    return stream


def _copy(stream: IO[bytes], target: Path) -> str:
    """Writes a new file; returns the sha256 of what was written."""
    digest = hashlib.sha256()
    with target.open("xb") as writer:
        while chunk := stream.read(durable.CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()
