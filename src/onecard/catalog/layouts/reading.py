"""Reading sizes out of a config with errors that name the missing or absurd key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onecard.catalog.layouts.defaults import ALIASES, DEFAULTS
from onecard.errors import CatalogError

Config = Mapping[str, Any]

KINDS = ("full_attention", "sliding_attention")
PER_LAYER = "per_layer_config"
_READ_PER_LAYER = frozenset({"gemma4_text", "gemma4_unified_text"})

# Beyond these a size is a slip of the pen, not a model: the largest there are have 128 layers, widths of 53,248 and 300,000 words.
LARGEST = 2**24
LARGEST_DEPTH = 10_000
LARGEST_CONTEXT = 2**40
_DEPTHS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers", "depth")
_CONTEXTS = frozenset({"max_position_embeddings", "max_seq_len", "n_positions", "sliding_window"})
_LIMITS = {**dict.fromkeys(_DEPTHS, LARGEST_DEPTH), **dict.fromkeys(_CONTEXTS, LARGEST_CONTEXT)}


def complete(config: Config, model_type: str | None = None) -> dict[str, Any]:
    """The config with what transformers takes for the keys it leaves out, under the names of its class.

    `model_type` is for a nested config that names none. CatalogError when single layers differ and this architecture's layout does not
    look at them: all would be counted alike.
    """
    named = str(config.get("model_type") or model_type)
    if config.get(PER_LAYER) and named not in _READ_PER_LAYER:
        raise CatalogError(
            f"a {named} whose layers have sizes of their own cannot be counted", where=f"config.json: {PER_LAYER}"
        )
    return {**DEFAULTS.get(named, {}), **renamed(config, named), "model_type": named}


def renamed(config: Config, model_type: str) -> dict[str, Any]:
    """The config with other names of a key, which transformers takes as well, replaced by the one its class has."""
    own = dict(config)
    for alias, name in ALIASES.get(model_type, {}).items():
        if alias in own:
            value = own.pop(alias)
            own.setdefault(name, value)
    return own


def require(config: Config, keys: tuple[str, ...]) -> None:
    """CatalogError unless the config itself gives these keys: a model's main sizes are never taken from a class default."""
    missing = [key for key in keys if config.get(key) is None]
    if missing:
        raise CatalogError(
            f"a {config.get('model_type')} config needs {', '.join(missing)} and this one lacks "
            f"{'it' if len(missing) == 1 else 'them'}",
            where=f"config.json: {missing[0]}",
        )


def size(config: Config, key: str, default: int | None = None, inside: str = "") -> int:
    """A whole number above zero; `default` is used when the key is absent or null. CatalogError otherwise.

    `inside` is where the config stands in the whole one, with a point at its end.
    """
    value = config.get(key)
    if value is None:
        value = default
    where = f"config.json: {inside}{key}"
    if value is None:
        raise CatalogError(f"a {config.get('model_type')} config needs '{key}' and this one lacks it", where=where)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CatalogError(f"{value!r} is not a size", where=where, allowed="a whole number above zero")
    if value > (limit := _LIMITS.get(key, LARGEST)):
        raise CatalogError(f"{value} is beyond any model", where=where, allowed=f"up to {limit:,}")
    return value


def count(config: Config, key: str) -> int:
    """A whole number that may be zero, as it is when the key is absent or null. CatalogError otherwise."""
    value = config.get(key)
    if value is None or (value == 0 and isinstance(value, int) and not isinstance(value, bool)):
        return 0
    return size(config, key)


def depth(config: Config) -> int:
    """The number of layers, under whichever of its names this architecture has."""
    return size(config, next((key for key in _DEPTHS if config.get(key) is not None), _DEPTHS[0]))


def flag(config: Config, key: str) -> bool:
    """A switch; absent or null is off (class defaults are filled in by `complete` before)."""
    value = config.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise CatalogError(f"{value!r} is not true or false", where=f"config.json: {key}")
    return value


