"""Shows that an exported adapter answers as the original does: both are loaded through transformers and PEFT and asked the same.

One after the other, so that only one model is in memory at a time. The same weights in the same form give the same numbers, so
the difference expected is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from onecard.adapters.manifest import Manifest
from onecard.engines.local.loading import LoadedBase, grow_vocabulary, load_base, quiet
from onecard.engines.local.tokens import chat_ids, load_tokenizer, text_ids
from onecard.errors import AdapterRefused

TEXTS = ("What is a mutex?", "Write one sentence about the sea.", "List three colours.")
NEW_TOKENS = 16
# What rounding can do where a checkpoint's own 16 bits are not those that are computed with. The same form gives 0.
LOGIT_TOLERANCE = 0.25


@dataclass(frozen=True)
class Proof:
    """`equal` when every logit is the same bit for bit; differences are of logits, over every token of every prompt and answer."""

    equal: bool
    max_logit_difference: float
    greedy_tokens_equal: bool
    prompts: int
    tokens_compared: int
    quantization: str
    dtype: str
    device: str


@dataclass(frozen=True, eq=False)
class _Answers:
    """Per prompt its ids followed by the greedy answer's, and the logits [positions, vocabulary] over them, fp32."""

    ids: Sequence[list[int]]
    logits: Sequence[torch.Tensor]
    device: str


def prove(
    adapter: Path,
    manifest: Manifest,
    base: Path,
    exported_adapter: Path,
    exported_base: Path,
    on_progress: Callable[[str, int, int], None],
) -> Proof:
    """Asks the original, then the export. AdapterRefused when the greedy tokens differ, or a logit by more than rounding."""
    tokenizer = load_tokenizer(adapter if (adapter / "tokenizer.json").is_file() else base)
    prompts = _prompts(tokenizer, manifest)
    stop = manifest.stop_ids
    before = _ask(
        _original(base, adapter, manifest), prompts, stop, lambda n: on_progress("asking the original", n, len(prompts))
    )
    after = _ask(
        _with(_load(exported_base, manifest), exported_adapter),
        prompts, stop, lambda n: on_progress("asking the export", n, len(prompts)), before.ids,
    )  # fmt: skip
    proof = _compared(before, after, manifest)
    if not proof.greedy_tokens_equal or not proof.max_logit_difference <= LOGIT_TOLERANCE:
        raise AdapterRefused(
            f"the export does not answer as the adapter: logits differ by up to {proof.max_logit_difference:.3g}, greedy tokens are "
            + ("equal" if proof.greedy_tokens_equal else "not equal"),
            where=str(adapter),
            next_step="report this with the adapter's manifest: the export was not kept",
        )
    return proof


def _prompts(tokenizer: Any, manifest: Manifest) -> list[list[int]]:
    """Questions as the adapter is asked, and each added token in front of one."""
    texts = [*TEXTS, *(f"{added.token} {TEXTS[0]}" for added in manifest.added_tokens[:8])]
    if not tokenizer.chat_template:
        return [text_ids(tokenizer, text) for text in texts]
    return [chat_ids(tokenizer, [{"role": "user", "content": text}]) for text in texts]


def _original(base: Path, adapter: Path, manifest: Manifest) -> LoadedBase:
    loaded = _load(base, manifest)
    if manifest.added_tokens:
        grow_vocabulary(loaded.model, load_tokenizer(adapter), known=len(loaded.tokenizer))
    return _with(loaded, adapter)


def _load(folder: Path, manifest: Manifest) -> LoadedBase:
    made = manifest.base
    return load_base(
        folder,
        made.quantization,  # type: ignore[arg-type]
        double_quantization=made.double_quantization,
        dtype=made.dtype,  # type: ignore[arg-type]
        device="auto",
    )


def _with(base: LoadedBase, adapter: Path) -> LoadedBase:
    with quiet():
        model = PeftModel.from_pretrained(base.model, adapter, local_files_only=True).eval()
    return LoadedBase(model, base.tokenizer, base.device, base.dtype, base.folder)


def _ask(
    loaded: LoadedBase,
    prompts: Sequence[list[int]],
    stop_ids: Sequence[int],
    on_prompt: Callable[[int], None],
    texts: Sequence[list[int]] | None = None,
) -> _Answers:
    """Answers each prompt greedily. The logits are over `texts`, or over its own answers when none are given."""
    ids, logits = [], []
    for number, prompt in enumerate(prompts):
        on_prompt(number)
        asked = torch.tensor([prompt], device=loaded.device)
        with torch.inference_mode(), quiet():
            answered = loaded.model.generate(
                input_ids=asked,
                attention_mask=torch.ones_like(asked),
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                eos_token_id=list(stop_ids),
                pad_token_id=stop_ids[0],
            )
            ids.append(answered[0].tolist())
            read = answered if texts is None else torch.tensor([texts[number]], device=loaded.device)
            logits.append(loaded.model(input_ids=read).logits[0].float().cpu())
    return _Answers(ids, logits, str(loaded.device))


def _compared(before: _Answers, after: _Answers, manifest: Manifest) -> Proof:
    pairs = list(zip(before.logits, after.logits, strict=True))
    for first, second in pairs:
        if first.shape != second.shape:
            raise AdapterRefused(f"the export has {second.shape[1]} logits a token, the original {first.shape[1]}")
    return Proof(
        equal=all(torch.equal(first, second) for first, second in pairs),
        max_logit_difference=max(float((first - second).abs().max()) for first, second in pairs),
        greedy_tokens_equal=before.ids == after.ids,
        prompts=len(before.ids),
        tokens_compared=sum(map(len, before.ids)),
        quantization=manifest.base.quantization,
        dtype=manifest.base.dtype,
        device=before.device,
    )
