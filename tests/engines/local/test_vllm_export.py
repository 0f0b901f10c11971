"""Exports for vLLM: the rows stand where they belong, what did not change is shared, and nothing is written that answers otherwise."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from onecard.engines.local import vllm_export, vllm_proof
from onecard.engines.local.checkpoint_rows import TrainedRows, write_with_rows
from onecard.engines.local.tokens import load_tokenizer
from onecard.engines.local.vllm_export import export_for_vllm, smallest_rank_setting
from onecard.errors import AdapterRefused, InputError
from onecard.weights.inventory import fingerprint
from tests.engines.conftest import STYLES, MadeAdapter, make_adapter

ROWS = "token_adapter.trainable_tokens_delta"


def on(made: MadeAdapter, base: Path, dtype: str = "bf16") -> MadeAdapter:
    return made.trained_on(fingerprint=fingerprint(base), dtype=dtype)


@pytest.fixture(scope="module")
def styled(adapters: dict[str, MadeAdapter], mini: Path) -> MadeAdapter:
    """An adapter of the embedded base, whose head is not tied, with two added tokens."""
    return on(adapters["styled"], mini)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_proof, "NEW_TOKENS", 4)


def small_base(folder: Path, mini: Path, **changes: Any) -> Path:
    """A random Llama of 32 numbers' width in several files, with the embedded base's tokenizer."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": 4096,
        "tie_word_embeddings": True,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = transformers.LlamaConfig(**{**shape, **heads, **changes}, bos_token_id=1, eos_token_id=2)
    transformers.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="300KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(mini / name, folder / name)
    (folder / "LICENSE").write_text("as the base's")
    return folder


@pytest.fixture(scope="module")
def tied(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MadeAdapter]:
    """A base with a tied head in several files, and an adapter with two added tokens."""
    place = tmp_path_factory.mktemp("tied")
    base = small_base(place / "base", mini)
    return base, on(make_adapter(base, place / "styled", seed=6, added=STYLES), base)


