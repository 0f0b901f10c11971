"""Everything that is known before a weight is loaded: rows, tokenizer with the recipe's tokens, and the ledger with every fault.

Needs no torch, so that `onecard data check` answers quickly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onecard.adapters.manifest import AddedToken
from onecard.engines.local.tokens import chat_template_sha256, load_tokenizer, stop_ids
from onecard.errors import InputError, MissingPart
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import Preset
from onecard.training.chat import ChatFormat
from onecard.training.ledger import Ledger, build_ledger
from onecard.training.rows import data_sha256, scan_rows


@dataclass(frozen=True)
class DataFacts:
    """What is trained on, as the manifest says it."""

    rows: int
    trained_tokens: int
    sha256: str
    added_tokens: tuple[AddedToken, ...]
    chat_template_sha256: str
    stop_ids: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """`tokenizer` has the added tokens; `ledger` may hold faults, which the caller judges."""

    tokenizer: Any
    ledger: Ledger
    facts: DataFacts


def prepare(
    data_file: Path,
    base_folder: Path,
    recipe: Recipe,
    presets: Mapping[str, Preset] | None,
    limit_rows: int | None = None,
) -> Prepared:
    """Reads the first `limit_rows` rows and counts their tokens. `presets` None takes any preset's name and puts no token.

    DataError when the file cannot be read or holds no rows; InputError or MissingPart for a base without a usable tokenizer.
    """
    rows, faults = scan_rows(data_file, presets, limit_rows)
    tokenizer = load_tokenizer(base_folder)
    stops = stop_ids(tokenizer, base_folder)
    added = extend_tokenizer(tokenizer, recipe.added_tokens)
    chat = ChatFormat(tokenizer, stops, recipe.chat_template, presets or {})
    longest = min(recipe.max_length, positions(base_folder) or recipe.max_length)
    ledger = build_ledger(rows, chat, longest, () if presets is None else recipe.added_tokens)
    facts = DataFacts(
        rows=len(rows),
        trained_tokens=ledger.trained_tokens,
        sha256=data_sha256(rows),
        added_tokens=added,
        chat_template_sha256=chat_template_sha256(tokenizer),
        stop_ids=stops,
    )
    return Prepared(tokenizer, replace(ledger, faults=(*faults, *ledger.faults)), facts)


def extend_tokenizer(tokenizer: Any, tokens: tuple[str, ...]) -> tuple[AddedToken, ...]:
    """Adds the tokens and says which row each has. One that the base already knows keeps its row, and that row is trained."""
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    return tuple(AddedToken(token=token, row=tokenizer.convert_tokens_to_ids(token)) for token in tokens)


def positions(base_folder: Path) -> int | None:
    """The longest text the base was made for, tokens; None where its config does not say."""
    file = base_folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingPart("no config.json", where=str(base_folder), next_step="fetch the model") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=str(file)) from None
    said = config.get("max_position_embeddings") if isinstance(config, dict) else None
    return said if isinstance(said, int) and said > 0 else None


def planned_steps(rows: int, recipe: Recipe) -> int:
    """Optimizer steps of a run over so many rows."""
    per_epoch = math.ceil(math.ceil(rows / recipe.batch.rows) / recipe.batch.accumulate)
    return recipe.max_steps or math.ceil(per_epoch * recipe.epochs)
