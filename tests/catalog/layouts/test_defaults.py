"""The defaults the catalog takes for missing keys are those of the installed transformers."""

from __future__ import annotations

import pytest

from onecard.catalog.layouts.defaults import DEFAULTS


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_defaults_are_those_of_the_config_class(model_type):
    from transformers import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    assert {key: getattr(config_class, key) for key in DEFAULTS[model_type]} == DEFAULTS[model_type]


def test_keys_without_an_entry_are_null_in_the_class_too():
    """A key that a layout reads but DEFAULTS leaves out must mean "derive it" in transformers as well."""
    from transformers import CONFIG_MAPPING

    for model_type in ("mistral", "llama", "phi3", "qwen2", "olmo3", "starcoder2"):
        built = CONFIG_MAPPING[model_type]()
        if "num_key_value_heads" not in DEFAULTS[model_type]:
            assert built.num_key_value_heads in (None, built.num_attention_heads)
        if "head_dim" not in DEFAULTS[model_type]:
            assert getattr(built, "head_dim", None) in (None, built.hidden_size // built.num_attention_heads)
