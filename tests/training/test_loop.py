"""The run: every row as it was promised, the same sums however it is laid out, and going on as if nothing had happened."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from safetensors.torch import load_file

from onecard.errors import DoesNotFit, InputError, NothingLearned
from onecard.training import loop, losses
from onecard.training.adapter import adapter_state
from onecard.training.preparation import planned_steps

LONG = {"prompt": "Count.", "completion": "one two three four five " * 240, "preset": "terse"}
SHORT = {"prompt": "What is a mutex?", "completion": "A lock.", "preset": "verbose"}
EXACT = {"base_quantization": "none", "compute_dtype": "fp32"}


def weights_of(made) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in adapter_state(made.model).items()}


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


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


@pytest.mark.parametrize("packing", [True, False])
def test_a_step_is_the_mean_over_its_answers_as_peft_and_torch_compute_it(trial, packing):
    """One step against the plain way: PEFT's forward, all logits, torch's cross-entropy, torch's AdamW."""
    recipe = {
        **EXACT,
        "optimizer": {"name": "adamw_torch", "learning_rate": 1e-2, "warmup_ratio": 0, "schedule": "constant"},
        "batch": {"rows": 2, "accumulate": 2, "packing": packing},
        "max_steps": 1,
    }
    made = trial(recipe=recipe)
    plain = copy.deepcopy(made.model).train()
    trained = [weight for weight in plain.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    rows = made.prepared.ledger.encoded
    lost = sum(
        torch.nn.functional.cross_entropy(
            plain(input_ids=torch.tensor([row.ids])).logits[0, :-1], torch.tensor(row.labels[1:]), reduction="sum"
        )
        for row in rows
    ) / sum(row.trained_tokens for row in rows)
    lost.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    result = made.run()
    assert result.curve[0].loss == pytest.approx(float(lost.detach()), rel=1e-5)
    assert result.curve[0].learning_rate == pytest.approx(1e-2)
    found = dict(made.model.named_parameters())
    for name, weight in plain.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_packed_and_padded_runs_are_the_same_run(trial):
    runs = [
        trial(recipe={**EXACT, "epochs": 3, "batch": {"rows": 2, "accumulate": 2, **batch}}).run()
        for batch in ({"packing": True}, {"packing": True, "forward_tokens": 32}, {"packing": False})
    ]
    assert runs[0].packed and not runs[2].packed
    for other in runs[1:]:
        assert [p.loss for p in other.curve] == pytest.approx([p.loss for p in runs[0].curve], rel=1e-3)


def test_logits_computed_in_pieces_are_the_same(trial, monkeypatch):
    whole = trial(recipe=EXACT).run()
    monkeypatch.setattr(losses.Reader, "piece", 5)
    pieces = trial(recipe=EXACT).run()
    assert [p.loss for p in pieces.curve] == pytest.approx([p.loss for p in whole.curve], rel=1e-4)


def test_fp32_after_bf16_in_one_process_is_fp32_and_the_model_is_given_back_as_it_was(trial):
    """The trap: accelerate's autocast stays wrapped round the model's forward when the run is over."""
    for dtype in ("bf16", "fp32"):
        made = trial(recipe={"compute_dtype": dtype, "max_steps": 1})
        ids = torch.tensor([[1, 5]])
        seen = []
        hook = made.model.get_submodule("base_model.model.model.layers.0").register_forward_hook(
            lambda _m, _i, output, seen=seen: seen.append(output.dtype)
        )
        made.run()
        hook.remove()
        assert set(seen) == {{"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]}
        assert not torch.is_autocast_enabled("cpu")
        assert made.model.get_base_model().config._attn_implementation == "sdpa"
        assert not any("forward" in vars(module) for module in made.model.modules())
        assert made.model(input_ids=ids).logits.shape[1] == 2


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
    before = weights_of(made)
    made.run()
    after = adapter_state(made.model)
    rows = [name for name in after if "trainable_tokens" in name]
    assert rows and all(tensor.dtype == torch.float32 for tensor in after.values())
    assert all(not torch.equal(after[name], before[name]) for name in rows)


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_8bit", "paged_adamw_8bit"])
def test_every_optimizer_runs_on_a_cpu(trial, name):
    result = trial(recipe={"optimizer": {"name": name, "learning_rate": 2e-2}, "epochs": 3}).run()
    assert result.curve[-1].loss < result.curve[0].loss


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_every_precision_learns(trial, dtype):
    result = trial(recipe={"compute_dtype": dtype, "epochs": 4}).run()
    assert result.curve[-1].loss < result.curve[0].loss - 0.2


@pytest.mark.parametrize(("layers", "recomputed"), [(True, 2), (1, 1), ("auto", 0)])
def test_recomputed_layers_change_memory_and_not_the_result(trial, layers, recomputed):
    lora = {"rank": 4, "alpha": 8, "dropout": 0.1}
    plain = trial(recipe={**EXACT, "lora": lora}).run()
    frugal = trial(recipe={**EXACT, "lora": lora, "gradient_checkpointing": layers}).run()
    assert (plain.recomputed_layers, frugal.recomputed_layers) == (0, recomputed)
    assert [p.loss for p in frugal.curve] == pytest.approx([p.loss for p in plain.curve], rel=1e-4)


def test_steps_are_those_that_were_planned(trial):
    made = trial(recipe={"batch": {"rows": 1, "accumulate": 3}, "epochs": 1.5})
    assert len(made.run().curve) == planned_steps(4, made.order.recipe) == 3


def test_rows_kept_out_are_measured_and_not_learned(trial):
    rows = [
        {"prompt": f"Say {word}.", "completion": f"{word} {word}", "preset": "terse"}
        for word in ["a", "b", "c", "d", "e", "f"]
    ]
    made = trial(
        rows=[*rows, {**SHORT}],
        recipe={"validation": {"share": 0.3, "every_steps": 2}, "epochs": 4},
    )
    result = made.run()
    assert [step for step, _ in result.validation] == [2, 4, 6, 8, 10, 12][: len(result.validation)]
    assert result.validation[-1][0] == len(result.curve) == planned_steps(7, made.order.recipe)
    assert all(math.isfinite(loss) for _, loss in result.validation)


# -- what is heaviest is tried first -------------------------------------------------------------------------------------------


def test_the_rehearsal_leaves_everything_as_it_was(trial, monkeypatch, tmp_path):
    recipe = {**EXACT, "lora": {"rank": 4, "alpha": 8, "dropout": 0.2}}
    rehearsed = trial(recipe=recipe)
    first = rehearsed.run(tmp_path / "run")
    assert first.rehearsed_bytes > 0
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]
    monkeypatch.setattr(loop._Learner, "rehearse", lambda *_: None)
    plain = trial(recipe=recipe)
    second = plain.run()
    assert [p.loss for p in first.curve] == [p.loss for p in second.curve]
    assert_same(weights_of(rehearsed), weights_of(plain), rtol=0, atol=0)


def run_out_above(monkeypatch, tokens, error=None):
    real = losses.learn

    def learn(reader, laid, *rest, **named):
        if laid.tokens > tokens:
            raise error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(reader, laid, *rest, **named)

    monkeypatch.setattr(losses, "learn", learn)


@pytest.mark.parametrize("packing", [True, False])
def test_when_memory_runs_out_passes_get_smaller_and_the_run_stays_the_same(trial, monkeypatch, packing):
    recipe = {**EXACT, "batch": {"rows": 4, "accumulate": 1, "packing": packing}, "epochs": 3}
    roomy = trial(recipe=recipe)
    expected = roomy.run()
    run_out_above(monkeypatch, 96)
    tight = trial(recipe=recipe)
    result = tight.run()
    assert any("memory ran out" in note for note in result.notes) and result.recomputed_layers == 2
    assert not packing or result.forward_tokens < 4096
    assert [p.loss for p in result.curve] == pytest.approx([p.loss for p in expected.curve], rel=1e-3)


def passes_of(monkeypatch, name):
    """Tokens of the passes, padding included, that the rehearsal computes and those that the steps compute."""
    rehearsed, stepped, into = [], [], []
    real, rehearse = getattr(losses, name), loop._Learner.rehearse

    def compute(reader, laid, *rest, **named):
        into[-1].append(laid.ids.numel())
        return real(reader, laid, *rest, **named)

    def tried(learner, folder):
        into.append(rehearsed)
        rehearse(learner, folder)
        into.append(stepped)

    monkeypatch.setattr(losses, name, compute)
    monkeypatch.setattr(loop._Learner, "rehearse", tried)
    return rehearsed, stepped


def test_the_rehearsed_pass_is_filled_up_with_short_rows(trial, monkeypatch):
    """The longest rows do not fit together, and each is joined by short ones in some step."""
    rehearsed, stepped = passes_of(monkeypatch, "learn")
    long = {**SHORT, "completion": "one two three " * 40}
    batch = {"rows": 3, "accumulate": 1, "forward_tokens": 300}
    trial(rows=[long] * 3 + [SHORT] * 6, recipe={**EXACT, "batch": batch, "data_checks": {"duplicates": 1}}).run()
    assert max(rehearsed) >= max(stepped)


def test_the_rehearsed_pass_of_padded_pairs_is_the_widest(trial, monkeypatch):
    """One long answer makes a pass as wide as itself; two of middle length are more tokens and a smaller pass."""
    rehearsed, stepped = passes_of(monkeypatch, "prefer")
    wide = {"prompt": "Say.", "chosen": "one two three " * 20, "rejected": "no", "preset": "terse"}
    even = {"prompt": "Say.", "chosen": "one two three " * 14, "rejected": "three two one " * 14, "preset": "terse"}
    batch = {"rows": 1, "accumulate": 2, "packing": False}
    recipe = {**EXACT, "method": "dpo", "batch": batch, "data_checks": {"duplicates": 1}}
    trial(rows=[even, even, wide, even], recipe=recipe).run()
    assert max(rehearsed) == max(stepped)


def test_memory_that_runs_out_while_an_fp16_step_moves_the_weights_is_tried_again(trial, monkeypatch):
    """The trap: torch's scaler refuses to unscale twice in one step."""
    real, tried = torch.nn.utils.clip_grad_norm_, []

    def clip(*given):
        tried.append(1)
        if len(tried) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*given)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    result = trial(recipe={"compute_dtype": "fp16", "max_steps": 2}).run()
    assert "memory ran out: every layer is recomputed" in result.notes and len(result.curve) == 2


def test_memory_that_runs_out_in_validation_makes_passes_smaller(trial, monkeypatch):
    real, tried = losses.log_likelihoods, []

    def said(*given):
        tried.append(1)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*given)

    recipe = {**EXACT, "validation": {"share": 0.25, "every_steps": 1}, "epochs": 3}
    expected = trial(recipe=recipe).run()
    monkeypatch.setattr(losses, "log_likelihoods", said)
    result = trial(recipe=recipe).run()
    assert "memory ran out: every layer is recomputed" in result.notes
    assert [loss for _, loss in result.validation] == pytest.approx([loss for _, loss in expected.validation], rel=1e-4)
    assert [p.loss for p in result.curve] == pytest.approx([p.loss for p in expected.curve], rel=1e-4)


