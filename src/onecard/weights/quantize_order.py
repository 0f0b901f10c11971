"""What is to be made of which model, from which text, by which library: the record that the command line writes and the runner reads.

Pure, and nothing but the standard library: the runner may live in an interpreter of its own, where little of onecard can be imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

To = Literal["awq", "gptq", "int8", "w8a8", "fp8", "nf4"]
Maker = Literal["bitsandbytes", "llm-compressor"]
Device = Literal["auto", "cpu", "cuda"]

FORMS: tuple[To, ...] = ("awq", "gptq", "int8", "w8a8", "fp8", "nf4")
# The first is the default. A fleet's int8 and nf4 are bitsandbytes' own; vLLM reads the int8 of llm-compressor instead.
MAKERS: dict[To, tuple[Maker, ...]] = {
    "awq": ("llm-compressor",),
    "gptq": ("llm-compressor",),
    "int8": ("bitsandbytes", "llm-compressor"),
    "w8a8": ("llm-compressor",),
    "fp8": ("llm-compressor",),
    "nf4": ("bitsandbytes",),
}
CALIBRATED: tuple[To, ...] = ("awq", "gptq")  # the others are made from the weights alone

ANSWERED_TOGETHER = 16  # questions of a suite whose answers are written in one batch
FEWEST_TEXTS = 8  # below this neither half says anything
HELD_OUT_SHARE = 4  # one held-out text for so many samples
FEWEST_HELD_OUT, MOST_HELD_OUT = 4, 64


@dataclass(frozen=True)
class Texts:
    """Calibration text and the held-out text that quality is measured on; no text is in both.

    `special_tokens`: whether the tokenizer puts its own before each text. A rendered chat template brings them already.
    """

    calibration: tuple[str, ...]
    held_out: tuple[str, ...]
    special_tokens: bool

    @property
    def digest(self) -> str:
        """sha256 hex over both halves, in order."""
        return hashlib.sha256(json.dumps([self.calibration, self.held_out]).encode()).hexdigest()


@dataclass(frozen=True)
class Asked:
    """A question of an agent's suite as the model reads it; an answer ends at a token of `stop_ids` or is cut."""

    text: str
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop_ids: tuple[int, ...]


@dataclass(frozen=True)
class Said:
    """An answer: its text, its tokens, and whether it ended by itself ("stop") or was cut ("length")."""

    text: str
    tokens: int
    reason: str


@dataclass(frozen=True)
class Order:
    """One checkpoint to make. `source` has the 16-bit weights, `output` does not exist yet, `python` runs the libraries.

    `group` is the weights along an input that share a scale (4-bit forms), `max_tokens` where a text is cut. `questions` are asked of the
    source and of what was made.
    """

    model: str
    source: Path
    output: Path
    to: To
    maker: Maker
    group: int
    texts: Texts
    max_tokens: int
    device: Device
    python: Path
    questions: tuple[Asked, ...] = ()


def split_texts(texts: Sequence[str], samples: int, special_tokens: bool) -> Texts:
    """`samples` texts to calibrate with and a quarter as many held out, chosen by their sha256: the same text falls into the same
    half wherever it stands in the file, and a text that occurs twice is counted once. With fewer texts both halves shrink.

    ValueError with fewer than FEWEST_TEXTS different texts.
    """
    distinct = sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())
    if len(distinct) < FEWEST_TEXTS:
        raise ValueError(f"{len(distinct)} different texts, and at least {FEWEST_TEXTS} are needed")
    wanted = min(max(samples // HELD_OUT_SHARE, FEWEST_HELD_OUT), MOST_HELD_OUT)
    held_out = min(wanted, max(len(distinct) // (HELD_OUT_SHARE + 1), FEWEST_HELD_OUT))
    calibration = distinct[held_out : held_out + samples]
    return Texts(tuple(calibration), tuple(distinct[:held_out]), special_tokens)


def to_json(order: Order, target: Path) -> str:
    """The order for the runner, which writes the weights to `target`."""
    document = asdict(order) | {"source": str(order.source), "output": str(target), "python": str(order.python)}
    return json.dumps(document)


def from_json(text: str) -> Order:
    """The order that `to_json` wrote; its `output` is the target."""
    document: dict[str, Any] = json.loads(text)
    texts = document.pop("texts")
    document["texts"] = Texts(tuple(texts["calibration"]), tuple(texts["held_out"]), texts["special_tokens"])
    asked = [Asked(**{**one, "stop_ids": tuple(one["stop_ids"])}) for one in document.pop("questions")]
    document["questions"] = tuple(asked)
    for name in ("source", "output", "python"):
        document[name] = Path(document[name])
    return Order(**document)
