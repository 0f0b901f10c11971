"""The full names of a model's Linears, which skip lists are matched on: where each stands in transformers, and stood before 4.52.

A layout counts Linears of one shape together; here they get their layers and their place in a layer back. Where a place cannot be
told, all that are possible are kept, and a list that would mean some of them and not others is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from onecard.catalog.layouts.reading import complete
from onecard.catalog.module_places import (
    ANYWHERE,
    DEPTHS,
    FLAT_BEFORE,
    INSIDE_PARTS,
    INSIDE_TOWERS,
    KINDS_OF,
    NESTED,
    PERIODS,
    PLACES,
    PLACES_OF,
    PLAIN_MLP,
    STACKS,
    TOWERS,
    TOWERS_OF,
)
from onecard.catalog.shapes import Layout, LinearShape
from onecard.errors import CatalogError

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Named:
    """Linears of one shape and where they stand. `places` are alternatives that cannot be told apart, each with all its spellings.

    `stacks` are spellings of one and the same stack, `older` those before transformers 4.52. `layers` None: which of `depth` layers
    have one is not known; empty: it stands in no layer.
    """

    shape: LinearShape
    stacks: tuple[str, ...]
    older: tuple[str, ...]
    places: tuple[tuple[str, ...], ...]
    layers: tuple[int, ...] | None
    depth: int

    def paths(self, place: tuple[str, ...], layer: int | None, *, older: bool) -> tuple[str, ...]:
        """All spellings of one Linear's full name."""
        stacks = (*self.stacks, *self.older) if older else self.stacks
        inside = [str(layer)] if layer is not None else []
        return tuple(
            ".".join(part for part in (stack, *inside, spelling, self.shape.module) if part)
            for stack in stacks
            for spelling in place
        )


def named_linears(config: Config, layout: Layout) -> tuple[Named, ...]:
    """Every Linear of a model with its names, the head and the experts of mixtures among them (as components lm_head and experts)."""
    text = config.get("text_config")
    outer = str(config.get("model_type")) if isinstance(text, Mapping) else ""
    inner = complete(text if isinstance(text, Mapping) else config)
    seen: dict[str, int] = {}
    totals: dict[str, int] = {}
    for shape in layout.linears:
        totals[shape.module] = totals.get(shape.module, 0) + (shape.component == "linear")
    found = []
    for shape in layout.linears:
        if shape.component != "linear":
            found.append(_beside(shape, outer, config))
            continue
        number = seen[shape.module] = seen.get(shape.module, 0) + 1
        found.append(_inside(shape, outer, inner, number - 1, totals[shape.module]))
    return (*found, *_experts(outer, inner, layout), *_head(outer, layout))


