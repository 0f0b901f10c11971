"""Which model fits which size, and in which form."""

from __future__ import annotations

import pytest

from onecard.catalog.fit import FIT_RESERVE_BYTES, best_fit, forms_of, need
from onecard.catalog.models import find_model, load_models
from onecard.catalog.quantization import weight_bytes
from onecard.catalog.units import GIB
from onecard.errors import InputError

MISTRAL = find_model("mistralai/Mistral-7B-v0.3")


def test_a_need_is_weights_cache_and_reserve():
    needed = need(MISTRAL, "nf4")
    assert needed.weights_bytes == weight_bytes(MISTRAL.layout, "nf4")
    assert needed.kv_bytes == 4096 * 131072
    assert needed.total_bytes == needed.weights_bytes + needed.kv_bytes + FIT_RESERVE_BYTES


def test_the_cache_stops_at_the_models_own_context():
    assert need(find_model("mosaicml/mpt-7b"), "none").kv_bytes == 2048 * 524288


def test_the_most_precise_form_that_fits_is_taken():
    assert [best_fit(MISTRAL, gib * GIB).form for gib in (24, 12, 8)] == ["none", "int8", "nf4"]
    assert best_fit(MISTRAL, 5 * GIB) is None


def test_the_size_is_met_to_the_byte():
    needed = need(MISTRAL, "int8")
    assert best_fit(MISTRAL, needed.total_bytes, "int8") == needed
    assert best_fit(MISTRAL, needed.total_bytes - 1, "int8") is None


def test_checkpoints_that_are_quantized_as_published_are_taken_so():
    gpt_oss = find_model("openai/gpt-oss-20b")
    assert best_fit(gpt_oss, 16 * GIB).form == "published"
    assert best_fit(gpt_oss, 16 * GIB).weights_bytes == 13_761_264_768
    assert forms_of(find_model("mistralai/Ministral-3-8B-Instruct-2512")) == ("none", "published", "int8", "nf4")
    assert need(MISTRAL, "published").weights_bytes == need(MISTRAL, "none").weights_bytes


def test_dense_models_above_14b_do_not_fit_8_gb():
    """Nothing in the data excludes them: it follows from the numbers."""
    for model in load_models():
        if model.parameters > 14e9:
            assert best_fit(model, 8 * GIB) is None, model.id


def test_an_unknown_form_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"no quantization 'nf5' .did you mean 'nf4'"):
        need(MISTRAL, "nf5")