def test_an_untied_base_gets_the_rows_in_both_its_weights(styled: MadeAdapter, mini: Path, tmp_path: Path) -> None:
    told: list[str] = []
    out = tmp_path / "out"
    made = export_for_vllm(
        styled.folder, styled.manifest, mini, out, on_progress=lambda what, done, total: told.append(what)
    )
    assert made.proof is not None and made.proof.equal and made.proof.max_logit_difference == 0.0
    assert made.proof.greedy_tokens_equal and made.proof.prompts == 3 + len(STYLES)
    assert json.loads((out / "export.json").read_text())["proof"]["equal"] is True
    assert {"writing the base", "asking the original", "asking the export"} <= set(told)
    before, after = load_file(mini / "model.safetensors"), load_file(out / "base" / "model.safetensors")
    trained = load_file(styled.folder / "adapter_model.safetensors")
    for module in ("model.embed_tokens", "lm_head"):
        weight = after[f"{module}.weight"]
        assert torch.equal(weight[:4096], before[f"{module}.weight"])
        assert torch.equal(weight[4096:], trained[f"base_model.model.{module}.{ROWS}"].to(weight.dtype))
    assert all(
        torch.equal(after[name], value) for name, value in before.items() if "embed" not in name and "head" not in name
    )
    assert json.loads((out / "base" / "config.json").read_text())["vocab_size"] == 4098
    settings = json.loads((out / "base" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == styled.manifest.stop_ids[0] and "_from_model_config" not in settings
    assert load_tokenizer(out / "base").convert_tokens_to_ids(list(STYLES)) == [4096, 4097]


def test_rounding_the_rows_to_the_checkpoints_own_numbers_is_measured(
    adapters: dict[str, MadeAdapter], mini: Path, tmp_path: Path
) -> None:
    """Trained in fp32 on a checkpoint of bf16: the rows lose their last bits in the file, and the record says how much that is."""
    made = on(adapters["styled"], mini, "fp32")
    proof = export_for_vllm(made.folder, made.manifest, mini, tmp_path / "out").proof
    assert proof is not None and not proof.equal and proof.greedy_tokens_equal
    assert 0 < proof.max_logit_difference < 0.05


def test_the_adapter_beside_it_is_a_pure_lora(styled: MadeAdapter, mini: Path, tmp_path: Path) -> None:
    export_for_vllm(styled.folder, styled.manifest, mini, tmp_path / "out", proven=False)
    adapter = tmp_path / "out" / "adapter"
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    trained, exported = (
        load_file(styled.folder / "adapter_model.safetensors"),
        load_file(adapter / "adapter_model.safetensors"),
    )
    assert set(trained) - set(exported) == {name for name in trained if ROWS in name} and len(exported) > 0
    assert all(torch.equal(value, trained[name]) for name, value in exported.items())
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["trainable_token_indices"] is None and config["base_model_name_or_path"] == "../base"
    assert json.loads((tmp_path / "out" / "export.json").read_text())["proof"] is None


def test_a_tied_base_in_several_files_is_written_only_where_it_changed(
    tied: tuple[Path, MadeAdapter], tmp_path: Path
) -> None:
    base, made = tied
    exported = export_for_vllm(made.folder, made.manifest, base, tmp_path / "out")
    assert exported.proof is not None and exported.proof.equal
    index = json.loads((base / "model.safetensors.index.json").read_text())
    new = json.loads((tmp_path / "out" / "base" / "model.safetensors.index.json").read_text())
    assert new["weight_map"] == index["weight_map"]
    assert new["metadata"]["total_size"] == index["metadata"]["total_size"] + 2 * 32 * 4
    assert exported.rewritten == (index["weight_map"]["model.embed_tokens.weight"],) and len(exported.shared) > 0
    for name in exported.shared:
        assert (tmp_path / "out" / "base" / name).samefile(base / name)
    for name in exported.rewritten:
        assert not (tmp_path / "out" / "base" / name).samefile(base / name)
    assert (tmp_path / "out" / "base" / "LICENSE").read_text() == "as the base's"
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "base")
    assert model.lm_head.weight is model.model.embed_tokens.weight and model.lm_head.weight.shape == (4098, 32)


def test_on_another_disk_what_is_shared_is_a_symbolic_link(
    tied: tuple[Path, MadeAdapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    base, made = tied
    monkeypatch.setattr(os, "link", refuse)
    exported = export_for_vllm(made.folder, made.manifest, base, tmp_path / "out")
    for name in exported.shared:
        file = tmp_path / "out" / "base" / name
        assert file.is_symlink() and file.resolve() == (base / name).resolve()


def test_rows_that_the_base_has_already_are_written_in_place(mini: Path, tmp_path: Path) -> None:
    """A vocabulary that is padded to a round number has room: nothing grows."""
    base = small_base(tmp_path / "base", mini, vocab_size=4104, tie_word_embeddings=False)
    made = on(make_adapter(base, tmp_path / "styled", seed=7, added=STYLES), base)
    exported = export_for_vllm(made.folder, made.manifest, base, tmp_path / "out")
    assert exported.vocabulary == 4104 and exported.proof is not None and exported.proof.equal
    assert len(exported.rewritten) == 2, "the files of embedding and head"


def test_without_added_tokens_the_lora_alone_is_written(
    adapters: dict[str, MadeAdapter], mini: Path, tmp_path: Path
) -> None:
    made = on(adapters["plain"], mini)
    exported = export_for_vllm(made.folder, made.manifest, mini, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter", "export.json"]
    assert (exported.base, exported.vocabulary) == ("embedded:mini", None)
    assert exported.proof is not None and exported.proof.equal
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "embedded:mini"


@pytest.mark.parametrize(("rank", "setting"), [(1, 8), (8, 8), (9, 16), (100, 128), (257, 320), (512, 512)])
def test_the_rank_setting_is_the_smallest_that_vllm_knows(styled: MadeAdapter, rank: int, setting: int) -> None:
    assert smallest_rank_setting(styled.manifest.model_copy(update={"rank": rank}), "x") == setting


def refused(kind: type[Exception], problem: str, made: MadeAdapter, base: Path, out: Path) -> None:
    with pytest.raises(kind, match=problem):
        export_for_vllm(made.folder, made.manifest, base, out)
    assert not out.exists() and not list(out.parent.glob(".onecard-*")), "nothing half is left"


def test_what_vllm_cannot_serve_or_would_serve_wrongly_is_refused(
    styled: MadeAdapter, tied: tuple[Path, MadeAdapter], mini: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    large = MadeAdapter(styled.folder, styled.manifest.model_copy(update={"rank": 1024}))
    refused(AdapterRefused, "rank 1024 is over", large, mini, out)
    refused(AdapterRefused, "weight fingerprint", styled, tied[0], out)

    def dora(folder: Path) -> None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))

    refused(AdapterRefused, "use_dora", styled.altered(tmp_path / "dora", dora), mini, out)
    altered = MadeAdapter(Path(shutil.copytree(styled.folder, tmp_path / "altered")), styled.manifest)
    (altered.folder / "chat_template.jinja").write_text("x")
    refused(AdapterRefused, "not those that were published", altered, mini, out)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match=r"exists already.*each has its own"):
        export_for_vllm(styled.folder, styled.manifest, mini, tmp_path / "there")


def test_rows_of_the_embedding_alone_are_refused_where_the_head_is_not_tied(
    styled: MadeAdapter, mini: Path, tmp_path: Path
) -> None:
    """PEFT trains them without an error, and the head's rows stay where they were."""

    def without_head(folder: Path) -> None:
        tensors = load_file(folder / "adapter_model.safetensors")
        tensors.pop(f"base_model.model.lm_head.{ROWS}")
        save_file(tensors, folder / "adapter_model.safetensors")
        config = json.loads((folder / "adapter_config.json").read_text())
        config["trainable_token_indices"].pop("lm_head")
        (folder / "adapter_config.json").write_text(json.dumps(config))

    bad = styled.altered(tmp_path / "bad", without_head)
    refused(AdapterRefused, "the base's are model.embed_tokens and lm_head", bad, mini, tmp_path / "new" / "out")


def test_an_export_that_answers_otherwise_is_not_kept(
    styled: MadeAdapter, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in each other's place are what a mistake would look like; the proof must see it."""

    def swapped(base: Path, target: Path, changed: dict[str, TrainedRows], on_bytes: Any) -> Any:
        wrong = {name: TrainedRows(rows.ids, rows.values.flip(0)) for name, rows in changed.items()}
        return write_with_rows(base, target, wrong, on_bytes)

    monkeypatch.setattr(vllm_export, "write_with_rows", swapped)
    refused(AdapterRefused, "does not answer as the adapter", styled, mini, tmp_path / "new" / "out")


def test_a_difference_of_one_logit_is_counted(styled: MadeAdapter) -> None:
    first = vllm_proof._Answers([[1, 2, 3]], [torch.zeros(3, 5)], "cpu")
    other = torch.zeros(3, 5)
    other[1, 2] = 0.125
    proof = vllm_proof._compared(first, vllm_proof._Answers([[1, 2, 3]], [other], "cpu"), styled.manifest)
    assert (proof.equal, proof.max_logit_difference, proof.greedy_tokens_equal) == (False, 0.125, True)
    proof = vllm_proof._compared(first, vllm_proof._Answers([[1, 2, 4]], [torch.zeros(3, 5)], "cpu"), styled.manifest)
    assert (proof.equal, proof.greedy_tokens_equal) == (True, False)
