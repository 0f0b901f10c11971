"""The Hugging Face cache as a place to put files: the same folders, names and locks as huggingface_hub 2.4, so that everybody finds them.

A file is a blob named by its hash, and a snapshot is a folder of links to blobs. A download lies beside its blob as `.incomplete`
until its hash is right; a snapshot and the name of its revision appear only when every blob of it is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from onecard.errors import InputError, MachineError
from onecard.weights.fetch import FileState, Listing, RemoteFile
from onecard.weights.hashes import Progress, content_digests
from onecard.weights.inventory import weight_files

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class RepoPlace:
    """The folder of one repository in a cache."""

    cache: Path
    repo: str

    @property
    def folder(self) -> Path:
        return self.cache / f"models--{self.repo.replace('/', '--')}"

    def blob(self, file: RemoteFile) -> Path:
        return self.folder / "blobs" / file.digest

    def partial(self, file: RemoteFile) -> Path:
        """What has come of a file so far; one name for all processes, which `lock` keeps apart."""
        return self.folder / "blobs" / f"{file.digest}.incomplete"

    def lock(self, file: RemoteFile) -> Path:
        """huggingface_hub's own lock on this blob."""
        return self.cache / ".locks" / self.folder.name / f"{file.digest}.lock"

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def ref(self, revision: str) -> Path:
        return self.folder / "refs" / revision


def free_bytes(cache: Path) -> int:
    """Free space on the volume where the cache is or will be."""
    place = cache.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def states_of(
    listing: Listing, wanted: Sequence[RemoteFile], cache: Path, progress: Progress | None = None
) -> list[FileState]:
    """Each wanted file beside what the disk holds of it, by size and hash. Whole files are hashed once and remembered (see `hashes`)."""
    place = RepoPlace(cache, listing.repo)
    found = {file: _held(place, listing.commit, file) for file in wanted}
    large = [path for file, path in found.items() if path and len(file.digest) == 64 and _size(path) == file.size]
    try:
        digests = dict(zip(large, content_digests(large, progress), strict=True))
        return [_state(place, file, path, digests) for file, path in found.items()]
    except OSError as error:
        raise MachineError(
            f"cannot be read: {error.strerror or error}",
            where=str(error.filename or place.folder),
            next_step="check the folder's owner and the disk",
        ) from None


def digest_of(file: Path, like: str, moved: Callable[[int], None] | None = None) -> str:
    """The hash of a file in the kind of `like`: sha256 (64 letters) or a git blob's sha1 (40). `moved` takes the bytes of each piece."""
    digest = hashlib.sha1(b"blob %d\0" % file.stat().st_size) if len(like) == 40 else hashlib.sha256()
    with file.open("rb") as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            if moved:
                moved(len(chunk))
    return digest.hexdigest()


def discard(place: RepoPlace, one: FileState, commit: str) -> None:
    """Takes what is damaged out of everybody's sight. The beginning of a short file is kept to be resumed: its hash decides later."""
    if one.state != "damaged":
        return
    blob, partial = place.blob(one.file), place.partial(one.file)
    link = place.snapshot(commit) / one.file.name
    if one.held_bytes and blob.is_file():
        blob.replace(partial)
    blob.unlink(missing_ok=True)
    link.unlink(missing_ok=True)


def publish(place: RepoPlace, file: RemoteFile) -> None:
    """A verified download becomes a blob: flushed to the disk first, because a name must not outlive the bytes behind it."""
    partial = place.partial(file)
    with partial.open("rb+") as writer:
        os.fsync(writer.fileno())
    partial.replace(place.blob(file))


def link_snapshot(listing: Listing, wanted: Sequence[RemoteFile], cache: Path) -> Path:
    """The snapshot of a repository all of whose blobs are whole: its links, config.json last, then the revision's name.

    InputError when the index names shards that the repository does not have.
    """
    place = RepoPlace(cache, listing.repo)
    snapshot = place.snapshot(listing.commit)
    for file in sorted(wanted, key=lambda file: file.name == "config.json"):
        _link(place.blob(file), snapshot / file.name)
    missing = [file.name for file in weight_files(snapshot) if not file.is_file()]
    if missing:
        raise InputError(
            f"its index names files that the repository does not have: {', '.join(missing[:3])}",
            where=f"{listing.repo} at {listing.commit[:12]}",
            next_step="the repository is not whole: tell its owner, or name another copy",
        )
    if listing.revision != listing.commit:
        _write(place.ref(listing.revision), listing.commit)
    return snapshot


def _held(place: RepoPlace, commit: str, file: RemoteFile) -> Path | None:
    """Where the file lies: its blob, or a plain file in the snapshot on a system without links."""
    for path in (place.blob(file), place.snapshot(commit) / file.name):
        if path.is_file():
            return path
    return None


def _state(place: RepoPlace, file: RemoteFile, path: Path | None, digests: dict[Path, str]) -> FileState:
    if path is None:
        held = _size(place.partial(file))
        # A beginning longer than the file is of something else; it is thrown away when the file is fetched.
        return FileState(file, "partial", held) if 0 < held <= file.size else FileState(file, "absent")
    size = _size(path)
    if size != file.size:
        fault = f"{size:,} bytes instead of {file.size:,}"
        if size < file.size and path == place.blob(file):
            return FileState(file, "damaged", held_bytes=size, fault=fault)
        return FileState(file, "damaged", freed_bytes=size, fault=fault)
    digest = digests.get(path) or digest_of(path, file.digest)
    if digest != file.digest:
        return FileState(file, "damaged", freed_bytes=size, fault="its hash is not the hub's")
    return FileState(file, "whole", held_bytes=size)


def _link(blob: Path, name: Path) -> None:
    """A relative link, so that a cache can be moved; a second name or a copy where links cannot be made."""
    name.parent.mkdir(parents=True, exist_ok=True)
    if name.is_file() and not blob.exists():
        return  # a cache without links: the file itself stands in the snapshot, and was found whole
    target = os.path.relpath(blob, name.parent)
    if name.is_symlink() and str(name.readlink()) == target:
        return
    fresh = name.with_name(f".{name.name}.{os.getpid()}.new")
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(target)
    except OSError:
        try:
            fresh.hardlink_to(blob)
        except OSError:
            shutil.copyfile(blob, fresh)
    fresh.replace(name)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
