"""What was read from a hub, remembered on this disk: one small JSON file a commit, so that a model is asked for once.

A commit never changes, so what is remembered of it stays true; which commit a branch stands for is remembered too, for when the hub
cannot be asked. The memory only saves time: a damaged file is as if it were not there, and one that cannot be written is done without.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import TypeAdapter, ValidationError

from onecard.weights.headers import HeaderSummary
from onecard.weights.places import user_cache

FORMAT = 1
LIMIT_BYTES = 32_000_000


@dataclass(frozen=True)
class HubModel:
    """A model as the hub has it at one commit, its weights left there. `headers` is None without a safetensors checkpoint.

    `commit` is None where a hub does not say it. `read_on` is a date, ISO.
    """

    id: str
    host: str
    commit: str | None
    config: dict[str, Any] = field(repr=False)
    headers: HeaderSummary | None
    read_on: str


_RECORD = TypeAdapter(HubModel)


def memory_folder(endpoint: str, repo: str) -> Path:
    """Where what one hub said of one repository is kept."""
    parts = urlsplit(endpoint)
    hub = quote(f"{parts.netloc}{parts.path}", safe="")
    return user_cache() / "onecard" / "hub" / hub / f"models--{repo.replace('/', '--')}"


def remembered(endpoint: str, repo: str, revision: str) -> HubModel | None:
    """What was read of this revision (a commit, or a branch as it stood then); None when nothing sound is remembered."""
    folder = memory_folder(endpoint, repo)
    commit = _text(folder / "refs" / quote(revision, safe="")) or revision
    raw = _bytes(folder / f"{quote(commit, safe='')}.json")
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError):
        kept = json.loads(raw)
        body = kept["body"]
        if kept["format"] == FORMAT and kept["sha256"] == sha256(body.encode()).hexdigest():
            model = _RECORD.validate_json(body, strict=True)
            return model if model.commit == commit and model.id == repo else None
    return None


def remember(endpoint: str, revision: str, model: HubModel) -> None:
    """Keeps what was read; without a commit there is no name to keep it under."""
    if model.commit is None:
        return
    folder = memory_folder(endpoint, model.id)
    body = _RECORD.dump_json(model).decode()
    kept = {"format": FORMAT, "sha256": sha256(body.encode()).hexdigest(), "body": body}
    with suppress(OSError):
        _replace(folder / f"{model.commit}.json", json.dumps(kept))
        if revision != model.commit:
            _replace(folder / "refs" / quote(revision, safe=""), model.commit)


def _bytes(file: Path) -> bytes:
    with suppress(OSError):
        if file.stat().st_size <= LIMIT_BYTES:
            return file.read_bytes()
    return b""


def _text(file: Path) -> str:
    return _bytes(file)[:100].decode("ascii", errors="replace").strip()


def _replace(file: Path, text: str) -> None:
    """A reader sees the old file or the new one. Two who write at once write the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name[:100]}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
