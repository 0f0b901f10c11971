"""A broken catalog file is a clear error, not a stack trace."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from onecard.catalog.files import parse_entries
from onecard.catalog.licences import Licence, _LicenceFile
from onecard.errors import CatalogError

GOOD = "licences:\n  - {key: mit, name: MIT, fully_open: true, reason: OSI-approved, source: card}\n"


def test_entries_are_frozen():
    licence = parse_entries(GOOD, "licences.yaml", _LicenceFile).licences[0]
    assert isinstance(licence, Licence)
    with pytest.raises(ValidationError):
        licence.key = "gpl"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("licences: [", "licences.yaml: not valid YAML"),
        (GOOD.replace("reason", "reasons"), r"licences\.yaml: licences\.0\.reason"),
        (GOOD.replace("key: mit, ", ""), r"licences\.yaml: licences\.0\.key: Field required"),
        ("", "licences.yaml"),
    ],
)
def test_a_broken_file_names_the_place(text, said):
    with pytest.raises(CatalogError, match=said):
        parse_entries(text, "licences.yaml", _LicenceFile)
