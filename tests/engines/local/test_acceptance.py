"""Adapters that would not answer as themselves are refused for the reason they have, from their files alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from onecard.engines.local.acceptance import BaseFacts, accept, base_facts
from onecard.engines.local.tokens import load_tokenizer
from onecard.errors import AdapterRefused
from tests.engines.conftest import ALPHA, FINGERPRINT, RANK, MadeAdapter, load_plain, make_adapter

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
ROWS = "token_adapter.trainable_tokens_delta"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def facts(mini: Path) -> BaseFacts:
    return base_facts(load_plain(mini), FINGERPRINT, "none", True)


def with_tensors(change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return rewrite


def with_json(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return rewrite


def another_token(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<SMUGGLED>"])
    tokenizer.save_pretrained(folder)


def test_whole_adapters_are_taken_whole(facts: BaseFacts, adapters: dict[str, MadeAdapter]) -> None:
    plain = accept(adapters["plain"].folder, adapters["plain"].manifest, facts)
    assert (plain.rank, plain.alpha, plain.rows, plain.tokenizer) == (RANK, ALPHA, None, facts.tokenizer)
    assert set(plain.lora) == set(facts.linears), "all-linear means every linear layer but the head"
    styled = accept(adapters["styled"].folder, adapters["styled"].manifest, facts)
    assert styled.rows is not None and styled.rows.ids == (facts.vocabulary, facts.vocabulary + 1)
    assert not torch.equal(styled.rows.embedding, styled.rows.head)
    assert len(styled.tokenizer) == len(facts.tokenizer) + 2


def test_only_the_targets_are_demanded(facts: BaseFacts, mini: Path, tmp_path: Path) -> None:
    made = make_adapter(mini, tmp_path / "narrow", seed=5, targets=("q_proj", "down_proj"))
    taken = accept(made.folder, made.manifest, facts).lora
    assert {name.rpartition(".")[2] for name in taken} == {"q_proj", "down_proj"}


FILES = {
    "missing pair": (with_tensors(lambda t: [t.pop(f"{LAYER}.lora_{s}.weight") for s in "AB"]), "layers.0.self_attn.q_proj"),
    "half a pair": (with_tensors(lambda t: t.pop(f"{LAYER}.lora_A.weight")), "without its other half"),
    "layer the base lacks": (
        with_tensors(lambda t: t.update({n.replace(".0.", ".99."): v.clone() for n, v in t.items() if LAYER in n})),
        "layers.99.*no layer of this base|no layer of this base.*layers.99",
    ),
    "foreign tensor": (with_tensors(lambda t: t.update(bias=torch.ones(2))), "nobody would load"),
    "NaN": (with_tensors(lambda t: t[f"{LAYER}.lora_A.weight"].fill_(torch.nan)), "infinities or NaN"),
    "zero": (with_tensors(lambda t: [v.zero_() for n, v in t.items() if "lora_B" in n]), "no effect"),
    "other width": (
        with_tensors(lambda t: t.update({f"{LAYER}.lora_A.weight": torch.ones(RANK, 99)})),
        r"A \[4, 99\].*256 inputs",
    ),
    "target nobody has": (with_json("adapter_config.json", lambda c: c["target_modules"].append("c_attn")), "target_modules"),
    "other rank": (with_json("adapter_config.json", lambda c: c.update(r=8)), "r is 8"),
    "base-altering start": (with_json("adapter_config.json", lambda c: c.update(init_lora_weights="pissa")), "may alter the base"),
    "DoRA": (with_json("adapter_config.json", lambda c: c.update(use_dora=True)), "use_dora"),
    "no rows of the head": (with_tensors(lambda t: t.pop(f"base_model.model.lm_head.{ROWS}")), "lm_head"),
    "rows of another width": (
        with_tensors(lambda t: t.update({f"base_model.model.lm_head.{ROWS}": torch.ones(2, 8)})),
        r"shape \[2, 8\]",
    ),
    "rows of other ids": (
        with_json("adapter_config.json", lambda c: c["trainable_token_indices"].update(lm_head=[1, 2])),
        "lm_head has the manifest's rows",
    ),
    "a token nobody declared": (another_token, "<SMUGGLED>"),
    "another template": (lambda f: (f / "chat_template.jinja").write_text("{{ messages }}"), "another chat template"),
    "no tokenizer for its tokens": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "tokenizer"),
    "truncated weights": (
        lambda f: (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors").read_bytes()[:-9]),
        "cut off",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_bad_files_are_refused_even_when_their_digests_are_right(
    name: str, facts: BaseFacts, adapters: dict[str, MadeAdapter], tmp_path: Path
) -> None:
    change, reason = FILES[name]
    bad = adapters["styled"].altered(tmp_path / "bad", change)
    with pytest.raises(AdapterRefused, match=reason):
        accept(bad.folder, bad.manifest, facts)


def test_a_target_that_the_base_does_not_have_is_refused(
    facts: BaseFacts, adapters: dict[str, MadeAdapter], tmp_path: Path
) -> None:
    add = with_json("adapter_config.json", lambda c: c["target_modules"].append("c_attn"))
    tensors = with_tensors(
        lambda t: t.update({n.replace("q_proj", "c_attn"): v.clone() for n, v in t.items() if LAYER in n})
    )
    bad = adapters["plain"].altered(tmp_path / "bad", lambda folder: (add(folder), tensors(folder)))
    manifest = bad.manifest.model_copy(update={"targets": (*bad.manifest.targets, "c_attn")})
    with pytest.raises(AdapterRefused, match="no linear layer c_attn"):
        accept(bad.folder, manifest, facts)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"fingerprint": "0" * 64}, "weight fingerprint 000000000000.*has ffffffffffff"),
        ({"quantization": "nf4"}, r"nf4 \(double-quantized\) weights.*is none"),
    ],
)
def test_another_base_is_refused(
    changed: dict[str, str], reason: str, facts: BaseFacts, adapters: dict[str, MadeAdapter]
) -> None:
    made = adapters["plain"].trained_on(**changed)
    with pytest.raises(AdapterRefused, match=reason):
        accept(made.folder, made.manifest, facts)


def test_double_quantization_matters_for_nf4_only(facts: BaseFacts, adapters: dict[str, MadeAdapter]) -> None:
    other = adapters["plain"].trained_on(double_quantization=False)
    accept(other.folder, other.manifest, facts)
    nf4 = other.trained_on(quantization="nf4")
    with pytest.raises(AdapterRefused, match=r"nf4 weights.*is nf4 .double"):
        accept(nf4.folder, nf4.manifest, replace(facts, quantization="nf4"))


def test_files_that_are_not_those_published_are_refused(
    facts: BaseFacts, adapters: dict[str, MadeAdapter], tmp_path: Path
) -> None:
    made = adapters["plain"].altered(tmp_path / "copy", lambda folder: None)
    weights = made.folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(AdapterRefused, match=r"adapter_model\.safetensors: sha256"):
        accept(made.folder, made.manifest, facts)
    weights.unlink()
    with pytest.raises(AdapterRefused, match="missing"):
        accept(made.folder, made.manifest, facts)
    unpublished = made.manifest.model_copy(update={"digest": "", "files": {}})
    with pytest.raises(AdapterRefused, match="never published"):
        accept(made.folder, unpublished, facts)
    with pytest.raises(AdapterRefused, match="cannot be read"):
        accept(tmp_path / "nowhere", made.manifest, facts)
