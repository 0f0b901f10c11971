"""The catalog of models against the real classes of transformers, and what a person who looks something up is told."""

from __future__ import annotations

import pytest

from onecard.catalog.architecture import count_parameters, kv_shape, lora_targets
from onecard.catalog.fit import need
from onecard.catalog.licences import find_licence
from onecard.catalog.models import (
    common_sources,
    find_model,
    find_prequantized,
    left_out,
    load_models,
    select_models,
    wrong_ids,
)
from onecard.errors import CatalogError

MODELS = {model.id: model for model in load_models()}

# Architectures of the catalog that the installed transformers cannot build; a test below keeps this list honest.
UNKNOWN_TO_TRANSFORMERS: set[str] = set()


def test_the_catalog_is_whole():
    assert len(MODELS) == 37
    for model in MODELS.values():
        assert find_licence(model.licence.key)
        assert model.sources["architecture"]
        assert model.max_context >= (model.native_context or 0)
    assert {"counted and cache", "lora_targets", "roles and why"} <= set(common_sources())


def test_the_list_of_unbuildable_architectures_is_exact():
    from transformers import CONFIG_MAPPING

    unknown = {
        model.config["model_type"] for model in MODELS.values() if model.config["model_type"] not in CONFIG_MAPPING
    }
    assert unknown == UNKNOWN_TO_TRANSFORMERS


@pytest.mark.parametrize("model_id", MODELS)
def test_counts_are_those_of_the_real_model(model_id, real_model):
    model = MODELS[model_id]
    real = real_model(model.config)
    assert real.components == model.counted
    assert real.tied == model.tied_head


@pytest.mark.parametrize("model_id", MODELS)
def test_counts_follow_from_the_config_by_arithmetic(model_id):
    model = MODELS[model_id]
    assert count_parameters(model.config) == model.counted
    assert model.tied_head == ("lm_head" not in model.counted)
    assert lora_targets(model.config) == model.lora_targets


@pytest.mark.parametrize("model_id", MODELS)
def test_the_cache_follows_from_the_config_by_arithmetic(model_id):
    cache, kv = MODELS[model_id].cache, kv_shape(MODELS[model_id].config)
    assert (kv.layers_full, kv.full_bytes_per_token()) == (cache.full_layers, cache.full_bytes_per_token)
    assert (kv.layers_sliding, kv.window) == (cache.sliding_layers, cache.window_tokens)
    assert kv.sliding_bytes_per_token() == cache.sliding_bytes_per_token
    assert kv.window * kv.sliding_bytes_per_token() == cache.sliding_cap_bytes
    assert kv.fixed_state_bytes == cache.fixed_state_bytes


@pytest.mark.parametrize("model_id", MODELS)
def test_the_published_count_is_accounted_for(model_id):
    model = MODELS[model_id]
    check = model.check
    if check.status == "exact" and check.published is not None:
        assert check.published == model.parameters
    if check.status == "explained":
        assert check.published is not None and check.note
        assert check.difference == check.published - model.parameters
    if check.status == "approximate":
        assert check.published is None and check.text


@pytest.mark.parametrize("model_id", [m.id for m in MODELS.values() if m.disk.bytes_of_weights])
def test_weights_on_disk_agree_with_the_config(model_id):
    model = MODELS[model_id]
    disk = model.disk
    assert disk.bytes_of_weights == pytest.approx(disk.size_gb * 1e9, rel=0.002)
    if model.dtype in ("bfloat16", "float16"):
        # Stored beside the weights: heads that loading ties, multi-token prediction, buffers; never less than the weights.
        assert 2 * model.parameters <= disk.bytes_of_weights < 2.1 * model.parameters


@pytest.mark.parametrize(("wrong", "right"), [(wrong.id, wrong.use[0]) for wrong in wrong_ids()])
def test_a_known_wrong_id_names_the_right_one(wrong, right):
    with pytest.raises(CatalogError) as caught:
        find_model(wrong)
    assert right in str(caught.value.next_step)
    assert find_model(right)


