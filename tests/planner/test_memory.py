from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.catalog.models import find_model
from onecard.errors import FleetError
from onecard.fleet.schema import Fleet
from onecard.planner.memory import serving_ledger
from onecard.planner.shapes import ModelShape, shape_of_model

MakeFleet = Callable[..., Fleet]


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

    assert processes("local", "local") == ["driver context", "library workspaces"]
    assert processes("local", "vllm", "vllm") == [
        "driver context",
        "library workspaces",
        *["vLLM process", "CUDA graphs"] * 2,
    ]


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


def test_a_checkpoint_the_local_engine_cannot_hold_is_refused_there(make_fleet: MakeFleet) -> None:
    shape = shape_of_model(find_model("openai/gpt-oss-20b"))
    with pytest.raises(FleetError, match="local engine cannot hold mxfp4") as refused:
        serving_ledger(make_fleet(id=shape.id, quantization="none", engine="local"), {"base": shape})
    assert refused.value.allowed == "a checkpoint that is not quantized"


def test_a_model_without_a_shape_is_an_error(make_fleet: MakeFleet) -> None:
    with pytest.raises(FleetError, match="nothing is known"):
        serving_ledger(make_fleet(), {})
