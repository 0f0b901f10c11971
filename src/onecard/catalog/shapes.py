"""What a model is made of, as arithmetic sees it: Linear layers by shape, other parameters by component, and the KV cache.

A `Layout` follows exactly from a config (see architecture.py). Parameters are counted once: a head tied to the embeddings adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

COMPONENTS = (
    "embeddings",
    "lm_head",
    "linear",
    "linear_bias",
    "experts",
    "router",
    "norms",
    "other_embeddings",
    "conv",
    "other",
    "vision_tower",
    "audio_tower",
    "projector",
    "qformer",
)


@dataclass(frozen=True)
class LinearShape:
    """`count` Linear layers of one shape. `module` is the last part of their name, as LoRA's target_modules gives it.

    `component` says whose they are: "linear" for the language model, else vision_tower, audio_tower, projector, qformer or router.
    `quantized` says whether transformers converts them when a model is loaded in int8 or nf4.
    """

    module: str
    in_features: int
    out_features: int
    count: int = 1
    bias: bool = False
    component: str = "linear"
    quantized: bool = True

    @property
    def weights(self) -> int:
        """Parameters of all `count` weight matrices, biases left out."""
        return self.in_features * self.out_features * self.count

    @property
    def biases(self) -> int:
        return self.out_features * self.count if self.bias else 0


@dataclass(frozen=True)
class KvShape:
    """What one sequence leaves in the cache: layers that keep every token, layers that keep a window, and a fixed state.

    The fields say what transformers holds; `held_by("vllm")` is the same for vLLM, which differs where `vllm` is set.
    `head_dim` is the width of a key; `value_dim` that of a value where it differs (0: the same). `latent_width` is what multi-head
    latent attention keeps a layer and token in place of expanded keys and values (kv_lora_rank + qk_rope_head_dim; 0: it has none):
    transformers since 5.16 and vLLM both keep that form; `latent=False` counts the expanded one, as vLLM holds with VLLM_MLA_DISABLE.
    `fixed_state_bytes` per sequence is what recurrent layers (linear attention, state space, short convolutions) hold whatever the
    length: convolution inputs in 16 bits, the recurrent state in fp32. No cache dtype changes it.
    """

    layers_full: int
    kv_heads: int
    head_dim: int
    layers_sliding: int = 0
    window: int = 0
    sliding_kv_heads: int = 0
    sliding_head_dim: int = 0
    fixed_state_bytes: int = 0
    value_dim: int = 0
    latent_width: int = 0
    vllm: KvShape | None = None

    def held_by(self, engine: str) -> KvShape:
        """The cache as `engine` ("local" or "vllm") lays it out, before it is cut into blocks or pages."""
        return self.vllm if engine == "vllm" and self.vllm is not None else self

    def full_bytes_per_token(self, dtype_bytes: float = 2, *, latent: bool = True) -> float:
        """Bytes each token adds in layers that keep all of them: layers x heads x (key and value width) x dtype, or the latent."""
        if latent and self.latent_width:
            return self.layers_full * self.latent_width * dtype_bytes
        return self.layers_full * self.kv_heads * (self.head_dim + (self.value_dim or self.head_dim)) * dtype_bytes

    def sliding_bytes_per_token(self, dtype_bytes: float = 2) -> float:
        """Bytes each token adds in sliding layers until their window is full."""
        return self.layers_sliding * self.sliding_kv_heads * self.sliding_head_dim * 2 * dtype_bytes

    def bytes_per_token(self, dtype_bytes: float = 2, *, latent: bool = True) -> float:
        """Bytes each token adds while the sequence is shorter than the window."""
        return self.full_bytes_per_token(dtype_bytes, latent=latent) + self.sliding_bytes_per_token(dtype_bytes)

    def bytes_for(self, tokens: int, sequences: int = 1, dtype_bytes: float = 2, *, latent: bool = True) -> int:
        """Bytes that `sequences` sequences of `tokens` tokens hold together."""
        growing = tokens * self.full_bytes_per_token(dtype_bytes, latent=latent)
        growing += min(tokens, self.window) * self.sliding_bytes_per_token(dtype_bytes)
        return round(sequences * (growing + self.fixed_state_bytes))


@dataclass(frozen=True)
class Layout:
    """A whole model. `rest` holds, by component, every parameter that is not in a LinearShape.

    `hidden_size`, `vocab_size` and `layers` are the language model's; `layers` 0: not known.
    """

    linears: tuple[LinearShape, ...]
    rest: Mapping[str, int]
    kv: KvShape
    hidden_size: int
    vocab_size: int
    layers: int = 0

    @property
    def components(self) -> dict[str, int]:
        """Parameters by component, in COMPONENTS' order, empty ones left out. Their sum is the model's size."""
        counts = dict.fromkeys(COMPONENTS, 0)
        for component, count in self.rest.items():
            counts[component] += count
        for shape in self.linears:
            counts[shape.component] += shape.weights
            counts["linear_bias" if shape.component == "linear" else shape.component] += shape.biases
        return {component: count for component, count in counts.items() if count}

    @property
    def parameters(self) -> int:
        return sum(self.components.values())