def test_every_right_id_of_a_wrong_one_is_spelt_as_a_repository():
    assert all(use.count("/") == 1 for wrong in wrong_ids() for use in wrong.use)


def test_qwen3_8b_instruct_is_explained():
    with pytest.raises(CatalogError, match=r"Qwen/Qwen3-8B-Instruct is not a repository.*use Qwen/Qwen3-8B"):
        find_model("Qwen/Qwen3-8B-Instruct")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("mistral-7b-v0.3", "did you mean 'mistralai/Mistral-7B-v0.3'"),
        ("Qwen/Qwen3-9B", "did you mean 'Qwen/Qwen3-8B'|did you mean 'Qwen/Qwen3.5-9B'"),
        ("Phi-5", "not found"),
        ("Qwen/Qwen3-8B-AWQ", "is Qwen/Qwen3-8B quantized as awq"),
        ("zzz/nothing-like-it-0000", "no model 'zzz/nothing-like-it-0000'"),
    ],
)
def test_an_unknown_id_gets_a_helpful_answer(asked, said):
    with pytest.raises(CatalogError, match=said):
        find_model(asked)


def test_ids_are_found_whatever_their_case():
    assert find_model(" mistralai/mathstral-7b-v0.1").id == "mistralai/Mathstral-7B-v0.1"


def test_a_quantized_repository_leads_to_its_model():
    model, ready = find_prequantized("Qwen/Qwen3-8B-AWQ")
    assert (model.id, ready.form) == ("Qwen/Qwen3-8B", "awq")
    assert find_prequantized("Qwen/Qwen3-8B") is None


def test_no_id_is_both_right_and_wrong():
    ids = {model.id for model in MODELS.values()}
    ready = {ready.id for model in MODELS.values() for ready in model.prequantized}
    assert not ids & {wrong.id for wrong in wrong_ids()}
    assert not ids & ready
    assert left_out()


def test_each_role_of_the_8_gb_card_has_one_model_and_a_form_that_fits_it():
    gib8 = 8 * 1024**3
    for role in ("primary", "secondary", "fallback", "maths", "code"):
        first = select_models(MODELS.values(), role=role)[0]
        form = next(r.quantization for r in first.roles if r.name == role)
        assert form in ("awq", "nf4")
        assert need(first, form).total_bytes < gib8


def test_the_roles_are_those_of_the_documents():
    first = {
        role: select_models(MODELS.values(), role=role)[0].id for role in ("primary", "secondary", "fallback", "maths")
    }
    assert first == {
        "primary": "meta-llama/Llama-3.1-8B-Instruct",
        "secondary": "Qwen/Qwen2.5-7B-Instruct",
        "fallback": "microsoft/Phi-3.5-mini-instruct",
        "maths": "mistralai/Mathstral-7B-v0.1",
    }
    assert select_models(MODELS.values(), role="vision")[0].id == "llava-hf/llava-1.5-7b-hf"
    assert select_models(MODELS.values(), role="vision-fallback")[0].id == "Salesforce/blip2-opt-2.7b"


def test_selection_keeps_only_what_passes():
    chosen = select_models(MODELS.values(), licence="open", context=200_000, input_kind="image")
    assert chosen
    assert all(m.licence.fully_open and m.max_context >= 200_000 and "image" in m.input for m in chosen)
    assert [m.id for m in select_models(MODELS.values(), licence="mit")] == [
        "microsoft/Phi-3.5-mini-instruct",
        "microsoft/phi-4",
    ]
    assert select_models(MODELS.values()) == list(MODELS.values())


@pytest.mark.parametrize("filters", [{"role": "cod"}, {"input_kind": "imge"}, {"licence": "apach-2.0"}])
def test_a_misspelt_filter_names_the_nearest(filters):
    with pytest.raises(CatalogError, match=r"did you mean"):
        select_models(MODELS.values(), **filters)


def test_verdicts_on_checkpoints_that_bundle_others():
    assert not find_model("Salesforce/blip2-opt-2.7b").licence.fully_open
    assert not find_model("llava-hf/llava-1.5-7b-hf").licence.fully_open
    assert find_model("mosaicml/mpt-7b-instruct").licence.fully_open
