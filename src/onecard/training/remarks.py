"""What is worth knowing about training data and does not stop a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """A warning: where it is seen first, what is seen, and what to do about it."""

    where: str
    problem: str
    next_step: str | None = None
