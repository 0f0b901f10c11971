"""Real quantization_configs as they are published, and what is wrong with broken ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.quantization_config import read_quantization
from onecard.catalog.storages import Awq, Bnb4Bit, Bnb8Bit, Compressed, Fp4, Fp8, Gptq
from onecard.errors import CatalogError

BNB = {
    "_load_in_4bit": True,
    "_load_in_8bit": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_skip_modules": ["lm_head", "model.layers.1.mlp"],
    "load_in_4bit": True,
    "load_in_8bit": False,
    "quant_method": "bitsandbytes",
}
AWQ = {
    "bits": 4,
    "group_size": 128,
    "modules_to_not_convert": None,
    "quant_method": "awq",
    "version": "gemm",
    "zero_point": True,
}
GPTQ = {
    "modules_in_block_to_quantize": None,
    "dynamic": None,
    "bits": 4,
    "group_size": 128,
    "desc_act": True,
    "sym": True,
    "quant_method": "gptq",
    "true_sequential": True,
}
BLOCK_FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "modules_to_not_convert": ["lm_head", "model.layers.0.mlp.gate"],
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
STATIC_FP8 = {"activation_scheme": "static", "ignored_layers": ["lm_head"], "quant_method": "fp8"}
W4A16 = {
    "config_groups": {
        "group_0": {
            "input_activations": None,
            "output_activations": None,
            "targets": ["Linear"],
            "weights": {
                "actorder": "weight", "block_structure": None, "dynamic": False, "group_size": 128, "num_bits": 4,
                "observer": "minmax", "strategy": "group", "symmetric": True, "type": "int",
            },
        }
    },
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*vision_tower.*"],
    "kv_cache_scheme": None,
    "quant_method": "compressed-tensors",
    "quantization_status": "compressed",
}  # fmt: skip
MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head", "model.visual*"]}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}


def read(said):
    form = read_quantization({"model_type": "llama", "quantization_config": said})
    assert form is not None
    return form


def with_weights(**changed):
    """W4A16 with other weights; a key given as None is left out."""
    group = W4A16["config_groups"]["group_0"]
    weights = {k: v for k, v in {**group["weights"], **changed}.items() if v is not None}
    return {**W4A16, "config_groups": {"group_0": {**group, "weights": weights}}}


@pytest.mark.parametrize(
    ("said", "storage", "form"),
    [
        pytest.param(BNB, Bnb4Bit("nf4", True), "nf4", id="bnb-nf4"),
        pytest.param({"load_in_4bit": True}, Bnb4Bit("fp4", False), "nf4", id="bnb-defaults-are-fp4"),
        pytest.param({**BNB, "bnb_4bit_blocksize": 128}, Bnb4Bit("nf4", True, 128), "nf4", id="bnb-block"),
        pytest.param({"quant_method": "bitsandbytes", "load_in_8bit": True}, Bnb8Bit(), "int8", id="bnb-int8"),
        pytest.param(AWQ, Awq(128), "awq", id="awq"),
        pytest.param({"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "version": "GEMV"}, Awq(64, "gemv"), "awq", id="gemv"),
        pytest.param(GPTQ, Gptq(4, 128), "gptq", id="gptq"),
        pytest.param({**GPTQ, "bits": 8, "group_size": -1}, Gptq(8, -1), "gptq", id="gptq-8-bit-rows"),
        pytest.param(BLOCK_FP8, Fp8("block", (128, 128)), "fp8", id="fp8-block"),
        pytest.param(STATIC_FP8, Fp8(static=True), "fp8", id="fp8-static"),
        pytest.param({"quant_method": "fbgemm_fp8"}, Fp8("channel", static=True), "fp8", id="fbgemm"),
        pytest.param(MXFP4, Fp4("mxfp4"), "mxfp4", id="mxfp4"),
        pytest.param(MODELOPT, Fp4("nvfp4", static=True), "nvfp4", id="modelopt-nvfp4"),
        pytest.param({**MODELOPT, "quant_algo": "fp8"}, Fp8(static=True), "fp8", id="modelopt-fp8"),
        pytest.param(W4A16, Compressed(4, "int", "group", 128, packed=True), "int4", id="w4a16"),
        pytest.param(
            {**with_weights(num_bits=8, type="float", strategy="channel"), "format": "float-quantized"},
            Compressed(8, "float", "channel"), "fp8", id="fp8-dynamic",
        ),
        pytest.param(
            {**with_weights(num_bits=8, type="float", strategy="block", block_structure="128x128"), "format": "naive-quantized"},
            Compressed(8, "float", "block", block=(128, 128)), "fp8", id="fp8-block-naive",
        ),
        pytest.param(
            {**with_weights(num_bits=8, strategy="channel", symmetric=False), "format": "int-quantized"},
            Compressed(8, "int", "channel", symmetric=False), "w8", id="w8a8",
        ),
        pytest.param(
            {**with_weights(type="float", strategy="tensor_group", group_size=16), "format": "nvfp4-pack-quantized"},
            Fp4("nvfp4"), "nvfp4", id="nvfp4",
        ),
    ],
)  # fmt: skip
def test_what_is_published_is_read(said, storage, form):
    found = read(said)
    assert found.storage == storage
    assert found.form == form


@pytest.mark.parametrize("said", [None, {}])
def test_a_checkpoint_that_is_not_quantized_has_no_form(said):
    assert read_quantization({"model_type": "llama", "quantization_config": said}) is None
    assert read_quantization({"model_type": "llama"}) is None


def test_the_older_places_of_the_config_are_read_too():
    assert read_quantization({"compression_config": W4A16}).method == "compressed-tensors"
    assert read_quantization({"text_config": {"quantization_config": AWQ}}).method == "awq"


def test_a_list_keeps_what_it_names_in_16_bits():
    form = read(BNB)
    assert form.storage_of(["model.layers.1.mlp.up_proj"]) is None
    assert form.storage_of(["model.layers.2.mlp.up_proj"]) == Bnb4Bit("nf4", True)
    assert form.storage_of(["lm_head"]) is None


def test_a_list_of_ones_own_replaces_the_default_that_kept_the_head():
    assert not read({"load_in_4bit": True}).head
    assert read({"load_in_4bit": True, "llm_int8_skip_modules": ["model.vision_tower"]}).head


def test_groups_by_name_go_before_the_group_of_all_linears():
    eight = {**W4A16["config_groups"]["group_0"], "targets": ["re:.*down_proj"]}
    eight["weights"] = {**eight["weights"], "num_bits": 8, "strategy": "channel"}
    form = read({**W4A16, "config_groups": {**W4A16["config_groups"], "group_1": eight}})
    assert form.storage_of(["model.layers.0.mlp.down_proj"]).bits == 8
    assert form.storage_of(["model.layers.0.mlp.up_proj"]).bits == 4
    assert form.storage_of(["lm_head"]) is None
    assert form.storage.bits == 4


def test_gptq_knows_exceptions_by_pattern_and_modules_it_never_touches():
    form = read({**GPTQ, "dynamic": {"-:.*\\.self_attn\\..*": {}, "+:.*\\.down_proj": {"bits": 8, "group_size": 64}}})
    assert form.storage_of(["model.layers.0.self_attn.q_proj"]) is None
    assert form.storage_of(["model.layers.0.mlp.down_proj"]) == Gptq(8, 64)
    assert form.storage_of(["model.layers.0.mlp.up_proj"]) == form.storage == Gptq(4, 128)
    form = read({**GPTQ, "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]]})
    assert form.storage_of(["model.layers.0.mlp.up_proj"]) == Gptq(4, 128)
    assert form.storage_of(["model.layers.0.mlp.down_proj"]) is None


@pytest.mark.parametrize(
    ("said", "problem", "key"),
    [
        ({"quant_method": "aqlm"}, "'aqlm'.*, whose bytes cannot be counted", "quant_method"),
        ({"quant_method": "gtpq"}, "did you mean 'gptq'", "quant_method"),
        ({"bits": 4}, "names no quant_method", "quant_method"),
        ("nf4", "no object", None),
        ({"quant_method": "bitsandbytes"}, "neither load_in_4bit nor load_in_8bit", "load_in_4bit"),
        ({"load_in_4bit": True, "load_in_8bit": True}, "both set", "load_in_4bit"),
        ({**BNB, "bnb_4bit_quant_type": "nf3"}, "'nf3' is not known", "bnb_4bit_quant_type"),
        ({**BNB, "load_in_4bit": "yes"}, "'yes' is not true or false", "load_in_4bit"),
        ({**BNB, "llm_int8_skip_modules": "lm_head"}, "no list of module names", "llm_int8_skip_modules"),
        ({"quant_method": "awq"}, "missing", "bits"),
        ({**AWQ, "bits": 3}, "3 is no width", "bits"),
        ({**AWQ, "group_size": None}, "missing", "group_size"),
        ({**AWQ, "group_size": 0}, "0 is not a size", "group_size"),
        ({**AWQ, "version": "turbo"}, "'turbo' is not known", "version"),
        ({**GPTQ, "group_size": -128}, "-128 is not a size", "group_size"),
        ({**GPTQ, "group_size": True}, "True is not a size", "group_size"),
        ({**GPTQ, "dynamic": ["-:x"]}, "no table of patterns", "dynamic"),
        ({**GPTQ, "modules_in_block_to_quantize": 7}, "no list of module names", "modules_in_block_to_quantize"),
        ({**GPTQ, "dynamic": {"+:.*": {"bits": 5}}}, "5 is no width", "bits"),
        ({**BLOCK_FP8, "weight_block_size": [128]}, "no block of two sizes", "weight_block_size"),
        ({**BLOCK_FP8, "weight_block_size": [128, -1]}, "-1 is not a size", "weight_block_size"),
        ({**BLOCK_FP8, "activation_scheme": "lucky"}, "'lucky' is not known", "activation_scheme"),
        ({**MODELOPT, "quant_algo": "W4A8"}, "'W4A8' is not known", "quant_algo"),
        ({**W4A16, "config_groups": {}}, "no config_groups", "config_groups"),
        ({**W4A16, "config_groups": {"group_0": {"targets": ["Linear"]}}}, "nothing of the weights", "config_groups.group_0.weights"),
        ({**W4A16, "format": "dense"}, "'dense' is not known", "format"),
        ({**W4A16, "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse weights", "sparsity_config"),
        (with_weights(num_bits=9), "9 is no width", "config_groups.group_0.weights.num_bits"),
        (with_weights(group_size=None), "missing", "config_groups.group_0.weights.group_size"),
        (with_weights(strategy="luck"), "'luck' is not known", "config_groups.group_0.weights.strategy"),
        (with_weights(strategy="block"), "None is no block", "config_groups.group_0.weights.block_structure"),
        ({**W4A16, "format": "int-quantized"}, "holds 8 bits a weight, not 4", "config_groups.group_0.weights.num_bits"),
        ({**W4A16, "format": "nvfp4-pack-quantized"}, "groups of 16", "config_groups.group_0.weights.group_size"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused_by_its_name(said, problem, key):
    with pytest.raises(CatalogError, match=problem) as refused:
        read(said)
    assert str(refused.value.where).endswith(f"quantization_config.{key}" if key else "quantization_config")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | st.sampled_from(["", "Linear", "re:(", "group", "nf4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["weights", "targets", "group_0", "x"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KNOWN = [BNB, AWQ, GPTQ, BLOCK_FP8, STATIC_FP8, W4A16, MODELOPT, MXFP4]


@given(
    said=st.sampled_from(KNOWN), key=st.sampled_from(sorted({key for known in KNOWN for key in known})), value=ANYTHING
)
def test_one_odd_field_is_read_or_refused_and_never_a_crash(said, key, value):
    try:
        form = read_quantization({"model_type": "llama", "quantization_config": {**said, key: value}})
    except CatalogError as refused:
        assert refused.where and "config.json" in refused.where
        return
    assert form is None or form.storage.bytes_of(4096, 4096) > 0
