"""Licences: each has a verdict and a reason, and agrees with the models that carry it."""

from __future__ import annotations

import pytest

from onecard.catalog.licences import find_licence, load_licences
from onecard.catalog.models import load_models
from onecard.errors import CatalogError


def test_keys_are_unique_and_every_verdict_has_a_reason_and_a_source():
    keys = [licence.key for licence in load_licences()]
    assert len(keys) == len(set(keys))
    assert all(licence.reason and licence.source for licence in load_licences())


def test_only_osi_licences_count_as_fully_open():
    assert {licence.key for licence in load_licences() if licence.fully_open} == {"apache-2.0", "mit"}


def test_no_model_is_more_open_than_its_licence():
    for model in load_models():
        assert model.licence.fully_open <= find_licence(model.licence.key).fully_open, model.id


def test_an_unknown_licence_names_the_nearest():
    assert find_licence("MIT").key == "mit"
    with pytest.raises(CatalogError, match=r"did you mean 'apache-2.0'"):
        find_licence("apache-2")
