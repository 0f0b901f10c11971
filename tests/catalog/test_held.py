"""Whole models: bytes counted from a config with its lists of exceptions, against what libraries really hold and hubs publish."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.catalog.architecture import layout
from onecard.catalog.held import asked_parts, checkpoint_parts
from onecard.catalog.models import find_model
from onecard.catalog.quantization import QUANTIZATIONS, weight_bytes
from onecard.catalog.quantization_config import read_quantization
from onecard.errors import CatalogError

SMALL = {
    "hidden_size": 128,
    "intermediate_size": 336,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 256,
}
MISTRAL = {"model_type": "mistral", **SMALL, "sliding_window": None}
LLAVA = {
    "model_type": "llava",
    "text_config": {"model_type": "llama", **SMALL},
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
        "projection_dim": 32,
    },
    "image_token_index": 319,
}
QWEN = find_model("Qwen/Qwen2.5-7B-Instruct")
AWQ = {"bits": 4, "group_size": 128, "quant_method": "awq", "version": "gemm", "zero_point": True}
FP8 = {"activation_scheme": "dynamic", "quant_method": "fp8", "weight_block_size": [128, 128]}


def parts(config, said, version="5.19.0"):
    """By (component, form): what a checkpoint of this config with this quantization_config takes."""
    whole = {**config, "quantization_config": said, "transformers_version": version}
    return {(p.component, p.held): p.bytes for p in checkpoint_parts(whole, layout(whole), read_quantization(whole))}


def total(config, said, version="5.19.0"):
    return sum(parts(config, said, version).values())


def keys_of(config):
    return {key: value for key, value in config.items() if key not in ("model_type", "quantization_config")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Small random models on disk, saved once in bfloat16."""
    import torch
    import transformers

    folders = {}
    for config in (MISTRAL, LLAVA):
        kind = (
            transformers.AutoModelForImageTextToText if "vision_config" in config else transformers.AutoModelForCausalLM
        )
        folder = tmp_path_factory.mktemp(config["model_type"])
        built = transformers.CONFIG_MAPPING[config["model_type"]](**keys_of(config))
        kind.from_config(built, dtype=torch.bfloat16).save_pretrained(folder)
        folders[config["model_type"]] = (kind, folder)
    return folders


def held_bytes(model) -> int:
    """Bytes of every tensor a model really holds, tied ones once."""
    import torch

    tensors = {}
    for parameter in model.parameters():
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


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("config", "skips"),
    [
        pytest.param(MISTRAL, None, id="no-list"),
        pytest.param(MISTRAL, ["lm_head"], id="head"),
        pytest.param(MISTRAL, ["model.layers.1.mlp"], id="one-layer-and-the-head-is-converted"),
        pytest.param(MISTRAL, ["lm_head", "k_proj", "model.layers.2.self_attn.q_proj"], id="one-projection"),
        pytest.param(LLAVA, ["lm_head", "vision_tower"], id="old-name-skips-nothing"),
        pytest.param(LLAVA, ["lm_head", "model.vision_tower"], id="tower"),
        pytest.param(LLAVA, ["lm_head", "model.multi_modal_projector", "model.vision_tower"], id="language-only"),
    ],
)
def test_lists_keep_in_16_bits_what_they_keep_there_in_transformers(config, skips, bits, saved):
    import torch
    from transformers import BitsAndBytesConfig

    kind, folder = saved[config["model_type"]]
    asked = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=skips,
    )
    loaded = kind.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=asked)
    assert total(config, {**asked.to_dict(), "quant_method": "bitsandbytes"}) == held_bytes(loaded)


