"""Ledger lines of weights against the real models' figures, published checkpoints, and what a fleet may ask for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.models import find_model, load_models
from onecard.catalog.quantization import QUANTIZATIONS
from onecard.catalog.storages import FORMS
from onecard.catalog.units import GIB
from onecard.errors import CatalogError
from onecard.fleet.schema import ModelSpec
from onecard.planner.engine_facts import VLLM_STREAM_FACTOR
from onecard.planner.ledger import Line
from onecard.planner.shapes import ModelShape, shape_of_config, shape_of_model
from onecard.planner.weights import VLLM_FORMS, form_name, form_of, held_bytes, held_form, held_parts, weight_lines

# GiB in fp16, int8, nf4 and nf4 with double quantization: counted on models on the meta device, bitsandbytes' bytes checked against
# the library (transformers 5.19, bitsandbytes 0.50.2, November 2026). Falcon's layers are no plain Linears: they stay as they are.
TABLE = {
    "mistralai/Mistral-7B-v0.3": (13.49, 6.99, 4.15, 3.84),
    "tiiuae/falcon-7b": (12.89, 12.89, 12.89, 12.89),
    "mosaicml/mpt-7b": (12.39, 6.39, 3.76, 3.48),
    "microsoft/phi-4": (27.31, 14.62, 9.06, 8.46),
    "llava-hf/llava-1.5-7b-hf": (13.16, 6.83, 4.05, 3.76),
}
SMALL = {
    "model_type": "mistral", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 1024,
    "sliding_window": None, "tie_word_embeddings": False,
}  # fmt: skip
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
NF4 = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": False,
}


def lines_of(shape: ModelShape, quantization: str = "none", double: bool = True) -> list[Line]:
    spec = ModelSpec.model_validate({"id": shape.id, "quantization": quantization, "double_quantization": double})
    return weight_lines("base", spec, shape)


def total(lines: list[Line]) -> int:
    return sum(line.bytes for line in lines)


def checkpoint(said: dict[str, Any], config: dict[str, Any] | None = None) -> ModelShape:
    return shape_of_config("local", {**(config or SMALL), "quantization_config": said})


@pytest.mark.parametrize("model_id", TABLE)
def test_weights_are_those_counted_on_the_real_models(model_id: str) -> None:
    shape = shape_of_model(find_model(model_id))
    forms = (("none", True), ("int8", True), ("nf4", False), ("nf4", True))
    for (quantization, double), gib in zip(forms, TABLE[model_id], strict=True):
        lines = lines_of(shape, quantization, double)
        assert {line.tag for line in lines} == {"exact"}
        assert total(lines) / GIB == pytest.approx(gib, rel=0.005)


def test_a_small_model_takes_what_its_tensors_were_seen_to_take() -> None:
    """7,171,776 bytes in nf4 and 15,475,328 in bf16 were held by the local engine; 128 of them are its rotary tables."""
    shape = shape_of_config("small", SMALL)
    for quantization, held in (("nf4", 7_171_776), ("none", 15_475_328)):
        assert total(lines_of(shape, quantization)) == held - 128


@pytest.mark.parametrize("model", load_models(), ids=lambda model: model.id)
def test_a_published_checkpoint_is_counted_to_its_bytes(model: Any) -> None:
    """Only what the catalog explains may differ: a head stored twice (Falcon), layers for drafts (Qwen3.5), buffers (Gemma)."""
    counted = total(lines_of(shape_of_model(model)))
    published = model.disk.bytes_of_weights
    if published is None or model.check.status != "exact":
        assert counted <= 2 * model.parameters
    elif model.disk.dtype == "bfloat16" or "float16" in model.disk.dtype:
        assert counted == pytest.approx(published, rel=0.045)
    if model.id in ("openai/gpt-oss-20b", "Qwen/Qwen3-8B", "llava-hf/llava-1.5-7b-hf", "microsoft/phi-4"):
        assert counted == published


def test_a_checkpoint_in_4_bit_floats_is_counted_from_its_config() -> None:
    lines = lines_of(shape_of_model(find_model("openai/gpt-oss-20b")))
    assert total(lines) == 13_761_264_768
    assert {line.tag for line in lines} == {"exact"}
    (experts,) = [line for line in lines if "mxfp4" in line.part]
    assert experts.part == "experts (mxfp4)"
    assert "4 bits a weight and a byte of scale per 32" in experts.source


def test_each_line_says_its_form_and_what_it_was_counted_from() -> None:
    lines = {line.part: line for line in lines_of(shape_of_model(find_model("llava-hf/llava-1.5-7b-hf")), "nf4")}
    assert set(lines) >= {"linear layers (nf4+DQ)", "embeddings (16-bit)", "head (16-bit)", "vision tower (nf4+DQ)"}
    assert lines["embeddings (16-bit)"].source == "counted from its config"
    assert lines["linear layers (nf4+DQ)"].source.startswith("counted from its config: 4 bits a weight")


def test_a_checkpoint_keeps_its_own_groups_and_lists_where_its_form_is_asked_for() -> None:
    own = checkpoint(AWQ)
    assert {line.part for line in lines_of(own)} == {line.part for line in lines_of(own, "awq")}
    assert "linear layers (awq g64)" in {line.part for line in lines_of(own)}
    wide = {**SMALL, "intermediate_size": 768}
    asked = total(lines_of(shape_of_config("plain", wide), "awq"))  # in groups of 128
    assert total(lines_of(checkpoint(AWQ, wide))) > asked
    kept = checkpoint({**NF4, "llm_int8_skip_modules": ["lm_head", "model.layers.0.mlp", "model.layers.3.self_attn"]})
    parts = {line.part: line.bytes for line in lines_of(kept, "nf4")}
    assert parts["linear layers (16-bit)"] == 2 * (3 * 256 * 704 + 256 * 256 * 2 + 256 * 64 * 2)
    assert "linear layers (nf4)" in parts  # without double quantization, whatever the fleet's default says


def test_another_form_than_the_checkpoints_is_counted_from_16_bits() -> None:
    assert total(lines_of(checkpoint(AWQ), "int8")) == total(lines_of(shape_of_config("plain", SMALL), "int8"))


def test_bytes_a_file_was_seen_to_have_go_before_a_count() -> None:
    shape = shape_of_config("small", SMALL)
    seen = ModelShape(shape.id, shape.layout, (), "seen", published_bytes=12_345, published_source="the files' headers")
    (line,) = lines_of(seen)
    assert (line.bytes, line.tag, line.source) == (12_345, "exact", "the files' headers")
    assert total(lines_of(seen, "nf4")) == total(lines_of(shape, "nf4"))


@pytest.mark.parametrize(
    ("said", "form", "part"),
    [
        (AWQ, "awq", "linear layers (awq g64)"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq", "linear layers (gptq g128)"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", "linear layers (fp8)"),
        ({**NF4, "bnb_4bit_use_double_quant": True}, "nf4", "linear layers (nf4+DQ)"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", "linear layers (int8)"),
    ],
)
def test_forms_and_parts_go_by_their_names(said: dict[str, Any], form: str, part: str) -> None:
    shape = checkpoint(said)
    assert shape.published == form_of(ModelSpec(id="local"), shape) == held_form("none", shape) == form
    assert part in {line.part for line in lines_of(shape)}


@pytest.mark.parametrize(
    ("form", "name"), [("none", "16-bit"), ("nf4", "nf4+DQ"), ("awq", "awq"), ("int4", "4-bit integers")]
)
def test_forms_have_names_people_know(form: Any, name: str) -> None:
    assert form_name(form) == name
    assert form_name("nf4", double_quantization=False) == "nf4"


def test_the_engines_know_every_form_a_checkpoint_may_have() -> None:
    assert set(VLLM_STREAM_FACTOR) == set(FORMS)
    assert set(FORMS) > VLLM_FORMS


def test_experts_of_a_mixture_are_quantized_by_checkpoints_and_not_by_bitsandbytes() -> None:
    shape = shape_of_model(find_model("Qwen/Qwen3.6-35B-A3B"))
    assert "experts (16-bit)" in {line.part for line in lines_of(shape, "nf4")}
    assert "experts (awq g128)" in {line.part for line in lines_of(shape, "awq")}
    assert total(lines_of(shape, "awq")) < 0.35 * total(lines_of(shape))


def test_a_list_that_breaks_is_refused_when_the_weights_are_counted() -> None:
    shape = checkpoint({**NF4, "llm_int8_skip_modules": ["model.layers.(0"]})
    with pytest.raises(CatalogError, match="no regular expression"):
        lines_of(shape)


@given(
    model=st.sampled_from(load_models()),
    quantization=st.sampled_from(QUANTIZATIONS),
    double=st.booleans(),
    width=st.sampled_from([2, 4]),
)
def test_lines_add_up_and_no_form_takes_more_than_the_models_own_type(
    model: Any, quantization: Any, double: bool, width: int
) -> None:
    shape = shape_of_model(model)
    parts = held_parts(shape, quantization, double, width)
    assert sum(part.bytes for part in parts) == sum(held_bytes(shape, quantization, double, width).values())
    assert len({(part.component, part.held) for part in parts}) == len(parts)
    assert all(part.bytes > 0 for part in parts)
    assert sum(part.bytes for part in parts) <= width * model.parameters
    if width == 2:
        assert [part.bytes for part in parts] == [line.bytes for line in lines_of(shape, quantization, double)]


@pytest.mark.parametrize("model", load_models(), ids=lambda model: model.id)
def test_more_bits_never_cost_less(model: Any) -> None:
    shape = shape_of_model(model)
    if shape.published == "none":
        sizes = [total(lines_of(shape, form)) for form in ("gptq", "fp8", "none")]
        assert sizes == sorted(sizes)
        assert total(lines_of(shape, "awq")) <= sizes[0]
        assert total(lines_of(shape, "nf4")) <= total(lines_of(shape, "nf4", False)) <= total(lines_of(shape, "int8"))


def test_a_wish_for_4_bits_takes_the_largest_group_that_divides_every_width() -> None:
    """Falcon's 4544 and the experts of Nemotron (1856) are no multiples of 128."""
    for model_id in ("tiiuae/falcon-7b", "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16"):
        parts = {line.part for line in lines_of(shape_of_model(find_model(model_id)), "awq")}
        assert "linear layers (awq g64)" in parts
        assert "linear layers (16-bit)" not in parts
