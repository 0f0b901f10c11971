from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.catalog.cards import find_card
from onecard.catalog.machine import cpu_card
from onecard.errors import ResultError
from onecard.evidence.calibration import Calibration, read_calibration
from onecard.fleet.schema import ModelSpec
from onecard.planner import engine_facts as facts
from onecard.planner.calibrated import FORMS, REFERENCE, calibrated_context, calibrated_speed, check_card
from onecard.planner.shapes import ModelShape
from onecard.planner.speed import MEASURED_RANGE, Answering, cold_start

KEPT = Path(__file__).parents[2] / "docs" / "measurements" / "2026-11-21-calibration-h200.json"


def figure(value: float) -> dict[str, Any]:
    return {"median": value, "low": value, "high": value, "repeats": 5}


def steps(form: str, layer_us: float, lines: int = 1, adapters: int = 0) -> list[dict[str, Any]]:
    """Two depths of a model whose layers take so long, with 700 us around them."""
    return [
        {"form": form, "layers": n, "lines": lines, "adapters": adapters, "us": figure(700 + n * layer_us)}
        for n in (4, 12)
    ]


def calibration(**keys: Any) -> Calibration:
    document = {
        "schema": 1,
        "at": "2026-11-21T10:00:00+00:00",
        "seconds": 90,
        "card": {"id": "h200-sxm", "name": "NVIDIA H200", "kind": "cuda", "total_bytes": 150_000_000_000},
        "host": {"cpu": "x", "cores": 8, "threads": 8, "ram_bytes": 64_000_000_000, "system": "Linux"},
        "versions": {"torch": "2.13.0"},
        "small_model": {"hidden_size": 256, "vocabulary": 32000, "rank": 8},
        **keys,
    }
    return Calibration.model_validate(document)


def step_ms(shape: ModelShape, measured: Calibration, quantization: str, adapters: int = 0, lines: int = 1) -> float:
    spec = ModelSpec.model_validate({"id": shape.id, "quantization": quantization, "engine": "local", "context": 2048})
    speed = calibrated_speed(measured, find_card("h200-sxm"))
    answering = Answering(spec, shape, speed, adapters, adapters > 0, shape.linear_count, on_cpu=False)
    return 1000 * answering.step_s(lines, 128)


@given(slower=st.floats(0.3, 5.0), form=st.sampled_from(["nf4", "int8"]), linears=st.floats(0.2, 3.0))
def test_a_step_is_as_much_longer_as_the_small_model_took(
    mistral: ModelShape, slower: float, form: str, linears: float
) -> None:
    """Beside the machine that cold-start values were fitted on. Mistral has 224 Linears; choosing a token is nobody's to scale."""
    plain, more = slower * REFERENCE.layer_us, slower * linears * 7 * REFERENCE.linear_us[form]
    measured = calibration(steps=[*steps("none", plain), *steps(form, plain + more)])
    engine = facts.LOCAL_ON_CARD
    spec = ModelSpec.model_validate({"id": mistral.id, "engine": "local", "context": 2048})
    cold = Answering(spec, mistral, cold_start(find_card("h200-sxm")), 0, False, 224, on_cpu=False)
    choosing = 1000 * (engine.step_s + engine.word_s * 32768)
    bare = 1000 * cold.step_s(1, 128) - choosing
    in_form = 224 * engine.linear_operators[form] * facts.HOST_OVERHEAD_US / 1000
    expected = slower * (bare + linears * in_form)
    assert step_ms(mistral, measured, form) - choosing == pytest.approx(expected, rel=0.02, abs=4.2)  # or the weights


