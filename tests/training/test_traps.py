"""Every known way to train wrongly without an error, each with what a user would see of it.

A docstring names the trap and the guard; each test was seen to fail with that guard taken out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from pydantic import ValidationError
from safetensors.torch import load_file

from onecard.adapters.durable import file_digest
from onecard.adapters.manifest import Manifest
from onecard.adapters.verification import check_adapter
from onecard.engines.local.acceptance import AcceptedAdapter
from onecard.engines.local.added_rows import AddedRows
from onecard.engines.local.loading import load_base
from onecard.engines.local.shared_model import SharedModel
from onecard.errors import AdapterRefused, DataError, InputError, NothingLearned
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import Preset
from onecard.training import adapter, checks, losses
from onecard.training.batches import lay_packed
from onecard.training.order import TrainingOrder
from onecard.training.training import train_adapter

LONG = {"prompt": "Count.", "completion": "one two three four five " * 60, "preset": "terse"}
SHORT = {"prompt": "What is a mutex?", "completion": "A lock.", "preset": "verbose"}
ROWS = [SHORT, {**SHORT, "preset": "terse"}, {"prompt": "Name a colour.", "completion": "Green.", "preset": "terse"}]
EXACT = {"base_quantization": "none", "compute_dtype": "fp32"}
CPU = torch.device("cpu")


def fresh(folder: Path, quantization: Any = "nf4", *, double: bool = True, dtype: Any = "bf16") -> Any:
    return load_base(folder, quantization, double_quantization=double, dtype=dtype, device="cpu")


def ignore(_: object) -> None:
    pass


@dataclass(frozen=True)
class Styled:
    """An adapter with two added tokens, made by the whole story in nf4."""

    base: Path
    folder: Path
    manifest: Manifest


@pytest.fixture(scope="module", params=["tied", "untied"])
def styled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Styled:
    base, place = request.getfixturevalue(request.param), tmp_path_factory.mktemp("styled")
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    tokens = ("<STYLE_TERSE>", "<STYLE_VERBOSE>")
    recipe = Recipe.model_validate(
        {
            "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
            "added_tokens": tokens,
            "batch": {"rows": 3, "accumulate": 1},
            "optimizer": {"learning_rate": 2e-2, "schedule": "constant", "warmup_ratio": 0.0},
            "max_steps": 3,
        }
    )
    presets = {name: Preset(token=token) for name, token in zip(("terse", "verbose"), tokens, strict=True)}
    made = train_adapter(
        TrainingOrder(
            "writer",
            "style",
            "tiny",
            base,
            "f" * 64,
            recipe,
            place / "rows.jsonl",
            place / "out",
            presets,
            device="cpu",
        ),
        ignore,
    )
    return Styled(base, made.folder, made.manifest)


# -- rows and their ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", [True, False])
def test_rows_are_neither_dropped_nor_cut_and_every_end_of_turn_is_learned(trial, monkeypatch, packing):
    """The trap: rows dropped and cut, EOS gone (6 rows became 4; packed, 2 of 6 EOS were learned). The guard: what batches lays out."""
    rows = [LONG, SHORT, {**LONG, "preset": "verbose"}, {**SHORT, "preset": "terse"}]
    batch = {"rows": 2, "accumulate": 1, "packing": packing, "forward_tokens": 400}
    made = trial(rows=rows, recipe={"epochs": 1, "batch": batch})
    seen: list[int] = []
    real = losses.learn

    def learn(reader: Any, laid: Any, *rest: Any) -> torch.Tensor:
        seen.extend(laid.targets[: laid.learned].tolist())
        return real(reader, laid, *rest)

    monkeypatch.setattr(losses, "learn", learn)
    monkeypatch.setattr("onecard.training.loop._Learner.rehearse", ignore_all)
    made.run()
    encoded = made.prepared.ledger.encoded
    promised = [token for row in encoded for token, learned in zip(row.ids, row.trained, strict=True) if learned]
    assert sorted(seen) == sorted(promised) and len(encoded[0].ids) > 300
    assert seen.count(made.prepared.tokenizer.eos_token_id) == len(rows)


def ignore_all(*_: object) -> None:
    pass


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([LONG, SHORT], r"the row has \d+ tokens"),  # cut: at 1,024 by default elsewhere
        ([SHORT, {**SHORT, "completion": ""}], "empty"),  # fully masked: loss 0.0, gradient 0.0, "normal" end
        ([{**SHORT, "completion": " \n"}], "empty"),
        ([SHORT, {**SHORT, "completion": None}], "not text|missing"),
    ],
)
def test_a_row_that_would_be_cut_or_teach_nothing_ends_the_run_before_the_base_is_loaded(order, rows, problem):
    """The traps: silent truncation, fully masked rows, loss 0.0 with a normal end. The guard: `demand_clean` on the ledger."""
    stages: list[str] = []
    with pytest.raises(DataError, match=problem):
        train_adapter(order(rows=rows, recipe={"max_length": 64}), lambda told: stages.append(told.stage))
    assert set(stages) <= {"data"}


def test_an_end_of_turn_that_is_the_padding_token_is_learned_all_the_same(trial, monkeypatch):
    """The trap: labels made from `ids != pad` mask every EOS where EOS pads. The guard: places say what is learned, not ids."""
    made = trial(recipe={"epochs": 12, "batch": {"rows": 4, "accumulate": 1, "packing": False}})
    made.prepared.tokenizer.pad_token = made.prepared.tokenizer.eos_token
    made.run()
    row = made.prepared.ledger.encoded[0]
    with torch.no_grad():
        logits = made.model.eval()(input_ids=torch.tensor([row.ids[:-1]])).logits
    assert logits[0, -1].argmax() == row.ids[-1] == made.prepared.tokenizer.pad_token_id


def test_a_loss_without_a_gradient_is_no_normal_end(order, monkeypatch, tmp_path):
    """The trap: loss 0.0 and gradient 0.0 to the end, and a saved adapter. The guard: `_demand_all_move` at the first step."""
    monkeypatch.setattr(losses, "learn", lambda *_: torch.zeros(()))
    with pytest.raises(NothingLearned, match="first step"):
        train_adapter(order(), ignore)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_packed_documents_do_not_see_one_another(trial):
    """The trap: 0.42 of a logit leaked from one packed row into the next. The guard: `cut_at` around every pass."""
    made = trial(recipe=EXACT)
    made.model.eval()
    reader = losses.reader_of(made.model, torch.float32)
    first, second, _, other = made.prepared.ledger.encoded
    with losses_packed(reader.model):
        said = [losses.log_likelihoods(reader, lay_packed((before, second), 0, CPU))[1] for before in (first, other)]
    alone = made.model(input_ids=torch.tensor([second.ids])).logits[0, :-1]
    truth = torch.nn.functional.cross_entropy(alone, torch.tensor(second.labels[1:]), reduction="sum")
    assert float(said[0]) == pytest.approx(float(said[1]), abs=1e-4) == pytest.approx(-float(truth.detach()), abs=1e-3)


def losses_packed(model: Any) -> Any:
    from onecard.training.packed_attention import packing

    return packing(model)


# -- the base -----------------------------------------------------------------------------------------------------------------


def test_the_base_is_held_in_the_precision_asked_for_and_the_adapter_in_fp32(trial):
    """The trap: a model given by name loads in fp32, twice its size. The guard: `dtype` in load_base; `make_fp32` for the adapter."""
    for dtype, held in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        model = trial(recipe={"base_quantization": "none", "compute_dtype": dtype}).model
        assert {weight.dtype for weight in model.parameters() if not weight.requires_grad} == {held}
        assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}


def test_four_bits_are_nf4_and_take_the_bytes_they_should(untied):
    """The trap: bitsandbytes' default is fp4. The guard: the quantization config in load_base. Bytes are those FACTS of the library say."""
    bases = {double: fresh(untied, double=double).model for double in (True, False)}
    layers = [module for module in bases[True].modules() if isinstance(module, Linear4bit)]
    assert {layer.weight.quant_state.quant_type for layer in layers} == {"nf4"} and len(layers) == 14
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    plain = sum(layer.weight.numel() for layer in bases[False].modules() if isinstance(layer, Linear4bit))
    absmax = sum(
        layer.weight.quant_state.absmax.nbytes for layer in bases[False].modules() if isinstance(layer, Linear4bit)
    )
    assert (plain + absmax) / weights == 0.5625
    assert all(layer.weight.quant_state.nested for layer in layers)
    assert {layer.weight.quant_state.absmax.dtype for layer in layers} == {torch.uint8}
    head = bases[True].get_output_embeddings()
    assert head.weight.dtype == bases[True].get_input_embeddings().weight.dtype == torch.bfloat16


