"""From a machine's calibration to what the planner reckons with: measured figures in place of cold-start ones.

The planner takes a share of a data sheet's rates. A measured rate is that share already, so it is scaled up to be taken. What the host
needs was fitted to whole models on one machine; a calibration says how much longer than that machine this one takes for a small Llama.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onecard.catalog.cards import Card
from onecard.errors import ResultError
from onecard.evidence.calibration import Calibration
from onecard.evidence.calibration_rows import Form as CalibratedForm
from onecard.planner import engine_facts as facts
from onecard.planner.engine_facts import EngineFacts, Taken
from onecard.planner.speed import HostFacts, SpeedFacts, cold_start, is_cpu

FORMS: tuple[CalibratedForm, ...] = ("none", "int8", "nf4")
LINEARS = 7  # of a layer of the small model that is timed, a Llama


@dataclass(frozen=True)
class SmallLlama:
    """Microseconds of the small Llama's decode step: a layer in 16 bits, and what one Linear takes more in a form, with an adapter, and
    for each of two adapters in a batch of four lines."""

    layer_us: float
    linear_us: dict[CalibratedForm, float]
    adapter_us: dict[CalibratedForm, float]
    mixed_us: dict[CalibratedForm, float]


# What `onecard calibrate` saw on the machine that the cold-start values were fitted on (docs/measurements/planner-truth.md). It is no
# direct measure of a whole model: there every Linear of a bare line goes through PEFT's wrapper too, and layers fall out of the caches
# of the processor. Taken as such it made the steps of 35 serving runs a fifth too short.
REFERENCE = SmallLlama(
    layer_us=476.1,
    linear_us={"none": 0.0, "nf4": 35.0, "int8": 165.9},
    adapter_us={"none": 102.5, "nf4": 120.1, "int8": 137.9},
    mixed_us={"none": 165.0, "nf4": 184.3, "int8": 213.1},
)


def check_card(measured: Calibration, card: Card, where: str) -> None:
    """ResultError when the calibration is another card's."""
    if measured.card.id != card.id and not (measured.card.kind == "cpu" and is_cpu(card)):
        raise ResultError(
            f"it was measured on {measured.card.name}, and the plan is for {card.name}",
            where=where,
            next_step=f"plan with --card {measured.card.id}, or run `onecard calibrate` on the other card",
        )


def calibrated_speed(measured: Calibration, card: Card) -> SpeedFacts:
    """What the machine can do. What was not measured keeps its cold-start value, and the whole is then called assumed.

    Of a processor only the bandwidth is taken: its products reach a rate that depends on their size far more than a card's do, and
    with the measured rates the embedded base was planned worse than with cold-start ones (docs/decisions/011-planner-truth.md).
    """
    believed = cold_start(card)
    if is_cpu(card):
        copied = measured.copy_gbs
        source = f"{believed.source}; its bandwidth calibrated on {measured.at[:10]}"
        rate = copied.median / facts.LOCAL_ON_CPU.bandwidth_share if copied else believed.bandwidth_gbs
        return replace(believed, bandwidth_gbs=rate, source=source)
    engine = facts.LOCAL_ON_CARD
    host = _host(measured, engine)
    copied, best = measured.copy_gbs, measured.best_tflops
    return SpeedFacts(
        bandwidth_gbs=copied.median / engine.bandwidth_share if copied else believed.bandwidth_gbs,
        tflops=best / engine.compute_share if best else believed.tflops,
        overhead_us=host.operator_us if host else believed.overhead_us,
        tag="measured" if copied and best and host else "assumed",
        source=f"{measured.card.name}, calibrated on {measured.at[:10]}",
        host=host,
    )


def calibrated_context(measured: Calibration) -> Taken | None:
    """What a process was seen to take of the card beside torch's memory; None when that was not measured."""
    size = measured.context_bytes
    return None if size is None else Taken(size, "measured", f"calibrated on {measured.at[:10]}")


def _host(measured: Calibration, engine: EngineFacts) -> HostFacts | None:
    """The cold-start values, each as much longer or shorter as its part of the small Llama took here beside REFERENCE. What was not
    measured goes with the plain layer, without which there is nothing to go by."""
    plain = measured.layer_us("none")
    if plain is None:
        return None
    slower = plain / REFERENCE.layer_us
    linear, prefill = dict(engine.linear_operators), dict(engine.prefill_linear_operators)
    adapter, mixed = dict(engine.adapter_operators), dict(engine.mixed_adapter_operators)
    for form in FORMS:
        whole = measured.layer_us(form)
        if whole is not None and REFERENCE.linear_us[form]:
            share = max(whole - plain, 0.0) / LINEARS / REFERENCE.linear_us[form] / slower
            linear[form] *= share
            prefill[form] *= share  # a prefill keeps its ratio to decoding
        if (own := measured.adapter_linear_us(form)) is not None:
            adapter[form] *= own / REFERENCE.adapter_us[form] / slower
        if (each := measured.mixed_adapter_linear_us(form)) is not None:
            mixed[form] *= each / REFERENCE.mixed_us[form] / slower
    return HostFacts(facts.HOST_OVERHEAD_US * slower, linear, prefill, adapter, mixed)
