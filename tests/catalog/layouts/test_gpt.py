"""GPT-2's kin against transformers' own models, under the names of keys that published configs have and under the common ones."""

from __future__ import annotations

import pytest

from onecard.catalog.architecture import kv_shape, layout
from onecard.catalog.layouts.gpt import LAYOUTS
from onecard.errors import CatalogError

GPT2 = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 128, "vocab_size": 320}
GPTJ = {**GPT2, "rotary_dim": 8}
NEO = {
    "hidden_size": 64,
    "num_layers": 4,
    "num_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "attention_types": [[["global", "local"], 2]],
    "window_size": 8,
}
BLOOM = {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 320}
PHI = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}
VARIANTS = {
    "bloom": BLOOM,
    "bloom-untied": {**BLOOM, "tie_word_embeddings": False},
    "codegen": GPTJ,
    "codegen-narrow": {**GPTJ, "n_inner": 112},
    "gpt2": GPT2,
    "gpt2-narrow": {**GPT2, "n_inner": 112, "tie_word_embeddings": False},
    "gpt_bigcode": GPT2,
    "gpt_bigcode-multi-head": {**GPT2, "multi_query": False},
    "gpt_neo": NEO,
    "gpt_neo-narrow": {**NEO, "intermediate_size": 112},
    "gptj": GPTJ,
    "gptj-narrow": {**GPTJ, "n_inner": 112},
    "phi": PHI,
    "phi-groups": {**PHI, "num_key_value_heads": 2, "qk_layernorm": True},
}


def config_of(variant):
    return {**VARIANTS[variant], "model_type": variant.partition("-")[0], "bos_token_id": 1, "eos_token_id": 2}


def test_every_architecture_of_the_file_has_a_variant():
    assert {variant.partition("-")[0] for variant in VARIANTS} == set(LAYOUTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_those_of_the_real_model(variant, assert_weights):
    assert_weights(config_of(variant))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cache_is_that_of_a_real_forward(variant, held_by_a_forward):
    config = config_of(variant)
    assert kv_shape(config).bytes_for(17, 2) == held_by_a_forward(config, 17, 2)


@pytest.mark.parametrize(
    ("model_type", "published"),
    [
        # The sizes their makers publish: 124,439,808 and 7,069,016,064 parameters; 2,779,683,840 for Phi-2.
        ("gpt2", ({"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}, 124_439_808)),
        ("bloom", ({"n_embed": 4096, "n_layer": 30, "num_attention_heads": 32, "vocab_size": 250880}, 7_069_016_064)),
        (
            "phi",
            (
                {
                    "hidden_size": 2560,
                    "intermediate_size": 10240,
                    "num_hidden_layers": 32,
                    "num_attention_heads": 32,
                    "vocab_size": 51200,
                },
                2_779_683_840,
            ),
        ),
    ],
)
def test_published_configs_give_published_sizes(model_type, published):
    config, parameters = published
    assert layout({**config, "model_type": model_type}).parameters == parameters


def test_the_common_names_of_keys_mean_the_same():
    common = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 320}
    own = {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 320}
    for model_type in ("gpt2", "gpt_bigcode", "gptj", "codegen"):
        assert layout({**common, "model_type": model_type}) == layout({**own, "model_type": model_type})


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(CatalogError, match=r"n_head: a width of 64 does not divide by 5 heads"):
        layout({**GPT2, "model_type": "gpt2", "n_head": 5})


@pytest.mark.parametrize("model_type", sorted(LAYOUTS))
def test_a_real_adapter_has_the_parameters_counted(model_type, assert_lora):
    assert_lora(config_of(model_type))
