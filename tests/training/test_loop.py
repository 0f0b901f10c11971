"""The training loop and what is fenced off in the libraries below: nothing cut, nothing rounded, nothing hidden."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors import safe_open

from onecard.errors import DiskFull, DoesNotFit, NothingLearned
from onecard.fleet.recipe import Recipe
from onecard.training import loop
from onecard.training.adapter import adapter_state
from onecard.training.batches import collate
from onecard.training.preparation import planned_steps

LONG = {"prompt": "Count.", "completion": "one two three four five " * 240, "preset": "terse"}
SHORT = {"prompt": "What is a mutex?", "completion": "A lock.", "preset": "verbose"}


def test_every_token_of_every_row_is_trained_on(trial):
    """The trap: TRL cuts rows at 1,024 tokens and takes their end of turn with them."""
    made = trial(rows=[LONG, SHORT, SHORT], recipe={"epochs": 1, "max_length": 2048})
    rows = made.prepared.ledger.encoded
    assert len(rows[0].ids) > 1100
    assert made.run().tokens == sum(len(row.ids) for row in rows)


def test_the_end_of_turn_is_learned(trial):
    """After the answer it was trained on, the model wants to stop."""
    made = trial(rows=[SHORT, {**SHORT, "preset": "terse"}], recipe={"epochs": 12})
    made.run()
    ids = made.prepared.ledger.encoded[0].ids
    with torch.no_grad():
        logits = made.model.eval()(input_ids=torch.tensor([ids[:-1]])).logits
    assert logits[0, -1].argmax() == ids[-1] == made.prepared.tokenizer.eos_token_id


def test_the_first_loss_is_the_mean_over_answers_and_the_learning_rate_that_of_its_step(trial):
    made = trial(recipe={"compute_dtype": "fp32", "batch": {"rows": 2, "accumulate": 2}, "epochs": 1})
    rows = made.prepared.ledger.encoded
    batch = collate([{"input_ids": row.ids, "labels": row.labels} for row in rows], pad_id=0)
    with torch.no_grad():
        logits = made.model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    result = made.run()
    assert len(result.curve) == 1
    assert result.curve[0].loss == pytest.approx(float(expected), rel=1e-5)
    assert result.curve[0].learning_rate == pytest.approx(2e-2)


def test_our_loss_on_a_cpu_and_its_gradients_are_trls(trial, monkeypatch):
    ours = trial(recipe={"max_steps": 1, "compute_dtype": "fp32"})
    theirs = copy.deepcopy(ours)
    first = ours.run()
    monkeypatch.delattr(loop.AdapterTrainer, "compute_loss")
    second = theirs.run()
    assert first.curve[0].loss == pytest.approx(second.curve[0].loss, rel=1e-5)
    for name, weight in ours.model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(weight, theirs.model.get_parameter(name), rtol=1e-3, atol=2e-4)


def test_fp32_after_bf16_in_one_process_is_fp32_and_the_model_is_given_back_as_it_was(trial):
    """The trap: accelerate's autocast stays wrapped round the model's forward when the run is over."""
    seen = []
    for dtype in ("bf16", "fp32"):
        made = trial(recipe={"compute_dtype": dtype, "max_steps": 1})
        projection = made.model.get_submodule("base_model.model.model.layers.0.mlp.up_proj.lora_A.default")
        projection.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
        made.run()
        trained_in = seen[-1]
        assert trained_in == {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
        made.model(input_ids=torch.tensor([[1, 5]]))
        assert seen[-1] == torch.float32, "without autocast the adapter computes in its own precision"


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_the_adapter_stays_fp32_on_every_base(trial, quantization):
    """The trap: TRL rounds the adapter of a quantized base to bf16, where steps of 1e-4 are lost."""
    made = trial(
        recipe={
            "base_quantization": quantization,
            "max_steps": 1,
            "optimizer": {"learning_rate": 1e-6, "warmup_ratio": 0},
        }
    )
    before = {name: tensor.clone() for name, tensor in adapter_state(made.model).items()}
    made.run()
    after = adapter_state(made.model)
    rows = [name for name in after if "trainable_tokens" in name]
    assert rows and all(tensor.dtype == torch.float32 for tensor in after.values())
    assert all(not torch.equal(after[name], before[name]) for name in rows)


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_8bit", "paged_adamw_8bit"])
def test_every_optimizer_runs_on_a_cpu(trial, name):
    result = trial(recipe={"optimizer": {"name": name, "learning_rate": 2e-2}, "epochs": 3}).run()
    assert result.curve[-1].loss < result.curve[0].loss


def test_gradient_checkpointing_changes_memory_and_not_the_result(trial):
    plain = trial(recipe={"base_quantization": "none", "compute_dtype": "fp32"}).run()
    frugal = trial(recipe={"base_quantization": "none", "compute_dtype": "fp32", "gradient_checkpointing": True}).run()
    assert [p.loss for p in frugal.curve] == pytest.approx([p.loss for p in plain.curve], rel=1e-4)


def test_steps_are_those_that_were_planned(trial):
    made = trial(recipe={"batch": {"rows": 1, "accumulate": 3}, "epochs": 1.5})
    assert len(made.run().curve) == planned_steps(4, made.order.recipe) == 3


def test_checkpoints_are_kept_and_hold_the_adapter_alone(trial, tmp_path):
    made = trial(recipe={"max_steps": 3, "checkpoints": {"every_steps": 1, "keep": 2}})
    made.run(tmp_path / "run")
    assert sorted(folder.name for folder in (tmp_path / "run").iterdir()) == ["checkpoint-2", "checkpoint-3"]
    with safe_open(tmp_path / "run" / "checkpoint-3" / "adapter_model.safetensors", "pt") as file:
        assert all("lora_" in name or "trainable_tokens" in name for name in file.keys())  # noqa: SIM118


def test_a_short_run_leaves_no_checkpoint(trial, tmp_path):
    trial(recipe={"max_steps": 3, "checkpoints": {"every_steps": 3}}).run(tmp_path / "run")
    assert not list((tmp_path / "run").glob("*"))


def test_nothing_is_printed_and_no_run_folder_is_left(trial, capfd, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    made = trial(recipe={"max_steps": 1})
    before = set(tmp_path.iterdir())
    made.run()
    assert capfd.readouterr() == ("", "") and set(tmp_path.iterdir()) == before


def test_a_loss_that_is_no_number_ends_the_run(trial):
    made = trial()
    made.model.get_parameter("base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight").data.fill_(math.inf)
    with pytest.raises(NothingLearned, match="the loss is nan at step 1"):
        made.run()


def test_full_memory_and_full_disks_are_said():
    recipe = Recipe.model_validate({"batch": {"rows": 4}, "gradient_checkpointing": False})
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ):
        with pytest.raises(DoesNotFit) as refused, loop.machine_errors(recipe, None):
            raise error
        assert "batch.rows below 4" in refused.value.next_step and "gradient_checkpointing" in refused.value.next_step
    with pytest.raises(DiskFull), loop.machine_errors(recipe, None):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0")
    with pytest.raises(RuntimeError, match="another"), loop.machine_errors(recipe, None):
        raise RuntimeError("another")
