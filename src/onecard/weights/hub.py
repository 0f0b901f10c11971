"""A model on the hub without its weights: its config, and the header of every shard by range request.

The revision is turned into a commit by the first answer and everything else is read at that commit, so what is put together belongs
together. No file of weights is downloaded, no code of a repository is run, and no address or path out of its files is followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from onecard.errors import InputError, UnknownName
from onecard.weights.hashes import Progress
from onecard.weights.headers import HeaderSummary, Tensor, read_header, summarize
from onecard.weights.hub_access import Access, access, check_repo_id, check_revision, is_shard_name
from onecard.weights.hub_faults import WITHOUT_HUB, NoSuchFile
from onecard.weights.hub_memory import HubModel, remember, remembered
from onecard.weights.hub_session import HubSession

CONFIG_LIMIT_BYTES = 10_000_000
INDEX_LIMIT_BYTES = 50_000_000
SHARDS_LIMIT = 1000
AT_ONCE = 8  # shards asked for side by side; the largest models have 163
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class About:
    """What the hub says of a repository beside its files: each None where it says nothing. `licence` as its owner wrote it."""

    licence: str | None = None
    gated: bool | None = None
    base_model: str | None = None
    modified: str | None = None


@dataclass
class _RemoteFile:
    """A file of a repository as a ByteSource."""

    hub: HubSession
    repo: str
    revision: str
    file: str
    size: int | None = None
    next_step: str = f"the repository is broken there: tell its owner, or name another copy; {WITHOUT_HUB}"

    @property
    def where(self) -> str:
        return f"{self.hub.page(self.repo)}: {self.file}"

    def read(self, start: int, length: int) -> bytes:
        body, size = self.hub.range(self.repo, self.revision, self.file, start, length)
        self.size = self.size if size is None else size
        return body


def read_model(
    repo: str, revision: str = "main", *, by: Access | None = None, progress: Progress | None = None
) -> HubModel:
    """A model's config and headers at the commit that `revision` stands for. What this machine has read of it is not asked for again.

    `progress` is called with (headers read, headers in all). UnknownName for a repository, revision or config that is not there;
    InputError for one that is gated, broken or absurd; MachineError when the hub cannot be reached, is busy or breaks off.
    """
    check_repo_id(repo)
    check_revision(revision)
    by = by or access()
    with HubSession(by) as hub:
        answer = _config_file(hub, repo, revision)
        known = remembered(by.endpoint, repo, answer.commit) if answer.commit else None
        if known is None:
            at = answer.commit or revision
            known = HubModel(
                id=repo,
                host=by.host,
                commit=answer.commit,
                config=_object(hub, repo, "config.json", answer.body),
                headers=_headers(hub, repo, at, progress),
                read_on=datetime.now(UTC).date().isoformat(),
            )
    remember(by.endpoint, revision, known)
    return known


def recall_model(repo: str, revision: str = "main", *, by: Access | None = None) -> HubModel | None:
    """What this machine has read of a model before, without asking anybody; None when it never did."""
    check_repo_id(repo)
    check_revision(revision)
    return remembered((by or access()).endpoint, repo, revision)


def read_about(repo: str, revision: str = "main", *, by: Access | None = None) -> About:
    """The hub's record of a repository. The errors of `read_model`; a hub without such records is one of them."""
    check_repo_id(repo)
    check_revision(revision)
    with HubSession(by or access()) as hub:
        return about_in(read_record(hub, repo, revision))


def read_record(hub: HubSession, repo: str, revision: str, *, blobs: bool = False) -> dict[str, Any]:
    """The hub's record of a repository as it stands, safe to print; `blobs`: its `siblings` with sizes and hashes."""
    return _object(hub, repo, "its record", hub.about(repo, revision, CONFIG_LIMIT_BYTES, blobs=blobs).body)


def about_in(said: Mapping[str, Any]) -> About:
    """What a record says of licence, access and origin."""
    card = said.get("cardData")
    card = card if isinstance(card, Mapping) else {}
    gated = said.get("gated")
    return About(
        licence=_licence(card, said.get("tags")),
        gated=bool(gated) if isinstance(gated, (bool, str)) else None,
        base_model=_word(card.get("base_model")),
        modified=_word(said.get("lastModified")),
    )