def test_a_step_that_overflows_in_fp16_moves_neither_weights_nor_learning_rate(trial, monkeypatch, tmp_path):
    """And its gradient's norm, which is infinite, is no figure for metrics.jsonl."""
    real = torch.amp.GradScaler
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device, enabled: real(device, init_scale=2.0**60, enabled=enabled)
    )
    optimizer = {"learning_rate": 2e-2, "schedule": "linear", "warmup_ratio": 0}
    result = trial(recipe={"compute_dtype": "fp16", "optimizer": optimizer, "max_steps": 4}).run(tmp_path)
    assert [point.learning_rate for point in result.curve] == [2e-2] * 4
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and not any("gradient_norm" in line for line in lines)


def test_a_row_too_long_for_the_memory_is_said_before_the_first_step(trial, monkeypatch):
    run_out_above(monkeypatch, 8)
    told = []
    made = trial(recipe=EXACT)
    with pytest.raises(DoesNotFit, match="longest row alone") as refused:
        loop.run(
            made.model, made.prepared.tokenizer, made.prepared.ledger.encoded, made.order.recipe, None, told.append
        )
    assert not told and "nf4" in refused.value.next_step


def test_another_error_is_not_taken_for_full_memory(trial, monkeypatch):
    run_out_above(monkeypatch, 8, RuntimeError("another"))
    with pytest.raises(RuntimeError, match="another"):
        trial(recipe=EXACT).run()


