"""Trying a candidate in an agent's place: the fleet with it in one form, its memory, its training and, when asked for, its speeds.

Pure: what the catalog or the hub says of a candidate is handed over as `Facts`, its shape as the planner's own. Times cost most, so
they are added by `with_speeds` to those options that need them.
"""

from __future__ import annotations

from dataclasses import replace

from onecard.errors import FleetError
from onecard.fleet.recipe import Recipe
from onecard.fleet.schema import Fleet, Quantization
from onecard.planner.cache import model_engine
from onecard.planner.levers import can_be
from onecard.planner.memory import checked_shape
from onecard.planner.option import Candidate, Download, Option, Place
from onecard.planner.requests import agent_speed
from onecard.planner.room import CONTEXT_CAP, Room, largest_context, with_model
from onecard.planner.shapes import ModelShape
from onecard.planner.speed import is_cpu
from onecard.planner.training_run import TrainingPlan, training_plan
from onecard.planner.weights import form_of

TRAINABLE: tuple[Quantization, ...] = ("none", "int8", "nf4")  # forms a base can be held in while an adapter learns


def tried(place: Place, candidate: Candidate, quantization: Quantization) -> Option:
    """The candidate in this form in the place, its memory and training planned. Times are for `with_speeds`."""
    spec = place.fleet.models[place.key]
    shape = candidate.shape
    bare = Option(
        candidate, quantization, place.fleet, place.key, place.agent, quantization, None, place.available_bytes,
        spec.context, place.images, _download(candidate, quantization, None),
    )  # fmt: skip
    if shape is None:
        return bare
    context = min(spec.context, shape.max_context or CONTEXT_CAP)
    fleet = with_model(place.fleet, place.key, id=candidate.id, quantization=quantization, context=context)
    fleet, notes = _followed(place, fleet, shape, quantization)
    spec, room = fleet.models[place.key], place.room(shape)
    option = replace(bare, fleet=fleet, form=form_of(spec, shape), engine=model_engine(spec, shape))
    refused = _refusal(place, fleet, room)
    if refused is not None:
        return replace(option, refused=refused)
    ledger = room.ledger(fleet)
    fits = ledger.total_bytes <= room.available_bytes
    return replace(
        option,
        ledger=ledger,
        trainings=_trainings(place, fleet, room),
        largest_context=largest_context(fleet, place.key, room) if fits else None,
        download=_download(candidate, quantization, ledger.of(place.key).bytes_of_kind("weights")),
        notes=(*notes, *_remarks(place, option)),
    )


def with_speeds(option: Option, place: Place, most: int | None = None) -> Option:
    """The option with the speeds of all agents that move, or of so many of them, the one that is asked about first."""
    shape = option.candidate.shape
    missing = place.moving[len(option.speeds) : most]
    if shape is None or option.refused is not None or not missing:
        return option
    shapes, on_cpu = {**place.shapes, place.key: shape}, is_cpu(place.card)
    speeds = (agent_speed(option.fleet, name, shapes, place.speed, on_cpu=on_cpu) for name in missing)
    return replace(option, speeds=(*option.speeds, *speeds))


def sensible_forms(place: Place, candidate: Candidate) -> tuple[Quantization, ...]:
    """Forms worth trying: 16 bits or as published, int8 and nf4 where they convert anything, awq where a ready copy is known, fp8
    where the card multiplies in it. A checkpoint that is quantized already stays as it is, but for 4 bits that are published too.
    """
    shape, copies = candidate.shape, candidate.facts.copies
    if shape is None:
        return ("none",)
    forms: list[Quantization] = ["none"]
    if shape.published == "none":
        forms += ["int8", "nf4"] if shape.quantizable else []
        forms += ["awq"] if "awq" in copies else []
        forms += ["fp8"] if place.card.fp8 else []
    elif shape.quantizable and "nf4" in copies:
        forms.append("nf4")
    room = place.room(shape)
    spec = place.fleet.models[place.key]
    context = min(spec.context, shape.max_context or CONTEXT_CAP)

    def held(form: Quantization) -> bool:
        fleet = with_model(place.fleet, place.key, id=candidate.id, quantization=form, context=context)
        return _refusal(place, fleet, room) is None

    if candidate.id == spec.id and spec.quantization not in forms:
        forms.append(spec.quantization)
    return tuple(form for form in forms if held(form)) or ("none",)