def test_gradients_after_an_evaluation_are_those_before_it(trial):
    """The trap: on AVX512-BF16 one evaluation repacks 4-bit weights, and gradients are off by 0.4. The guard: `_keep_gradients_right`.

    The behaviour can only be seen on such a processor; elsewhere the switch is all there is to see.
    """
    made = trial()
    ids = torch.tensor([made.prepared.ledger.encoded[0].ids])
    torch.manual_seed(4)
    for name, weight in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)

    def gradients() -> list[torch.Tensor]:
        made.model.train().zero_grad()
        made.model(input_ids=ids, labels=ids).loss.backward()
        return [weight.grad.clone() for weight in made.model.parameters() if weight.grad is not None]

    before = gradients()
    made.model.eval()
    with torch.no_grad():
        made.model(input_ids=ids)
    assert all(torch.equal(old, new) for old, new in zip(before, gradients(), strict=True))
    layers = [module for module in made.model.modules() if isinstance(module, Linear4bit)]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_an_adapter_is_never_merged_back_into_its_base(trial, styled):
    """The trap: merged back into nf4, logits are off by 0.40. The guard: the adapter alone is saved; `demand_same_base` sees a merge."""
    made = trial()
    made.run()
    before = checks.base_digest(made.model)
    made.model.merge_adapter()
    with pytest.raises(NothingLearned, match="own weights changed"):
        checks.demand_same_base(before, checks.base_digest(made.model))
    assert not any(
        "base_layer" in name or "mlp.up_proj.weight" in name for name in load_file(styled.folder / adapter.WEIGHTS)
    )


