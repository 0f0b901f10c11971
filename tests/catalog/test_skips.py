"""Lists of names as each library reads them; transformers' own matcher is asked beside ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.skips import Names
from onecard.errors import CatalogError

TOWER = "model.vision_tower.encoder.layers.3.self_attn.q_proj"
WORDS = st.sampled_from(["model", "layers", "3", "13", "mlp", "self_attn", "q_proj", "vision_tower", "lm_head", "gate"])
PATHS = st.lists(WORDS, min_size=1, max_size=5).map(".".join)


@pytest.mark.parametrize(
    ("rule", "pattern", "means"),
    [
        ("transformers", "vision_tower", False),  # at the start or the end of the name, so LLaVA's tower is converted
        ("transformers", "model.vision_tower", True),
        ("transformers", "q_proj", True),
        ("transformers", "model.vision_tower.encoder.layers.*.self_attn", True),
        ("substring", "vision_tower", True),
        ("substring", "vision_model", False),
        ("compressed-tensors", "model.vision_tower", False),  # a whole name or nothing
        ("compressed-tensors", TOWER, True),
        ("compressed-tensors", "re:vision_tower.*", False),  # a regex starts where the name does
        ("compressed-tensors", "re:.*vision_tower.*", True),
        ("compressed-tensors", "Linear", False),
        ("glob", "model.vision_tower*", True),
        ("glob", "model.vision_tower", True),
        ("glob", "*.k_proj", False),
        ("regex", r".*\.layers\.3\..*", True),
        ("regex", r"layers\.3", False),
    ],
)
def test_every_library_reads_a_list_its_own_way(rule, pattern, means):
    assert Names((pattern,), rule).match(TOWER) is means


@given(name=PATHS, patterns=st.lists(PATHS, min_size=1, max_size=4))
def test_transformers_would_say_the_same(name, patterns):
    from transformers.quantizers.quantizers_utils import should_convert_module

    assert Names(tuple(patterns), "transformers").match(name) is not should_convert_module(name, patterns)


@given(name=PATHS, few=st.lists(PATHS, max_size=3), more=st.lists(PATHS, max_size=3))
@pytest.mark.parametrize("rule", ["transformers", "compressed-tensors", "substring", "glob", "regex"])
def test_a_longer_list_never_means_less(rule, name, few, more):
    if Names(tuple(few), rule).match(name):
        assert Names((*few, *more), rule).match(name)


def test_a_broken_expression_is_refused_with_where_it_stands():
    with pytest.raises(CatalogError, match=r"'\(unclosed' is no regular expression") as refused:
        Names(("re:(unclosed",), "compressed-tensors", "config.json: quantization_config.ignore").match(TOWER)
    assert refused.value.where == "config.json: quantization_config.ignore"


def test_the_class_of_all_linears_is_a_target():
    assert Names(("Linear",), "compressed-tensors").every_linear
    assert not Names(("Linear",), "regex").every_linear
