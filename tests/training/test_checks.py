"""Did it learn? Each way in which a finished run can have made nothing, or the wrong thing, is told apart and refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from onecard.engines.local.loading import load_base
from onecard.errors import NothingLearned
from onecard.training import adapter, checks, losses
from onecard.training.training import train_adapter

BF16 = torch.bfloat16


@pytest.fixture
def attached(trial):
    return trial(recipe={"base_quantization": "none"})


@pytest.fixture
def trained(trial):
    made = trial(recipe={"base_quantization": "none", "epochs": 4})
    made.run()
    return made


def rows_of(made):
    return checks.probe_rows(made.prepared.ledger.encoded)


def start_of(made):
    return {name: tensor.clone() for name, tensor in adapter.adapter_state(made.model).items()}


def saved_and_loaded(made, folder):
    folder.mkdir(exist_ok=True)
    if not (folder / adapter.WEIGHTS).exists():
        adapter.save(made.model, folder, "tiny", made.prepared.tokenizer)
    base = load_base(made.order.base_folder, "none", double_quantization=True, dtype="bf16", device="cpu")
    return adapter.load(base, folder)


def test_the_probe_is_the_loss_and_the_logits_of_the_answers(attached):
    (row,) = rows_of(attached)[:1]
    probe = checks.probe(attached.model, [row])
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        logits = attached.model.eval()(input_ids=ids).logits[0, row.prompt_tokens - 1 : -1].float()
    assert torch.equal(probe.logits[0], logits)
    expected = torch.nn.functional.cross_entropy(logits, ids[0, row.prompt_tokens :])
    assert probe.loss == pytest.approx(float(expected), rel=1e-5)


def test_probe_rows_reach_from_the_shortest_to_the_longest(attached):
    lengths = sorted(len(row.ids) for row in attached.prepared.ledger.encoded)
    assert [len(row.ids) for row in rows_of(attached)] == lengths  # four rows, four probes
    assert len(checks.probe_rows(attached.prepared.ledger.encoded[:1])) == 1


def test_a_trained_adapter_passes_every_check(attached, trained, tmp_path):
    asked = rows_of(trained)
    after = checks.probe(trained.model, asked)
    checks.demand_lower_loss(checks.probe(attached.model, asked), after)
    checks.demand_movement(trained.model, start_of(attached))
    checks.demand_same_base(checks.base_digest(attached.model), checks.base_digest(trained.model))
    again = saved_and_loaded(trained, tmp_path)
    checks.demand_same_weights(adapter.adapter_state(trained.model), adapter.adapter_state(again))
    checks.demand_exact_reload(after, checks.probe(again, asked), BF16)
    checks.demand_effect(after, checks.base_probe(again, asked), BF16)


def test_an_adapter_that_was_never_trained_is_refused(attached, tmp_path):
    asked = rows_of(attached)
    with pytest.raises(NothingLearned, match="weights did not move"):
        checks.demand_movement(attached.model, start_of(attached))
    again = saved_and_loaded(attached, tmp_path)
    with pytest.raises(NothingLearned, match="the adapter does nothing"):
        checks.demand_effect(checks.probe(again, asked), checks.base_probe(again, asked), BF16)


def test_a_single_row_or_layer_that_stood_still_is_named(attached, trained):
    before = start_of(attached)
    state = adapter.adapter_state(trained.model)
    head = next(name for name in state if "lm_head" in name and "trainable_tokens" in name)
    state[head].data[1] = before[head][1]
    with pytest.raises(NothingLearned, match="lm_head"):
        checks.demand_movement(trained.model, before)
    state[head].data[1] += 1
    layer = next(name for name in state if "layers.1" in name and "lora_B" in name)
    state[layer].data.zero_()
    with pytest.raises(NothingLearned, match=layer.replace(".", r"\.")):
        checks.demand_movement(trained.model, before)


def test_weights_that_are_no_numbers_are_refused(attached):
    next(iter(adapter.adapter_state(attached.model).values())).data[0, 0] = float("nan")
    with pytest.raises(NothingLearned, match="not finite"):
        checks.demand_movement(attached.model, start_of(attached))


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_one_changed_weight_of_the_base_is_seen(trial, quantization):
    made = trial(recipe={"base_quantization": quantization})
    before = checks.base_digest(made.model)
    checks.demand_same_base(before, checks.base_digest(made.model))
    weight = made.model.get_parameter("base_model.model.model.layers.1.mlp.up_proj.base_layer.weight")
    weight.data.view(-1)[7] += 1
    with pytest.raises(NothingLearned, match="own weights changed"):
        checks.demand_same_base(before, checks.base_digest(made.model))


def test_a_file_that_is_not_the_trained_adapter_is_refused(trained, tmp_path):
    asked = rows_of(trained)
    after = checks.probe(trained.model, asked)
    adapter.save(trained.model, tmp_path, "tiny", trained.prepared.tokenizer)
    state = load_file(tmp_path / adapter.WEIGHTS)
    name = next(name for name in state if "embed_tokens" in name)
    save_file({**state, name: state[name].flip(0)}, tmp_path / adapter.WEIGHTS)
    again = saved_and_loaded(trained, tmp_path)
    with pytest.raises(NothingLearned, match="is not the trained one: logits differ"):
        checks.demand_exact_reload(after, checks.probe(again, asked), BF16)
    with pytest.raises(NothingLearned, match=f"is not the trained one: {name} came back otherwise"):
        checks.demand_same_weights(adapter.adapter_state(trained.model), adapter.adapter_state(again))


def test_a_loss_that_did_not_fall_is_refused():
    low, high = checks.Probe(1.0, ()), checks.Probe(2.0, ())
    for before, after in ((low, high), (low, low), (low, checks.Probe(float("nan"), ()))):
        with pytest.raises(NothingLearned, match=r"the loss on training rows went from 1\.0000"):
            checks.demand_lower_loss(before, after)
    checks.demand_lower_loss(high, low)


# -- in a whole run, one guard at a time ---------------------------------------------------------------------------------------


def test_every_trained_weight_moves_and_no_other_does(attached):
    """A, B and the added rows, all of them; every weight of the base keeps its bits."""
    start = {name: weight.detach().clone() for name, weight in attached.model.named_parameters()}
    attached.run()
    for name, weight in attached.model.named_parameters():
        assert torch.equal(weight, start[name]) is not weight.requires_grad, name
    trained = [name for name, weight in attached.model.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 14 + 2 and all("lora_" in name or "trainable_tokens" in name for name in trained)


@pytest.mark.parametrize(
    ("broken", "problem"), [("loss", "the loss is nan at step 1"), ("gradient", "the gradient is not a number")]
)
def test_a_loss_or_a_gradient_that_is_no_number_ends_the_run(order, monkeypatch, tmp_path, broken, problem):
    real = losses.learn

    def learn(reader, laid, weights, scale=1.0):
        if broken == "loss":
            return real(reader, laid, weights * float("nan"), scale)
        return real(reader, laid, weights, float("inf"))

    monkeypatch.setattr(losses, "learn", learn)
    with pytest.raises(NothingLearned, match=problem):
        train_adapter(order(), lambda _: None)
    assert list((tmp_path / "adapters").iterdir()) == []


@pytest.mark.parametrize(
    ("last", "problem"),
    [
        ("demand_movement", "did not move"),
        ("demand_lower_loss", "the loss on training rows"),
        ("demand_effect", "does nothing"),
    ],
)
def test_an_adapter_without_effect_meets_three_guards_and_any_one_keeps_it_back(
    order, monkeypatch, tmp_path, last, problem
):
    """Every B zero, as it was attached: what is left of the checks when the others are gone still refuses it."""
    for guard in {"demand_movement", "demand_lower_loss", "demand_effect"} - {last}:
        monkeypatch.setattr(checks, guard, lambda *_: None)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_, **__: None)
    recipe = {"added_tokens": (), "optimizer": {"name": "adamw_torch"}, "max_steps": 1}
    rows = [{"prompt": "Name a colour.", "completion": "Green."}, {"prompt": "Name a metal.", "completion": "Iron."}]
    with pytest.raises(NothingLearned, match=problem):
        train_adapter(order(rows=rows, recipe=recipe, presets={}), lambda _: None)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_a_base_that_changed_while_it_was_trained_on_is_never_published(order, monkeypatch, tmp_path):
    """A weight of the base that the optimizer could reach, or that something wrote to."""
    real = losses.learn

    def learn(reader, laid, weights, scale=1.0):
        reader.model.get_input_embeddings().original_module.weight.data[9, 3] += 1
        return real(reader, laid, weights, scale)

    monkeypatch.setattr(losses, "learn", learn)
    with pytest.raises(NothingLearned, match="own weights changed"):
        train_adapter(order(), lambda _: None)
    assert list((tmp_path / "adapters").iterdir()) == []
