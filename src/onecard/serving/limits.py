"""How much one request may ask for. Every limit is a refusal with its number, never a cut answer."""

from __future__ import annotations

from dataclasses import dataclass

from onecard.errors import InputError

MAX_BODY_BYTES = 4 * 2**20  # a prompt for the longest contexts in use; images come with their own limit


@dataclass(frozen=True)
class Limits:
    """`new_tokens` bounds an answer beside the context (None: only the context does); times are seconds from the request's arrival."""

    body_bytes: int = MAX_BODY_BYTES
    new_tokens: int | None = None
    choices: int = 32
    candidates: int = 1000
    answer_s: float = 600.0
    body_s: float = 30.0

    def check_choices(self, choices: int, where: str) -> None:
        """InputError for more answers than one request may ask for."""
        if choices > self.choices:
            raise InputError(f"{choices} answers in one request", where=where, allowed=f"up to {self.choices}")

    def check_new_tokens(self, asked: int | None, where: str) -> None:
        """InputError when a request names more tokens than this service writes."""
        if self.new_tokens is not None and asked is not None and asked > self.new_tokens:
            raise InputError(
                f"{asked} tokens are more than this service writes", where=where, allowed=f"up to {self.new_tokens}"
            )

    def check_candidates(self, candidates: int, where: str) -> None:
        """InputError for more texts than one request may have scored."""
        if candidates > self.candidates:
            raise InputError(f"{candidates} texts in one request", where=where, allowed=f"up to {self.candidates}")
