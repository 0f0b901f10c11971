"""Bytes against real tensors: bitsandbytes layers on the CPU, whole small models loaded by transformers, and known figures of 7B shapes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.catalog.architecture import layout
from onecard.catalog.models import find_model
from onecard.catalog.quantization import (
    QUANTIZATIONS,
    asked_storage,
    component_bytes,
    fitting_group,
    linear_bytes,
    nf4_bytes,
    reaches,
    stored_bytes,
    weight_bytes,
)
from onecard.catalog.shapes import LinearShape
from onecard.catalog.units import GIB

SMALL = {
    "hidden_size": 128,
    "intermediate_size": 336,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "projection_dim": 32,
}
WHOLE_MODELS = {
    "mistral": {"model_type": "mistral", **SMALL, "sliding_window": None},
    "qwen2-tied-with-biases": {"model_type": "qwen2", **SMALL, "tie_word_embeddings": True},
    "falcon": {"model_type": "falcon", "alibi": False, **{k: v for k, v in SMALL.items() if k != "intermediate_size"}},
    "llava": {
        "model_type": "llava",
        "text_config": {"model_type": "llama", **SMALL},
        "vision_config": CLIP,
        "image_token_index": 319,
    },
    "blip-2": {
        "model_type": "blip-2",
        "num_query_tokens": 4,
        "text_config": {"model_type": "opt", "ffn_dim": 336, "word_embed_proj_dim": 128, **SMALL},
        "vision_config": {
            **{k: v for k, v in CLIP.items() if k != "projection_dim"},
            "model_type": "blip_2_vision_model",
        },
        "qformer_config": {
            "model_type": "blip_2_qformer",
            "hidden_size": 64,
            "intermediate_size": 112,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "encoder_hidden_size": 64,
            "vocab_size": 64,
        },
    },
}


def held_bytes(module) -> int:
    """Bytes of every tensor a quantized or plain module really holds, tied ones once."""
    import torch

    tensors = {}
    for parameter in module.parameters():
        tensors[parameter.data_ptr()] = parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        pieces = [getattr(parameter, "SCB", None)]
        if state is not None:
            pieces += [state.absmax, state.code, state.offset]
            pieces += [state.state2.absmax, state.state2.code] if state.nested else []
        for piece in pieces:
            if isinstance(piece, torch.Tensor):
                tensors[piece.data_ptr()] = piece.nbytes
    return sum(tensors.values())


@settings(max_examples=30, deadline=None)
@given(inputs=st.integers(1, 40).map(lambda n: 8 * n), rows=st.integers(1, 300), double=st.booleans())
def test_nf4_of_any_shape_is_what_bitsandbytes_holds(inputs, rows, double):
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear4bit(inputs, rows, bias=False, quant_type="nf4", compress_statistics=double)
    layer = layer.to(torch.bfloat16).to("cpu")
    assert layer.weight.bnb_quantized
    assert nf4_bytes(inputs * rows, double_quantization=double) == held_bytes(layer)
    shape = LinearShape("x", inputs, rows)
    assert linear_bytes(shape, "nf4", double_quantization=double) == held_bytes(layer)


@settings(max_examples=30, deadline=None)
@given(inputs=st.integers(1, 300), rows=st.integers(1, 300), bias=st.booleans())
def test_int8_of_any_shape_is_what_bitsandbytes_holds(inputs, rows, bias):
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear8bitLt(inputs, rows, bias=bias, has_fp16_weights=False)
    layer = layer.to(torch.bfloat16).to("cpu")
    layer.weight = bitsandbytes.nn.Int8Params(
        torch.randn(rows, inputs, dtype=torch.bfloat16), requires_grad=False, has_fp16_weights=False
    ).to("cpu")
    assert layer.weight.dtype == torch.int8
    assert linear_bytes(LinearShape("x", inputs, rows, bias=bias), "int8") == held_bytes(layer)


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    """Small random models on disk, saved once in bfloat16."""
    import torch
    import transformers

    folders = {}
    for name, config in WHOLE_MODELS.items():
        keys = {k: v for k, v in config.items() if k != "model_type"}
        built = transformers.CONFIG_MAPPING[config["model_type"]](**keys)
        kind = (
            transformers.AutoModelForImageTextToText if "vision_config" in keys else transformers.AutoModelForCausalLM
        )
        folders[name] = (kind, tmp_path_factory.mktemp(name))
        kind.from_config(built, dtype=torch.bfloat16).save_pretrained(folders[name][1])
    return folders


@pytest.mark.parametrize("form", ["none", "int8", "nf4", "nf4 without double quantization"])
@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_a_whole_loaded_model_takes_exactly_the_bytes_said(name, form, saved_models):
    import torch
    from transformers import BitsAndBytesConfig

    kind, folder = saved_models[name]
    double = form == "nf4"
    settings_of = {
        "none": None,
        "int8": BitsAndBytesConfig(load_in_8bit=True),
    }
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double)
    quantization = settings_of.get(form, nf4)
    loaded = kind.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=quantization)
    said = weight_bytes(layout(WHOLE_MODELS[name]), form.split()[0], double_quantization=double)
    assert said == held_bytes(loaded)


def test_falcon_really_stays_in_16_bits_as_the_catalog_says():
    whole = layout(WHOLE_MODELS["falcon"])
    assert weight_bytes(whole, "nf4") == weight_bytes(whole, "int8") == weight_bytes(whole, "none")


def as_if_every_linear_were_converted(whole):
    return dataclasses.replace(
        whole, linears=tuple(dataclasses.replace(shape, quantized=True) for shape in whole.linears)
    )


MISTRAL_32000 = {
    **find_model("mistralai/Mistral-7B-v0.3").config,
    "vocab_size": 32000,
}  # the count below is v0.1's vocabulary


@pytest.mark.parametrize(
    ("config", "gib_16_bit", "gib_int8", "gib_nf4", "gib_nf4_double", "kv_kib"),
    [
        pytest.param(MISTRAL_32000, 13.49, 6.99, 4.15, 3.84, 128, id="Mistral-7B"),
        pytest.param(find_model("tiiuae/falcon-7b").config, 12.89, 6.73, 4.02, 3.73, 8, id="Falcon-7B"),
        pytest.param(find_model("mosaicml/mpt-7b").config, 12.39, 6.39, 3.76, 3.48, 512, id="MPT-7B"),
        pytest.param(find_model("microsoft/phi-4").config, 27.31, 14.62, 9.06, 8.46, 200, id="Phi-4"),
        pytest.param(find_model("llava-hf/llava-1.5-7b-hf").config, 13.16, 6.83, 4.05, 3.76, 512, id="LLaVA-1.5-7B"),
    ],
)
def test_known_figures_of_7b_and_14b_shapes(config, gib_16_bit, gib_int8, gib_nf4, gib_nf4_double, kv_kib):
    """Counted once on meta models with every Linear but the head converted; Falcon's are, here, though its loader does not."""
    whole = as_if_every_linear_were_converted(layout(config))
    assert round(weight_bytes(whole, "none") / GIB, 2) == gib_16_bit
    assert round(weight_bytes(whole, "int8") / GIB, 2) == gib_int8
    assert round(weight_bytes(whole, "nf4", double_quantization=False) / GIB, 2) == gib_nf4
    assert round(weight_bytes(whole, "nf4") / GIB, 2) == gib_nf4_double
    assert whole.kv.bytes_per_token() / 1024 == kv_kib


