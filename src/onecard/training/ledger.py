"""The token ledger: what every row will teach, counted before anything is trained, and the faults that stop a run.

Nothing is ever cut or dropped: a row that is too long is a fault, and so is a token that nobody learns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from onecard.errors import DataError, OnecardError
from onecard.training.chat import ChatFormat, EncodedRow
from onecard.training.rows import Row


@dataclass(frozen=True)
class RowTokens:
    """One line of the ledger. `trained` counts completion and end of turn."""

    where: str
    preset: str | None
    prompt: int
    trained: int
    end_of_turn_trained: bool
    too_long: bool

    @property
    def total(self) -> int:
        return self.prompt + self.trained


@dataclass(frozen=True)
class Ledger:
    """All rows, their encoded form, and every fault found."""

    rows: tuple[RowTokens, ...]
    encoded: tuple[EncodedRow, ...]
    faults: tuple[DataError, ...]
    max_length: int

    def demand_clean(self) -> None:
        """Raises the first fault, with how many more there are."""
        if self.faults:
            first, others = self.faults[0], len(self.faults) - 1
            more = f" ({others} more {'fault' if others == 1 else 'faults'})" if others else ""
            raise DataError(first.problem + more, where=first.where, allowed=first.allowed, next_step=first.next_step)

    def only(self, preset: str | None) -> Ledger:
        """The rows of one preset, without faults: for a table."""
        return replace(self, rows=tuple(row for row in self.rows if row.preset == preset), encoded=(), faults=())

    @property
    def prompt_tokens(self) -> int:
        return sum(row.prompt for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        return sum(row.trained for row in self.rows)

    def summary(self) -> dict[str, object]:
        """Plain data for tables and `--json`; lengths in tokens."""
        lengths = sorted(row.total for row in self.rows)
        return {
            "rows": len(self.rows),
            "prompt_tokens": self.prompt_tokens,
            "trained_tokens": self.trained_tokens,
            "mean_length": round(mean(lengths), 1) if lengths else 0,
            "longest": lengths[-1] if lengths else 0,
            "max_length": self.max_length,
            "too_long": sum(row.too_long for row in self.rows),
            "end_of_turn_trained": sum(row.end_of_turn_trained for row in self.rows),
            "presets": dict(sorted(Counter(row.preset or "(none)" for row in self.rows).items())),
            "faults": len(self.faults),
        }


def build_ledger(rows: Sequence[Row], chat: ChatFormat, max_length: int, added_tokens: Sequence[str] = ()) -> Ledger:
    """Encodes and counts every row. `max_length` in tokens; `added_tokens` must be in the tokenizer and each used by a row."""
    encoded: list[EncodedRow] = []
    lines: list[RowTokens] = []
    faults: list[DataError] = list(_preset_faults(chat))
    for row in rows:
        try:
            one = chat.encode(row)
        except OnecardError as error:
            faults.append(DataError(error.problem, where=row.where, allowed=error.allowed, next_step=error.next_step))
            continue
        line = _count(one, chat.stop_ids, max_length)
        if line.too_long:
            faults.append(_too_long(line, max_length))
        encoded.append(one)
        lines.append(line)
    if encoded:
        faults += _unused(added_tokens, encoded, chat)
    return Ledger(tuple(lines), tuple(encoded), tuple(faults), max_length)


def _count(one: EncodedRow, stop_ids: tuple[int, ...], max_length: int) -> RowTokens:
    return RowTokens(
        where=one.row.where,
        preset=one.row.preset,
        prompt=one.prompt_tokens,
        trained=one.trained_tokens,
        end_of_turn_trained=one.labels[-1] in stop_ids,
        too_long=len(one.ids) > max_length,
    )


def _too_long(line: RowTokens, max_length: int) -> DataError:
    return DataError(
        f"the row has {line.total} tokens",
        where=line.where,
        allowed=f"at most {max_length} (max_length of the recipe); rows are never cut",
        next_step="shorten the row or raise max_length",
    )


def _unused(added_tokens: Sequence[str], encoded: Sequence[EncodedRow], chat: ChatFormat) -> list[DataError]:
    """An added token that stands in no row keeps its untrained row of the embedding and would answer with noise."""
    seen = {token for one in encoded for token in one.ids}
    unused = [token for token in added_tokens if chat.tokenizer.convert_tokens_to_ids(token) not in seen]
    return [
        DataError(
            f"no row uses the added token {token}",
            where=encoded[0].row.where.rpartition(":")[0],
            allowed="every added token stands in at least one row, by its preset or written out",
            next_step="give rows the preset of this token, or take it out of the recipe",
        )
        for token in unused
    ]


def _preset_faults(chat: ChatFormat) -> list[DataError]:
    """A preset's token that the tokenizer does not know whole would fall into pieces, and nobody would notice."""
    known = chat.tokenizer.get_vocab()
    return [
        DataError(
            f"the token {preset.token} is not in the vocabulary",
            where=f"presets.{name}.token",
            allowed="a token of the base, or one of the recipe's added_tokens",
            next_step=f"add {preset.token} to added_tokens of the recipe",
        )
        for name, preset in sorted(chat.presets.items())
        if preset.token and preset.token not in known
    ]
