from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.catalog.models import find_model
from onecard.catalog.units import GIB, KIB
from onecard.errors import FleetError
from onecard.fleet.schema import Fleet, ModelSpec
from onecard.planner.cache import cache_line
from onecard.planner.memory import serving_ledger
from onecard.planner.shapes import ModelShape, shape_of_config, shape_of_model
from onecard.planner.weights import weight_lines

MakeFleet = Callable[..., Fleet]

# GiB in fp16, int8, nf4, nf4 with double quantization, and KiB of KV cache a token: counted on models on the meta device,
# bitsandbytes' bytes checked against the library (transformers 5.19, bitsandbytes 0.50.2, November 2026).
TABLE = {
    "mistralai/Mistral-7B-v0.3": (13.49, 6.99, 4.15, 3.84, 128),
    "tiiuae/falcon-7b": (
        12.89,
        12.89,
        12.89,
        12.89,
        8,
    ),  # its layers are no plain Linears: transformers leaves them as they are
    "mosaicml/mpt-7b": (12.39, 6.39, 3.76, 3.48, 512),
    "microsoft/phi-4": (27.31, 14.62, 9.06, 8.46, 200),
    "llava-hf/llava-1.5-7b-hf": (13.16, 6.83, 4.05, 3.76, 512),
}


def weights_gib(model_id: str, quantization: str, double: bool = True) -> float:
    spec = ModelSpec.model_validate({"id": model_id, "quantization": quantization, "double_quantization": double})
    lines = weight_lines("base", spec, shape_of_model(find_model(model_id)))
    assert {line.tag for line in lines} == {"exact"}
    return sum(line.bytes for line in lines) / GIB


@pytest.mark.parametrize("model_id", TABLE)
def test_weights_and_cache_are_those_counted_on_the_real_models(model_id: str) -> None:
    fp16, int8, nf4, nested, kv_kib = TABLE[model_id]
    assert weights_gib(model_id, "none") == pytest.approx(fp16, rel=0.005)
    assert weights_gib(model_id, "int8") == pytest.approx(int8, rel=0.005)
    assert weights_gib(model_id, "nf4", double=False) == pytest.approx(nf4, rel=0.005)
    assert weights_gib(model_id, "nf4") == pytest.approx(nested, rel=0.005)
    cache = cache_line(
        "base", ModelSpec(id=model_id, context=1024, concurrency=2), shape_of_model(find_model(model_id))
    )
    assert cache.bytes == kv_kib * KIB * 1024 * 2


def test_a_small_model_takes_what_its_tensors_were_seen_to_take() -> None:
    """7,171,776 bytes in nf4 and 15,475,328 in bf16 were held by the local engine; 128 of them are its rotary tables."""
    config = {
        "model_type": "mistral", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 1024,
        "sliding_window": None, "tie_word_embeddings": False,
    }  # fmt: skip
    shape = shape_of_config("small", config)
    for quantization, held in (("nf4", 7_171_776), ("none", 15_475_328)):
        spec = ModelSpec.model_validate({"id": "small", "quantization": quantization})
        assert sum(line.bytes for line in weight_lines("base", spec, shape)) == held - 128


def test_a_published_quantized_checkpoint_is_taken_as_it_is() -> None:
    shape = shape_of_model(find_model("openai/gpt-oss-20b"))
    (line,) = weight_lines("base", ModelSpec(id=shape.id), shape)
    assert line.bytes == 13_761_264_768
    assert line.tag == "measured"


def test_sliding_layers_stop_at_their_window_in_vllm_and_are_kept_whole_in_process() -> None:
    shape = shape_of_model(find_model("google/gemma-3-12b-it"))
    spec = ModelSpec(id=shape.id, context=32768, engine="vllm")
    whole = cache_line("base", spec.model_copy(update={"engine": "local"}), shape).bytes
    capped = cache_line("base", spec, shape).bytes
    assert whole == 32768 * shape.kv.bytes_per_token()
    assert capped == shape.kv.bytes_for(32768) < 0.3 * whole


