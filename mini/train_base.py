"""Trains the embedded base from scratch on the glossary: Mistral architecture, 7.7 million parameters, about 15.5 MB in bf16.

Run `python mini/train_base.py` after `train_tokenizer.py`. A current GPU needs a few minutes; on two CPU cores it takes some hours
(`--passes 3` shows in minutes that it runs). Writes weights and config beside the tokenizer, and its figures to `training.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from corpus import chat, documents, held_out_documents, read_terms
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast

PACKAGE = Path(__file__).parent.parent / "src" / "onecard" / "weights" / "embedded" / "mini"
ROWS = 128
IGNORED = -100
DROPOUT = 0.1
SMOOTHING = 0.1


def shape(vocabulary: int) -> MistralConfig:
    """Grouped-query attention (8 heads over 2 key-value heads), untied head, as in Mistral-7B."""
    return MistralConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        rope_theta=10000.0,
        sliding_window=None,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.02,
    )


def regularize(model: MistralForCausalLM) -> None:
    """Residual dropout while training, by hooks, because the architecture has none. Without it the held-out loss is far worse."""

    def drop(module: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(output, DROPOUT, module.training)

    for layer in model.model.layers:
        layer.self_attn.o_proj.register_forward_hook(drop)
        layer.mlp.down_proj.register_forward_hook(drop)
    model.model.embed_tokens.register_forward_hook(drop)


def smoothed_loss(
    model: MistralForCausalLM, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy with label smoothing, which keeps a memorized text from becoming a certainty about everything else."""
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1).float()
    return torch.nn.functional.cross_entropy(
        logits, labels[:, 1:].flatten(), ignore_index=IGNORED, label_smoothing=SMOOTHING
    )


def batches(encode, passes: int, seed: int) -> Iterator[list[list[int]]]:
    """Rows of similar length together, a pass at a time; every pass has fresh wording."""
    terms, rng = read_terms(), random.Random(seed)
    for _ in range(passes):
        rows = sorted(encode(list(documents(terms, rng))), key=len)
        groups = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
        rng.shuffle(groups)
        yield from groups


def tensors(rows: list[list[int]], device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Padded ids, attention mask and labels, each [rows, longest]."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask, ids.masked_fill(mask == 0, IGNORED)


def answer_loss(model, tokenizer, pairs: list[tuple[str, str]], device: str) -> float:
    """Mean cross-entropy per token over the answers alone, nats."""
    total, count = 0.0, 0
    model.eval()
    for question, answer in pairs:
        text = chat(question, answer)
        start = len(tokenizer(text[: text.index("[/INST]") + 7], add_special_tokens=False).input_ids)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False).input_ids], device=device)
        labels = ids.clone()
        labels[:, :start] = IGNORED
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss
        tokens = ids.shape[1] - start
        total, count = total + loss.item() * tokens, count + tokens
    model.train()
    return total / count


def recall(model, tokenizer, device: str) -> dict[str, float]:
    """Share of terms whose definition and explanation come out word for word, greedily."""
    model.eval()
    terms = read_terms()[::4]
    found = {}
    for kind, ask, limit in (("short", "Define {name}.", 64), ("long", "Explain {name}.", 200)):
        exact = 0
        for term in terms:
            prompt = chat(term.ask(ask), "").removesuffix(" </s>")
            ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids.to(device)
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, pad_token_id=0
            )
            exact += tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip() == getattr(term, kind)
        found[kind] = exact / len(terms)
    model.train()
    return found


def train(folder: Path, passes: int, peak_rate: float, device: str) -> None:
    torch.manual_seed(7)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = MistralForCausalLM(shape(len(tokenizer))).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    regularize(model)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=peak_rate,
        betas=(0.9, 0.98),
    )
    rows_a_pass = sum(1 for _ in documents(read_terms(), random.Random(0)))
    steps = passes * math.ceil(rows_a_pass / ROWS)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, min(300, steps // 10), steps)
    pairs = held_out_documents(read_terms())
    tokens, curve, began, step = 0, [], time.time(), 0
    # One tokenizer call for a pass: the text never holds a special token that is not meant as one.
    for rows in batches(lambda texts: tokenizer(texts, add_special_tokens=False).input_ids, passes, seed=3):
        ids, mask, labels = tensors(rows, device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = smoothed_loss(model, ids, mask, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        step, tokens = step + 1, tokens + sum(map(len, rows))
        if step % max(1, steps // 20) == 0 or step == steps:
            curve.append(
                {
                    "step": step,
                    "loss": round(loss.item(), 4),
                    "held_out_loss": round(answer_loss(model, tokenizer, pairs, device), 4),
                }
            )
            print(f"{step}/{steps} {curve[-1]} {tokens / (time.time() - began):,.0f} tokens/s", flush=True)
    seconds = time.time() - began
    model.to(torch.bfloat16)
    figures = {
        "parameters": parameters,
        "passes": passes,
        "peak_rate": peak_rate,
        "steps": steps,
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "held_out_answer_loss_nats": round(answer_loss(model, tokenizer, pairs, device), 4),
        "held_out_questions": len(pairs),
        "word_for_word": recall(model, tokenizer, device),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "curve": curve,
    }
    model.config.dtype = "bfloat16"
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps({key: value for key, value in figures.items() if key != "curve"}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=40, help="times every term is read (default 40)")
    parser.add_argument("--peak-rate", type=float, default=1.5e-3, help="highest learning rate (default 0.0015)")
    parser.add_argument("--folder", type=Path, default=PACKAGE, help="holds the tokenizer, gets the weights")
    arguments = parser.parse_args()
    train(arguments.folder, arguments.passes, arguments.peak_rate, "cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    main()
