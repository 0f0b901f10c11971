"""GPT-2 and what came of it before Llama: StarCoder 1, GPT-Neo, GPT-J, CodeGen, BLOOM, Phi-2. An MLP of two matrices, four times as
wide unless the config says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from onecard.catalog.layouts.reading import Config, flag, head_width, kv_heads, shared_width, size
from onecard.catalog.layouts.tally import Tally
from onecard.catalog.shapes import KvShape, Layout


def _sizes(config: Config) -> tuple[int, int, int, int]:
    """Width, heads, layers and inner width under GPT-2's names."""
    hidden = size(config, "n_embd")
    return hidden, size(config, "n_head"), size(config, "n_layer"), size(config, "n_inner", 4 * hidden)


def gpt2(config: Config) -> Layout:
    """Learned positions, biases everywhere. Its layers are `Conv1D`, a Linear held transposed, which the loader converts as well."""
    hidden, heads, layers, inner = _sizes(config)
    width = shared_width(hidden, heads, "n_head")
    one_head = config["model_type"] == "gpt_bigcode" and flag(config, "multi_query")
    keys = width if one_head else hidden
    tally = Tally()
    tally.linear("c_attn", hidden, hidden + 2 * keys, layers, bias=True)
    tally.linear("c_proj", hidden, hidden, layers, bias=True)
    tally.linear("c_fc", hidden, inner, layers, bias=True)
    tally.linear("c_proj", inner, hidden, layers, bias=True)
    tally.other(2 * (2 * layers + 1) * hidden, "norms")
    tally.other(size(config, "n_positions") * hidden, "other_embeddings")
    return tally.text_model({**config, "hidden_size": hidden}, KvShape(layers, 1 if one_head else heads, width))


def gptj(config: Config) -> Layout:
    """GPT-J and CodeGen (which fuses q, k and v): one norm a layer, biases in the MLP and in the head."""
    hidden, heads, layers, inner = _sizes(config)
    tally = Tally()
    if config["model_type"] == "codegen":
        tally.linear("qkv_proj", hidden, 3 * hidden, layers)
    else:
        for module in ("q_proj", "k_proj", "v_proj"):
            tally.linear(module, hidden, hidden, layers)
    tally.linear("out_proj", hidden, hidden, layers)
    tally.linear("fc_in", hidden, inner, layers, bias=True)
    tally.linear("fc_out", inner, hidden, layers, bias=True)
    tally.other(2 * (layers + 1) * hidden, "norms")
    tally.other(size(config, "vocab_size"), "lm_head")
    kv = KvShape(layers, heads, shared_width(hidden, heads, "n_head"))
    return tally.text_model({**config, "hidden_size": hidden}, kv)


def gpt_neo(config: Config) -> Layout:
    """Every other layer looks at a window only, but transformers caches all tokens in each."""
    hidden, heads, layers = size(config, "hidden_size"), size(config, "num_heads"), size(config, "num_layers")
    inner = size(config, "intermediate_size", 4 * hidden)
    tally = Tally()
    for module in ("q_proj", "k_proj", "v_proj"):
        tally.linear(module, hidden, hidden, layers)
    tally.linear("out_proj", hidden, hidden, layers, bias=True)
    tally.linear("c_fc", hidden, inner, layers, bias=True)
    tally.linear("c_proj", inner, hidden, layers, bias=True)
    tally.other(2 * (2 * layers + 1) * hidden, "norms")
    tally.other(size(config, "max_position_embeddings") * hidden, "other_embeddings")
    return tally.text_model(config, KvShape(layers, heads, shared_width(hidden, heads, "num_heads")))


def bloom(config: Config) -> Layout:
    """ALiBi positions, so no table; a norm over the embeddings; always four times as wide inside."""
    hidden, heads, layers = size(config, "hidden_size"), size(config, "n_head"), size(config, "n_layer")
    tally = Tally()
    tally.linear("query_key_value", hidden, 3 * hidden, layers, bias=True)
    tally.linear("dense", hidden, hidden, layers, bias=True)
    tally.linear("dense_h_to_4h", hidden, 4 * hidden, layers, bias=True)
    tally.linear("dense_4h_to_h", 4 * hidden, hidden, layers, bias=True)
    tally.other(2 * (2 * layers + 2) * hidden, "norms")
    return tally.text_model(config, KvShape(layers, heads, shared_width(hidden, heads, "n_head")))


def phi(config: Config) -> Layout:
    """Phi-1 to 2: attention and MLP side by side behind one norm, biases everywhere, in the head too."""
    hidden, inner = size(config, "hidden_size"), size(config, "intermediate_size")
    layers, heads, groups, width = (
        size(config, "num_hidden_layers"),
        size(config, "num_attention_heads"),
        kv_heads(config),
        head_width(config),
    )
    tally = Tally()
    tally.linear("q_proj", hidden, heads * width, layers, bias=True)
    tally.linear("k_proj", hidden, groups * width, layers, bias=True)
    tally.linear("v_proj", hidden, groups * width, layers, bias=True)
    tally.linear("dense", heads * width, hidden, layers, bias=True)
    tally.linear("fc1", hidden, inner, layers, bias=True)
    tally.linear("fc2", inner, hidden, layers, bias=True)
    tally.other(2 * (layers + 1) * hidden, "norms")
    if flag(config, "qk_layernorm"):
        tally.other(4 * layers * shared_width(hidden, heads, "num_attention_heads"), "norms")
    tally.other(size(config, "vocab_size"), "lm_head")
    return tally.text_model(config, KvShape(layers, groups, width))


LAYOUTS: dict[str, Callable[[Config], Layout]] = {
    "bloom": bloom,
    "codegen": gptj,
    "gpt2": gpt2,
    "gpt_bigcode": gpt2,
    "gpt_neo": gpt_neo,
    "gptj": gptj,
    "phi": phi,
}