@pytest.mark.parametrize(
    "skips", [None, ["lm_head"], ["model.layers.0.mlp", "lm_head"], ["model.vision_tower", "lm_head"]]
)
@pytest.mark.parametrize("block", [None, (128, 128), (64, 64)])
@pytest.mark.parametrize("config", [MISTRAL, LLAVA], ids=["mistral", "llava"])
def test_fp8_is_what_transformers_makes_of_the_model(config, block, skips):
    import torch
    import transformers
    from transformers.integrations.finegrained_fp8 import replace_with_fp8_linear
    from transformers.quantizers.base import HfQuantizer

    kind = transformers.AutoModelForImageTextToText if "vision_config" in config else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        built = transformers.CONFIG_MAPPING[config["model_type"]](**keys_of(config))
        model = kind.from_config(built, dtype=torch.bfloat16)
    asked = transformers.FineGrainedFP8Config(weight_block_size=block, modules_to_not_convert=skips)
    replace_with_fp8_linear(model, HfQuantizer.get_modules_to_not_convert(model, skips), asked, pre_quantized=True)
    fp32 = {"weight_scale_inv": 4}
    real = sum(
        p.numel() * (fp32.get(name.rpartition(".")[2]) or (1 if p.dtype == torch.float8_e4m3fn else 2))
        for name, p in model.named_parameters()
    )
    assert total(config, {**asked.to_dict(), "quant_method": "fp8"}) == real


@pytest.mark.parametrize(
    ("config", "said", "published"),
    [
        # total_size of openai/gpt-oss-20b's model.safetensors.index.json.
        pytest.param(find_model("openai/gpt-oss-20b").config, None, 13_761_264_768, id="mxfp4"),
        # total_size of an index of 80 layers, 9 shards and qweights in the tests of llmariner/inference-manager: Llama 3 70B in AWQ.
        pytest.param(
            {
                "model_type": "llama",
                "hidden_size": 8192,
                "intermediate_size": 28672,
                "num_hidden_layers": 80,
                "num_attention_heads": 64,
                "num_key_value_heads": 8,
                "vocab_size": 128256,
                "max_position_embeddings": 131072,
            },
            AWQ,
            39_767_785_472,
            id="awq",
        ),
    ],
)
def test_published_checkpoints_are_counted_to_the_last_byte(config, said, published):
    whole = config if said is None else {**config, "quantization_config": said}
    counted = checkpoint_parts(whole, layout(whole), read_quantization(whole))
    assert sum(part.bytes for part in counted) == published


@pytest.mark.parametrize(
    ("model_id", "published_gb"),
    [("mistralai/Ministral-3-14B-Instruct-2512", 15.7), ("mistralai/Ministral-3-8B-Instruct-2512", 10.4)],
)
def test_fp8_checkpoints_of_the_catalog_are_as_large_as_the_hub_says(model_id, published_gb):
    model = find_model(model_id)
    counted = checkpoint_parts(model.config, model.layout, read_quantization(model.config))
    assert sum(part.bytes for part in counted) / 1e9 == pytest.approx(published_gb, abs=0.05)
    towers = [part for part in counted if part.component in ("vision_tower", "projector", "lm_head")]
    assert {part.held for part in towers} == {"16-bit"}


def test_names_from_before_4_52_count_where_the_config_is_that_old():
    skips = {"load_in_4bit": True, "llm_int8_skip_modules": ["vision_tower", "lm_head"]}
    assert ("vision_tower", "16-bit") in parts(LLAVA, skips, "4.51.3")
    assert ("vision_tower", "fp4") in parts(LLAVA, skips, "4.52.0")
    assert parts(LLAVA, skips, "4.51.3") == parts(LLAVA, skips, None)
    fp8 = {**FP8, "modules_to_not_convert": ["vision_tower", "multi_modal_projector", "lm_head"]}
    assert ("vision_tower", "fp8") not in parts(LLAVA, fp8)  # transformers renames this list when it loads


def test_decoder_only_methods_leave_tower_projector_and_head_alone():
    for said in (AWQ, {"bits": 4, "group_size": 32, "quant_method": "gptq"}):
        found = parts(LLAVA, said)
        assert {component for component, held in found if held != "16-bit"} == {"linear"}
        assert found["lm_head", "16-bit"] == 2 * 128 * 320


def test_compressed_tensors_converts_the_head_unless_its_list_says_no():
    weights = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
    said = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": [],
    }
    assert ("lm_head", "fp8") in parts(MISTRAL, said)
    assert ("lm_head", "16-bit") in parts(MISTRAL, {**said, "ignore": ["lm_head"]})
    names = [f"model.vision_tower.vision_model.encoder.layers.{n}.self_attn.q_proj" for n in range(2)]
    found = parts(LLAVA, {**said, "ignore": [*names, "lm_head"]})
    # q_proj of both layers in 16 bits, and what is no Linear of the tower: everything but 5 Linears a layer.
    assert found["vision_tower", "fp8"] == 2 * (3 * (64 * 64 + 2 + 128) + (64 * 112 + 2 + 224) + (64 * 112 + 2 + 128))


