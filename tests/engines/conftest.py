"""What the engine tests share: the embedded base, small adapters with random weights, and PEFT's own answers to compare with."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from onecard.adapters.durable import file_digest
from onecard.adapters.manifest import AddedToken, BaseModelRecord, Manifest, TrainingRecord
from onecard.adapters.verification import digest_of
from onecard.engines.engine import Chunk, Engine, GenerationRequest, Message
from onecard.engines.local.loading import LoadedBase, load_base
from onecard.engines.local.tokens import chat_ids, chat_template_sha256, load_tokenizer, stop_ids
from onecard.fleet.recipe import LoraSection
from onecard.training.adapter import attach, load, save, targets_of
from onecard.training.added_tokens import extend_model
from onecard.weights.inventory import resolve

RANK, ALPHA = 4, 8
FINGERPRINT = "f" * 64
STYLES = ("<STYLE_TERSE>", "<STYLE_VERBOSE>")


@dataclass(frozen=True)
class MadeAdapter:
    """An adapter folder with its manifest, as the store hands them out."""

    folder: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def trained_on(self, **changes: Any) -> MadeAdapter:
        """The same files with another base in the manifest, such as quantization="nf4"."""
        base = self.manifest.base.model_copy(update=changes)
        return MadeAdapter(self.folder, self.manifest.model_copy(update={"base": base}))

    def altered(self, folder: Path, change: Callable[[Path], Any]) -> MadeAdapter:
        """A copy whose files are changed and sealed again, as somebody who publishes bad files would."""
        shutil.copytree(self.folder, folder)
        change(folder)
        return MadeAdapter(folder, seal(folder, self.manifest))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mini() -> Path:
    return resolve("embedded:mini", Path())


@pytest.fixture(scope="session")
def adapters(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, MadeAdapter]:
    """Three adapters of the unquantized base: two plain ones, and one with two added tokens."""
    place = tmp_path_factory.mktemp("adapters")
    return {
        "plain": make_adapter(mini, place / "plain", seed=1),
        "other": make_adapter(mini, place / "other", seed=2),
        "styled": make_adapter(mini, place / "styled", seed=3, added=STYLES),
    }


def load_plain(folder: Path, quantization: str = "none", dtype: str = "fp32") -> LoadedBase:
    return load_base(folder, quantization, double_quantization=True, dtype=dtype, device="cpu")  # type: ignore[arg-type]


def make_adapter(
    mini: Path, folder: Path, seed: int, added: Sequence[str] = (), targets: tuple[str, ...] | str = "all-linear"
) -> MadeAdapter:
    """An adapter as training writes it, with random weights that change what the base says."""
    base = load_plain(mini)
    tokenizer = load_tokenizer(mini)
    tokenizer.add_tokens(list(added), special_tokens=True)
    tokens = tuple(AddedToken(token=token, row=tokenizer.convert_tokens_to_ids(token)) for token in added)
    extend_model(base, tokenizer, tokens)
    model = attach(base, LoraSection(rank=RANK, alpha=ALPHA, dropout=0.0, targets=targets), tokens)
    random = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name or "trainable_tokens" in name:
            strength = weight.shape[1] ** -0.5 if "lora_A" in name else 0.1
            weight.data.copy_(torch.randn(weight.shape, generator=random) * strength)
    folder.mkdir(parents=True)
    save(model, folder, "embedded:mini", tokenizer if added else None)
    unsealed = Manifest(
        agent="tester",
        name=folder.name,
        base=BaseModelRecord(id="embedded:mini", fingerprint=FINGERPRINT, quantization="none"),
        rank=RANK,
        alpha=ALPHA,
        targets=targets_of(model),
        added_tokens=tokens,
        chat_template_sha256=chat_template_sha256(tokenizer),
        stop_ids=stop_ids(tokenizer, mini),
        recipe={},
        data_sha256=hashlib.sha256().hexdigest(),
        training=TrainingRecord(
            rows=1, trained_tokens=1, steps=1, seconds=1, tokens_s=1, peak_memory_bytes=1, memory_kind="process-rss",
            curve=(), hardware="test", versions={},
        ),
    )  # fmt: skip
    return MadeAdapter(folder, seal(folder, unsealed))


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with the digests of the files as they are now."""
    files = {file.name: file_digest(file) for file in folder.iterdir()}
    return manifest.model_copy(update={"files": files, "digest": digest_of(files)})


def asked(prompt: str, adapter: str | None = None, **settings: Any) -> GenerationRequest:
    return GenerationRequest(messages=(Message("user", prompt),), adapter=adapter, **{"max_new_tokens": 8, **settings})


async def collect(engine: Engine, request: GenerationRequest, delay_s: float = 0.0) -> list[Chunk]:
    await asyncio.sleep(delay_s)
    return [chunk async for chunk in engine.generate(request)]


def ask(engine: Engine, request: GenerationRequest) -> Told:
    return Told.of(asyncio.run(collect(engine, request)))


@dataclass(frozen=True)
class Told:
    """One whole answer."""

    text: str
    tokens: int
    reason: str | None

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Told:
        return cls("".join(c.text for c in chunks), sum(c.tokens for c in chunks), chunks[-1].finish_reason)


def peft_answer(base: LoadedBase, made: MadeAdapter | None, prompts: Sequence[str], new_tokens: int = 8) -> list[Told]:
    """What transformers and PEFT alone answer greedily. With added tokens the base's vocabulary has grown afterwards."""
    own_tokenizer = made is not None and made.manifest.added_tokens
    tokenizer = load_tokenizer(made.folder) if made and own_tokenizer else base.tokenizer
    model: Any = load(base, made.folder) if made else base.model
    answers = []
    for prompt in prompts:
        ids = torch.tensor([chat_ids(tokenizer, [{"role": "user", "content": prompt}])])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        text = tokenizer.decode(out, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        ended = out[-1] == tokenizer.eos_token_id
        answers.append(Told(text.lstrip().rstrip("\N{REPLACEMENT CHARACTER}"), len(out), "stop" if ended else "length"))
    if made:
        model.unload()  # leaves the base as it was, apart from its vocabulary
    return answers
