"""What a hub's refusals mean to a person, and what to do about each: from a status and its headers to an error of onecard.

A hub hides what the asker may not know: without a token, a repository that does not exist, a private one and a mistyped name all
answer 401. Source of the codes: huggingface_hub 2.4, utils/_http.py, hf_raise_for_status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from onecard.errors import InputError, MachineError, OnecardError, UnknownName

_RESET = re.compile(r";\s*t\s*=\s*(\d{1,9})")
WITHOUT_HUB = "a local folder with its config.json can be planned without the hub"


class NoSuchFile(UnknownName):
    """The repository is there, and has no file of this name at this revision."""


class Gated(InputError):
    """The repository asks for an account on its list first."""


class NoSuchRepository(UnknownName):
    """The hub has no repository of this name, or hides it from whoever asks."""


def fault(status: int, headers: Mapping[str, str], *, repo: str, file: str, page: str, has_token: bool) -> OnecardError:
    """The error for an answer of 400 and above to a question for `file` of `repo`; `page` is the repository's own page."""
    code = headers.get("x-error-code", "")
    said = headers.get("x-error-message", "")
    where = f"{page}: {file}"
    if status == 429:
        return _too_many(headers, where, has_token)
    if status >= 500:
        return MachineError(f"the hub answers {status}", where=where, next_step=f"try again in a minute; {WITHOUT_HUB}")
    if code == "GatedRepo":
        return _gated(repo, page, has_token)
    if code == "EntryNotFound":
        return NoSuchFile(f"{repo} has no {file}", where=where, next_step=f"it is not whole; {WITHOUT_HUB}")
    if code == "RevisionNotFound":
        return UnknownName(
            f"{repo} has no such revision", where=where, next_step="name a branch, a tag or a commit of it"
        )
    if status == 401 and has_token and "credentials" in said.lower():
        return InputError("the hub does not take your token", where=where, next_step="`hf auth login` gets a new one")
    if code == "RepoNotFound" or status in (401, 404, 410):
        return _hidden(repo, where, has_token)
    if status == 403:
        return InputError(
            f"the hub refuses access to {repo}",
            where=where,
            next_step=f"look at {page}: it may be disabled, or your token may lack the right to read it",
        )
    return MachineError(f"the hub answers {status}", where=where, next_step=WITHOUT_HUB)


def timed_out(host: str, timeout_s: float, where: str) -> OnecardError:
    """No byte came for as long as one waits."""
    return MachineError(
        f"{host} did not answer within {timeout_s:g} s",
        where=where,
        next_step=f"try again, or wait longer with HF_HUB_DOWNLOAD_TIMEOUT=60; {WITHOUT_HUB}",
    )


def too_slow(limit_s: float, where: str) -> OnecardError:
    """Bytes came, drop by drop."""
    return MachineError(
        f"the answer took longer than {limit_s:g} s", where=where, next_step=f"try again; {WITHOUT_HUB}"
    )


def broke_off(where: str) -> OnecardError:
    """The connection ended before the answer did."""
    return MachineError("the answer broke off before its end", where=where, next_step=f"try again; {WITHOUT_HUB}")


def unreachable(host: str, reason: str, where: str) -> OnecardError:
    """There was no connection at all."""
    return MachineError(
        f"{host} cannot be reached ({reason})",
        where=where,
        next_step=f"check the network, HF_ENDPOINT and HTTPS_PROXY; {WITHOUT_HUB}",
    )


def _gated(repo: str, page: str, has_token: bool) -> OnecardError:
    if has_token:
        return Gated(
            f"{repo} is gated, and your account is not on its list",
            where=page,
            next_step=f"ask for access at {page} and try again once it is granted",
        )
    return Gated(
        f"{repo} is gated: its owner asks for an account and an agreement first",
        where=page,
        next_step=f"accept its terms at {page}, then `hf auth login`, or set HF_TOKEN",
    )


def _hidden(repo: str, where: str, has_token: bool) -> OnecardError:
    if has_token:
        return NoSuchRepository(
            f"the hub has no model {repo}, or hides it from your account", where=where, next_step="check its name"
        )
    return NoSuchRepository(
        f"the hub has no model {repo}, or it is private",
        where=where,
        next_step="check its name; for a private one `hf auth login`, or set HF_TOKEN",
    )


def _too_many(headers: Mapping[str, str], where: str, has_token: bool) -> OnecardError:
    """Retry-After in seconds, else the `t` of the hub's own RateLimit header."""
    after = headers.get("retry-after", "").strip()
    reset = _RESET.search(headers.get("ratelimit", ""))
    wait = after if after.isdigit() and len(after) < 10 else reset[1] if reset else None
    when = f"try again in {int(wait):,} seconds" if wait else "try again in a few minutes"
    more = "" if has_token else "; with a token (`hf auth login`) the hub allows more"
    return MachineError("the hub was asked too often (429)", where=where, next_step=when + more)