def _stacks(outer: str, inner: Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where the layers of the language model stand now, and where they stood before."""
    own = STACKS.get(str(inner.get("model_type")), "model.layers")
    if not outer:
        return (own,), ()
    if outer == "blip-2":
        return (f"language_model.{own}",), ()
    older = own if outer in FLAT_BEFORE else f"language_model.{own}"
    return (f"model.language_model.{own.removeprefix('model.')}",), (older,)


def _inside(shape: LinearShape, outer: str, inner: Config, number: int, total: int) -> Named:
    model_type = str(inner.get("model_type")).replace("gemma4_unified_text", "gemma4_text")
    own = PLACES_OF.get(model_type, {}).get(shape.module)
    places = own or PLACES.get(shape.module, ANYWHERE)
    if len(places) == 2 and own is None and model_type not in PLAIN_MLP:
        places = places[:1]
    elif len(places) == 2 and total == 2:
        places = (places[number],)
    elif len(places) == 2:
        places = (places[1 if _only_mixtures(inner, model_type) else 0],)
    stacks, older = _stacks(outer, inner)
    depth = _depth(inner) or shape.count
    return Named(shape, stacks, older, tuple((place,) for place in places), _layers(shape, inner, depth), depth)


def _only_mixtures(inner: Config, model_type: str) -> bool:
    """Whether the one MLP of a layer that is a Linear stands beside experts."""
    if model_type == "nemotron_h":
        return not {"mlp", "-"} & set(_kinds(inner))
    return model_type in PLAIN_MLP and not inner.get("first_k_dense_replace")


def _depth(inner: Config) -> int:
    return next((int(inner[key]) for key in DEPTHS if isinstance(inner.get(key), int)), 0) or len(_kinds(inner))


def _kinds(inner: Config) -> list[str]:
    """What each layer is, where the config says so by name, by pattern or by period."""
    for key in ("layers_block_type", "layer_types", "hybrid_override_pattern"):
        value = inner.get(key)
        if isinstance(value, list | tuple | str) and value:
            return [str(kind) for kind in value]
    layers, model_type = inner.get("num_hidden_layers"), str(inner.get("model_type"))
    period = inner.get("full_attention_interval") or PERIODS.get(model_type)
    if not isinstance(layers, int) or not isinstance(period, int) or period < 1:
        return []
    kinds = ["full_attention" if (number + 1) % period == 0 else "other" for number in range(layers)]
    # transformers makes the last layer of a Gemma 4 a full one.
    return [*kinds[:-1], "full_attention"] if model_type.startswith("gemma4") else kinds


def _layers(shape: LinearShape, inner: Config, depth: int) -> tuple[int, ...] | None:
    """Which layers have such a Linear: all, or those of the one kind there are so many of."""
    if shape.count == depth:
        return tuple(range(depth))
    kinds = _kinds(inner)
    sets = {one: tuple(n for n, kind in enumerate(kinds) if kind == one) for one in set(kinds)}
    dense = inner.get("first_k_dense_replace")
    if isinstance(dense, int) and 0 < dense < depth:
        sets |= {"dense": tuple(range(dense)), "mixture": tuple(range(dense, depth))}
    fitting = {one: numbers for one, numbers in sets.items() if len(numbers) == shape.count}
    if len(fitting) > 1:
        hinted = [one for one in fitting if one in KINDS_OF.get(shape.module, ())]
        fitting = {one: fitting[one] for one in hinted}
    return next(iter(fitting.values())) if len(fitting) == 1 else None


def _beside(shape: LinearShape, outer: str, config: Config) -> Named:
    """Linears of towers, projectors and the Q-Former: a list names whole parts or every Linear, so any spelling that fits is theirs."""
    stacks, older = {**TOWERS, **TOWERS_OF.get(outer, {})}.get(shape.component, ((shape.component,), ()))
    own = config.get(NESTED.get(shape.component, ""))
    depth = next((own[key] for key in (*DEPTHS, "depth") if own.get(key)), 0) if isinstance(own, Mapping) else 0
    if not isinstance(depth, int) or shape.count == 1 or not depth:
        return Named(shape, stacks, older, (INSIDE_PARTS,), () if shape.count == 1 else None, shape.count)
    layers = tuple(range(depth)) if shape.count % depth == 0 else None
    return Named(shape, stacks, older, (INSIDE_TOWERS,), layers, depth)


def _experts(outer: str, inner: Config, layout: Layout) -> list[Named]:
    """The experts of all layers as the Linears they are multiplied as. CatalogError when the config does not say what they are made of."""
    total = layout.components.get("experts", 0)
    if not total:
        return []
    number = next((inner[k] for k in ("n_routed_experts", "num_experts", "num_local_experts") if inner.get(k)), 0)
    width = next((inner[k] for k in ("moe_intermediate_size", "intermediate_size") if inner.get(k)), 0)
    hidden, model_type = layout.hidden_size, str(inner.get("model_type"))
    fused, gated, bias = model_type == "gpt_oss", model_type != "nemotron_h", model_type == "gpt_oss"
    made = [("gate_up_proj", hidden, 2 * width)] if fused else [("up_proj", hidden, width)]
    made += [("gate_proj", hidden, width)] if gated and not fused else []
    made += [("down_proj", width, hidden)]
    each = sum(inputs * outputs + (outputs if bias else 0) for _, inputs, outputs in made)
    if not number or not width or total % (number * each):
        raise CatalogError(
            f"the {total} parameters of the experts of {model_type} do not divide into its {number} experts",
            where="config.json: num_experts",
        )
    depth = _depth(inner)
    stacks, older = _stacks(outer, inner)
    place = "mixer.experts.0" if model_type == "nemotron_h" else "mlp.experts.0"
    mixtures = total // (number * each)
    found = []
    for module, inputs, outputs in made:
        shape = LinearShape(module, inputs, outputs, total // each, bias, "experts", quantized=False)
        one = LinearShape(module, inputs, outputs, mixtures)
        found.append(Named(shape, stacks, older, ((place,),), _layers(one, inner, depth), depth))
    return found


def _head(outer: str, layout: Layout) -> list[Named]:
    """The head where it has weights of its own, without a bias."""
    counts = layout.components
    width, odd = divmod(counts.get("lm_head", 0), layout.vocab_size)
    if odd or not width or width * layout.vocab_size != counts.get("embeddings", 0):
        return []
    shape = LinearShape("lm_head", width, layout.vocab_size, component="lm_head", quantized=False)
    return [Named(shape, ("", "language_model") if outer == "blip-2" else ("",), ("language_model",), (("",),), (), 1)]


def every_place(named: Named) -> list[tuple[tuple[str, ...], int | None]]:
    """All (place, layer) where one of these Linears may stand."""
    layers = named.layers if named.layers is not None else tuple(range(named.depth))
    return list(chain.from_iterable(((place, layer) for layer in (layers or (None,))) for place in named.places))
