"""Did it learn? What is checked before an adapter may be published: each failure names what did not happen.

A training run can end normally with falling loss and an adapter that does nothing; only the saved files, loaded into a fresh base,
tell what users will get.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch

from onecard.adapters.manifest import AddedToken
from onecard.errors import NothingLearned
from onecard.training.adapter import adapter_state
from onecard.training.batches import Unit, texts_of, tokens_of
from onecard.training.chat import EncodedPair, EncodedRow

PROBES = 4  # rows whose loss and logits are compared, spread over the data
PROBE_TOKENS = 64  # of each answer: more would hold gigabytes of logits for a large vocabulary
# A reloaded adapter computes the same sums in the same order: the distance was 0.0 in every run seen, on a CPU and on a card. What is
# granted is one rounding of the activations, for a library that picks another kernel the second time.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10}


@dataclass(frozen=True)
class Probe:
    """What a model says to the probe rows: `loss`, and each text's logits [tokens, vocabulary] in fp32.

    The loss is in nats a learned token; of pairs, it is how much less likely the chosen answer is than the rejected one, in nats.
    """

    loss: float
    logits: tuple[torch.Tensor, ...]

    def distance(self, other: Probe) -> float:
        """Largest difference of a logit, as a share of the largest logit."""
        pairs = zip(self.logits, other.logits, strict=True)
        largest = max(float(logits.abs().max()) for logits in self.logits)
        return max(float((a - b).abs().max()) for a, b in pairs) / max(largest, 1e-30)


def probe_rows(rows: Sequence[Unit]) -> list[Unit]:
    """A few rows of all lengths, shortest to longest."""
    ordered = sorted(rows, key=tokens_of)
    count = min(PROBES, len(ordered))
    return [ordered[place * (len(ordered) - 1) // max(count - 1, 1)] for place in range(count)]


def probe(model: Any, rows: Sequence[Unit]) -> Probe:
    """Loss and logits of the rows' answers, one text at a time, as serving would compute them: eval mode, no autocast."""
    was_training = model.training
    model.eval()
    said = [[_said(model, text) for text in texts_of(row)] for row in rows]
    model.train(was_training)
    if rows and isinstance(rows[0], EncodedPair):
        loss = sum(float(rejected[0]) - float(chosen[0]) for chosen, rejected in said) / len(said)
    else:
        loss = -sum(float(one[0]) for (one,) in said) / sum(len(one[1]) for (one,) in said)
    return Probe(loss, tuple(logits for texts in said for _, logits in texts))


@torch.no_grad()  # type: ignore[untyped-decorator]
def _said(model: Any, text: EncodedRow) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of log p of a text's first learned tokens, and the logits they are said from, on the processor."""
    ids = torch.tensor([text.ids[: text.prompt_tokens + PROBE_TOKENS]], device=model.device)
    learned = [place for place in range(max(text.prompt_tokens, 1), ids.shape[1]) if text.trained[place]]
    logits = model(input_ids=ids, use_cache=False, **_last(model, ids.shape[1] - learned[0] + 1)).logits
    first = ids.shape[1] - logits.shape[1]
    places = torch.tensor([place - 1 - first for place in learned], device=logits.device)
    kept = logits[0, places].float()
    likelihood = -torch.nn.functional.cross_entropy(kept, ids[0, learned], reduction="sum")
    return likelihood, kept.cpu()


def _last(model: Any, count: int) -> dict[str, int]:
    """The keyword that computes only the last logits, where the architecture has it."""
    return {"logits_to_keep": count} if "logits_to_keep" in signature(model.get_base_model().forward).parameters else {}


