"""What a fetch will do, decided before the first byte of weights: which files, what is whole already, what it needs of the disk.

Pure: it is handed what the hub lists and what the disk holds. Only data is wanted (safetensors, tokenizer, config, chat template,
licence); a pickle never, code only where somebody chose it by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from onecard.catalog.units import MIB, format_bytes
from onecard.errors import DiskFull, InputError

State = Literal["whole", "partial", "absent", "damaged"]
"""`whole`: size and hash are the hub's. `partial`: a beginning that resumes. `damaged`: something else stands in its place."""

DISK_SLACK_BYTES = 64 * MIB  # links, folders and what a filesystem keeps for itself
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_NAME = re.compile(r"(?:additional_chat_templates/)?[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TEXTS = re.compile(r"(readme|licen[cs]e|notice|use_policy|acceptable_use_policy)([._-].*)?", re.IGNORECASE)
_TOKENIZERS = re.compile(
    r"(tokenizer|spiece|sentencepiece|sentencepiece\.bpe|vocab)\.model(\.v\d+\w*)?|vocab\.txt|merges\.txt|.*\.tiktoken|.*\.jinja"
)
_OTHER_FRAMEWORKS = re.compile(r"(pytorch_model|tf_model|flax_model|rust_model|.*\.(bin|msgpack|h5))\b.*\.json")
_PICKLES = re.compile(r".*\.(bin|pt|pth|pkl|pickle|ckpt|joblib|npy|npz|mar)")


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it. `digest`: sha256 hex of a large file (64 letters), else the git blob's sha1 (40); it names the blob."""

    name: str
    size: int
    digest: str

    @property
    def is_code(self) -> bool:
        return self.name.endswith(".py")


@dataclass(frozen=True)
class Listing:
    """A repository at one commit. `licence` as its owner wrote it; `gated` None where the hub does not say."""

    repo: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    licence: str | None = None
    gated: bool | None = None


@dataclass(frozen=True)
class LeftOut:
    """A file of the repository that is not fetched, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FileState:
    """A wanted file beside what the disk holds of it.

    `held_bytes` need not come again; `freed_bytes` are given back when what is damaged is thrown away; `fault` says what is wrong.
    """

    file: RemoteFile
    state: State
    held_bytes: int = 0
    freed_bytes: int = 0
    fault: str | None = None

    @property
    def needed_bytes(self) -> int:
        """What is still to be downloaded."""
        return self.file.size - self.held_bytes


@dataclass(frozen=True)
class RepoPlan:
    """What is to be done for one repository."""

    listing: Listing
    files: tuple[FileState, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(one.file.size for one in self.files)

    @property
    def needed_bytes(self) -> int:
        return sum(one.needed_bytes for one in self.files)

    @property
    def disk_bytes(self) -> int:
        """What the disk must still have free for it."""
        return sum(one.needed_bytes - one.freed_bytes for one in self.files)

    @property
    def whole(self) -> bool:
        return all(one.state == "whole" for one in self.files)

    def in_state(self, state: State) -> list[FileState]:
        return [one for one in self.files if one.state == state]


def choose_files(listing: Listing, *, code: bool = False) -> tuple[list[RemoteFile], list[LeftOut]]:
    """The files to fetch, and the others with the reason. InputError when that would be no model: no config or no safetensors.

    `code`: Python files of the repository are wanted too, because somebody chose so.
    """
    names = {file.name for file in listing.files}
    wanted: list[RemoteFile] = []
    left_out: list[LeftOut] = []
    for file in listing.files:
        reason = _refusal(file, names, code)
        if reason is None:
            wanted.append(file)
        else:
            left_out.append(LeftOut(file.name, reason))
    _check_model(listing, {file.name for file in wanted}, left_out)
    return wanted, left_out


def check_disk(plans: Iterable[RepoPlan], free_bytes: int, where: str) -> None:
    """DiskFull, with the sum, when what is to come does not fit into what is free; nothing is checked when nothing is to come."""
    needed = sum(plan.disk_bytes for plan in plans)
    if needed <= 0 or free_bytes >= needed + DISK_SLACK_BYTES:
        return
    short = needed + DISK_SLACK_BYTES - free_bytes
    raise DiskFull(
        f"needs {format_bytes(needed)}, and {format_bytes(free_bytes)} are free: {format_bytes(short)} short",
        where=where,
        next_step=(
            "nothing was downloaded; `onecard weights list` shows what takes the space, and ONECARD_MODELS or HF_HOME names "
            "another volume"
        ),
    )


def order_of_work(plans: Sequence[RepoPlan]) -> list[tuple[RepoPlan, FileState]]:
    """What is not whole, repository by repository, the small files first: a repository that breaks off shows early."""
    return [
        (plan, one) for plan in plans for one in sorted(plan.files, key=lambda s: s.file.size) if one.state != "whole"
    ]


def wait_before_next(status: int, retry_after_s: float | None, tries: int) -> float | None:
    """Seconds to wait before a further try after this answer of a server, or None: give up and say so.

    `status` 0: the connection broke. `tries`: failures since the last byte came. A server that names a time gets it, up to
    PATIENCE_S: a longer one is for a person to know, because a program that sleeps for an hour looks like one that hangs.
    """
    passing = status in (0, 408, 429) or status >= 500
    if not passing or tries >= len(PAUSES_S):
        return None
    if retry_after_s is not None:
        return retry_after_s if retry_after_s <= PATIENCE_S else None
    return PAUSES_S[tries]


PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
PATIENCE_S = 90.0


def _refusal(file: RemoteFile, names: set[str], code: bool) -> str | None:
    """Why a file is not wanted, or None."""
    name = file.name
    if "/" in name and not _NAME.fullmatch(name):
        return "in a folder: a second copy or another form"
    if not _NAME.fullmatch(name) or ".." in name:
        return "its name is not one that is written to a disk unseen"
    if not _DIGEST.fullmatch(file.digest):
        return "the hub gives no hash for it, so nobody could say that it came whole"
    if name.endswith(".safetensors"):
        return _second_copy(name, names)
    if name.endswith(".py"):
        return None if code else "code: never fetched without --allow-code"
    if _PICKLES.fullmatch(name):
        return "a pickle can run code when it is read"
    if name.endswith(".json"):
        return "belongs to another framework's weights" if _OTHER_FRAMEWORKS.fullmatch(name) else None
    if _TOKENIZERS.fullmatch(name.rpartition("/")[2]) or _TEXTS.fullmatch(name):
        return None
    return "not needed to load the model"


def _second_copy(name: str, names: set[str]) -> str | None:
    """The same rule by which a model's folder is read: the index's shards, else model.safetensors, else all there are."""
    if name.startswith("consolidated") and (INDEX in names or SINGLE in names):
        return "the same weights a second time"
    if INDEX not in names and SINGLE in names and name != SINGLE:
        return f"not part of the model that {SINGLE} holds"
    return None


def _check_model(listing: Listing, wanted: set[str], left_out: Sequence[LeftOut]) -> None:
    where = f"{listing.repo} at {listing.commit[:12]}"
    if not any(name.endswith(".safetensors") for name in wanted):
        pickles = [one.name for one in left_out if "pickle" in one.reason]
        gguf = [one.name for one in left_out if one.name.endswith(".gguf")]
        held = f"only pickles ({pickles[0]})" if pickles else f"only GGUF ({gguf[0]})" if gguf else "none at all"
        raise InputError(
            f"{listing.repo} has no safetensors weights: {held}",
            where=where,
            allowed="weights in safetensors, which cannot run code",
            next_step="name a copy in safetensors; many repositories have one as a branch: --revision refs/pr/N",
        )
    if "config.json" not in wanted:
        raise InputError(
            f"{listing.repo} has no config.json, so nothing says what its model is",
            where=where,
            next_step="a repository of an adapter has none: name the model it was made from",
        )
