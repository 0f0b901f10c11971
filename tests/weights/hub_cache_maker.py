"""Writes a hub cache as huggingface_hub lays it out: blobs named by their hashes, snapshots of links, refs, and the shared store."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

KIB = 1024


def write_model(
    cache: Path,
    id: str,
    weights: bytes = b"w" * (256 * KIB),
    *,
    config: Mapping[str, object] | None = None,
    revision: str | None = None,
    used_at: float | None = None,
    main: bool = True,
) -> Path:
    """A whole model of one weight file; a second call with another revision adds that. Returns the repository's folder."""
    repository = cache / f"models--{id.replace('/', '--')}"
    commit = revision or hashlib.sha1(id.encode()).hexdigest()
    said = json.dumps(dict(config or {"model_type": "llama", "dtype": "bfloat16"})).encode()
    add_file(repository, commit, "config.json", said, small=True)
    add_file(repository, commit, "model.safetensors", weights)
    if main:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
    if used_at is not None:
        for blob in (repository / "blobs").iterdir():
            os.utime(blob, (used_at, used_at))
    return repository


def add_file(repository: Path, commit: str, name: str, content: bytes, *, small: bool = False) -> Path:
    """A blob and the link to it in a snapshot; `small` files go by git's hash, as those outside LFS do."""
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content) if small else hashlib.sha256(content)
    blob = repository / "blobs" / digest.hexdigest()
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link = repository / "snapshots" / commit / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return blob


def share(cache: Path, *blobs: Path) -> Path:
    """Moves blobs of one content into the cache's shared store, as huggingface_hub 2.4 does for files that came through Xet."""
    name = hashlib.sha256(b"xet" + blobs[0].read_bytes()).hexdigest()
    stored = cache / "blobs" / name[:2] / name
    stored.parent.mkdir(parents=True, exist_ok=True)
    (cache / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    blobs[0].rename(stored)
    for blob in blobs:
        blob.unlink(missing_ok=True)
        blob.symlink_to(os.path.relpath(stored, blob.parent))
    stored.with_name(f"{name}.refs").write_text("".join(f"{blob.relative_to(cache)}\n" for blob in blobs))
    return stored
