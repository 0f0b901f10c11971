"""The whole story on real parts: what appears is a verified adapter, and whatever goes wrong leaves nothing."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from onecard.adapters.durable import file_digest
from onecard.adapters.store import Store
from onecard.adapters.verification import check_adapter
from onecard.engines.local.loading import load_base
from onecard.errors import DataError, DiskFull, InputError, MissingPart, NothingLearned
from onecard.fleet.loader import load_recipe, shipped_recipes
from onecard.fleet.recipe import Recipe
from onecard.training import adapter, checks
from onecard.training.order import Progress
from onecard.training.preparation import prepare
from onecard.training.training import train_adapter

PLAIN = {"added_tokens": (), "base_quantization": "nf4"}


def ignore(progress: Progress) -> None:
    pass


def digests(folder: Path) -> dict[str, str]:
    return {file.name: file_digest(file) for file in sorted(folder.iterdir())}


def answer(base_folder: Path, folder: Path) -> torch.Tensor:
    base = load_base(base_folder, "nf4", double_quantization=True, dtype="bf16", device="cpu")
    with torch.no_grad():
        logits: torch.Tensor = adapter.load(base, folder)(input_ids=torch.tensor([[1, 3, 40, 41, 4]])).logits
    return logits


def test_an_nf4_adapter_of_the_embedded_base_is_whole_and_verified(order, embedded):
    seen: list[Progress] = []
    before = digests(embedded)
    made = train_adapter(order(base_folder=embedded, recipe={"optimizer": {"learning_rate": 5e-3}}), seen.append)
    assert [p.stage for p in seen if p.stage != "training"] == [
        "data",
        "loading",
        "checking",
        "saving",
        "checking",
        "done",
    ]
    steps = [p for p in seen if p.stage == "training"]
    assert [p.step for p in steps] == [1, 2, 3, 4] and steps[-1].steps == 4 and steps[-1].seconds_left == 0
    assert all(p.loss > 0 and p.tokens_s > 0 for p in steps)
    names = {file.name for file in made.folder.iterdir()}
    assert names == {adapter.WEIGHTS, adapter.CONFIG, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    check_adapter(made.folder, made.manifest)  # what the store asks of it
    assert [token.token for token in made.manifest.added_tokens] == ["<STYLE_TERSE>", "<STYLE_VERBOSE>"]
    assert made.manifest.run.curve[-1].loss < made.manifest.run.curve[0].loss
    assert made.manifest.run.peak_memory_bytes > 100 << 20
    assert digests(embedded) == before


def test_the_same_order_gives_the_same_bytes(order, tmp_path):
    recipe = {"lora": {"rank": 4, "dropout": 0.1}, "max_steps": 3}
    made = [train_adapter(order(recipe=recipe, output=tmp_path / name), ignore).folder for name in ("one", "two")]
    assert digests(made[0]) == digests(made[1])
    other = train_adapter(order(recipe={**recipe, "seed": 18}, output=tmp_path / "three"), ignore)
    assert digests(other.folder)[adapter.WEIGHTS] != digests(made[0])[adapter.WEIGHTS]


def test_training_one_adapter_leaves_another_and_its_answers_bit_identical(order, untied, tmp_path):
    first = train_adapter(order(output=tmp_path / "a"), ignore)
    files, said = digests(first.folder), answer(untied, first.folder)
    rows = [{"prompt": "Name a colour.", "completion": "Green."}, {"prompt": "Name a metal.", "completion": "Iron."}]
    second = train_adapter(order(rows=rows, recipe=PLAIN, presets={}, name="other", output=tmp_path / "b"), ignore)
    assert digests(first.folder) == files
    assert torch.equal(answer(untied, first.folder), said)
    assert not torch.equal(answer(untied, second.folder)[..., : said.shape[-1] - 2], said[..., :-2])


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_other_forms_of_the_base_train_too(order, tied, quantization):
    recipe = {"base_quantization": quantization, "gradient_checkpointing": True}
    made = train_adapter(order(base_folder=tied, recipe=recipe), ignore)
    assert made.manifest.base.quantization == quantization


@pytest.mark.parametrize("stage", ["data", "loading", "training", "checking", "saving"])
def test_an_interruption_leaves_nothing(order, tmp_path, stage):
    def interrupt(progress: Progress) -> None:
        if progress.stage == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_adapter(order(), interrupt)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_an_interruption_while_the_saved_adapter_is_checked_leaves_nothing(order, tmp_path):
    stages: list[str] = []

    def interrupt(progress: Progress) -> None:
        stages.append(progress.stage)
        if stages.count("checking") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_adapter(order(), interrupt)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_a_faulty_row_stops_before_the_base_is_loaded(order, tmp_path):
    stages: list[str] = []
    with pytest.raises(DataError) as error:
        train_adapter(order(rows=[{"prompt": "What is a mutex?"}]), lambda p: stages.append(p.stage))
    assert error.value.where == f"{tmp_path / 'rows.jsonl'}:1" and stages == ["data"]
    assert list((tmp_path / "adapters").iterdir()) == []


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": {"learning_rate": 1e-12, "warmup_ratio": 0}},
        {"optimizer": {"learning_rate": 2e-2, "warmup_ratio": 0.1}, "max_steps": 1},  # its only step warms up from zero
    ],
)
def test_a_run_that_teaches_nothing_is_refused(order, tmp_path, recipe):
    with pytest.raises(NothingLearned):
        train_adapter(order(recipe=recipe), ignore)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_a_full_disk_leaves_nothing(order, tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapter, "write_new", no_room)
    with pytest.raises(DiskFull):
        train_adapter(order(), ignore)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_an_output_that_exists_is_not_touched(order, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        train_adapter(order(output=tmp_path / "taken"), ignore)
    assert (tmp_path / "taken" / "file").read_text() == "mine"


def test_a_base_without_weights_is_said(order, untied, tmp_path):
    shutil.copytree(untied, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(MissingPart, match="no weights"):
        train_adapter(order(base_folder=tmp_path / "bare"), ignore)


def test_limited_rows_are_the_first_ones(order):
    rows = [{"prompt": "Name a colour.", "completion": "Green."}, {"prompt": "Name a metal.", "completion": "Iron."}]
    made = train_adapter(order(rows=[*rows, {"prompt": "x"}], limit_rows=2, recipe=PLAIN, presets={}), ignore)
    assert made.manifest.run.rows == 2
    assert json.loads((made.folder / adapter.CONFIG).read_text())["r"] == 4


# -- the recipes that come with the package -----------------------------------------------------------------------------------

PAIRS = [
    {"prompt": "What is a mutex?", "chosen": "A lock that one thread holds.", "rejected": "I like trains."},
    {"prompt": "What is a queue?", "chosen": "A list read in order.", "rejected": "No idea at all."},
]
TASKS = [
    {"prompt": f"Which is number {number}?", "completion": f"The {name} one."}
    for number, name in enumerate(("first", "second", "third", "fourth"), start=1)
]
SHIPPED = sorted(shipped_recipes())


def shipped(name: str, **changes: Any) -> dict[str, Any]:
    """A recipe as it is shipped, with steps large enough for a tiny base; `changes` are the person's own."""
    recipe = load_recipe(name, Path(), "recipe") | changes
    quick = {"learning_rate": 2e-2, "schedule": "constant", "warmup_steps": 0}
    return {**recipe, "optimizer": {**recipe["optimizer"], **quick}, "max_steps": 2}


