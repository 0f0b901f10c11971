"""What a person names becomes candidates, or an error that says what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from onecard.catalog.models import load_models
from onecard.cli.choose_candidates import candidates_of, check_forms
from onecard.errors import CatalogError, InputError


def named(*asked: str, folder: Path = Path(), input_kind: str = "text") -> list[str]:
    return [found.id for found in candidates_of(asked, folder, input_kind, offline=True)]


def test_ids_are_read_with_commas_repeated_and_once_each():
    assert named("microsoft/phi-4, qwen/qwen3-8b", "MICROSOFT/phi-4") == ["microsoft/phi-4", "Qwen/Qwen3-8B"]


def test_all_and_roles_pick_from_the_catalog():
    assert named("all") == [model.id for model in load_models()]
    assert named("role:primary") == [model.id for model in load_models() if "primary" in model.role_names]
    assert named("role:code,microsoft/phi-4")[-1] == "microsoft/phi-4"


def test_nothing_named_is_every_model_that_serves_the_input():
    images = named(input_kind="image")
    assert set(images) == {model.id for model in load_models() if "image" in model.input}
    assert "Salesforce/blip2-opt-2.7b" in images and "Salesforce/blip2-opt-2.7b" not in named()


def test_a_wrong_id_of_the_catalog_is_a_candidate_that_is_missing():
    [wrong] = candidates_of(["qwen/qwen3-8b-instruct"], Path(), "text", offline=True)
    assert wrong.shape is None and wrong.id == "Qwen/Qwen3-8B-Instruct"
    assert wrong.facts.missing == "is no repository: take Qwen/Qwen3-8B or Qwen/Qwen3-8B-Base"
    [renamed] = candidates_of(["meta-llama/Meta-Llama-3.1-8B-Instruct"], Path(), "text", offline=True)
    assert renamed.facts.missing == "was renamed: take meta-llama/Llama-3.1-8B-Instruct"


def test_folders_and_embedded_models_are_candidates_without_a_download(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    config = '{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, '
    config += '"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 512}'
    (tmp_path / "mine" / "config.json").write_text(config)
    mine, embedded = candidates_of(["./mine,embedded:mini"], tmp_path, "text", offline=True)
    assert mine.shape is not None and mine.shape.max_context == 512
    assert (mine.facts.disk_bytes, mine.facts.gated, mine.facts.fully_open) == (0, False, None)
    assert embedded.id == "embedded:mini"


def test_facts_come_from_the_catalog_with_their_sources():
    [llama, phi] = candidates_of(["meta-llama/Llama-3.1-8B-Instruct,microsoft/phi-4"], Path(), "text", offline=True)
    facts = llama.facts
    assert (facts.fully_open, facts.commercial, facts.gated) == (False, True, True)
    assert facts.licence_source and facts.gate_source and facts.disk_source and "700M" in str(facts.licence_reason)
    assert facts.copies["awq"].id == "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"
    assert phi.facts.copies["nf4"].verified and phi.facts.commercial is True
    [blip] = candidates_of(["Salesforce/blip2-opt-2.7b"], Path(), "image", offline=True)
    assert blip.facts.commercial is False


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ("", InputError, "no candidate is named"),
        (" , ", InputError, "no candidate is named"),
        ("microsoft/phi4", CatalogError, "did you mean 'microsoft/phi-4'"),
        ("role:codr", CatalogError, "did you mean 'code'"),
        ("Qwen/Qwen3-8B-AWQ", CatalogError, "use Qwen/Qwen3-8B"),
        ("./nowhere", InputError, "nowhere"),
    ],
)
def test_what_nobody_has_is_bad_input(asked: str, error: type[Exception], said: str):
    with pytest.raises(error, match=None) as raised:
        named(asked)
    assert said in str(raised.value)


def test_forms():
    assert check_forms(None) == ()
    assert check_forms("nf4, awq,nf4") == ("nf4", "awq")
    with pytest.raises(InputError, match="did you mean 'nf4'"):
        check_forms("nf5")
