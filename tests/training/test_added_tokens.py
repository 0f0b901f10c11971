"""Added tokens: a row each in embedding and head, started at the mean, and nothing but these rows is trained."""

from __future__ import annotations

import pytest
import torch

from onecard.adapters.manifest import AddedToken
from onecard.engines.local.loading import load_base
from onecard.engines.local.tokens import load_tokenizer
from onecard.errors import InputError
from onecard.fleet.recipe import LoraSection
from onecard.training.adapter import adapter_state, attach
from onecard.training.added_tokens import extend_model, trained_rows
from onecard.training.preparation import extend_tokenizer

TOKENS = ("<STYLE_TERSE>", "<STYLE_VERBOSE>")
LORA = LoraSection(rank=2, alpha=4, dropout=0.0)


@pytest.fixture(params=["tied", "untied"])
def base(request):
    return load_base(
        request.getfixturevalue(request.param), "none", double_quantization=True, dtype="fp32", device="cpu"
    )


@pytest.fixture
def extended(base):
    tokenizer = load_tokenizer(base.folder)
    added = extend_tokenizer(tokenizer, TOKENS)
    extend_model(base, tokenizer, added)
    return base, added


def weights(model):
    return model.get_input_embeddings().weight, model.get_output_embeddings().weight


def test_new_rows_start_at_the_mean_and_old_rows_stay(base):
    before = [weight.detach().clone() for weight in weights(base.model)]
    tokenizer = load_tokenizer(base.folder)
    extend_model(base, tokenizer, extend_tokenizer(tokenizer, TOKENS))
    for old, new in zip(before, weights(base.model), strict=True):
        assert new.shape == (old.shape[0] + 2, old.shape[1])
        assert torch.equal(new[:-2], old)
        torch.testing.assert_close(new[-2:], old.mean(dim=0).expand(2, -1))


def test_only_the_added_rows_of_embedding_and_head_are_trained(extended):
    base, added = extended
    model = attach(base, LORA, added)
    trained = {
        name: weight for name, weight in model.named_parameters() if weight.requires_grad and "lora_" not in name
    }
    tied = base.model.config.tie_word_embeddings
    assert len(trained) == (1 if tied else 2)
    assert all(weight.shape == (2, 64) and "trainable_tokens" in name for name, weight in trained.items())


def test_one_step_moves_the_added_rows_where_they_are_read_and_where_they_are_written(extended):
    """The trap: with only the embedding listed, an untied head keeps its rows, without an error."""
    base, added = extended
    model = attach(base, LORA, added)
    ids = torch.tensor([[1, added[0].row, 40, added[1].row, 41]])
    before = [weight.detach().clone() for weight in weights(model)]
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1.0)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    for old, new in zip(before, weights(model), strict=True):
        moved = (old != new).any(dim=1).nonzero().flatten().tolist()
        assert moved == [token.row for token in added]


def test_a_token_the_base_knows_is_trained_in_place(base):
    tokenizer = load_tokenizer(base.folder)
    added = extend_tokenizer(tokenizer, ("<reserved_0>",))
    before = base.model.get_input_embeddings().weight.detach().clone()
    extend_model(base, tokenizer, added)
    assert torch.equal(base.model.get_input_embeddings().weight, before)
    names = [name for name in adapter_state(attach(base, LORA, added)) if "trainable_tokens" in name]
    assert names and added == (AddedToken(token="<reserved_0>", row=5),)


def test_a_head_with_a_bias_is_refused(base):
    head = base.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    with pytest.raises(InputError, match="head has a bias"):
        extend_model(base, load_tokenizer(base.folder), [AddedToken(token="<STYLE_TERSE>", row=1)])


def test_without_tokens_nothing_changes(base):
    rows = base.model.get_input_embeddings().weight.shape[0]
    extend_model(base, load_tokenizer(base.folder), ())
    assert base.model.get_input_embeddings().weight.shape[0] == rows
    assert trained_rows(base.model, ()) is None