def _config_file(hub: HubSession, repo: str, revision: str) -> Any:
    try:
        return hub.file(repo, revision, "config.json", CONFIG_LIMIT_BYTES)
    except NoSuchFile as missing:
        raise UnknownName(
            f"{repo} has no config.json, so nothing says what its model is",
            where=missing.where,
            next_step="a repository of GGUF files or of an adapter has none: name the model it was made from",
        ) from None


def _headers(hub: HubSession, repo: str, revision: str, progress: Progress | None) -> HeaderSummary | None:
    """The headers of all shards; None when the repository has no safetensors checkpoint under the usual names."""
    weight_map = _weight_map(hub, repo, revision)
    names = sorted(set(weight_map.values())) if weight_map else [SINGLE_FILE]
    done: list[list[Tensor]] = []
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="hub") as pool:
        asked = [pool.submit(read_header, _RemoteFile(hub, repo, revision, name)) for name in names]
        try:
            for future in asked:
                done.append(future.result())
                if progress:
                    progress(len(done), len(names))
        except NoSuchFile:
            if weight_map is None:
                return None
            raise
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if weight_map:
        _check_whole(hub, repo, weight_map, done)
    return summarize(done)


def _weight_map(hub: HubSession, repo: str, revision: str) -> dict[str, str] | None:
    """The file of each tensor by the index; None without an index."""
    try:
        body = hub.file(repo, revision, INDEX_FILE, INDEX_LIMIT_BYTES).body
    except NoSuchFile:
        return None
    said = _object(hub, repo, INDEX_FILE, body).get("weight_map")
    files = list(said.values()) if isinstance(said, dict) else []
    bad = [file for file in files if not is_shard_name(file)]
    count = len({str(file) for file in files})
    if isinstance(said, dict) and not bad and 0 < count <= SHARDS_LIMIT:
        return said
    raise InputError(
        f"its weight_map names {str(bad[0])[:100]!r} as a file" if bad else f"its weight_map names {count:,} files",
        where=f"{hub.page(repo)}: {INDEX_FILE}",
        allowed=f"1 to {SHARDS_LIMIT} plain names that end with .safetensors",
        next_step=f"nothing else was asked for; {WITHOUT_HUB}",
    )


def _check_whole(hub: HubSession, repo: str, weight_map: Mapping[str, str], files: list[list[Tensor]]) -> None:
    """Every tensor of the index stands in a header, or the sum of them would be of another model."""
    held = {tensor.name for tensors in files for tensor in tensors}
    absent = next((name for name in weight_map if name not in held), None)
    if absent is not None:
        raise InputError(
            f"it lists the tensor {absent[:100]!r}, which no file holds",
            where=f"{hub.page(repo)}: {INDEX_FILE}",
            next_step=f"the repository is not whole: tell its owner, or name another copy; {WITHOUT_HUB}",
        )


def _object(hub: HubSession, repo: str, file: str, body: bytes) -> dict[str, Any]:
    """A JSON object whose texts are safe to print."""
    where = f"{hub.page(repo)}: {file}"
    try:
        value = _printable(json.loads(body))
    except (ValueError, RecursionError):
        raise InputError(
            "not valid JSON", where=where, next_step=f"open it in a browser: a proxy may have answered; {WITHOUT_HUB}"
        ) from None
    if not isinstance(value, dict):
        raise InputError("not a JSON object", where=where, next_step=WITHOUT_HUB)
    return value


def _printable(value: Any) -> Any:
    """The same with control characters out of every text, so that no file of a stranger steers a terminal."""
    if isinstance(value, str):
        return _CONTROL.sub("?", value)
    if isinstance(value, dict):
        return {_CONTROL.sub("?", key): _printable(part) for key, part in value.items()}
    return [_printable(part) for part in value] if isinstance(value, list) else value


def _licence(card: Mapping[str, Any], tags: object) -> str | None:
    """`license` of the model card; `license_name` where that says only "other"; else the hub's tag."""
    said = _word(card.get("license"))
    if said in (None, "other"):
        said = _word(card.get("license_name")) or said
    if said is None and isinstance(tags, list):
        found = [tag.removeprefix("license:") for tag in tags if isinstance(tag, str) and tag.startswith("license:")]
        said = _word(found)
    return said


def _word(said: object) -> str | None:
    """A short text, the first of a list of them, or None."""
    if isinstance(said, list):
        said = said[0] if said else None
    return said[:120] if isinstance(said, str) and said.strip() else None
