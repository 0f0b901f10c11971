"""Reading sizes out of a config with errors that name the missing or absurd key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onecard.catalog.layouts.defaults import DEFAULTS
from onecard.errors import CatalogError

Config = Mapping[str, Any]


def complete(config: Config, model_type: str | None = None) -> dict[str, Any]:
    """The config with what transformers takes for the keys it leaves out. `model_type` is for a nested config that names none."""
    named = config.get("model_type") or model_type
    return {**DEFAULTS.get(str(named), {}), **config, "model_type": named}


def require(config: Config, keys: tuple[str, ...]) -> None:
    """CatalogError unless the config itself gives these keys: a model's main sizes are never taken from a class default."""
    missing = [key for key in keys if config.get(key) is None]
    if missing:
        raise CatalogError(
            f"a {config.get('model_type')} config needs {', '.join(missing)} and this one lacks "
            f"{'it' if len(missing) == 1 else 'them'}",
            where=f"config.json: {missing[0]}",
        )


def size(config: Config, key: str, default: int | None = None) -> int:
    """A whole number above zero; `default` is used when the key is absent or null. CatalogError otherwise."""
    value = config.get(key)
    if value is None:
        value = default
    where = f"config.json: {key}"
    if value is None:
        raise CatalogError(f"a {config.get('model_type')} config needs '{key}' and this one lacks it", where=where)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CatalogError(f"{value!r} is not a size", where=where, allowed="a whole number above zero")
    return value


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
    hidden, heads = size(config, "hidden_size"), size(config, "num_attention_heads")
    if hidden % heads:
        raise CatalogError(
            f"hidden_size {hidden} does not divide by num_attention_heads {heads} and there is no head_dim",
            where="config.json: head_dim",
        )
    return hidden // heads


def kv_heads(config: Config) -> int:
    """`num_key_value_heads`; absent means every head has its own keys and values."""
    return size(config, "num_key_value_heads", size(config, "num_attention_heads"))


def layer_kinds(config: Config, default: list[str]) -> list[str]:
    """`layer_types`, checked against num_hidden_layers; `default` is what transformers makes of its absence."""
    kinds = config.get("layer_types")
    if kinds is None:
        return default
    layers = size(config, "num_hidden_layers")
    if not isinstance(kinds, list | tuple) or len(kinds) != layers:
        raise CatalogError(f"layer_types does not name {layers} layers", where="config.json: layer_types")
    return [str(kind) for kind in kinds]


def every(layers: int, period: int) -> list[str]:
    """Sliding layers with a full one at every `period`-th place."""
    return ["sliding_attention" if (number + 1) % period else "full_attention" for number in range(layers)]
