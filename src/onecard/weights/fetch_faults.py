"""What a failed transfer and a failed write mean to a person. What has come until then stays on the disk, and each of them says so."""

from __future__ import annotations

import errno
from pathlib import Path

from onecard.errors import DiskFull, MachineError, OnecardError
from onecard.weights.fetch_library import Refused
from onecard.weights.hub_access import Access
from onecard.weights.hub_faults import fault


def disk_fault(error: OSError, cache: Path) -> OnecardError:
    """What a failed write means. What has come until then stays and resumes."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            "the disk is full",
            where=str(cache),
            next_step="what has come is kept: free some space, and the same command resumes; `onecard weights list` shows what is here",
        )
    return MachineError(
        f"cannot be written: {error.strerror or error}",
        where=str(error.filename or cache),
        next_step="check the folder's owner and the disk; ONECARD_MODELS or HF_HOME names another one",
    )


def network_fault(problem: str, where: str, more: str = "") -> OnecardError:
    """A failure that leaves what has come on the disk."""
    kept = "what has come is kept, and the same command resumes"
    return MachineError(problem, where=where, next_step=f"{kept}; {more}" if more else kept)


def refusal_fault(refused: Refused, by: Access, repo: str, file: str) -> OnecardError:
    """What an answer of 400 or above means: the hub's own codes as everywhere, its file store's by their number."""
    page = f"{by.endpoint}/{repo}"
    if refused.status >= 500 or (refused.host != by.host and refused.status != 429):
        who = "the hub" if refused.host == by.host else "the hub's file store"
        return network_fault(f"{who} answers {refused.status}", f"{page}: {file}")
    return fault(refused.status, refused.headers, repo=repo, file=file, page=page, has_token=bool(by.token))
