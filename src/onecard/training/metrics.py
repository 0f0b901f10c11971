"""What a run tells while it goes: a line a step in metrics.jsonl, and the same for TensorBoard where that is asked for.

The file holds each step once, in order, also after a run went on from a checkpoint.
"""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

from onecard.adapters.durable import replace
from onecard.errors import MissingPart

FILE = "metrics.jsonl"


class Metrics:
    """Writes to `folder`, if there is one, and to TensorBoard's folder, if there is one. Lines up to `step` of an earlier part stay.

    A figure that is no number is left out: JSON has none, and a gradient's norm is infinite where fp16 overflowed.
    """

    def __init__(self, folder: Path | None, tensorboard: Path | None = None, step: int = 0) -> None:
        self._file = None
        self._board = _board(tensorboard, step) if tensorboard is not None else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            place = folder / FILE
            kept = [line for line in _lines(place) if json.loads(line)["step"] <= step] if step else []
            replace(place, "".join(kept).encode())
            self._file = place.open("a", encoding="utf-8")

    def write(self, step: int, **figures: float | None) -> None:
        known: dict[str, Any] = {
            name: value for name, value in figures.items() if value is not None and isfinite(value)
        }
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **known}) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in known.items():
                self._board.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _lines(file: Path) -> list[str]:
    """Whole lines; the last one of a killed run may be half."""
    if not file.is_file():
        return []
    return [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingPart("tensorboard is not installed", next_step="pip install tensorboard") from None
    return SummaryWriter(str(folder), purge_step=step + 1)