def base_digest(model: Any) -> str:
    """A sum over every weight that is not the adapter's, as it is held (quantized bytes as bytes), that any changed byte changes.

    Words are summed as they are and by their place, modulo 2^64, where they lie: hashing 4 GiB on the processor took 15 s.
    """
    parts = []
    for name, weight in sorted(model.named_parameters()):
        if not weight.requires_grad:
            plain, placed = _sums(weight.detach())
            parts.append(f"{name}:{plain}:{placed}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sums(weight: torch.Tensor, piece: int = 1 << 24) -> tuple[int, int]:
    data = weight.contiguous().view(-1).view(torch.uint8)
    plain = placed = torch.zeros((), dtype=torch.int64, device=data.device)
    for start in range(0, data.numel(), piece):
        words = data[start : start + piece].to(torch.int64)
        # An odd factor a place: exchanged bytes show, and so does one that is changed by any amount.
        factors = (
            torch.arange(start, start + words.numel(), device=data.device).mul_(2).add_(1).mul_(0x5851F42D4C957F2D)
        )
        plain = plain + words.sum()
        placed = placed + (words * factors).sum()
    return int(plain), int(placed)


def demand_movement(model: Any, before: dict[str, torch.Tensor], added: Sequence[AddedToken] = ()) -> None:
    """Every B left zero, every added token's row its start in embedding and head, and all is finite.

    `before` is the adapter as it was attached. An untied head is looked for apart: PEFT trains an embedding alone without an error.
    """
    state = adapter_state(model)
    _demand_rows(model, state, added)
    broken = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    still = [name for name, tensor in state.items() if _stands_still(name, tensor.cpu(), before)]
    if broken:
        raise NothingLearned(f"weights are not finite: {_some(broken)}", next_step="lower the learning rate")
    if still:
        raise NothingLearned(
            f"weights did not move: {_some(still)}", next_step="train more steps, or raise the learning rate"
        )


def _demand_rows(model: Any, state: dict[str, torch.Tensor], added: Sequence[AddedToken]) -> None:
    inner = model.get_base_model()
    layers = [inner.get_input_embeddings(), inner.get_output_embeddings()]
    weights = {id(getattr(layer, "original_module", layer).weight) for layer in layers}  # one when the head is tied
    tables = sum("trainable_tokens" in name for name in state)
    if added and tables < len(weights):
        raise NothingLearned(
            f"the added tokens' rows are trained in {tables} of {len(weights)} matrices, embedding and head",
            allowed="rows in both; a tied head has its embedding's",
        )


def _stands_still(name: str, tensor: torch.Tensor, before: dict[str, torch.Tensor]) -> bool:
    """B starts at zero, a token's row at a mean; A starts at random and moves only once B has."""
    if "lora_B" in name:
        return not bool(tensor.any())
    return "trainable_tokens" in name and bool((tensor == before[name]).all(dim=1).any())


def demand_same_base(before: str, after: str) -> None:
    if before != after:
        raise NothingLearned("the base's own weights changed while the adapter was trained")


def demand_lower_loss(before: Probe, after: Probe) -> None:
    if not after.loss < before.loss:
        raise NothingLearned(
            f"the loss on training rows went from {before.loss:.4f} to {after.loss:.4f} nats",
            next_step="train more steps, or change the learning rate",
        )


def demand_effect(trained: Probe, base: Probe, dtype: torch.dtype) -> None:
    """The adapter changes what the base says by more than rounding could."""
    distance = trained.distance(base)
    if not distance > TOLERANCE[dtype]:
        raise NothingLearned(f"the adapter does nothing: its logits differ from the base's by {distance:.2e}")


def demand_same_weights(trained: dict[str, torch.Tensor], reloaded: dict[str, torch.Tensor]) -> None:
    """Every tensor of the adapter came back bit for bit; logits alone would not show a small one that was lost."""
    lost = [
        name
        for name in sorted(trained.keys() | reloaded.keys())
        if name not in trained or name not in reloaded or not torch.equal(trained[name].cpu(), reloaded[name].cpu())
    ]
    if lost:
        raise NothingLearned(f"the saved adapter is not the trained one: {_some(lost)} came back otherwise")


def demand_exact_reload(trained: Probe, reloaded: Probe, dtype: torch.dtype) -> None:
    """The saved files in a fresh base say what the trained model said, within one rounding of the compute dtype."""
    distance = trained.distance(reloaded)
    if not distance <= TOLERANCE[dtype]:
        raise NothingLearned(
            f"the saved adapter is not the trained one: logits differ by {distance:.2e}",
            allowed=f"at most {TOLERANCE[dtype]:.0e} of the largest logit",
        )


def base_probe(model: Any, rows: Sequence[Unit]) -> Probe:
    """What the bare base says, asked through the wrapped model."""
    with model.disable_adapter():
        return probe(model, rows)


def _some(names: Sequence[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]
