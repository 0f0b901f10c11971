"""Attention over texts laid end to end that never see one another, as an attention function of transformers.

On a card it is torch's own variable-length flash attention; elsewhere, and in fp32, one call of torch's fused attention a text. The
cuts lie outside the model, for a layer that is recomputed backward must find them as well. Before a run uses it, `keeps_apart` asks the
model itself: an architecture that mixes tokens by other means (a convolution, a state) would leak, and its rows are padded instead.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from onecard.engines.local.loading import quiet

NAME = "onecard_packed"
SAME = {
    torch.float32: 1e-3,
    torch.bfloat16: 0.05,
    torch.float16: 0.02,
}  # largest difference, as a share of the largest state
BEYOND = ("softcap", "s_aux", "position_bias")  # what some architectures do to their scores, and torch's kernels do not


@dataclass
class _Cuts:
    """Where the texts of the pass that is being computed end."""

    lengths: tuple[int, ...] = ()
    ends: torch.Tensor | None = None  # [texts + 1] int32 on the card: 0 and every end


_cuts = _Cuts()


@contextmanager
def cut_at(lengths: Sequence[int] | None, device: torch.device) -> Iterator[None]:
    """Holds for a forward pass and its backward pass: the texts have these lengths. None: rows are not packed."""
    _cuts.lengths = tuple(lengths or ())
    _cuts.ends = None
    if lengths and device.type == "cuda":
        ends = torch.tensor([0, *_cuts.lengths], dtype=torch.int32)
        _cuts.ends = ends.cumsum(0, dtype=torch.int32).to(device, non_blocking=True)
    try:
        yield
    finally:
        _cuts.lengths, _cuts.ends = (), None


@contextmanager
def packing(model: Any) -> Iterator[None]:
    """While it holds, `model` (a transformers model) attends by texts."""
    before = model.config._attn_implementation
    with quiet():
        model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        with quiet():
            model.set_attn_implementation(before)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each text. Query [1, heads, tokens, dim], key and value with as many heads or fewer; answers [1, tokens,
    heads, dim]. ValueError for an architecture that asks for more than that."""
    if asked := [name for name in BEYOND if more.get(name) is not None]:
        raise ValueError(f"packed attention has no {asked[0]}")
    if _cuts.ends is not None and query.dtype != torch.float32:
        return _flash(query, key, value, scaling, sliding_window), None
    parts, start = [], 0
    for length in _cuts.lengths:
        cut = slice(start, start + length)
        window = _window(length, sliding_window, query)
        parts.append(
            scaled_dot_product_attention(
                query[:, :, cut],
                key[:, :, cut],
                value[:, :, cut],
                attn_mask=window,
                is_causal=window is None,
                scale=scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )
        )
        start += length
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, sliding_window: int | None
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    shared: dict[str, bool] = {}
    if key.shape[1] != query.shape[1]:
        if "enable_gqa" in signature(varlen_attn).parameters:
            shared = {"enable_gqa": True}
        elif not _shares_heads(query.device, query.dtype):
            key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
    longest = max(_cuts.lengths)
    left = -1 if sliding_window is None else sliding_window - 1
    attended: torch.Tensor = varlen_attn(
        query, key, value, _cuts.ends, _cuts.ends, longest, longest, scale=scaling, window_size=(left, 0), **shared
    )
    return attended.unsqueeze(0)


@functools.cache
def _shares_heads(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch before 2.12, which does not offer it, lets heads share keys and values all the same, gradients included."""
    from torch.nn.attention.varlen import varlen_attn

    chance = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(24, heads, 64, generator=chance).to(device, dtype).requires_grad_() for heads in (4, 2, 2)
    )
    ends = torch.tensor([0, 9, 24], dtype=torch.int32, device=device)

    def attended(repeats: int) -> tuple[torch.Tensor, ...]:
        keys, values = (states.repeat_interleave(repeats, dim=1) if repeats > 1 else states for states in (key, value))
        out = varlen_attn(query, keys, values, ends, ends, 15, 15, window_size=(-1, 0))
        return out.float(), *(
            grad.float() for grad in torch.autograd.grad(out.float().square().sum(), (query, key, value))
        )

    try:
        ours, theirs = attended(1), attended(2)
    except (RuntimeError, ValueError, TypeError):
        return False
    return all(
        torch.allclose(a, b, rtol=0.05, atol=0.05 * float(b.abs().max())) for a, b in zip(ours, theirs, strict=True)
    )


def _window(length: int, sliding_window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """The mask of a text longer than the window, True where a token is seen; None where plain causal attention is the same."""
    if sliding_window is None or length <= sliding_window:
        return None
    place = torch.arange(length, device=like.device)
    behind = place[:, None] - place[None, :]
    return (behind >= 0) & (behind < sliding_window)


AttentionInterface.register(NAME, attend)


@torch.no_grad()  # type: ignore[untyped-decorator]
def keeps_apart(model: Any, vocabulary: int) -> bool:
    """Whether two texts in one pass say what each says alone, asked of the model itself with a few tokens.

    A model without exchangeable attention does not. `SAME` grants the roundings of whole models; a leak is far above it.
    """
    if not getattr(model, "_supports_attention_backend", False):
        return False
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        return False  # it sees so many tokens back by its mask, which the few asked here would not show
    device = next(model.parameters()).device
    chance = torch.Generator().manual_seed(0)
    first, second = (torch.randint(vocabulary, (1, length), generator=chance).to(device) for length in (7, 9))
    decoder, was_training = model.base_model, model.training
    model.eval()
    try:
        alone = _states(decoder, second)
        together = torch.cat((first, second), dim=1)
        positions = torch.cat((torch.arange(7), torch.arange(9)))[None].to(device)
        with packing(model), cut_at((7, 9), device):
            joined = _states(decoder, together, positions)[:, 7:]
    except (TypeError, ValueError, RuntimeError, KeyError):
        return False
    finally:
        model.train(was_training)
    share = float((joined.float() - alone.float()).abs().max()) / max(float(alone.abs().max()), 1e-30)
    return share <= SAME.get(alone.dtype, 0.05)


def _states(decoder: Any, ids: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
    named = {} if positions is None else {"position_ids": positions}
    states: torch.Tensor = decoder(input_ids=ids, use_cache=False, **named).last_hidden_state
    return states