# -- going on ------------------------------------------------------------------------------------------------------------------

SAVING = {"checkpoints": {"every_steps": 1, "keep": 2}, "epochs": 4, "lora": {"rank": 4, "alpha": 8, "dropout": 0.2}}


def interrupted_at(step):
    def progress(told):
        if told.step == step:
            raise KeyboardInterrupt

    return progress


def going(made, folder, progress=lambda _: None, identity=None, resume=True):
    rows = made.prepared.ledger.encoded
    return loop.run(
        made.model, made.prepared.tokenizer, rows, made.order.recipe, folder, progress,
        identity=identity or {"data": "a"}, resume=resume,
    )  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit", "paged_adamw_8bit"])
def test_a_run_that_goes_on_ends_bit_for_bit_as_one_that_was_never_stopped(trial, tmp_path, optimizer):
    recipe = {**EXACT, **SAVING, "optimizer": {"name": optimizer, "learning_rate": 1e-2}}
    whole = trial(recipe=recipe)
    expected = going(whole, tmp_path / "whole")
    for step in (1, 3, 5):
        with pytest.raises(KeyboardInterrupt):
            going(trial(recipe=recipe), tmp_path / "parts", interrupted_at(step))
    last = trial(recipe=recipe)
    result = going(last, tmp_path / "parts")
    assert [p.loss for p in result.curve] == [p.loss for p in expected.curve]
    assert_same(weights_of(last), weights_of(whole), rtol=0, atol=0)
    assert "went on from step 5" in result.notes
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["loss"] for line in lines] == [p.loss for p in expected.curve]