def test_bytes_per_parameter_of_a_large_linear():
    shape = LinearShape("down_proj", 14336, 4096)
    assert linear_bytes(shape, "nf4", double_quantization=False) / shape.weights == pytest.approx(0.5625, abs=2e-6)
    assert linear_bytes(shape, "nf4") / shape.weights == pytest.approx(0.5159, abs=5e-5)
    assert linear_bytes(shape, "int8") / shape.weights == pytest.approx(1.0003, abs=3e-5)
    assert linear_bytes(shape, "awq") / shape.weights == pytest.approx(0.5 + (2 + 0.5) / 128)
    assert linear_bytes(shape, "fp8") / shape.weights == pytest.approx(1 + 4 / 14336 / 4096)


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_components_add_up_and_embeddings_are_never_quantized(quantization):
    whole = find_model("llava-hf/llava-1.5-7b-hf").layout
    parts = component_bytes(whole, quantization)
    assert sum(parts.values()) == weight_bytes(whole, quantization)
    assert parts["embeddings"] == 2 * whole.components["embeddings"]
    assert parts["lm_head"] == 2 * whole.components["lm_head"]
    assert set(parts) <= set(whole.components)


def test_4_bit_checkpoints_keep_the_vision_tower_in_16_bits():
    whole = find_model("llava-hf/llava-1.5-7b-hf").layout
    assert component_bytes(whole, "awq")["vision_tower"] == 2 * whole.components["vision_tower"]
    assert component_bytes(whole, "nf4")["vision_tower"] < whole.components["vision_tower"]


def test_experts_held_as_3_d_parameters_stay_in_16_bits():
    whole = find_model("openai/gpt-oss-20b").layout
    assert component_bytes(whole, "nf4")["experts"] == 2 * whole.components["experts"]


def test_quantized_forms_order_as_people_expect():
    whole = find_model("mistralai/Mistral-7B-v0.3").layout
    sizes = [weight_bytes(whole, form) for form in ("none", "fp8", "gptq", "awq", "nf4")]
    assert sizes == sorted(sizes, reverse=True)


def test_the_group_is_the_largest_that_divides_every_width_and_may_be_stated():
    falcon, mistral = find_model("tiiuae/falcon-7b").layout, find_model("mistralai/Mistral-7B-v0.3").layout
    assert fitting_group(mistral.linears) == 128
    assert fitting_group(falcon.linears) == 64
    assert fitting_group([LinearShape("odd", 100, 64)]) == 128
    assert fitting_group([LinearShape("gate", 100, 1), LinearShape("wide", 96, 64)]) == 32
    assert (
        weight_bytes(mistral, "awq") == weight_bytes(mistral, "awq", group=128) < weight_bytes(mistral, "awq", group=64)
    )


def test_a_shape_no_library_packs_is_counted_in_16_bits():
    gate = LinearShape("shared_expert_gate", 2048, 1, count=40)
    assert stored_bytes(gate, asked_storage("awq"), 40) == 2 * 2048 * 40


def test_a_wish_reaches_what_its_makers_convert():
    tower, head, text = (LinearShape("x", 64, 64, component=c) for c in ("vision_tower", "lm_head", "linear"))
    assert [reaches("nf4", shape) for shape in (tower, head, text)] == [True, False, True]
    assert [reaches("awq", shape) for shape in (tower, head, text)] == [False, False, True]
    assert not any(reaches("none", shape) for shape in (tower, head, text))