def test_experts_are_linears_to_every_method_but_bitsandbytes():
    config = find_model("Qwen/Qwen3.6-35B-A3B").config
    whole = layout(config)
    assert parts(config, {"load_in_4bit": True})["experts", "16-bit"] == 2 * whole.components["experts"]
    in_fp8 = parts(config, {**FP8, "modules_to_not_convert": ["lm_head", "model.visual"]})
    # 512 inputs and 2048 outputs cut into 4 x 16 blocks, one fp32 each.
    assert in_fp8["experts", "fp8"] == whole.components["experts"] + 4 * 64 * 3 * 256 * 40
    left = parts(config, {**FP8, "modules_to_not_convert": ["lm_head", "model.language_model.layers.0.mlp.experts"]})
    assert left["experts", "fp8"] * 40 == in_fp8["experts", "fp8"] * 39
    assert left["experts", "16-bit"] == 2 * whole.components["experts"] // 40


def test_a_list_that_cannot_be_told_apart_is_refused():
    config = find_model("google/gemma-4-E4B-it").config
    with pytest.raises(CatalogError, match="which ones cannot be told"):
        parts(config, {**FP8, "modules_to_not_convert": ["model.language_model.layers.1.self_attn.k_proj"]})


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("model_id", ["llava-hf/llava-1.5-7b-hf", "tiiuae/falcon-7b", "Qwen/Qwen3.5-4B"])
def test_a_wish_takes_what_the_layout_alone_says(model_id, quantization):
    model = find_model(model_id)
    found = asked_parts(model.config, model.layout, quantization)
    assert sum(part.bytes for part in found) == weight_bytes(model.layout, quantization)
    if quantization == "none":
        assert sum(part.bytes for part in found) == 2 * model.parameters
        assert {part.held for part in found} == {"16-bit"}


def test_a_wish_for_a_checkpoint_form_reaches_the_experts():
    model = find_model("Qwen/Qwen3.6-35B-A3B")
    for wish in ("awq", "gptq", "fp8"):
        held = {part.component: part.held for part in asked_parts(model.config, model.layout, wish)}
        assert held["experts"].startswith(wish)
        assert held["router"] == held["embeddings"] == "16-bit"
    assert {p.held for p in asked_parts(model.config, model.layout, "nf4") if p.component == "experts"} == {"16-bit"}


def test_a_larger_group_is_said_and_takes_less():
    sizes = [sum(p.bytes for p in asked_parts(QWEN.config, QWEN.layout, "awq", group=group)) for group in (32, 64, 128)]
    assert sizes == sorted(sizes, reverse=True)
    assert "awq g64" in {p.held for p in asked_parts(QWEN.config, QWEN.layout, "awq", group=64)}


SKIPS = st.lists(
    st.sampled_from(
        ["lm_head", "q_proj", "down_proj", "model.layers.3", "model.layers.1.", "model.layers.7.mlp", "model", "nobody"]
        + [f"model.layers.{n}.self_attn" for n in range(28)]
    ),
    max_size=5,
    unique=True,
)


@settings(max_examples=40, deadline=None)
@given(
    few=SKIPS,
    more=SKIPS,
    said=st.sampled_from([{"load_in_4bit": True}, {"load_in_8bit": True, "quant_method": "bitsandbytes"}, FP8]),
)
def test_a_longer_list_only_ever_adds_bytes(few, more, said):
    key = "modules_to_not_convert" if said is FP8 else "llm_int8_skip_modules"
    lists = [["lm_head", *few], ["lm_head", *few, *more]]
    fewer, most = (total(QWEN.config, {**said, key: names}) for names in lists)
    assert total(QWEN.config, {**said, key: ["lm_head"]}) <= fewer <= most <= 2 * QWEN.parameters
    if "model" in few:
        assert fewer == 2 * QWEN.parameters
