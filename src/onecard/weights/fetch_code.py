"""The record of somebody's choice to let a repository's own code onto this machine: what, at which commit, when.

Fetching code runs none of it. The record lies in the repository's folder of the cache, beside the code it is about.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onecard.weights.fetch import Listing, RemoteFile
from onecard.weights.fetch_cache import RepoPlace

NAME = "allowed_code.json"


def record_choice(listing: Listing, files: Sequence[RemoteFile], cache: Path) -> Path:
    """Adds the choice for this commit to the record; the same choice twice is one. OSError when it cannot be written."""
    file = RepoPlace(cache, listing.repo).folder / NAME
    said = read_choices(listing.repo, cache)
    if not any(one.get("commit") == listing.commit for one in said):
        said.append(
            {
                "repo": listing.repo,
                "commit": listing.commit,
                "files": {one.name: one.digest for one in files},
                "allowed_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "by": f"onecard fetch --allow-code {listing.repo}",
            }
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{NAME}.{os.getpid()}.new")
    fresh.write_text(json.dumps({"schema": 1, "choices": said}, indent=2) + "\n", encoding="utf-8")
    fresh.replace(file)
    return file


def read_choices(repo: str, cache: Path) -> list[dict[str, Any]]:
    """The choices that were made for a repository; none when there is no record or it cannot be read."""
    try:
        said = json.loads((RepoPlace(cache, repo).folder / NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    choices = said.get("choices") if isinstance(said, dict) else None
    return [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