# -- added tokens -------------------------------------------------------------------------------------------------------------


def test_added_rows_move_in_embedding_and_head_and_no_other_row_does(styled):
    """The traps: trainable_token_indices that crash tied bases, and listing the embedding alone, which leaves an untied head's rows where
    they were. The guard: `trained_rows`."""
    base = fresh(styled.base)
    rows = [token.row for token in styled.manifest.added_tokens]
    known = base.model.get_input_embeddings().weight.shape[0]
    old = [layer.weight.clone() for layer in (base.model.get_input_embeddings(), base.model.get_output_embeddings())]
    model = adapter.load(base, styled.folder).get_base_model()
    new = [layer.weight.detach() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    for before, after in zip(old, new, strict=True):
        start = before.mean(dim=0, dtype=torch.float32)
        assert rows == [known, known + 1]
        assert torch.equal(before, after[:known].to(before.dtype))
        assert all(float((after[row].float() - start).abs().max()) > 1e-3 for row in rows)


def test_a_head_whose_rows_stood_still_is_never_published(order, monkeypatch, tmp_path):
    """The trap: {"embed_tokens": ids} on an untied base trains, without an error. The guard: `demand_movement` looks for every table."""
    monkeypatch.setattr(adapter, "trained_rows", lambda model, added: {"embed_tokens": [token.row for token in added]})
    with pytest.raises(NothingLearned, match="1 of 2 matrices"):
        train_adapter(order(), ignore)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_the_files_hold_rows_and_not_whole_embeddings(styled):
    """The trap: PEFT saves the whole embedding after a resize (half a gigabyte for a 7B). The guard: `adapter_state`."""
    state = load_file(styled.folder / adapter.WEIGHTS)
    assert all("lora_" in name or "trainable_tokens_delta" in name for name in state)
    rows = [tensor for name, tensor in state.items() if "trainable_tokens" in name]
    assert len(rows) in (1, 2) and all(tensor.shape == (2, 64) for tensor in rows)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert (styled.folder / adapter.WEIGHTS).stat().st_size < sum(t.nbytes for t in state.values()) + 20_000
    check_adapter(styled.folder, styled.manifest)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_whole_embeddings_are_refused_before_anything_is_read(order, request, kind):
    """The trap: modules_to_save leaves a tied head behind, and no store or engine takes the files. The guard: `demand_rows`."""
    stages: list[str] = []
    with pytest.raises(InputError, match="token_training") as error:
        train_adapter(
            order(base_folder=request.getfixturevalue(kind), recipe={"token_training": "whole"}),
            lambda told: stages.append(told.stage),
        )
    assert not stages and error.value.allowed == "rows"


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ((), "<STYLE_"),  # the presets put tokens that nobody added: they would be read letter by letter
        (
            ("<STYLE_TERSE>", "<STYLE_VERBOSE>", "<STYLE_NONE>"),
            "<STYLE_NONE>",
        ),  # no row has it: its rows would learn nothing
    ],
)
def test_style_tokens_that_train_nothing_stop_the_run(order, tokens, problem):
    """The trap: with no token setting at all the run trains, with falling loss. The guards: `split_tokens` and `unused_tokens`."""
    stages: list[str] = []
    with pytest.raises(DataError, match=problem):
        train_adapter(order(recipe={"added_tokens": tokens}), lambda told: stages.append(told.stage))
    assert set(stages) == {"data"}