def part(config: Config, key: str, model_type: str) -> dict[str, Any]:
    """A nested config such as text_config, completed; `model_type` is what transformers takes when it names none."""
    value = config.get(key)
    if not isinstance(value, Mapping):
        raise CatalogError(
            f"a {config.get('model_type')} config needs '{key}' and this one lacks it", where=f"config.json: {key}"
        )
    return complete(value, model_type)


def head_width(config: Config) -> int:
    """`head_dim`, or hidden_size / num_attention_heads when the config does not say otherwise."""
    if config.get("head_dim") is not None:
        return size(config, "head_dim")
    return shared_width(size(config, "hidden_size"), size(config, "num_attention_heads"), "num_attention_heads")


def shared_width(hidden: int, heads: int, key: str) -> int:
    """The width of a head where heads share the model's. CatalogError when they cannot."""
    if hidden % heads:
        raise CatalogError(f"a width of {hidden} does not divide by {heads} heads", where=f"config.json: {key}")
    return hidden // heads


def kv_heads(config: Config, key: str = "num_key_value_heads") -> int:
    """Heads of keys and values; absent means every head has its own. CatalogError when queries cannot share them evenly."""
    heads = size(config, "num_attention_heads")
    groups = size(config, key, heads)
    if heads % groups:
        raise CatalogError(
            f"{heads} attention heads do not divide by {groups} heads of keys and values", where=f"config.json: {key}"
        )
    return groups


def layer_kinds(
    config: Config, default: list[str], known: tuple[str, ...] = KINDS, key: str = "layer_types"
) -> list[str]:
    """What each layer is by name, checked against num_hidden_layers; `default` is what transformers makes of the key's absence."""
    kinds = config.get(key)
    if kinds is None:
        return default
    layers = size(config, "num_hidden_layers")
    where = f"config.json: {key}"
    if not isinstance(kinds, list | tuple) or len(kinds) != layers:
        raise CatalogError(f"{key} does not name {layers} layers", where=where)
    unknown = [kind for kind in kinds if not isinstance(kind, str) or kind not in known]
    if unknown:
        raise CatalogError(f"layer {unknown[0]!r} is not known", where=where, allowed=", ".join(known))
    return list(kinds)


def layer_numbers(config: Config, key: str) -> frozenset[int]:
    """A list of layers by number, such as attn_layer_indices; none when it is absent or null."""
    value = config.get(key)
    if value is None:
        return frozenset()
    if not isinstance(value, list | tuple) or any(isinstance(n, bool) or not isinstance(n, int) for n in value):
        raise CatalogError(f"{value!r} is no list of layers", where=f"config.json: {key}", allowed="whole numbers")
    return frozenset(value)


def layer_sizes(config: Config, keys: tuple[str, ...]) -> dict[int, dict[str, int]]:
    """`per_layer_config` as transformers saves it: the sizes of single layers where they differ from the config's, by layer number.

    CatalogError for a layer that does not exist and for anything a layer has of its own that is not in `keys`.
    """
    layers, value = size(config, "num_hidden_layers"), config.get(PER_LAYER)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CatalogError(f"{value!r} does not say what its layers have", where=f"config.json: {PER_LAYER}")
    found: dict[int, dict[str, int]] = {}
    for name, own in value.items():
        number = int(name) if str(name).isdecimal() else -1
        if not 0 <= number < layers or number in found:
            raise CatalogError(
                f"{name!r} is no layer, or a layer twice",
                where=f"config.json: {PER_LAYER}",
                allowed=f"each of 0 to {layers - 1} once",
            )
        where = f"{PER_LAYER}.{name}"
        if not isinstance(own, Mapping):
            raise CatalogError(f"{own!r} does not say what the layer has", where=f"config.json: {where}")
        if unknown := [key for key in own if key not in keys]:
            raise CatalogError(
                f"a layer with its own '{unknown[0]}' cannot be counted",
                where=f"config.json: {where}",
                allowed=", ".join(keys),
            )
        whose = {"model_type": config.get("model_type"), **own}
        found[number] = {key: size(whose, key, inside=f"{where}.") for key in own}
    return found


def every(layers: int, period: int) -> list[str]:
    """Sliding layers with a full one at every `period`-th place."""
    return ["sliding_attention" if (number + 1) % period else "full_attention" for number in range(layers)]
