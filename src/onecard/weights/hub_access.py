"""Where the hub is, who asks, and whether it may be asked at all: by the environment variables that the Hugging Face libraries read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from onecard.errors import InputError
from onecard.weights.places import user_cache

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_TIMEOUT_S = 10.0
_TRUE = {"1", "ON", "YES", "TRUE"}
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")  # what may stand in an HTTP header
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO_ID = re.compile(rf"(?:{_PART}/)?{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Access:
    """How the hub is asked. `token` never stands in a repr, an error or a file of ours."""

    endpoint: str = DEFAULT_ENDPOINT
    token: str | None = field(default=None, repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S

    @property
    def host(self) -> str:
        """The endpoint as people know it: its host, with a port where it is not the usual one."""
        return urlsplit(self.endpoint).netloc


def access() -> Access:
    """What the environment says: HF_ENDPOINT, the token, HF_HUB_DOWNLOAD_TIMEOUT. InputError for what cannot be meant."""
    return Access(_endpoint(), _token(), _timeout())


def offline_variable() -> str | None:
    """The variable that forbids asking the hub, as it stands (HF_HUB_OFFLINE=1), or None."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in _TRUE:
            return f"{name}={os.environ[name]}"
    return None


def is_repo_id(text: str) -> bool:
    """Whether a hub would take this for a model's name: org/name or name, by huggingface.co's own rules."""
    fine = len(text) <= 96 and "--" not in text and ".." not in text and not text.endswith(".git")
    return fine and _REPO_ID.fullmatch(text) is not None


def check_repo_id(repo: str) -> None:
    """InputError unless `is_repo_id`."""
    if not is_repo_id(repo):
        raise InputError(
            f"{repo[:120]!r} is no name of a repository on the hub",
            allowed="org/name of letters, digits, '-', '_' and '.', at most 96 characters, without '--' and '..'",
        )


def check_revision(revision: str) -> None:
    """InputError unless this can be a branch, a tag or a commit."""
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision or revision.endswith("/"):
        raise InputError(f"{revision[:120]!r} is no revision", allowed="a branch, a tag or a commit", where="revision")


def is_shard_name(name: object) -> bool:
    """Whether an index may name this as a shard: a plain .safetensors file at the top of its own repository."""
    return (
        isinstance(name, str)
        and _FILE.fullmatch(name) is not None
        and ".." not in name
        and name.endswith(".safetensors")
    )


def _endpoint() -> str:
    said = (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).strip().rstrip("/")
    try:
        parts = urlsplit(said)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:
        fine = False
    if not fine or not said.isascii() or any(c in said for c in " ?#\\") or not said.isprintable():
        raise InputError(
            "not the address of a hub",
            where="HF_ENDPOINT",
            allowed="http:// or https://, a host, and perhaps a path; no user, no password",
            next_step=f"unset it to ask {DEFAULT_ENDPOINT}",
        )
    return said


def _token() -> str | None:
    """HF_TOKEN, else the file that `hf auth login` wrote; None when there is none or it is not to be sent unasked."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _TRUE:
        return None
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if said := os.environ.get(name, "").strip():
            return _checked(said, name)
    home = os.environ.get("HF_HOME") or str(user_cache() / "huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        said = file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return _checked(said, str(file)) if said else None


def _checked(token: str, where: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise InputError(
            "the token of the hub has characters no token has", where=where, next_step="`hf auth login` writes it anew"
        )
    return token


def _timeout() -> float:
    said = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "").strip()
    if not said:
        return DEFAULT_TIMEOUT_S
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise InputError(f"{said[:40]!r} is no number of seconds", where="HF_HUB_DOWNLOAD_TIMEOUT", allowed="1 to 3600")
    return seconds