# -- the adapter --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["init_lora_weights", "use_dora", "initialisation"])
def test_a_recipe_has_no_key_for_what_cannot_be_served(key):
    """The trap: pissa and others fail on 4 bits, DoRA cannot be mixed in a batch. The guard: recipes refuse keys they do not have."""
    with pytest.raises(ValidationError, match=key):
        Recipe.model_validate({"lora": {key: "pissa"}})


@pytest.mark.parametrize(
    ("key", "value"), [("init_lora_weights", "pissa"), ("init_lora_weights", "loftq"), ("use_dora", True)]
)
def test_an_adapter_of_another_kind_is_refused_by_the_store(styled, tmp_path, key, value):
    """The same trap for adapters made elsewhere. The guard: `check_config`."""
    for file in styled.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / adapter.CONFIG).read_text())
    (tmp_path / adapter.CONFIG).write_text(json.dumps({**config, key: value}))
    with pytest.raises(AdapterRefused, match=key):
        check_adapter(tmp_path, styled.manifest)


def test_a_batch_mixes_adapters_with_and_without_token_rows(untied, tokenizer):
    """The trap: PEFT raises KeyError when only one adapter of a batch has token rows. The guard: rows live beside the base."""
    base = fresh(untied)
    names = [name for name, module in base.model.named_modules() if isinstance(module, Linear4bit)]
    shared = SharedModel(base)
    chance = torch.Generator().manual_seed(2)

    def accepted(rows: AddedRows | None) -> AcceptedAdapter:
        lora = {}
        for name in names:
            layer = base.model.get_submodule(name)
            layer = getattr(layer, "base_layer", layer)
            lora[name] = (
                torch.randn(4, layer.in_features, generator=chance),
                torch.randn(layer.out_features, 4, generator=chance) * 0.1,
            )
        return AcceptedAdapter("d", 4, 8, lora, rows, tokenizer, (2,))

    row = torch.randn(1, 64, generator=chance).to(torch.bfloat16)
    token = len(tokenizer)
    styled = shared.add(accepted(AddedRows((token,), row, row)))
    plain = shared.add(accepted(None))
    ids = torch.tensor([[1, token, 40, 41], [1, 42, 40, 41], [1, 42, 40, 41]])
    lines = [styled, plain, None]
    mixed = shared.forward(lines, ids, torch.ones_like(ids))
    for number, resident in enumerate(lines):
        one = ids[number : number + 1]
        alone = shared.forward([resident], one, torch.ones_like(one))[0, 0]
        torch.testing.assert_close(mixed[number, 0, : len(alone)], alone, rtol=0.02, atol=0.02)
    assert not torch.allclose(mixed[1, 0, :token], mixed[2, 0, :token], atol=0.05)
    assert bool(mixed[0, 0, token].isfinite()) and bool((mixed[1:, 0, token] == -torch.inf).all())


# -- going on -----------------------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_makes_the_very_files_of_one_that_was_not(order, tmp_path):
    """The trap: a resume that is none (dropout, optimizer or order of rows begin anew). The guard: the checkpoint's parts."""
    recipe = {
        **EXACT,
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.2},
        "checkpoints": {"every_steps": 1},
        "optimizer": {"learning_rate": 1e-2, "schedule": "cosine"},
        "max_steps": 4,
    }

    def stop(told: Any) -> None:
        if told.step == 2:
            raise KeyboardInterrupt

    def made(name: str, progress: Callable[[Any], None] = ignore, **changes: Any) -> str:
        made = train_adapter(
            order(recipe=recipe, output=tmp_path / name, run_folder=tmp_path / f"run-{name[0]}", **changes), progress
        )
        return file_digest(made.folder / adapter.WEIGHTS)

    whole = made("whole")
    with pytest.raises(KeyboardInterrupt):
        made("parts", stop)
    assert made("parts", resume=True) == whole