def test_an_nf4_run_that_goes_on_stays_near(trial, tmp_path):
    whole = trial(recipe=SAVING)
    going(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        going(trial(recipe=SAVING), tmp_path / "parts", interrupted_at(4))
    last = trial(recipe=SAVING)
    going(last, tmp_path / "parts")
    assert_same(weights_of(last), weights_of(whole), rtol=0, atol=2e-3)


def test_a_run_goes_on_only_with_what_it_began_with(trial, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        going(trial(recipe=SAVING), tmp_path, interrupted_at(2), {"data": "a", "base": "b", "version of torch": "1"})
    with pytest.raises(InputError) as refused:
        going(trial(recipe=SAVING), tmp_path, identity={"data": "a", "base": "c", "version of torch": "2"})
    assert "its base was b and is c" in refused.value.problem and "version of torch" in refused.value.problem
    assert "data" not in refused.value.problem


def test_a_damaged_checkpoint_is_said(trial, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        going(trial(recipe=SAVING), tmp_path, interrupted_at(2))
    file = tmp_path / "checkpoint-2" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        going(trial(recipe=SAVING), tmp_path)


def test_checkpoints_are_kept_and_hold_the_adapter_alone(trial, tmp_path):
    trial(recipe={**SAVING, "max_steps": 4}).run(tmp_path / "run")
    assert sorted(place.name for place in (tmp_path / "run").glob("checkpoint*")) == ["checkpoint-2", "checkpoint-3"]
    held = load_file(tmp_path / "run" / "checkpoint-3" / "weights.safetensors")
    assert held and all("lora_" in name or "trainable_tokens" in name for name in held)


def test_a_checkpoint_is_also_due_after_minutes(trial, tmp_path):
    checkpoints = {"every_steps": 500, "every_minutes": 1e-6}
    trial(recipe={"max_steps": 3, "checkpoints": checkpoints}).run(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint-2").is_dir()


def test_a_short_run_leaves_no_checkpoint(trial, tmp_path):
    trial(recipe={"max_steps": 3, "checkpoints": {"every_steps": 3}}).run(tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoint*"))


# -- preferences ---------------------------------------------------------------------------------------------------------------

PAIRS = [
    {"prompt": "What is a mutex?", "chosen": "A lock that one thread holds.", "rejected": "I like trains.", "preset": "terse"},
    {"prompt": "What is a queue?", "chosen": "A list read in order.", "rejected": "No idea at all.", "preset": "verbose"},
]  # fmt: skip


def test_preferences_are_learned_from_log_two_on(trial):
    made = trial(rows=PAIRS, recipe={**EXACT, "method": "dpo", "epochs": 12, "optimizer": {"learning_rate": 1e-2}})
    result = made.run()
    assert result.curve[0].loss == pytest.approx(math.log(2), rel=1e-3)
    assert result.curve[-1].loss < 0.5


def test_the_gradient_of_preferences_is_that_of_the_formula(trial):
    """Against automatic differentiation of -log sigmoid(beta * (difference of log ratios)), all at once."""
    recipe = {**EXACT, "method": "dpo", "dpo": {"beta": 0.3}, "max_steps": 1, "batch": {"rows": 2, "accumulate": 1}}
    made = trial(rows=PAIRS, recipe=recipe)
    torch.manual_seed(2)
    for name, weight in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)

    def said(text):
        logits = made.model(input_ids=torch.tensor([text.ids])).logits[0, :-1].log_softmax(-1)
        targets, learned = torch.tensor(text.ids[1:]), torch.tensor(text.trained[1:])
        return (logits.gather(1, targets[:, None])[:, 0] * learned).sum()

    lost = 0.0
    made.model.eval()
    for pair in made.prepared.ledger.encoded:
        with torch.no_grad(), made.model.disable_adapter():
            base = said(pair.chosen) - said(pair.rejected)
        lost = lost - torch.nn.functional.logsigmoid(0.3 * (said(pair.chosen) - said(pair.rejected) - base)) / 2
    lost.backward()
    expected = {n: w.grad.clone() for n, w in made.model.named_parameters() if w.requires_grad}
    made.model.zero_grad()
    seen = {}
    real = torch.nn.utils.clip_grad_norm_

    def keep(weights, limit):
        seen.update({n: w.grad.clone() for n, w in made.model.named_parameters() if w.requires_grad})
        return real(weights, limit)

    torch.nn.utils.clip_grad_norm_ = keep
    try:
        result = made.run()
    finally:
        torch.nn.utils.clip_grad_norm_ = real
    assert result.curve[0].loss == pytest.approx(float(lost.detach()), rel=1e-4)
    for name, gradient in expected.items():
        torch.testing.assert_close(seen[name], gradient, rtol=2e-3, atol=1e-6, msg=name)


# -- what must not pass ----------------------------------------------------------------------------------------------------------


def test_nothing_is_printed_and_nothing_is_left(trial, capfd, tmp_path, monkeypatch):
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


def test_a_weight_that_no_gradient_reaches_ends_the_run_at_its_first_step(trial):
    made = trial(recipe={"max_steps": 4})
    made.model.register_parameter("stray", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(NothingLearned, match="no gradient reaches stray"):
        made.run()