def test_every_document_has_its_recipe():
    assert {"style-tokens", "lean", "question-writer", "question-answerer", "conversation"} <= set(SHIPPED)
    assert {"qlora", "lora-16bit", "lora-int8", "preferences"} <= set(SHIPPED)
    assert {load_recipe(name, Path(), "recipe")["name"] for name in SHIPPED} == set(SHIPPED)


@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in SHIPPED), ("lora-16bit", {"compute_dtype": "fp16"})],
    ids=[*SHIPPED, "lora-16bit-in-fp16"],
)
def test_every_shipped_recipe_makes_an_adapter_the_store_takes(order, tmp_path, name, changes):
    recipe = shipped(name, **changes)
    plain: dict[str, Any] = {"rows": PAIRS if recipe["method"] == "dpo" else TASKS, "presets": {}}
    made = train_adapter(order(recipe=recipe, **({} if recipe["added_tokens"] else plain)), ignore)
    stored = Store(tmp_path / "store").publish("writer", "style", made.folder, made.manifest)
    assert stored.manifest.recipe["name"] == name
    assert stored.manifest.rank == recipe["lora"]["rank"] and stored.manifest.alpha == recipe["lora"]["alpha"]
    assert stored.manifest.base.quantization == recipe["base_quantization"]
    assert len(stored.manifest.added_tokens) == len(recipe["added_tokens"])


def test_a_preference_run_is_checked_saved_and_published_like_any_other(order, untied, tmp_path):
    """From log 2 on the loss falls, the saved files prefer the chosen answers more than the base does, and the store takes them."""
    recipe = {**shipped("preferences"), "max_steps": 12}
    recipe["optimizer"]["learning_rate"] = 5e-3  # twice as much, and a tiny base swings to and fro
    made = train_adapter(order(rows=PAIRS, presets={}, recipe=recipe), ignore)
    curve = made.manifest.run.curve
    assert curve[0].loss == pytest.approx(math.log(2), rel=1e-2) and curve[-1].loss < 0.6
    stored = Store(tmp_path / "store").publish("writer", "style", made.folder, made.manifest)
    prepared = prepare(order(rows=PAIRS).data_file, untied, Recipe.model_validate(recipe), {})
    base = load_base(untied, "nf4", double_quantization=True, dtype="bf16", device="cpu")
    model, pairs = adapter.load(base, stored.folder), prepared.ledger.encoded
    assert checks.probe(model, pairs).loss < checks.base_probe(model, pairs).loss - 1


def test_preferences_that_teach_nothing_are_never_published(order, tmp_path):
    recipe = shipped("preferences")
    recipe["optimizer"]["learning_rate"] = 1e-12
    with pytest.raises(NothingLearned):
        train_adapter(order(rows=PAIRS, presets={}, recipe=recipe), ignore)
    assert list((tmp_path / "adapters").iterdir()) == []