def _refusal(place: Place, fleet: Fleet, room: Room) -> str | None:
    """Why the engine cannot hold it; None when it can."""
    try:
        shape = checked_shape(place.key, fleet.models[place.key], room.shapes)
    except FleetError as error:
        return error.problem
    engine, form = model_engine(fleet.models[place.key], shape), form_of(fleet.models[place.key], shape)
    if room.on_cpu and engine == "vllm":
        return "its layers need vLLM, which is planned for cards only"
    return None if can_be(fleet, place.key, room) else f"{engine} does not hold {form} here"


def _followed(place: Place, fleet: Fleet, shape: ModelShape, form: Quantization) -> tuple[Fleet, tuple[str, ...]]:
    """The fleet with recipes that follow the base: targets it has, and the form it answers in where adapters can learn on that."""
    notes: list[str] = []
    agents = dict(fleet.agents)
    for name in place.moving:
        recipe = agents[name].recipe
        if recipe is None:
            continue
        changed = _recipe_on(recipe, shape, form)
        said = []
        if changed.lora.targets != recipe.lora.targets:
            said.append("lora.targets: all-linear")
        if changed.base_quantization != recipe.base_quantization:
            said.append(f"base_quantization: {changed.base_quantization}")
        if said:
            notes.append(f"its recipe follows the base: agents.{name}.recipe: {{{', '.join(said)}}}")
            agents[name] = agents[name].model_copy(update={"recipe": changed})
        elif agents[name].adapter and form not in TRAINABLE:
            notes.append(f"{name}'s adapter learns on {recipe.base_quantization} and answers on {form}: evaluate it")
    return fleet.model_copy(update={"agents": agents}), tuple(notes)


def _recipe_on(recipe: Recipe, shape: ModelShape, form: Quantization) -> Recipe:
    targets, known = recipe.lora.targets, {linear.module for linear in shape.linears}
    if not isinstance(targets, str) and not known.issuperset(targets):
        lora = recipe.lora.model_copy(update={"targets": "all-linear"})
        recipe = recipe.model_copy(update={"lora": lora})
    if form in TRAINABLE and shape.published == "none":
        recipe = recipe.model_copy(update={"base_quantization": form})
    return recipe


def _trainings(place: Place, fleet: Fleet, room: Room) -> tuple[TrainingPlan, ...]:
    """One run for each agent that moves and has a recipe, alone on the card. What to change is not asked: another row is."""
    return tuple(
        training_plan(
            name,
            place.key,
            recipe,
            room.shapes[place.key],
            place.data.get(name),
            place.speed,
            place.card.price,
            room.available_bytes,
            on_cpu=room.on_cpu,
            context=room.context,
            advised=False,
        )
        for name in place.moving
        if (recipe := fleet.agents[name].recipe) is not None
    )


def _download(candidate: Candidate, form: Quantization, weights: int | None) -> Download:
    """A ready copy in awq and gptq; else the published weights, which bitsandbytes and vLLM convert while they load them."""
    facts = candidate.facts
    if form in ("awq", "gptq"):
        copy = facts.copies.get(form)
        if copy is None:
            return Download(candidate.id, None, "assumed", f"no {form} copy is known: it must be made")
        seen = "" if copy.verified else "; nobody saw the repository"
        if copy.bytes is None:
            return Download(copy.id, weights, "assumed", f"the bytes its weights take in memory{seen}")
        return Download(copy.id, copy.bytes, "measured", f"catalog: {copy.id}{seen}")
    return Download(candidate.id, facts.disk_bytes, "measured", facts.disk_source or "not known")


def _remarks(place: Place, option: Option) -> list[str]:
    """What no figure says."""
    facts, form, said = option.candidate.facts, option.quantization, []
    if facts.kind == "base" and place.fleet.agents[place.agent].adapter is None:
        said.append("a base model: without an adapter it continues text, and was not taught to follow instructions")
    if form in ("awq", "gptq") and form not in facts.copies:
        said.append(f"no {form} copy is known: one must be made first")
    recipes = [place.fleet.agents[name].recipe for name in place.moving]
    if option.engine == "vllm" and any(recipe and recipe.added_tokens for recipe in recipes):
        said.append("vLLM takes no added tokens with an adapter: their rows must be written into the base first")
    if option.candidate.shape is not None:
        said += option.candidate.shape.notes
    return said
