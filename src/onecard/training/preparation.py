"""Everything that is known before a weight is loaded: rows, tokenizer with the recipe's tokens, and the ledger with every fault.

Needs no torch, so that `onecard data check` answers quickly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onecard.adapters.manifest import AddedToken
from onecard.engines.local.tokens import chat_template_sha256, load_tokenizer, stop_ids
from onecard.errors import DataError, InputError, MissingPart
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import Preset
from onecard.training.chat import ChatFormat
from onecard.training.ledger import Ledger, OnCount, build_ledger
from onecard.training.remarks import Remark
from onecard.training.repeats import read_held_out
from onecard.training.rows import Row, Scan, data_sha256, read_rows
from onecard.training.template_checks import template_facts


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
    """`tokenizer` has the added tokens; `ledger` may hold faults, which the caller judges; `template` is `template_facts`."""

    tokenizer: Any
    ledger: Ledger
    facts: DataFacts
    template: dict[str, Any]


def prepare(
    data_file: Path | str,
    base_folder: Path,
    recipe: Recipe,
    presets: Mapping[str, Preset] | None,
    limit_rows: int | None = None,
    suite_file: Path | None = None,
    *,
    on_count: OnCount | None = None,
) -> Prepared:
    """Reads the first `limit_rows` rows and counts their tokens. `presets` None takes any preset's name and puts no token.

    `suite_file` holds the rows that must not be trained on. DataError when a file cannot be read, holds no rows or rows of the wrong
    kind for the recipe's method; InputError or MissingPart for a base without a usable tokenizer. `on_count` hears of rows read (total 0)
    and then of rows counted.
    """
    scan = read_rows(data_file, presets, limit_rows, on_count)
    rows = scan.rows
    demand_kind(rows, recipe)
    held_out = read_held_out(suite_file) if suite_file else None
    tokenizer = load_tokenizer(base_folder)
    stops = stop_ids(tokenizer, base_folder)
    added = extend_tokenizer(tokenizer, recipe.added_tokens)
    chat = ChatFormat(tokenizer, stops, recipe.chat_template, presets or {})
    longest = min(recipe.max_length, positions(base_folder) or recipe.max_length)
    tokens = () if presets is None else recipe.added_tokens
    ledger = build_ledger(rows, chat, longest, tokens, limits=recipe.data_checks, held_out=held_out, on_count=on_count)
    facts = DataFacts(
        rows=len(rows),
        trained_tokens=ledger.trained_tokens,
        sha256=data_sha256(rows),
        added_tokens=added,
        chat_template_sha256=chat_template_sha256(tokenizer),
        stop_ids=stops,
    )
    ledger = replace(
        ledger, faults=(*scan.faults, *ledger.faults), warnings=(*_unread(scan, data_file), *ledger.warnings)
    )
    return Prepared(tokenizer, ledger, facts, template_facts(chat))


def _unread(scan: Scan, source: Path | str) -> list[Remark]:
    """Data sets made elsewhere have columns of their own; a slip in a name would hide among them."""
    if not scan.unread:
        return []
    return [Remark(str(source), f"columns that nobody reads: {', '.join(sorted(scan.unread))}")]


def demand_kind(rows: Sequence[Row], recipe: Recipe) -> None:
    """DataError at the first row that the recipe's method cannot learn from."""
    for row in rows:
        if (row.kind == "preference") != (recipe.method == "dpo"):
            wants = "chosen and rejected answers" if recipe.method == "dpo" else "prompts with completions, or messages"
            other = "sft" if recipe.method == "dpo" else "dpo"
            raise DataError(
                f"a {row.kind} row, and the recipe's method is {recipe.method}",
                where=row.where,
                allowed=f"rows with {wants}",
                next_step=f"set method: {other} in the recipe, or name another file",
            )


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
    """Optimizer steps of a run over so many rows, without those kept out for validation."""
    per_epoch = math.ceil((rows - validation_rows(rows, recipe)) / recipe.batch.step_rows)
    return recipe.max_steps or math.ceil(per_epoch * recipe.epochs)


def validation_rows(rows: int, recipe: Recipe) -> int:
    """How many of so many rows are kept out of training: the recipe's share, rounded, and never all."""
    return max(0, min(round(rows * recipe.validation.share), rows - 1))
