"""The small models are models: in their form, without numbers that are none, and PEFT gives them the layers a loaded base gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from onecard.engines.local.calibration_linears import FORMS
from onecard.engines.local.calibration_models import (
    ON_A_CARD,
    ON_A_CPU,
    RANK,
    linear_names,
    random_adapter,
    small_llama,
)
from onecard.engines.local.shared_model import SharedModel

CPU = torch.device("cpu")
PEFT_LAYER = {"none": "Linear", "int8": "Linear8bitLt", "nf4": "Linear4bit"}


@pytest.mark.parametrize("form", FORMS)
def test_a_small_model_answers_with_numbers_and_an_adapter_changes_them(form: Any) -> None:
    torch.manual_seed(0)
    base = small_llama(2, form, ON_A_CPU, CPU)
    assert len(linear_names(base.model)) == 2 * 7
    adapter = random_adapter(base.model, 0)
    model = SharedModel(base)
    ids = torch.randint(ON_A_CPU.vocabulary, (1, 8))
    bare = model.forward([None], ids, torch.ones_like(ids))
    assert torch.isfinite(bare).all() and bare.std() > 0
    resident = model.add(adapter)
    assert type(base.model.model.layers[0].mlp.up_proj).__name__ == PEFT_LAYER[form]
    assert "bnb" in type(base.model.model.layers[0].mlp.up_proj).__module__ or form == "none"
    adapted = model.forward([resident], ids, torch.ones_like(ids))
    assert torch.isfinite(adapted).all() and not torch.equal(adapted, bare)


def test_the_sizes_suit_nf4_blocks_and_take_no_memory_worth_a_word() -> None:
    for small in (ON_A_CARD, ON_A_CPU):
        assert small.hidden % 64 == 0 and small.inner % 64 == 0 and small.hidden % small.heads == 0
        assert 2 * small.hidden * (2 * small.vocabulary + 12 * (4 * small.hidden + 3 * small.inner)) < 64 << 20
    assert RANK == 16
