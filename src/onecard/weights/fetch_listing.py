"""What the hub says of a repository before anything of it is fetched: its files with sizes and hashes, its licence, and who may read it.

The record of a gated repository is public and its files are not, so one small file is asked for: the refusal comes here, not after
gigabytes of something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from onecard.errors import InputError, MissingPart
from onecard.weights.environment import token_source
from onecard.weights.fetch import FileState, Listing, RemoteFile
from onecard.weights.fetch_cache import RepoPlace, states_of
from onecard.weights.hashes import Progress
from onecard.weights.hub import CONFIG_LIMIT_BYTES, about_in, read_record
from onecard.weights.hub_access import Access, access, check_repo_id, check_revision
from onecard.weights.hub_faults import Gated, NoSuchFile
from onecard.weights.hub_session import HubSession
from onecard.weights.inventory import weight_files

_COMMIT = re.compile(r"[0-9a-f]{40}")
_BLOB_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def list_repo(repo: str, revision: str = "main", *, by: Access | None = None) -> Listing:
    """A repository at the commit its revision stands for. The errors of `hub.read_model`; Gated says where to accept the terms."""
    check_repo_id(repo)
    check_revision(revision)
    by = by or access()
    with HubSession(by) as hub:
        try:
            said = read_record(hub, repo, revision, blobs=True)
            listing = _listing(hub.page(repo), repo, revision, said)
            if listing.gated:
                _try_the_door(hub, listing)
        except Gated as gated:
            raise _told_more(gated, by) from None
    return listing


def recall_repo(
    repo: str, revision: str, cache: Path, progress: Progress | None = None
) -> tuple[Listing, list[FileState]]:
    """The same of what lies on this disk, with nobody asked: a blob's name is its hash. MissingPart when there is no such snapshot."""
    check_repo_id(repo)
    check_revision(revision)
    place = RepoPlace(cache, repo)
    commit = revision if _COMMIT.fullmatch(revision) else _read(place.ref(revision))
    snapshot = place.snapshot(commit)
    if not _COMMIT.fullmatch(commit) or not snapshot.is_dir():
        raise MissingPart(
            f"{repo} is not on this disk, and the hub was not asked",
            where=str(place.folder),
            next_step=f"`onecard fetch {repo}` without --offline",
        )
    files, states = [], []
    for path in sorted(path for path in snapshot.rglob("*") if path.is_symlink() or path.is_file()):
        name = path.relative_to(snapshot).as_posix()
        digest = path.readlink().name if path.is_symlink() else ""
        size = path.stat().st_size if path.is_file() else 0
        file = RemoteFile(name, size, digest)
        files.append(file)
        if not path.is_file():
            states.append(FileState(file, "damaged", fault="its blob is gone"))
        elif not _BLOB_NAME.fullmatch(digest):
            states.append(FileState(file, "whole", held_bytes=size, fault="a copy without a name to check it by"))
    known = [file for file in files if file.size and _BLOB_NAME.fullmatch(file.digest)]
    states += states_of(Listing(repo, revision, commit, tuple(known)), known, cache, progress)
    states += [FileState(RemoteFile(name, 0, ""), "absent") for name in _absent(snapshot, {f.name for f in files})]
    return Listing(repo, revision, commit, tuple(files)), sorted(states, key=lambda one: one.file.name)


def _listing(page: str, repo: str, revision: str, said: Mapping[str, Any]) -> Listing:
    commit = said.get("sha")
    siblings = said.get("siblings")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise InputError(
            "its record names no commit or no files",
            where=page,
            next_step="a proxy may have answered: open it in a browser, or check HF_ENDPOINT",
        )
    about = about_in(said)
    files = tuple(file for file in map(_file, siblings) if file is not None)
    return Listing(repo, revision, commit, files, licence=about.licence, gated=about.gated)


def _file(said: object) -> RemoteFile | None:
    """A file of the record. Without a size or a hash it keeps an empty one, so that it is left out with that reason."""
    if not isinstance(said, dict) or not isinstance(said.get("rfilename"), str):
        return None
    large = said.get("lfs") if isinstance(said.get("lfs"), dict) else None
    size = large.get("size") if large else said.get("size")
    digest = large.get("sha256") if large else said.get("blobId")
    if not isinstance(size, int) or size < 0 or not isinstance(digest, str):
        size, digest = 0, ""
    return RemoteFile(said["rfilename"][:300], size, digest)


def _try_the_door(hub: HubSession, listing: Listing) -> None:
    with suppress(NoSuchFile):  # who is told that a file is not there has been let in
        hub.file(listing.repo, listing.commit, "config.json", CONFIG_LIMIT_BYTES)


def _told_more(gated: Gated, by: Access) -> Gated:
    """The refusal with where the token came from, or where one goes."""
    source = token_source() if by.token else None
    more = (
        f"the token that was sent is the one in {source}"
        if source
        else "HF_TOKEN, in the environment or in .env, holds it"
    )
    return Gated(gated.problem, where=gated.where, next_step=f"{gated.next_step}; {more}")


def _absent(snapshot: Path, names: set[str]) -> list[str]:
    """What a snapshot lacks to be a model."""
    absent = [] if "config.json" in names else ["config.json"]
    weights = weight_files(snapshot)
    return absent + ([file.name for file in weights if file.name not in names] if weights else ["*.safetensors"])


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
