"""What a forward pass is learned from, and its gradient, without ever holding the logits of all its tokens.

The decoder runs once over the whole pass; the head runs over a piece of the learned positions at a time, forward and backward at once,
and what reaches the decoder's states is sent back through the layers in the end. Logits of a prompt are never computed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid

from onecard.training.batches import Pass
from onecard.training.packed_attention import cut_at

PIECE_LOGITS = 1 << 27  # logits computed at a time: 512 MiB in fp32, a few times that with its gradient
Autocast = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Reader:
    """A model taken apart for training: `model` is transformers' own, inside PEFT's wrapper.

    `whole_head`: this architecture does more to its logits than its head (a soft cap, a scaling), so they come from its own forward.
    """

    model: Any
    autocast: Autocast
    whole_head: bool

    def states(self, laid: Pass) -> torch.Tensor:
        """The decoder's last states, [texts * length, hidden]."""
        named = {"position_ids": laid.positions} if laid.mask is None else {"attention_mask": laid.mask}
        with self.autocast():
            states = self.model.base_model(input_ids=laid.ids, use_cache=False, **named).last_hidden_state
        return states.reshape(-1, states.shape[-1])

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits [places, vocabulary] in fp32 of some of the decoder's states."""
        with self.autocast():
            if not self.whole_head:
                return self.model.get_output_embeddings()(states).float()
            with _answering(self.model, states):
                return self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=states.device)).logits[0].float()

    @property
    def piece(self) -> int:
        """Places whose logits are computed at a time."""
        return max(16, PIECE_LOGITS // int(self.model.get_output_embeddings().weight.shape[0]))


def reader_of(model: Any, dtype: torch.dtype) -> Reader:
    """Takes PEFT's model apart, and finds out by asking it whether its head is all that makes its logits."""
    inner, device = model.get_base_model(), model.device

    def autocast() -> AbstractContextManager[Any]:
        return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)

    plain, was_training = Reader(inner, autocast, False), model.training
    model.eval()
    with torch.no_grad(), autocast():
        ids = torch.arange(1, 5, device=device)[None]
        own = inner(input_ids=ids, use_cache=False).logits[0].float()
        ours = plain.logits(inner.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
    model.train(was_training)
    same = own.shape == ours.shape and float((own - ours).abs().max()) <= 1e-2 * float(own.abs().max())
    return plain if same else Reader(inner, autocast, True)


def without_autocast(reader: Reader) -> Reader:
    """The same model where every layer computes in the run's dtype by itself."""
    return replace(reader, autocast=nullcontext)


class _answering:
    """While it holds, the model's decoder answers with the given states [places, hidden] to whatever it is asked."""

    def __init__(self, model: Any, states: torch.Tensor) -> None:
        self._decoder, self._states = model.base_model, states

    def __enter__(self) -> None:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        self._decoder.forward = lambda *_, **__: BaseModelOutputWithPast(last_hidden_state=self._states[None])

    def __exit__(self, *_: object) -> None:
        del self._decoder.forward


def learn(reader: Reader, laid: Pass, weights: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Adds to the gradients those of `scale` times the weighted sum of -log p of the learned tokens; answers that sum, unscaled.

    `weights` [texts]: what a token of each text counts, such as 1 / tokens of the step.
    """
    with cut_at(laid.lengths, laid.ids.device):
        states = reader.states(laid)
        return _through_head(reader, states, laid, weights, scale)


def prefer(
    reader: Reader, laid: Pass, reference: torch.Tensor, beta: float, each: float, scale: float = 1.0
) -> torch.Tensor:
    """The same for pairs (chosen, rejected, chosen, ...): the DPO loss of Rafailov et al. 2023, each pair counting `each`.

    `reference` [texts] is what the base says: the sum of log p of each text's learned tokens. Answers [loss, preferred]: the weighted
    sum of losses, and how many pairs prefer the chosen answer by now. The loss depends on each text's sum of log p alone, so its
    gradient is that of a weighted sum of log p, with the loss's derivative as weights.
    """
    with cut_at(laid.lengths, laid.ids.device):
        states = reader.states(laid)
        with torch.no_grad():
            said = _sums(reader, states, laid)
        gains = (said - reference).reshape(-1, 2)
        margin = beta * (gains[:, 0] - gains[:, 1])
        pull = beta * torch.sigmoid(-margin) * each  # -d loss / d log p(chosen)
        _through_head(reader, states, laid, torch.stack((pull, -pull), dim=1).reshape(-1), scale)
    return torch.stack(((-logsigmoid(margin) * each).sum(), (margin > 0).sum().to(margin.dtype)))


@torch.no_grad()  # type: ignore[untyped-decorator]
def log_likelihoods(reader: Reader, laid: Pass) -> torch.Tensor:
    """The sum of log p of each text's learned tokens, [texts] in fp32."""
    with cut_at(laid.lengths, laid.ids.device):
        return _sums(reader, reader.states(laid), laid)


def _through_head(
    reader: Reader, states: torch.Tensor, laid: Pass, weights: torch.Tensor, scale: float
) -> torch.Tensor:
    kept = states[laid.places]
    gradient = torch.empty_like(kept)
    weights = torch.cat((weights, weights.new_zeros(1)))  # of the places that only fill up
    total = torch.zeros((), device=kept.device)
    for start in range(0, len(kept), reader.piece):
        piece = slice(start, start + reader.piece)
        leaf = kept[piece].detach().requires_grad_()
        losses = cross_entropy(reader.logits(leaf), laid.targets[piece], reduction="none")
        lost = (losses * weights[laid.text_of[piece]]).sum()
        (lost * scale).backward()
        gradient[piece] = leaf.grad
        total += lost.detach()
    kept.backward(gradient)
    return total


def _sums(reader: Reader, states: torch.Tensor, laid: Pass) -> torch.Tensor:
    sums = torch.zeros(laid.texts + 1, device=states.device)
    for start in range(0, len(laid.places), reader.piece):
        piece = slice(start, start + reader.piece)
        losses = cross_entropy(reader.logits(states[laid.places[piece]]), laid.targets[piece], reduction="none")
        sums.index_add_(0, laid.text_of[piece], -losses)
    return sums[: laid.texts]
