"""What a person should know that no figure of a plan says: wishes that contradict each other, and figures that hold only in part."""

from __future__ import annotations

from onecard.catalog.cards import Card
from onecard.fleet.schema import Fleet
from onecard.planner.cache import model_engine
from onecard.planner.memory import Shapes
from onecard.planner.speed import is_cpu
from onecard.planner.training import base_form
from onecard.planner.weights import form_name, form_of


def warnings(fleet: Fleet, card: Card, shapes: Shapes) -> tuple[str, ...]:
    """Sentences, the graver first."""
    return (*_trained_elsewhere(fleet, shapes), *_about_models(fleet, shapes), *_about_card(card))


def _trained_elsewhere(fleet: Fleet, shapes: Shapes) -> list[str]:
    """Adapters that learn on one form of the weights and answer on another."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, agent in fleet.agents.items():
        spec, shape, recipe = fleet.models[agent.model], shapes[agent.model], agent.recipe
        if recipe is None or agent.adapter is None or model_engine(spec, shape) == "remote":
            continue
        served = form_name(form_of(spec, shape), spec.double_quantization)
        trained = form_name(base_form(recipe, shape), recipe.double_quantization)
        if served != trained:
            found.setdefault((trained, served), []).append(name)
    return [
        f"{', '.join(names)}: trained on {trained} weights and served on {served}; the local engine refuses an adapter that "
        "learned on other weights than it is to answer on"
        for (trained, served), names in found.items()
    ]


def _about_models(fleet: Fleet, shapes: Shapes) -> list[str]:
    said = []
    for key, spec in fleet.models.items():
        shape = shapes[key]
        if model_engine(spec, shape) == "remote":
            said.append(f"models.{key} is remote: it takes nothing of this card, and its speed is not predicted")
            continue
        said += [f"models.{key}: {note}" for note in shape.notes]
        if shape.published not in ("none", spec.quantization) and spec.quantization != "none":
            said.append(
                f"models.{key}: the checkpoint is {shape.published}; {spec.quantization} means loading it in 16 bits first"
            )
        if spec.quantization in ("int8", "nf4") and not shape.quantizable:
            said.append(
                f"models.{key}: {spec.quantization} leaves {spec.id} in 16 bits, because its layers are no plain Linears"
            )
        if not shape.takes_images and any(a.input == "image" and a.model == key for a in fleet.agents.values()):
            said.append(f"models.{key}: {spec.id} takes no images, and an agent gives it some")
    busy = [key for key, spec in fleet.models.items() if model_engine(spec, shapes[key]) != "remote"]
    if len(busy) > 1:
        said.append("speeds hold while the other models of the card are idle; at work they share its bandwidth")
    return said


def _about_card(card: Card) -> list[str]:
    if is_cpu(card):
        return ["no card found: this is the processor, and its memory is what was free when asked", *card.notes]
    if card.vendor.lower() == "apple":
        return ["the engines of onecard run on CUDA and ROCm cards and on CPUs, not yet on Apple GPUs"]
    if not card.tflops:
        return [f"no compute rate is known of {card.name}: prefill, answers and training cannot be timed"]
    return []