def test_adapters_cost_as_much_more_as_in_the_small_model(mistral: ModelShape) -> None:
    plain = 2 * REFERENCE.layer_us
    own, each = 3 * REFERENCE.adapter_us["none"], 1.5 * REFERENCE.mixed_us["none"]
    timed = [*steps("none", plain), *steps("none", plain + 7 * own, adapters=1), *steps("none", plain, lines=4)]
    measured = calibration(steps=[*timed, *steps("none", plain + 7 * 2 * each, lines=4, adapters=2)])
    operator_ms, engine = facts.HOST_OVERHEAD_US / 1000, facts.LOCAL_ON_CARD
    bare = step_ms(mistral, measured, "none")
    alone = 3 * 224 * engine.adapter_operators["none"] * operator_ms
    assert step_ms(mistral, measured, "none", adapters=1) - bare == pytest.approx(alone, rel=0.01)
    bare = step_ms(mistral, measured, "none", lines=4)
    mixed = 1.5 * 2 * 224 * engine.mixed_adapter_operators["none"] * operator_ms
    assert step_ms(mistral, measured, "none", adapters=2, lines=4) - bare == pytest.approx(mixed, rel=0.01)


def test_the_machine_that_cold_start_values_were_fitted_on_gets_them_back() -> None:
    kept = read_calibration(KEPT)
    host, engine = calibrated_speed(kept, find_card("h200-sxm")).host, facts.LOCAL_ON_CARD
    assert host is not None
    assert host.operator_us == pytest.approx(facts.HOST_OVERHEAD_US, rel=0.002)
    for seen, cold in [
        (host.linear, engine.linear_operators),
        (host.prefill_linear, engine.prefill_linear_operators),
        (host.adapter, engine.adapter_operators),
        (host.mixed_adapter, engine.mixed_adapter_operators),
    ]:
        assert {form: seen[form] for form in FORMS} == pytest.approx({form: cold[form] for form in FORMS}, rel=0.005)
    assert kept.context is not None and kept.copy_gbs is not None and not kept.absent


def test_measured_rates_are_taken_whole_and_narrow_the_range(mistral: ModelShape) -> None:
    gemm = [{"tokens": 4096, "inputs": 4096, "outputs": 4096, "tflops": figure(790.0)}]
    measured = calibration(copy_gbs=figure(4300.0), gemm=gemm, steps=steps("none", 700.0))
    speed = calibrated_speed(measured, find_card("h200-sxm"))
    engine = facts.LOCAL_ON_CARD
    assert speed.tag == "measured"
    assert speed.bandwidth_gbs * engine.bandwidth_share == pytest.approx(4300.0)
    assert speed.tflops is not None
    assert speed.tflops * engine.compute_share == pytest.approx(790.0)
    spec = ModelSpec(id=mistral.id, engine="local")
    assert Answering(spec, mistral, speed, 0, False, 0, on_cpu=False).factors == MEASURED_RANGE


def test_what_was_not_measured_stays_assumed(mistral: ModelShape) -> None:
    speed = calibrated_speed(calibration(copy_gbs=figure(4300.0)), find_card("h200-sxm"))
    assert speed.tag == "assumed"
    assert speed.host is None
    assert speed.tflops == find_card("h200-sxm").tflops["bf16"]
    assert calibrated_context(calibration()) is None


def test_of_a_processor_only_the_bandwidth_is_taken() -> None:
    cpu = cpu_card(8 * 2**30, 10.0)
    speed = calibrated_speed(calibration(copy_gbs=figure(24.0), steps=steps("none", 100.0)), cpu)
    believed = cold_start(cpu)
    assert speed.bandwidth_gbs * facts.LOCAL_ON_CPU.bandwidth_share == pytest.approx(24.0)
    assert (speed.tag, speed.host, speed.tflops) == ("assumed", None, believed.tflops)
    assert "bandwidth calibrated on 2026-11-21" in speed.source


def test_the_context_of_a_process_is_what_was_seen() -> None:
    taken = calibrated_context(calibration(context={"bare_bytes": 400_000_000, "serving_bytes": 610_000_000}))
    assert taken is not None
    assert (taken.bytes, taken.tag) == (610_000_000, "measured")


def test_another_cards_calibration_is_refused() -> None:
    check_card(calibration(), find_card("h200-sxm"), "file")
    with pytest.raises(ResultError, match="measured on NVIDIA H200, and the plan is for RTX 3090"):
        check_card(calibration(), find_card("rtx-3090"), "file")
