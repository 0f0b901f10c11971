"""Claims as YAML: the ones that ship with onecard, and a file of one's own that `onecard claims add` appends to.

A file is read whole or refused with its line; an added claim goes behind the last one, so that comments stay. Writes are under a lock, to a
temporary name, then renamed: a reader never sees half a claim.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from onecard.errors import MachineError, ResultError, StoreBusy, nearest
from onecard.evidence.claims import QUANTITIES, Claim, Measured, Reasoned, Record, Subject, Where
from onecard.evidence.results import write_atomically

LOCK_TIMEOUT_S = 10.0
_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ClaimFile(Record):
    """`documents`: titles by letter."""

    documents: dict[str, str] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()


@lru_cache(maxsize=1)
def shipped_claims() -> ClaimFile:
    """The claims of the documents onecard was made from."""
    name = "claims.yaml"
    return parse_claims(files("onecard.evidence").joinpath(name).read_text(encoding="utf-8"), name)


def read_claims(file: Path) -> ClaimFile:
    """The claims of a file; none when there is no file. ResultError with the line of what is wrong."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ClaimFile()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"cannot be read: {error}", where=str(file)) from None
    return parse_claims(text, str(file))


def parse_claims(text: str, name: str) -> ClaimFile:
    """YAML text as claims; `name` is the file's, for the errors. ResultError."""
    try:
        root = yaml.compose(text, Loader=_LOADER)
        value = yaml.load(text, Loader=_LOADER) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error)
        raise ResultError(f"not valid YAML: {problem}", where=where, next_step="mend the line") from None
    try:
        parsed = ClaimFile.model_validate(value)
    except ValidationError as error:
        raise _explained(error, root, name) from None
    twice = [claim for claim, count in Counter(claim.id for claim in parsed.claims).items() if count > 1]
    if twice:
        raise ResultError(f"two claims have the id '{twice[0]}'", where=name, next_step="give one of them another")
    return parsed


def add_claim(file: Path, claim: Claim) -> None:
    """Appends a claim. ResultError for an id that is taken or a file that cannot be appended to, DiskFull, StoreBusy."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock", timeout=LOCK_TIMEOUT_S):
            known = read_claims(file)
            if claim.id in {other.id for other in known.claims}:
                raise ResultError(
                    f"there is a claim '{claim.id}' already", where=str(file), next_step="give it another --id"
                )
            old = file.read_text(encoding="utf-8") if file.exists() else ""
            new = _appended(old, claim)
            if not _holds(new, (*known.claims, claim)):
                raise ResultError(
                    "cannot be appended to without rewriting it",
                    where=str(file),
                    allowed="`claims:` as the last key, with its entries below it, each on lines of its own",
                    next_step="write it that way, or name another --file",
                )
            write_atomically(file, new)
    except Timeout:
        raise StoreBusy("somebody else is writing to it", where=str(file), next_step="try again") from None
    except OSError as error:
        raise MachineError(f"cannot be written: {error.strerror or error}", where=str(file)) from None


def _appended(old: str, claim: Claim) -> str:
    """The text with the claim behind its last one, indented as the others are."""
    root = yaml.compose(old, Loader=_LOADER) if old.strip() else None
    entries = next((node for key, node in root.value if key.value == "claims"), None) if root else None
    indent = entries.start_mark.column if entries is not None and entries.value else 2
    record = claim.model_dump(mode="json", exclude_defaults=True)
    item = yaml.safe_dump([record], sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    lines = "".join(f"{' ' * indent}{line}\n" for line in item.splitlines())
    head = (
        old.rstrip("\n") + "\n"
        if old.strip()
        else "# Claims, for `onecard claims`. Each says who claims what of what.\n"
    )
    return head + ("" if entries is not None else "claims:\n") + lines


def _holds(text: str, claims: tuple[Claim, ...]) -> bool:
    try:
        return parse_claims(text, "").claims == claims
    except ResultError:
        return False


def _explained(error: ValidationError, root: Any, name: str) -> ResultError:
    """The first fault as file, line and key, with the nearest word where one was misspelt."""
    # A misspelt key also makes the right one missing, and a wrong number is also no bool: the telling fault first.
    fault = min(error.errors(), key=lambda f: (f["type"] != "extra_forbidden", f["type"].endswith("_type")))
    path = [
        part
        for part in fault["loc"]
        if not (isinstance(part, str) and part.startswith(("constrained", "tuple", "bool")))
    ]
    context = fault.get("ctx") or {}
    key = str(context.get("key", path[-1] if path else ""))
    where = f"{name}:{_line(root, [*path, *([context['key']] if 'key' in context else [])])}"
    if fault["type"] == "extra_forbidden":
        known = _keys_at(path)
        problem = f"unknown key '{path[-1]}'{nearest(str(path[-1]), known)}"
        return ResultError(problem, where=where, allowed=", ".join(known) or None)
    if fault["type"] == "literal_error":
        words = (
            list(QUANTITIES)
            if key == "quantity"
            else [w.strip(" '") for w in context["expected"].replace(" or ", ", ").split(",")]
        )
        problem = f"'{fault['input']}' is no {key}{nearest(str(fault['input']), words)}"
        return ResultError(problem, where=where, allowed=", ".join(words))
    said = fault["msg"].removeprefix("Value error, ")
    return ResultError(f"{key}: {said[0].lower()}{said[1:]}" if key else said, where=where)


def _line(root: Any, path: list[str | int]) -> int:
    """The line, from 1, of the deepest part of the path that the file has."""
    node, line = root, 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _keys_at(path: list[str | int]) -> list[str]:
    """The keys allowed beside the last part of the path."""
    inner: dict[str, type[Record]] = {"subject": Subject, "where": Where, "measured": Measured, "reasoned": Reasoned}
    names = [part for part in path[:-1] if isinstance(part, str)]
    record = inner.get(names[-1], Claim) if len(names) > 1 else Claim if names else ClaimFile
    return list(record.model_fields)
