"""The token ledger: what every row will teach, counted before anything is trained, the faults that stop a run and the warnings that do not.

Nothing is ever cut or dropped: a row that is too long is a fault, and so is a token that nobody learns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import mean

from onecard.errors import DataError, OnecardError
from onecard.fleet.recipe import DataChecksSection
from onecard.training.batched_tokenizer import BatchedTokenizer
from onecard.training.chat import ChatFormat, EncodedPair, EncodedRow, TurnsDiffer
from onecard.training.remarks import Remark
from onecard.training.repeats import HeldOut, Repeats, find_repeats
from onecard.training.row_checks import ends_trained, row_faults
from onecard.training.rows import Row
from onecard.training.template_checks import template_remarks
from onecard.training.token_checks import split_tokens, unused_tokens

BATCH_ROWS = 512  # rows handed to the tokenizer in one call
Encoded = EncodedRow | EncodedPair
OnCount = Callable[[int, int], None]  # rows counted, rows in all


@dataclass(frozen=True)
class RowTokens:
    """One line of the ledger. `prompt` counts what is read and not learned, `trained` answers and their ends of turn.

    A preference row counts both of its sequences; `longest` is the longer one.
    """

    where: str
    preset: str | None
    prompt: int
    trained: int
    longest: int
    end_of_turn_trained: bool
    too_long: bool

    @property
    def total(self) -> int:
        return self.prompt + self.trained


@dataclass(frozen=True)
class Ledger:
    """All rows, their encoded form in the same order, every fault and every warning found.

    A conversation whose answers must be learned one by one has a line, and an encoded form, for each.
    """

    rows: tuple[RowTokens, ...]
    encoded: tuple[Encoded, ...]
    faults: tuple[DataError, ...]
    max_length: int
    warnings: tuple[Remark, ...] = ()
    repeats: Repeats = field(default=Repeats(0, (), (), ()))

    def demand_clean(self) -> None:
        """Raises the first fault, with how many more there are."""
        if self.faults:
            first, others = self.faults[0], len(self.faults) - 1
            more = f" ({others} more {'fault' if others == 1 else 'faults'})" if others else ""
            raise DataError(first.problem + more, where=first.where, allowed=first.allowed, next_step=first.next_step)

    def only(self, preset: str | None) -> Ledger:
        """The rows of one preset, without faults and warnings: for a table."""
        kept = tuple(row for row in self.rows if row.preset == preset)
        return replace(self, rows=kept, encoded=(), faults=(), warnings=())

    @property
    def prompt_tokens(self) -> int:
        return sum(row.prompt for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        return sum(row.trained for row in self.rows)

    def histogram(self, bins: int = 12) -> list[tuple[int, int, int]]:
        """(shortest, longest, rows) of bins of equal width, tokens, over the rows' longest sequences."""
        lengths = [row.longest for row in self.rows]
        if not lengths:
            return []
        low, high = min(lengths), max(lengths)
        width = max(1, -(-(high - low + 1) // bins))
        counts = Counter((length - low) // width for length in lengths)
        last = (high - low) // width
        return [(low + n * width, min(low + (n + 1) * width - 1, high), counts[n]) for n in range(last + 1)]

    def summary(self) -> dict[str, object]:
        """Plain data for tables and `--json`; lengths in tokens."""
        lengths = sorted(row.longest for row in self.rows)
        return {
            "rows": len(self.rows),
            "prompt_tokens": self.prompt_tokens,
            "trained_tokens": self.trained_tokens,
            "mean_length": round(mean(lengths), 1) if lengths else 0,
            "longest": lengths[-1] if lengths else 0,
            "max_length": self.max_length,
            "too_long": sum(row.too_long for row in self.rows),
            "end_of_turn_trained": sum(row.end_of_turn_trained for row in self.rows),
            "duplicates": len(self.repeats.duplicates),
            "conflicting_prompts": len(self.repeats.conflicts),
            "leaks": len(self.repeats.leaks),
            "presets": dict(sorted(Counter(row.preset or "(none)" for row in self.rows).items())),
            "faults": len(self.faults),
            "warnings": len(self.warnings),
        }


def build_ledger(
    rows: Sequence[Row],
    chat: ChatFormat,
    max_length: int,
    added_tokens: Sequence[str] = (),
    *,
    limits: DataChecksSection | None = None,
    held_out: HeldOut | None = None,
    on_count: OnCount | None = None,
) -> Ledger:
    """Encodes, counts and checks every row. `max_length` in tokens; `added_tokens` must be in the tokenizer and each used by a row."""
    limits = limits or DataChecksSection()
    found = _Found(chat, max_length)
    if on_count:
        on_count(0, len(rows))
    for batch in _batches(rows):
        found.take(batch)
        if on_count:
            on_count(found.seen, len(rows))
    repeats = find_repeats(rows, held_out)
    sequences = [side for one in found.encoded for side in _sides(one)]
    unused = unused_tokens(added_tokens, sequences, chat)
    faults = (*split_tokens(chat), *found.faults, *repeats.faults(limits), *unused)
    warnings = (*template_remarks(chat), *found.remarks(), *repeats.remarks(limits))
    return Ledger(tuple(found.lines), tuple(found.encoded), faults, max_length, warnings, repeats)


class _Found:
    """What is gathered row by row."""

    def __init__(self, chat: ChatFormat, max_length: int) -> None:
        self.chat, self.max_length, self.seen = chat, max_length, 0
        self.lines: list[RowTokens] = []
        self.encoded: list[Encoded] = []
        self.faults: list[DataError] = []
        self.one_by_one: list[str] = []
        self.rewritten: list[str] = []

    def take(self, batch: Sequence[Row]) -> None:
        chat = replace(self.chat, tokenizer=BatchedTokenizer(self.chat.tokenizer))
        chat.tokenizer.read_ahead(text for row in batch for text in _texts(chat, row))
        for row in batch:
            try:
                self._add(row, chat)
            except OnecardError as error:
                self.faults.append(
                    DataError(error.problem, where=row.where, allowed=error.allowed, next_step=error.next_step)
                )
        self.seen += len(batch)

    def _add(self, row: Row, chat: ChatFormat) -> None:
        for one in self._encoded(row, chat):
            sides = _sides(one)
            faults = {fault.problem: fault for side in sides for fault in row_faults(side, chat, self.max_length)}
            self.faults += faults.values()
            self.encoded.append(one)
            self.lines.append(_count(row, sides, chat.stop_ids, self.max_length))
        if chat.chat_template and not chat.writes_answers(row):
            self.rewritten.append(row.where)

    def _encoded(self, row: Row, chat: ChatFormat) -> list[Encoded]:
        if row.kind == "preference":
            return [chat.encode_pair(row)]
        try:
            return [chat.encode(row)]
        except TurnsDiffer:
            alone: list[Encoded] = [chat.encode(one) for one in row.one_answer_each()]
            self.one_by_one.append(row.where)
            return alone

    def remarks(self) -> Iterator[Remark]:
        if self.one_by_one:
            yield Remark(
                self.one_by_one[0],
                f"{_many(self.one_by_one, 'conversation is', 'conversations are')} learned one answer at a time: serving writes "
                "earlier turns differently once there are more",
            )
        if self.rewritten:
            yield Remark(
                self.rewritten[0],
                f"the chat template does not write the answers of {_many(self.rewritten, 'row', 'rows')} as they stand",
                "look at the decoded rows: what is learned is what the template writes",
            )


def _many(found: Sequence[object], one: str, more: str) -> str:
    return f"{len(found):,} {one if len(found) == 1 else more}"


def _sides(one: Encoded) -> tuple[EncodedRow, ...]:
    return one.sides if isinstance(one, EncodedPair) else (one,)


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    waiting = iter(rows)
    while batch := list(islice(waiting, BATCH_ROWS)):
        yield batch


def _texts(chat: ChatFormat, row: Row) -> list[tuple[str, bool]]:
    try:
        return chat.texts(row)
    except OnecardError:
        return []  # told when the row is encoded


def _count(row: Row, sides: Sequence[EncodedRow], stop_ids: tuple[int, ...], max_length: int) -> RowTokens:
    trained, total = sum(side.trained_tokens for side in sides), sum(len(side.ids) for side in sides)
    longest = max(len(side.ids) for side in sides)
    return RowTokens(
        where=row.where,
        preset=row.preset,
        prompt=total - trained,
        trained=trained,
        longest=longest,
        end_of_turn_trained=all(ends_trained(side, stop_ids) for side in sides),
        too_long=longest > max_length,
    )
