"""llm-analysis: its documented two ways to name a model, the hub's config and its own JSON with the width of the MLP written in.

The first takes every MLP to be four times as wide as the model; the second is what a careful user would write.
"""

from __future__ import annotations

import logging
from importlib.metadata import version

from asking import Answer, answer_all, per_token

DTYPES = {"16bit": "w16a16e16", "int8": "w8a16e16", "nf4": "w4a16e16", "nf4_dq": "w4a16e16"}
WIDTHS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def ask(model: dict) -> Answer:
    logging.disable(logging.CRITICAL)
    from llm_analysis.config import get_model_config_by_name

    ways = {"own JSON": lambda: written_by_hand(model), "hub config": lambda: get_model_config_by_name(model["id"])}
    answers: Answer = {}
    reasons = []
    for way, describe in ways.items():
        try:
            for quantity, size in sizes(describe(), model["long"]).items():
                answers.setdefault(quantity, {})[way] = size
        except Exception as error:  # the other way may still know it
            reasons.append(f"{way}: {error}")
    if not answers:
        raise LookupError("; ".join(reasons))
    return answers


def written_by_hand(model: dict):
    """What its JSON can say of the language model; experts are counted with the width of one."""
    from llm_analysis.config import ModelConfig

    config = model["whole_config"]
    text = config.get("text_config", config)
    width, hidden = first(text, WIDTHS), first(text, ("hidden_size", "n_embd", "d_model"))
    experts = first(text, EXPERTS) or 1
    if experts > 1:
        width = text.get("moe_intermediate_size", width)
    return ModelConfig(
        name=model["id"],
        num_layers=first(text, ("num_hidden_layers", "n_layer", "n_layers", "num_layers")),
        n_head=first(
            text, ("num_attention_heads", "n_head", "n_heads", *(() if "state_size" in text else ("num_heads",)))
        ),
        hidden_dim=hidden,
        vocab_size=text["vocab_size"],
        num_key_value_heads=first(text, ("num_key_value_heads",)),
        ffn_embed_dim=width or 4 * hidden,
        expansion_ratio=(width or 4 * hidden) / hidden,
        moe_num_experts=experts,
    )


def first(config: dict, keys: tuple[str, ...]) -> int | None:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def sizes(described, long: int) -> dict[str, float]:
    from llm_analysis.analysis import LLMAnalysis
    from llm_analysis.config import get_dtype_config_by_name, get_gpu_config_by_name

    card = get_gpu_config_by_name("a100-sxm-80gb")
    found: dict[str, float] = {}
    for quantity, dtype in DTYPES.items():
        analysis = LLMAnalysis(described, card, get_dtype_config_by_name(dtype))
        found[quantity] = (
            analysis.get_memory_embedding()
            + described.num_layers * analysis.get_weight_memory_per_layer()
            + analysis.get_weight_memory_last_layernorm()
        )
        if quantity == "16bit":
            found |= per_token(
                lambda tokens, its=analysis: described.num_layers * its.get_memory_kv_cache_per_layer(1, tokens), long
            )
    return found


if __name__ == "__main__":
    answer_all(lambda: version("llm-analysis"), ask)
