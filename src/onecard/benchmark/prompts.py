"""What the callers ask: prompts from a JSONL file, given text, or a few shipped ones, drawn in a seeded order.

The order depends only on the seed and the repeat, so every number of callers of one repeat begins with the same prompts: what changes
between two steps is the load, not the questions.
"""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onecard.errors import DataError

SHIPPED = (
    "Explain what a hash table is.",
    "What is the difference between a process and a thread?",
    "Describe how a cache decides what to evict.",
    "What does it mean that an operation is idempotent?",
    "Explain briefly what a race condition is.",
    "How does binary search find a value?",
    "What is a compiler, and what does it produce?",
    "Describe what happens when a page fault occurs.",
    "What is the purpose of a database index?",
    "Explain what gradient descent does.",
    "What is a checksum used for?",
    "Describe the life of an HTTP request.",
)


@dataclass(frozen=True)
class Prompt:
    """One thing to ask. `row` is its line in the file, from 0; `preset` the one the row names; `images` are `data:` URLs."""

    row: int
    text: str
    preset: str | None = None
    images: tuple[str, ...] = ()
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Prompts:
    """A set of prompts, where it came from, and the sha256 of its texts."""

    rows: tuple[Prompt, ...]
    source: str

    @property
    def sha256(self) -> str:
        lines = "".join(json.dumps([p.text, p.preset, *_beyond_text(p)]) + "\n" for p in self.rows)
        return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True)
class Question:
    """One drawn request: who is asked what, under which preset (None: the agent's default)."""

    agent: str
    preset: str | None
    prompt: Prompt
    deadline_ms: float | None = None
    max_new_tokens: int | None = None


def _beyond_text(prompt: Prompt) -> list[object]:
    """What only newer files have: nothing is added for the others, so their sha256 stays what it was."""
    beyond: list[object] = [*prompt.images, prompt.max_new_tokens]
    return beyond if any(beyond) else []


def given_prompts(texts: Sequence[str], source: str) -> Prompts:
    return Prompts(tuple(Prompt(row, text) for row, text in enumerate(texts)), source)


def shipped_prompts() -> Prompts:
    """A dozen questions about computing, for servers nothing is known about."""
    return given_prompts(SHIPPED, "shipped questions")


def read_prompts(file: Path) -> Prompts:
    """Rows {"prompt": text[, "preset": name, "images": [...], "max_new_tokens": n]} of a JSONL file; other keys are ignored.

    An image is a `data:` URL or a file beside the JSONL. DataError says file and line.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError("no such file of prompts", where=str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=str(file)) from None
    rows = [_row(file, number, line) for number, line in enumerate(lines) if line.strip()]
    if not rows:
        raise DataError(
            "no prompts in it", where=str(file), next_step='write rows such as {"prompt": "What is a heap?"}'
        )
    return Prompts(tuple(rows), file.name)


def _row(file: Path, number: int, line: str) -> Prompt:
    where = f"{file}:{number + 1}"
    try:
        row = json.loads(line)
    except ValueError:
        raise DataError("not JSON", where=where, allowed="one JSON object a line") from None
    text, preset = (row.get("prompt"), row.get("preset")) if isinstance(row, dict) else (None, None)
    if not isinstance(text, str) or not text.strip():
        raise DataError("no text under 'prompt'", where=where, allowed='{"prompt": "..."[, "preset": "..."]}')
    if preset is not None and not isinstance(preset, str):
        raise DataError(f"preset is {preset!r}", where=where, allowed="text")
    longest = row.get("max_new_tokens")
    if longest is not None and (not isinstance(longest, int) or isinstance(longest, bool) or longest < 1):
        raise DataError(f"max_new_tokens is {longest!r}", where=where, allowed="a whole number from 1 on")
    return Prompt(number, text, preset, _images(row.get("images") or [], file.parent, where), longest)


def _images(given: object, folder: Path, where: str) -> tuple[str, ...]:
    """`data:` URLs; files are read into them, so that a request carries its image and no server needs a path or a network."""
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise DataError(f"images is {given!r}", where=where, allowed="a list of data: URLs or file names")
    return tuple(one if one.startswith("data:") else _as_data_url(folder / one, where) for one in given)


def _as_data_url(file: Path, where: str) -> str:
    kind = mimetypes.guess_type(file.name)[0] or ""
    if not kind.startswith("image/"):
        raise DataError(
            f"'{file.name}' is not called as an image is", where=where, allowed=".png, .jpg, .webp, data: URLs"
        )
    try:
        return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
    except OSError as error:
        raise DataError(f"the image {file} cannot be read: {error.strerror}", where=where) from None


def draw(
    prompts: Mapping[str, Prompts], presets: Sequence[str], callers: int, requests: int, seed: int, repeat: int
) -> list[list[Question]]:
    """What each of `callers` asks, `requests` questions each.

    Every agent of `prompts` gets the same share, and every preset of `presets` too. Without presets each row's own is used; with them,
    rows that name another preset are left out unless none would be left.
    """
    generator = random.Random(f"onecard {seed} {repeat}")
    wanted: list[str | None] = list(presets) or [None]
    targets = [(agent, preset) for agent in prompts for preset in wanted]
    orders = {target: _order(prompts[target[0]].rows, target[1], generator) for target in targets}
    asked = dict.fromkeys(targets, 0)
    drawn: list[Question] = []
    while len(drawn) < callers * requests:
        for agent, preset in generator.sample(targets, len(targets)):
            order = orders[agent, preset]
            prompt = order[asked[agent, preset] % len(order)]
            asked[agent, preset] += 1
            drawn.append(Question(agent, preset if preset is not None else prompt.preset, prompt))
    return [drawn[caller : callers * requests : callers] for caller in range(callers)]


def _order(rows: Sequence[Prompt], preset: str | None, generator: random.Random) -> list[Prompt]:
    fitting = [row for row in rows if preset is None or row.preset in (None, preset)] or list(rows)
    return generator.sample(fitting, len(fitting))
