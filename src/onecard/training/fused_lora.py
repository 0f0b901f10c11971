"""LoRA as part of the layers it adapts, while a run lasts: the same sums as PEFT's own forward with fewer passes over memory.

PEFT adds an adapter's answer to a layer's by a copy, a product, a scaling and a sum, each a pass over all outputs, and keeps a dropped-out
input with its mask for every adapter. Here layers that are given the same input are computed together (the model is asked which are),
the small product is added while it is multiplied, and a dropout's mask is drawn again backward. Frozen 16-bit and nf4 layers are taken;
others stay PEFT's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.utils.other import TrainableTokensWrapper

Held = Callable[[], torch.Tensor]


@dataclass(eq=False)
class _Member:
    """One adapted layer: what gives its frozen weight [outputs, inputs], and its trained A [rank, inputs] and B [outputs, rank]."""

    module: Any
    held: Held
    bias: torch.Tensor | None
    scale: float

    @property
    def a(self) -> torch.Tensor:
        return self.module.lora_A["default"].weight

    @property
    def b(self) -> torch.Tensor:
        return self.module.lora_B["default"].weight


@dataclass(eq=False)
class _Group:
    """Layers that are given one input. `a` [sum of ranks, inputs] (scaled) and `b` are copies in the run's dtype, made anew each step."""

    members: list[_Member]
    dropout: float
    dtype: torch.dtype
    a: torch.Tensor | None = None
    b: list[torch.Tensor] = field(default_factory=list)
    given: torch.Tensor | None = None
    ready: dict[int, torch.Tensor] = field(default_factory=dict)

    def copies(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if self.a is None:
            with torch.no_grad():
                self.a = torch.cat([member.a * member.scale for member in self.members]).to(self.dtype)
                self.b = [member.b.to(self.dtype) for member in self.members]
        return self.a, self.b

    def answer(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """What member `number` says to x; what the others say to the same x is kept until they are asked."""
        if self.given is x and number in self.ready:
            found = self.ready.pop(number)
        else:
            weights = [weight for member in self.members for weight in (member.a, member.b)]
            answers = _Adapted.apply(x.to(self.dtype), self, *weights)
            self.given, self.ready = x, dict(enumerate(answers))
            found = self.ready.pop(number)
        if not self.ready:
            self.given = None
        return found


class _Adapted(torch.autograd.Function):  # type: ignore[misc]
    """x [.., inputs] -> for each member x W^T + bias + scale * dropout(x) A^T B^T, in the group's dtype."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: _Group, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])
        a, b = group.copies()
        ctx.noise = _draw(flat, group.dropout)
        small = _dropped(flat, group.dropout, ctx.noise)[0] @ a.T
        answers, start = [], 0
        for member, each in zip(group.members, b, strict=True):
            weight = member.held()
            answer = flat @ weight.T if member.bias is None else torch.addmm(member.bias, flat, weight.T)
            answer.addmm_(small[:, start : start + each.shape[1]], each.T)
            start += each.shape[1]
            # Not a view: some models add to a layer's answer in place.
            answers.append(answer.view(*x.shape[:-1], answer.shape[-1]))
        ctx.save_for_backward(x, small)
        ctx.group = group
        return tuple(answers)

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, small = ctx.saved_tensors
        group: _Group = ctx.group
        a, b = group.copies()
        flat = x.reshape(-1, x.shape[-1])
        grads = [grad.reshape(-1, grad.shape[-1]) for grad in given]
        through = torch.cat([grad @ each for grad, each in zip(grads, b, strict=True)], dim=1)  # [tokens, sum of ranks]
        dropped, mask = _dropped(flat, group.dropout, ctx.noise)
        grad_a = through.T @ dropped
        del dropped
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grads[0] @ group.members[0].held()
            for grad, member in zip(grads[1:], group.members[1:], strict=True):
                grad_x.addmm_(grad, member.held())
            if mask is None:
                grad_x.addmm_(through, a)
            else:
                grad_x.add_((through @ a).mul_(mask), alpha=1 / (1 - group.dropout))
            grad_x = grad_x.view(x.shape)
        weights: list[torch.Tensor | None] = []
        start = 0
        for grad, member, each in zip(grads, group.members, b, strict=True):
            part = slice(start, start + each.shape[1])
            weights += [grad_a[part].float() * member.scale, (grad.T @ small[:, part]).float()]
            start += each.shape[1]
        return grad_x, None, *weights


def _draw(like: torch.Tensor, dropout: float) -> int:
    """What a mask is drawn from again: a place in the card's random numbers, or a seed."""
    if not dropout:
        return 0
    if like.device.type == "cuda":
        return int(torch.cuda.default_generators[like.device.index].get_offset())
    return int(torch.randint(2**62, (1,)))


def _dropped(x: torch.Tensor, dropout: float, noise: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """x with a share of its values zeroed and the others scaled up, and the mask; the same noise draws the same mask.

    On a card the numbers lie between those of a run that goes on: reading them again moves nothing.
    """
    if not dropout:
        return x, None
    if x.device.type != "cuda":
        generator = torch.Generator(x.device).manual_seed(noise)
        mask = torch.empty(x.shape, dtype=x.dtype).bernoulli_(1 - dropout, generator=generator)
        return (x * mask).mul_(1 / (1 - dropout)), mask
    generator = torch.cuda.default_generators[x.device.index]
    now = generator.get_offset()
    generator.set_offset(noise)
    dropped, mask = torch.native_dropout(x, dropout, True)
    generator.set_offset(max(now, generator.get_offset()))
    return dropped, mask


class Fused:
    """While it holds, the adapted layers of a PEFT model are computed together, in `dtype`; `layers` says how many, `whole` whether all.

    The model's own forwards are back when it ends, so that what is compared with a reloaded adapter is computed as serving computes it.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        self._groups: list[_Group] = []
        self._taken: list[Any] = []

    def __enter__(self) -> Fused:
        adapted = [module for module in self._model.modules() if isinstance(module, LoraLayer)]
        for modules in _together(self._model, [module for module in adapted if _takable(module)]):
            members = [_member(module, self._dtype) for module in modules]
            dropout = getattr(modules[0].lora_dropout["default"], "p", 0.0)
            group = _Group(members, dropout, self._dtype)
            self._groups.append(group)
            for number, module in enumerate(modules):
                self._take(module, _lora_forward(group, number, module))
        self.layers = len(self._taken)
        self.whole = self.layers == len(adapted)
        for module in self._model.modules():
            if isinstance(module, TrainableTokensWrapper):
                self._take(module, _rows_forward(module, self._dtype))
        return self

    def __exit__(self, *_: object) -> None:
        for module in self._taken:
            del module.forward

    def refresh(self) -> None:
        """The trained weights have changed: their copies are made anew. Answers nobody asked for in a pass that broke off are let go,
        with all the layers before them that they hold on to."""
        for group in self._groups:
            group.a, group.given = None, None
            group.ready.clear()

    def _take(self, module: Any, forward: Callable[..., torch.Tensor]) -> None:
        module.forward = forward
        self._taken.append(module)


def _takable(module: Any) -> bool:
    plain = list(module.lora_A) == ["default"] and not module.use_dora.get("default")
    layer = module.get_base_layer()
    return plain and (type(layer) is torch.nn.Linear or type(layer).__name__ == "Linear4bit")


@torch.no_grad()  # type: ignore[untyped-decorator]
def _together(model: Any, modules: Sequence[Any]) -> list[list[Any]]:
    """The layers in groups that are given the very same tensor one after the other, found by running a few tokens."""
    given: list[tuple[Any, torch.Tensor]] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: given.append((module, inputs[0]))) for module in modules
    ]
    was_training = model.training
    model.eval()
    try:
        model(input_ids=torch.arange(1, 5, device=model.device)[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    groups: list[list[Any]] = []
    last = None
    for module, x in given:
        if x is last and all(module is not other for other in groups[-1]):
            groups[-1].append(module)
        else:
            groups.append([module])
        last = x
    once = {id(module): [m for m, _ in given].count(module) for module in modules} if len(given) != len(modules) else {}
    # A layer that is asked twice in a pass, or not at all, is computed by itself.
    odd = [module for module in modules if once and once[id(module)] != 1]
    if odd:
        return [[module] for module in modules]
    return groups


def _member(module: Any, dtype: torch.dtype) -> _Member:
    layer = module.get_base_layer()
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return _Member(module, _held(layer, dtype), bias, float(module.scaling["default"]))


def _held(layer: Any, dtype: torch.dtype) -> Held:
    """What gives a frozen layer's weight [outputs, inputs]. Scales that are quantized themselves are unpacked once, for the run."""
    if type(layer) is torch.nn.Linear:
        weight = layer.weight
        return lambda: weight.to(dtype)
    from bitsandbytes.functional import dequantize_blockwise

    state, packed = layer.weight.quant_state, layer.weight.data.view(-1, 1)
    scales = state.absmax
    if state.nested:
        scales = (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()
    unpack = torch.ops.bitsandbytes.dequantize_4bit.default
    return lambda: unpack(packed, scales, state.blocksize, state.quant_type, state.shape, dtype)


def _lora_forward(group: _Group, number: int, module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    original = type(module).forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        if module.disable_adapters or not module.training:
            out: torch.Tensor = original(module, x)
            return out
        return group.answer(number, x)

    return forward


def _rows_forward(module: Any, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """An embedding or a head with trained rows: PEFT copies the whole matrix for every pass, here only the rows are computed."""
    layer, adapter = module.original_module, module.token_adapter
    rows = torch.tensor(adapter.token_indices["default"], device=layer.weight.device)
    original = type(module).forward

    def embed(ids: torch.Tensor) -> torch.Tensor:
        if adapter.disable_adapters:
            out: torch.Tensor = original(module, ids)
            return out
        trained = adapter.trainable_tokens_delta["default"] * getattr(layer, "embed_scale", 1.0)
        embedded = layer(ids)
        for number, row in enumerate(rows):
            embedded = torch.where((ids == row)[..., None], trained[number].to(embedded.dtype), embedded)
        return embedded

    def head(states: torch.Tensor) -> torch.Tensor:
        if adapter.disable_adapters:
            out: torch.Tensor = original(module, states)
            return out
        trained = adapter.trainable_tokens_delta["default"]
        states = states.to(dtype)
        logits = torch.nn.functional.linear(states, layer.weight.to(dtype))
        return logits.index_copy(-1, rows, torch.nn.functional.linear(states, trained.to(dtype)))

    return embed if isinstance(layer, torch.nn.Embedding) else head
