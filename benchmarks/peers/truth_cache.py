"""What a sequence really leaves in the cache: the whole model of transformers is run on the meta device and its cache object is read.

Every layer at its real size, so nothing is scaled up. A small copy of the same architecture is run on the CPU too, with real memory, and
must hold the same cache as on the meta device: `small_copy_agrees` says so, or why it could not be run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from truth import built

SHORT = 8  # tokens of the short runs; below every window
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "moe_intermediate_size", "vocab_size_per_layer_input",
          "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")  # fmt: skip
KINDS = ("layer_types", "layers_block_type")


def cache_facts(config: Mapping[str, Any], long: int) -> dict[str, Any]:
    """Bytes one more token adds, fixed state, bytes at `long` tokens, and the family the cache itself shows."""
    model = language_model(built(config))
    short, longer = run(model, SHORT), run(model, SHORT + 1)
    each = held(longer) - held(short)
    state = held(short) - SHORT * each
    at_long = state + long * each if state else held(run(model, long))
    return {
        "kv_per_token": each,
        "state": state,
        "cache_at_long": at_long,
        "long": long,
        "family": family(model.config.get_text_config(), short, each, state, at_long < state + long * each),
    }


def language_model(model: Any) -> Any:
    """The part that keeps the cache; the whole model where it can be run on text alone."""
    return model.language_model if model.config.model_type == "blip-2" else model


def run(model: Any, tokens: int) -> Any:
    """The cache after one forward pass over so many tokens."""
    device = next(model.parameters()).device
    ids = torch.zeros(1, tokens, dtype=torch.long, device=device)
    with torch.device(device), torch.no_grad():
        try:
            answer = model(input_ids=ids, use_cache=True)
        except RuntimeError:  # Gemma 4 looks at the values of its mask unless it is given one of these
            cache = transformers.DynamicCache(config=model.config.get_text_config())
            answer = model(input_ids=ids, use_cache=True, past_key_values=cache)
    cache = getattr(answer, "past_key_values", None)
    return answer.cache_params if cache is None else cache


def held(cache: Any) -> int:
    """Bytes of all keys, values and states."""
    return sum(tensor.nbytes for layer in cache.layers for tensor in tensors(layer))


def tensors(layer: Any) -> list[torch.Tensor]:
    found = []
    for name in ("keys", "values", "conv_states", "recurrent_states", "ssm_states"):
        value = getattr(layer, name, None)
        found += list(value.values()) if isinstance(value, dict) else [value]
    return [tensor for tensor in found if isinstance(tensor, torch.Tensor)]


def family(config: Any, cache: Any, each: int, state: int, capped: bool) -> str:
    """By what the cache holds: state, latent, sliding, else by how many heads have keys of their own."""
    if state:
        return "state and attention" if each else "state only"
    if getattr(config, "kv_lora_rank", None):
        return "latent (MLA)"
    if capped:
        return "sliding window"
    groups = {layer.keys.shape[1] for layer in cache.layers}
    if groups == {1}:
        return "one head (MQA)"
    return "all heads (MHA)" if groups == {config.num_attention_heads} else "grouped (GQA)"


def small_copy_agrees(config: Mapping[str, Any]) -> str:
    """ "yes" when a small copy holds the same bytes on the CPU and on the meta device, else what differs or why it did not run."""
    small = shrunk(config)
    try:
        on_meta = language_model(built(small))
        expected = [held(run(on_meta, tokens)) for tokens in (SHORT, SHORT + 1)]
        real = language_model(built(small)).to_empty(device="cpu")
        for tensor in (*real.parameters(), *real.buffers()):
            tensor.data.zero_()
        measured = [held(run(real, tokens)) for tokens in (SHORT, SHORT + 1)]
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError) as error:
        return f"not run: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return "yes" if measured == expected else f"no: {measured} bytes on the CPU, {expected} on the meta device"


def shrunk(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same attention, fewer layers, narrow MLPs, a small vocabulary."""
    small = {**config}
    depth = depth_that_shows_every_layer(config)
    state_space = "state_size" in config
    for key, value in config.items():
        if key in DEPTHS and isinstance(value, int):
            small[key] = min(value, depth)
        elif key in WIDTHS and isinstance(value, int) and not state_space:
            small[key] = min(value, 64)
        elif key in KINDS and isinstance(value, list):
            small[key] = value[:depth]
        elif key == "vocab_size":
            small[key] = 512
        elif key.endswith(("_token_id", "_token_index")):
            small[key] = 3
        elif key == "full_attn_idxs":
            small[key] = [index for index in value if index < depth]
        elif key == "num_kv_shared_layers":
            small[key] = min(value, depth // 2)
        elif key == "attention_types":
            small[key] = [[value[0][0], depth // len(value[0][0])]]
        elif isinstance(value, Mapping) and key.endswith("_config"):
            small[key] = {**shrunk(value), **(copied(value) if key != "text_config" else {"pad_token_id": 0})}
    if "vocab_size" in config:
        small |= {"pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    return small


def copied(config: Mapping[str, Any]) -> dict[str, Any]:
    """Widths of an encoder stay: its projector reads them."""
    return {key: config[key] for key in WIDTHS if key in config}


def depth_that_shows_every_layer(config: Mapping[str, Any]) -> int:
    """Enough layers to meet each kind once; two where all are alike."""
    text = config.get("text_config", config)
    kinds = next((text[key] for key in KINDS if isinstance(text.get(key), list)), None)
    if kinds:
        return max(kinds.index(kind) for kind in set(kinds)) + 1
    if text.get("full_attn_idxs"):
        return int(text["full_attn_idxs"][0]) + 1
    if text.get("num_kv_shared_layers"):
        return 12  # Gemma 4: one period with caches of its own, one that shares them
    periods = [text.get(key) for key in ("full_attention_interval", "sliding_window_pattern", "attn_layer_period")]
    return max(
        [period for period in periods if isinstance(period, int)]
        or [6 if "gemma" in str(text.get("model_type")) else 2]
    )
