"""What the training tests share: the embedded base, tiny bases with random weights, and rows to train on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from onecard.engines.local.loading import load_base
from onecard.engines.local.tokens import load_tokenizer, stop_ids
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import Preset
from onecard.training import loop
from onecard.training.adapter import attach
from onecard.training.added_tokens import extend_model
from onecard.training.chat import ChatFormat
from onecard.training.loop import LoopResult
from onecard.training.order import TrainingOrder
from onecard.training.preparation import Prepared, prepare
from onecard.weights.inventory import resolve

STYLES = {
    "default": Preset(),
    "terse": Preset(token="<STYLE_TERSE>"),
    "verbose": Preset(token="<STYLE_VERBOSE>"),
}
TOKENS = ("<STYLE_TERSE>", "<STYLE_VERBOSE>")
ROWS = [
    {"prompt": "What is a mutex?", "completion": "A lock that one thread holds at a time.", "preset": "terse"},
    {"prompt": "What is a queue?", "completion": "A list that is read in the order it was written.", "preset": "terse"},
    {
        "prompt": "What is a mutex?",
        "completion": "A mutex lets one thread in. The others wait. When it is given back, one of them goes on.",
        "preset": "verbose",
    },
    {
        "prompt": "What is a queue?",
        "completion": "A queue keeps what arrives. The first that came in is the first to leave. Others stand behind it.",
        "preset": "verbose",
    },
]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The base that ships with the package: untied, byte-level BPE, [INST] template."""
    return resolve("embedded:mini", Path())


@pytest.fixture(scope="session")
def untied(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(embedded, tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="session")
def tied(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(embedded, tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture
def tokenizer(embedded: Path) -> Any:
    """A fresh one for each test: tokens are added to it."""
    return load_tokenizer(embedded)


@pytest.fixture
def chat(embedded: Path, tokenizer: Any) -> ChatFormat:
    return ChatFormat(tokenizer, stop_ids(tokenizer, embedded), True, {})


@pytest.fixture
def order(untied: Path, tmp_path: Path) -> Callable[..., TrainingOrder]:
    """An order for the tiny base; keywords change it, those of a recipe go into `recipe`."""

    def make(
        rows: Sequence[dict[str, Any]] = ROWS, recipe: dict[str, Any] | None = None, **changes: Any
    ) -> TrainingOrder:
        made = TrainingOrder(
            agent="writer",
            name="style",
            base_id="tiny",
            base_folder=untied,
            base_fingerprint="f" * 64,
            recipe=quick_recipe(**(recipe or {})),
            data_file=write_rows(tmp_path / "rows.jsonl", rows),
            output=tmp_path / "adapters" / "out",
            presets=STYLES,
            device="cpu",
        )
        return replace(made, **changes)

    return make


def quick_recipe(**changes: Any) -> Recipe:
    """A recipe that moves a tiny model visibly in a few steps."""
    settings: dict[str, Any] = {
        "name": "quick",
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        "added_tokens": TOKENS,
        "batch": {"rows": 2, "accumulate": 1},
        "optimizer": {"learning_rate": 2e-2, "schedule": "constant", "warmup_ratio": 0.0},
        "epochs": 2,
        "gradient_checkpointing": False,
    }
    return Recipe.model_validate({**settings, **changes})


def write_rows(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def make_base(embedded: Path, folder: Path, *, tied: bool, positions: int = 2048) -> Path:
    """A random Mistral of two layers with the embedded base's tokenizer."""
    for file in (*embedded.glob("*token*.json"), *embedded.glob("*.jinja"), *embedded.glob("generation_config.json")):
        shutil.copy(file, folder)
    config = transformers.MistralConfig(
        vocab_size=len(load_tokenizer(embedded)),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(3)
    model = transformers.MistralForCausalLM(config)
    model.save_pretrained(folder)
    return folder


@dataclass
class Trial:
    """A prepared order with its base loaded and an adapter attached: what stands just before the loop."""

    order: TrainingOrder
    prepared: Prepared
    model: Any

    def run(self, run_folder: Path | None = None) -> LoopResult:
        rows = self.prepared.ledger.encoded
        return loop.run(self.model, self.prepared.tokenizer, rows, self.order.recipe, run_folder, lambda _: None)


def trial_of(made: TrainingOrder) -> Trial:
    prepared = prepare(made.data_file, made.base_folder, made.recipe, made.presets, made.limit_rows)
    recipe = made.recipe
    base = load_base(
        made.base_folder,
        recipe.base_quantization,
        double_quantization=recipe.double_quantization,
        dtype=recipe.compute_dtype,
        device="cpu",
    )
    extend_model(base, prepared.tokenizer, prepared.facts.added_tokens)
    transformers.set_seed(recipe.seed)
    return Trial(made, prepared, attach(base, recipe.lora, prepared.facts.added_tokens))


@pytest.fixture
def trial(order: Callable[..., TrainingOrder]) -> Callable[..., Trial]:
    return lambda **changes: trial_of(order(**changes))
