"""Gemma 4 with its full layers' heads as keys of their own and layer by layer, as transformers saves them; what is wrong is named."""

from __future__ import annotations

import pytest

from onecard.catalog.architecture import kv_shape, layout
from onecard.errors import CatalogError

OWN = {"head_dim": 24, "num_key_value_heads": 1}


@pytest.fixture
def by_layer(small):
    """A small Gemma 4 of twelve layers, of which the sixth and the last are full, with a `per_layer_config`."""

    def make(per_layer, **keys):
        sizes = {"head_dim": 16, "num_hidden_layers": 12, "sliding_window": 64, "vocab_size_per_layer_input": 160}
        kept = {"hidden_size_per_layer_input": 0, "attention_k_eq_v": True, "per_layer_config": per_layer}
        return small("gemma4_text", **{**sizes, **kept, **keys})

    return make


PER_LAYER = {
    "two-keys": {"05": OWN, "11": OWN},
    "not-padded": {"5": OWN, "11": OWN},
    "numbers": {5: OWN, 11: OWN},
    "width-only": {"05": {"head_dim": 24}, "11": {"head_dim": 24}},
    "nothing": {},
    "all-listed": {f"{n:02}": OWN if n % 6 == 5 else {"head_dim": 16, "num_key_value_heads": 2} for n in range(12)},
    "sliding-too": {f"{n:02}": OWN if n % 6 == 5 else {"head_dim": 8, "num_key_value_heads": 4} for n in range(12)},
}


@pytest.mark.parametrize("one_for_both", [True, False])
@pytest.mark.parametrize("name", PER_LAYER)
def test_weights_and_cache_are_those_of_the_real_model(name, one_for_both, by_layer, assert_weights, held_by_a_forward):
    config = by_layer(PER_LAYER[name], attention_k_eq_v=one_for_both)
    assert_weights(config)
    assert kv_shape(config).bytes_for(17, 2) == held_by_a_forward(config, 17, 2)


def test_both_forms_are_one_layout_and_the_newer_one_counts(by_layer):
    saved = by_layer({"05": OWN, "11": OWN})
    published = {key: value for key, value in saved.items() if key != "per_layer_config"}
    published |= {"global_head_dim": 24, "num_global_key_value_heads": 1}
    assert layout(published) == layout(saved) == layout({**saved, "global_head_dim": 99})
    assert layout(by_layer(None)) == layout(by_layer({}))


@pytest.mark.parametrize(
    ("per_layer", "said"),
    [
        ([OWN], r"per_layer_config: \[.*\] does not say what its layers have"),
        ({"12": OWN}, r"per_layer_config: '12' is no layer, or a layer twice. Allowed: each of 0 to 11 once"),
        ({"-1": OWN}, "per_layer_config: '-1' is no layer"),
        ({"full": OWN}, "per_layer_config: 'full' is no layer"),
        ({"5": OWN, "05": OWN}, "per_layer_config: '05' is no layer, or a layer twice"),
        ({"05": 24, "11": OWN}, "per_layer_config.05: 24 does not say what the layer has"),
        ({"05": {"head_dim": 0}}, "per_layer_config.05.head_dim: 0 is not a size"),
        ({"05": {"head_dim": None}}, "per_layer_config.05.head_dim: a gemma4_text config needs 'head_dim'"),
        ({"05": {"num_key_value_heads": "2"}}, "per_layer_config.05.num_key_value_heads: '2' is not a size"),
        ({"05": {"head_dim": 10**12}}, "per_layer_config.05.head_dim: 1000000000000 is beyond any model"),
        ({"05": {"intermediate_size": 64}}, "per_layer_config.05: a layer with its own 'intermediate_size' cannot"),
        ({"05": {"skip": ["mlp"]}}, r"with its own 'skip'.*Allowed: head_dim, num_key_value_heads"),
        ({"05": OWN}, "per_layer_config: layers of full_attention differ from each other"),
        (
            {"05": {"num_key_value_heads": 3}, "11": {"num_key_value_heads": 3}},
            "per_layer_config: 4 attention heads do",
        ),
    ],
)
def test_a_per_layer_config_that_says_something_else_is_named(per_layer, said, by_layer):
    with pytest.raises(CatalogError, match=said):
        layout(by_layer(per_layer))


def test_layers_of_their_own_in_another_architecture_are_not_counted_alike(small):
    config = small("llama", per_layer_config={"1": {"intermediate_size": 24}})
    with pytest.raises(CatalogError, match="per_layer_config: a llama whose layers have sizes of their own"):
        layout(config)
    assert layout({**config, "per_layer_config": {}}) == layout(small("llama"))
