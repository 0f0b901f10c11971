"""Every key of a recipe is read: changing it changes the run, its files, its ledger, or ends it with the key's name.

The keys are walked in the model's own fields, so a key without a case here fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bitsandbytes.nn import Linear4bit
from pydantic import BaseModel
from safetensors.torch import load_file

from onecard.errors import DataError, InputError
from onecard.fleet.loader import load_fleet
from onecard.fleet.recipe import Recipe
from onecard.training import losses
from onecard.training.adapter import adapter_state, targets_of
from onecard.training.loop import LoopResult
from onecard.training.manifest_writer import RunFacts, write_manifest
from onecard.training.preparation import prepare
from onecard.training.training import train_adapter

ROWS = [
    {"prompt": "What is a mutex?", "completion": "A lock that one thread holds.", "preset": "terse"},
    {
        "prompt": "What is a queue?",
        "completion": "A list read in order. The first in is the first out.",
        "preset": "verbose",
    },
    {"prompt": "Name a colour.", "completion": "Green.", "preset": "terse"},
    {"prompt": "Name a metal.", "completion": "Iron, which rusts.", "preset": "verbose"},
]
PAIRS = [
    {"prompt": "What is a mutex?", "chosen": "A lock.", "rejected": "I like trains.", "preset": "terse"},
    {"prompt": "What is a queue?", "chosen": "A list.", "rejected": "No idea at all.", "preset": "verbose"},
]
PLAIN: dict[str, Any] = {
    "name": "quick",
    "base_quantization": "none",
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": "all-linear"},
    "optimizer": {"name": "adamw_torch", "learning_rate": 2e-2, "schedule": "cosine", "warmup_ratio": 0.0},
    "batch": {"rows": 2, "accumulate": 1},
    "epochs": 2,
    "gradient_checkpointing": False,
}


@dataclass
class Ran:
    """What a user can see of a run: the model, its result, its files and its forward passes."""

    model: Any
    result: LoopResult
    folder: Path
    passes: list[tuple[int, ...]]
    ids: list[tuple[int, ...]]
    order: Any
    facts: Any

    @property
    def weights(self) -> list[torch.Tensor]:
        return [tensor for _, tensor in sorted(adapter_state(self.model).items())]

    @property
    def steps(self) -> int:
        return len(self.result.curve)

    @property
    def checkpoints(self) -> list[str]:
        return sorted(place.name for place in self.folder.glob("checkpoint-*"))

    @property
    def optimizer_state(self) -> list[str]:
        newest = max(self.folder.glob("checkpoint-*"))
        return sorted(name.rpartition(".")[2] for name in load_file(newest / "optimizer.safetensors"))

    @property
    def norms(self) -> list[float]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["gradient_norm"] for line in lines]

    @property
    def manifest(self) -> Any:
        facts = RunFacts(self.result, 1, "process-rss", targets_of(self.model), torch.device("cpu"))
        return write_manifest(self.order, self.facts, facts)


RUN: dict[str, Ran] = {}  # by recipe: cases share the run they start from


@pytest.fixture
def ran(trial: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """One run with `PLAIN` and the keys given, by their dotted names; `anew` runs it again."""
    passes: list[tuple[int, ...]] = []
    real = losses.learn

    def learn(reader: Any, laid: Any, *rest: Any) -> torch.Tensor:
        passes.append(tuple(laid.ids.shape))
        return real(reader, laid, *rest)

    monkeypatch.setattr(losses, "learn", learn)
    monkeypatch.setattr("onecard.training.loop._Learner.rehearse", lambda *_: None)
    count = iter(range(9))

    def run(rows: Any = ROWS, anew: bool = False, **keys: Any) -> Ran:
        known = Recipe.model_validate(recipe_of(keys)).model_dump_json()
        if known in RUN and not anew:
            return RUN[known]
        made, folder = trial(rows=rows, recipe=recipe_of(keys)), tmp_path / f"run{next(count)}"
        passes.clear()
        result = made.run(folder)
        ids = [row.ids for row in made.prepared.ledger.encoded if hasattr(row, "ids")]
        RUN[known] = Ran(made.model, result, folder, list(passes), ids, made.order, made.prepared.facts)
        return RUN[known]

    return run


def recipe_of(keys: dict[str, Any]) -> dict[str, Any]:
    """`PLAIN` with dotted keys put in."""
    recipe = json.loads(json.dumps(PLAIN))
    for key, value in keys.items():
        *sections, last = key.split(".")
        place = recipe
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return recipe


def keys_of(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every key a person can write, dotted."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys_of(kind, f"{before}{name}.")
        else:
            yield before + name


def seen_weights(run: Ran) -> list[list[float]]:
    return [tensor.flatten().tolist() for tensor in run.weights]


def rates(run: Ran) -> list[float]:
    return [point.learning_rate for point in run.result.curve]


CPT = {"checkpoints.every_steps": 1}

# key: (other keys both runs have, the key's plain value, its changed value, what a user sees, what is seen in the end or None for
# "something else than before")
RUNS: dict[str, tuple[dict[str, Any], Any, Any, Callable[[Ran], Any], Any]] = {
    "name": ({"max_steps": 1}, "quick", "mine", lambda run: run.manifest.recipe["name"], "mine"),
    "base_quantization": (
        {"max_steps": 1}, "none", "nf4", lambda run: sum(isinstance(m, Linear4bit) for m in run.model.modules()), 14,
    ),
    "double_quantization": (
        {"base_quantization": "nf4", "max_steps": 1}, True, False,
        lambda run: {m.weight.quant_state.nested for m in run.model.modules() if isinstance(m, Linear4bit)}, {False},
    ),
    "compute_dtype": (
        {"max_steps": 1}, "bf16", "fp32", lambda run: {w.dtype for w in run.model.parameters()}, {torch.float32},
    ),
    "lora.rank": ({"max_steps": 1}, 4, 6, lambda run: {min(w.shape) for w in run.weights} - {2}, {6}),
    "lora.alpha": ({}, 8, 4, seen_weights, None),
    "lora.dropout": ({}, 0.1, 0.5, seen_weights, None),
    "lora.targets": ({"max_steps": 1}, "all-linear", ["q_proj"], lambda run: run.manifest.targets, ("q_proj",)),
    "chat_template": ({"max_steps": 1}, True, False, lambda run: run.ids, None),
    "batch.rows": ({}, 2, 4, lambda run: run.steps, 2),
    "batch.accumulate": ({}, 1, 2, lambda run: run.steps, 2),
    "batch.packing": ({"max_steps": 1}, True, False, lambda run: [shape[0] for shape in run.passes], [2]),
    "batch.forward_tokens": ({"max_steps": 1, "batch.rows": 4}, 4096, 32, lambda run: len(run.passes) > 1, True),
    "optimizer.name": (
        {"max_steps": 2, **CPT}, "adamw_torch", "adamw_8bit", lambda run: "state1" in run.optimizer_state, True,
    ),
    "optimizer.learning_rate": ({"max_steps": 1}, 2e-2, 1e-3, rates, [1e-3]),
    "optimizer.schedule": ({}, "cosine", "linear", rates, [0.02, 0.015, 0.01, 0.005]),
    "optimizer.warmup_ratio": ({"optimizer.schedule": "constant"}, 0.0, 0.5, rates, [0, 0.01, 0.02, 0.02]),
    "optimizer.warmup_steps": (
        {"optimizer.schedule": "constant", "optimizer.warmup_ratio": 0.5}, None, 1, rates, [0, 0.02, 0.02, 0.02],
    ),
    "optimizer.weight_decay": ({}, 0.0, 0.5, seen_weights, None),
    "optimizer.max_grad_norm": ({"max_steps": 2}, 1.0, 1e-7, seen_weights, None),
    "epochs": ({}, 2, 1, lambda run: run.steps, 2),
    "max_steps": ({}, None, 3, lambda run: run.steps, 3),
    "gradient_checkpointing": ({"max_steps": 1}, False, 1, lambda run: run.result.recomputed_layers, 1),
    "validation.share": ({}, 0.0, 0.25, lambda run: [step for step, _ in run.result.validation], [4]),
    "validation.every_steps": ({"validation.share": 0.25}, 50, 1, lambda run: len(run.result.validation), 4),
    "checkpoints.every_steps": ({"max_steps": 4}, 500, 2, lambda run: run.checkpoints, ["checkpoint-2"]),
    "checkpoints.every_minutes": ({"max_steps": 3}, 10, 1e-6, lambda run: run.checkpoints, ["checkpoint-1", "checkpoint-2"]),
    "checkpoints.keep": ({"max_steps": 4, **CPT}, 2, 1, lambda run: run.checkpoints, ["checkpoint-3"]),
    "seed": ({}, 17, 18, seen_weights, None),
}  # fmt: skip


@pytest.mark.parametrize("key", RUNS)
def test_a_run_changes_with_the_key(ran, key):
    shared, plain, changed, seen, expected = RUNS[key]
    before, after = seen(ran(**{**shared, key: plain})), seen(ran(**{**shared, key: changed}))
    assert after != before
    if expected is not None:
        assert after == (pytest.approx(expected) if seen is rates else expected)


def test_the_same_keys_give_the_same_run(ran):
    """Without it, every other weight above would prove nothing."""
    assert seen_weights(ran()) == seen_weights(ran(anew=True))


def test_beta_scales_the_pull_of_preferences(ran):
    shared = {"method": "dpo", "max_steps": 1, "lora.dropout": 0.0, "compute_dtype": "fp32"}
    (weak,), (strong,) = (ran(rows=PAIRS, **shared, **{"dpo.beta": beta}).norms for beta in (0.1, 0.3))
    assert strong == pytest.approx(3 * weak, rel=1e-3)


# key: (rows, recipe keys before, the changed value, the refusal's class and words)
REFUSALS: dict[str, tuple[Any, dict[str, Any], Any, type[Exception], str]] = {
    "method": (ROWS, {}, "dpo", DataError, "the recipe's method is dpo"),
    "added_tokens": (ROWS, {}, ["<STYLE_TERSE>"], DataError, "<STYLE_VERBOSE>"),
    "token_training": (ROWS, {}, "whole", InputError, "token_training: whole"),
    "max_length": (ROWS, {}, 16, DataError, "at most 16"),
    "data_checks.duplicates": ([*ROWS, ROWS[0]], {"data_checks.duplicates": 0.5}, 0.1, DataError, "0.1|10%"),
    "data_checks.leaks": (ROWS, {"data_checks.leaks": 4}, 0, DataError, "held|suite"),
}


@pytest.mark.parametrize("key", REFUSALS)
def test_a_run_is_refused_by_the_key(order, tmp_path, key):
    rows, before, changed, kind, words = REFUSALS[key]
    suite = tmp_path / "suite.jsonl"
    suite.write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")

    def started(keys: dict[str, Any]) -> None:
        stages: list[str] = []

        def stop_at_the_base(told: Any) -> None:
            stages.append(told.stage)
            if told.stage == "loading":
                raise KeyboardInterrupt

        held_out = {"suite_file": suite} if key.endswith("leaks") else {}
        train_adapter(order(rows=rows, recipe=recipe_of(keys), **held_out), stop_at_the_base)

    with pytest.raises(KeyboardInterrupt):
        started(before)
    with pytest.raises(kind, match=words):
        started({**before, key: changed})


def test_added_tokens_have_rows(order):
    made = order()
    some = prepare(made.data_file, made.base_folder, made.recipe, made.presets).facts.added_tokens
    assert [token.token for token in some] == list(made.recipe.added_tokens) and some[1].row == some[0].row + 1


def test_data_names_the_rows_of_an_agent_that_names_none(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    fleet = {
        "name": "one",
        "card": "rtx-3090",
        "models": {"base": {"id": "embedded:mini", "quantization": "nf4"}},
        "agents": {"writer": {"model": "base", "adapter": "style@production", "recipe": {"data": "rows.jsonl"}}},
    }
    (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(fleet), encoding="utf-8")
    assert load_fleet(tmp_path / "fleet.yaml").data_file("writer") == tmp_path / "rows.jsonl"


def test_every_key_has_its_case():
    cases = {*RUNS, *REFUSALS, "dpo.beta", "data"}
    assert cases == set(keys_of(Recipe))