def test_adapters_are_counted_by_rank_targets_and_added_rows(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    recipe = {"lora": {"rank": 16}, "added_tokens": ["<A>", "<B>"]}
    fleet = make_fleet(agent={"adapter": "style@production", "recipe": recipe})
    lines = serving_ledger(fleet, {"base": mistral}).of("writer").lines
    assert [line.bytes for line in lines] == [4 * (41_943_040 + 2 * 2 * 4096)]  # fp32, as it is trained
    assert lines[0].tag == "exact"
    without = serving_ledger(make_fleet(agent={"adapter": "style@production"}), {"base": mistral}).of("writer").lines
    assert (without[0].tag, without[0].bytes) == ("assumed", 4 * 41_943_040)


def test_every_figure_says_how_sure_it_is_and_where_from(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    for line in serving_ledger(make_fleet(agent={"adapter": "a@v0001"}), {"base": mistral}).lines:
        assert line.source
        assert line.tag in ("exact", "measured", "fitted", "assumed")
        assert line.bytes > 0


sizes = st.tuples(st.integers(16, 32000), st.integers(1, 64))
forms = st.sampled_from(["none", "int8", "nf4", "awq"])


@settings(deadline=None, max_examples=60)
@given(small=sizes, more=st.tuples(st.integers(0, 700), st.integers(0, 8)), quantization=forms)
def test_more_context_or_callers_never_need_less(
    make_fleet: MakeFleet, mistral: ModelShape, small: tuple[int, int], more: tuple[int, int], quantization: str
) -> None:
    def need(context: int, concurrency: int) -> int:
        fleet = make_fleet(quantization=quantization, context=context, concurrency=concurrency)
        return serving_ledger(fleet, {"base": mistral}).total_bytes

    context, concurrency = small
    assert need(context, concurrency) <= need(context + more[0], concurrency + more[1])


def test_each_process_is_counted_once(mistral: ModelShape) -> None:
    def processes(*engines: str) -> list[str]:
        models = {f"m{n}": {"id": mistral.id, "engine": engine} for n, engine in enumerate(engines)}
        fleet = Fleet.model_validate({"name": "t", "card": "l4", "models": models, "agents": {"a": {"model": "m0"}}})
        lines = serving_ledger(fleet, dict.fromkeys(models, mistral)).lines
        return [line.part for line in lines if line.kind == "process" and "slack" not in line.part]

    assert processes("local", "local") == ["driver context"]
    assert processes("local", "vllm", "vllm") == ["driver context", *["vLLM process", "CUDA graphs"] * 2]


def test_a_remote_model_takes_nothing(make_fleet: MakeFleet, mistral: ModelShape) -> None:
    fleet = make_fleet(engine="remote", url="http://elsewhere")
    assert serving_ledger(fleet, {"base": mistral}).total_bytes == 0


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"context": 32769}, "reaches 32768 tokens, not 32769"),
        ({"engine": "local", "quantization": "awq"}, "local engine cannot hold awq"),
    ],
)
def test_wishes_that_cannot_be_are_refused_with_their_key(
    make_fleet: MakeFleet, mistral: ModelShape, model: dict[str, object], problem: str
) -> None:
    with pytest.raises(FleetError, match=problem) as refused:
        serving_ledger(make_fleet(**model), {"base": mistral})
    assert str(refused.value.where).startswith("models.base.")
    assert refused.value.allowed


def test_a_recurrent_model_is_refused_in_process_and_goes_to_vllm_by_itself(make_fleet: MakeFleet) -> None:
    shape = shape_of_model(find_model("Qwen/Qwen3.5-9B"))
    with pytest.raises(FleetError, match="recurrent state"):
        serving_ledger(make_fleet(id=shape.id, engine="local"), {"base": shape})
    auto = serving_ledger(make_fleet(id=shape.id, quantization="none"), {"base": shape})
    assert "vLLM process" in [line.part for line in auto.lines]


def test_a_model_without_a_shape_is_an_error(make_fleet: MakeFleet) -> None:
    with pytest.raises(FleetError, match="nothing is known"):
        serving_ledger(make_fleet(), {})
