"""A running count while a layout is worked out: Linear layers and other parameters, then the whole as a `Layout`."""

from __future__ import annotations

from collections import Counter

from onecard.catalog.layouts.reading import Config, depth, flag, head_width, kv_heads, size
from onecard.catalog.shapes import KvShape, Layout, LinearShape


class Tally:
    """Linears and other parameters added one after the other."""

    def __init__(self, component: str = "linear") -> None:
        self.component = component
        self.linears: list[LinearShape] = []
        self.rest: Counter[str] = Counter()

    def linear(
        self, module: str, inputs: int, outputs: int, count: int = 1, *, bias: bool = False, quantized: bool = True
    ) -> None:
        """`count` Linear layers called `module`; a count of zero adds nothing."""
        if count:
            self.linears.append(LinearShape(module, inputs, outputs, count, bias, self.component, quantized))

    def other(self, parameters: int, component: str | None = None) -> None:
        """Parameters that are no Linear weight, under this tally's component or the one named."""
        self.rest[component or self.component] += parameters

    def attention(self, config: Config, layers: int, *, bias: bool = False, output_bias: bool = False) -> None:
        """q_proj, k_proj, v_proj and o_proj of `layers` layers with grouped heads."""
        hidden, width = size(config, "hidden_size"), head_width(config)
        queries, keys = size(config, "num_attention_heads") * width, kv_heads(config) * width
        self.linear("q_proj", hidden, queries, layers, bias=bias)
        self.linear("k_proj", hidden, keys, layers, bias=bias)
        self.linear("v_proj", hidden, keys, layers, bias=bias)
        self.linear("o_proj", queries, hidden, layers, bias=output_bias)

    def gated_mlp(self, hidden: int, inner: int, layers: int, *, bias: bool = False) -> None:
        """gate_proj, up_proj and down_proj of `layers` layers."""
        self.linear("gate_proj", hidden, inner, layers, bias=bias)
        self.linear("up_proj", hidden, inner, layers, bias=bias)
        self.linear("down_proj", inner, hidden, layers, bias=bias)

    def text_model(
        self, config: Config, kv: KvShape, *, embedding_width: int | None = None, layers: int | None = None
    ) -> Layout:
        """The layout of a language model: adds embeddings, and a head unless it is tied to them. `layers` where no key says it."""
        hidden, vocab = size(config, "hidden_size"), size(config, "vocab_size")
        table = vocab * (embedding_width or hidden)
        self.other(table, "embeddings")
        if not flag(config, "tie_word_embeddings"):
            self.other(table, "lm_head")
        return Layout(tuple(self.linears), dict(self.rest), kv, hidden, vocab, layers or depth(config))


def kv_of(config: Config, kinds: list[str] | None = None) -> KvShape:
    """The cache of a model with one kind of head. `kinds` names sliding_attention layers; a window beyond the context is none."""
    layers = size(config, "num_hidden_layers")
    window = config.get("sliding_window")
    if kinds is None:
        kinds = ["full_attention" if window is None else "sliding_attention"] * layers
    sliding = sum(kind == "sliding_attention" for kind in kinds)
    if sliding and size(config, "sliding_window") >= size(config, "max_position_embeddings"):
        sliding = 0
    heads, width = kv_heads(config), head_width(config)
    if not sliding:
        return KvShape(layers, heads, width)
    return KvShape(layers - sliding, heads, width, sliding, size(config, "sliding_window"), heads, width)
