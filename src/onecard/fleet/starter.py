"""A commented fleet file to start from, for one card: a base that fits it, one agent, one recipe.

A pure function from a card and the catalog's models to text. The sums here are a rough sieve with room to spare; `onecard plan` does
the real ones, and the tests plan the file for every card of the catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onecard.catalog.cards import Card
from onecard.catalog.models import Model
from onecard.catalog.quantization import Quantization, weight_bytes
from onecard.catalog.units import GIB

EMBEDDED = "embedded:mini"
COMMENT_COLUMN = 38


@dataclass(frozen=True)
class Wish:
    """A base and how it is held; `recipe` trains on the same form, because an adapter learns the weights it sees."""

    id: str
    quantization: Quantization
    context: int
    concurrency: int
    recipe: str
    why: str


# Fully open models without a gate, the most capable that fits first.
WISHES = (
    Wish("Qwen/Qwen3-14B", "none", 8192, 4, "lora-16bit", "14B in 16 bits: no quantization error"),
    Wish("Qwen/Qwen3-8B", "nf4", 4096, 4, "qlora", "8B in 4 bits (QLoRA): room for callers and for training"),
    Wish("Qwen/Qwen3-8B", "nf4", 2048, 2, "qlora", "8B in 4 bits (QLoRA), with room to train"),
    Wish(
        "HuggingFaceTB/SmolLM3-3B",
        "nf4",
        4096,
        2,
        "qlora",
        "3B in 4 bits (QLoRA): small, quick, trained on the same card",
    ),
)
MINI = Wish(
    EMBEDDED, "nf4", 512, 4, "qlora", "7 million parameters, ships with onecard: to try things out on any machine"
)


def starter_fleet(card: Card, models: Sequence[Model]) -> str:
    """The text of a fleet file for this card; `models` are the catalog's. The embedded base where no model of the list fits."""
    wish = choose_base(card, models)
    mini = wish.id == EMBEDDED
    text = _TEMPLATE.format(
        card="auto" if card.id in ("cpu", "custom") else card.id,
        card_name=f"{card.name}, {card.total_gib:.4g} GiB",
        reserve=f"{reserve_gib(card):g}",
        id=wish.id,
        why=wish.why,
        quantization=wish.quantization,
        context=wish.context,
        concurrency=wish.concurrency,
        recipe=wish.recipe,
        new_tokens=128 if mini else 256,
        prompt_tokens=60 if mini else 500,
    )
    return "\n".join(_lined_up(line) for line in text.split("\n"))


def _lined_up(line: str) -> str:
    """The line with its comment, if it has one, in the column all comments stand in."""
    key, mark, comment = line.partition(" ## ")
    return f"{key:<{COMMENT_COLUMN}}# {comment}" if mark else line


def choose_base(card: Card, models: Sequence[Model]) -> Wish:
    """The first wish that fits with room to spare. A CPU gets the embedded base: larger ones answer too slowly there."""
    if card.architecture == "CPU":
        return MINI
    known = {model.id: model for model in models}
    available = card.total_bytes - round(reserve_gib(card) * GIB)
    for wish in WISHES:
        model = known.get(wish.id)
        if model is not None and _rough_need(wish, model) <= available:
            return wish
    return MINI


def reserve_gib(card: Card) -> float:
    """More where a desktop may be drawn by the same card, most where memory is shared with the whole system."""
    if card.memory_basis == "unified":
        return 2.0
    return 1.0 if card.id.startswith(("rtx-3", "rtx-4", "rtx-5", "rx-")) else 0.5


def _rough_need(wish: Wish, model: Model) -> int:
    """Weights and a tenth, the cache with its copy and holes, and what processes, training and prompts take."""
    cache = model.kv.bytes_for(wish.context, wish.concurrency)
    return round(1.1 * weight_bytes(model.layout, wish.quantization) + 2.3 * cache + 2.0 * GIB)


# Comments stand after "##" and are lined up when the text is filled in.
_TEMPLATE = """\
# A starter fleet, written by `onecard init` for {card_name}.
# `onecard plan` on this file says what it takes and how fast it answers, before anything is downloaded.
name: starter
card: {card}
reserve_gib: {reserve} ## left for the desktop, the driver and others
store: ./modelstore ## where adapters live

models: ## what is resident on the card, loaded once
  # {why}; `onecard models` lists others.
  base:
    id: {id}
    quantization: {quantization} ## none | int8 | nf4 | awq | gptq | fp8
    context: {context} ## longest prompt plus answer, tokens
    concurrency: {concurrency} ## callers answered at once

agents: ## one job each; add as many as you like, they share the base
  assistant:
    model: base
    adapter: assistant@production ## <name>@<version or alias>; leave it out to ask the bare base
    recipe: {recipe} ## how it is trained: a shipped recipe, a file, or inline
    data: data/train.jsonl ## rows to learn: {{"prompt": "...", "completion": "..."}}
    deadline: {{seconds: 30, prompt_tokens: {prompt_tokens}, new_tokens: {new_tokens}, percentile: 95}}
    presets:
      default: {{temperature: 0.3, max_new_tokens: {new_tokens}}}
    # suite:                       the gate: what a new adapter has to show before it answers anybody
    #   data: data/test.jsonl      held-out rows
    #   checks:
    #     - {{max_tokens: 200, overlap: 0.3, repetition: 0.2}}
"""
