"""Claims as files: the shipped ones, and one's own that are appended to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.catalog.cards import find_card
from onecard.errors import ResultError
from onecard.evidence.claims import QUANTITIES, Claim
from onecard.evidence.claims_file import add_claim, parse_claims, read_claims, shipped_claims

OWN = """# what I read
claims:
    - id: first          # keep me
      statement: It takes 8 GB.
      quantity: memory_gib
      value: 8
      unit: GB
      who: a blog
"""


def made(name: str, **changes: object) -> Claim:
    record = {"id": name, "statement": "It fits.", "quantity": "fits", "value": True, "who": "me"}
    return Claim.model_validate(record | changes)


def test_every_shipped_claim_says_who_and_where_and_names_known_cards() -> None:
    shipped = shipped_claims()
    assert set(shipped.documents) == set("ABCDE")
    assert {claim.where.document for claim in shipped.claims} == set("ABCDE")
    for claim in shipped.claims:
        assert claim.who == f"document {claim.where.document}"
        assert str(claim.where.row).startswith(str(claim.where.document))
        assert claim.id.startswith(str(claim.where.row).lower())
        if claim.subject.card:
            assert find_card(claim.subject.card).id == claim.subject.card


def test_no_shipped_figure_carries_a_verdict() -> None:
    for claim in shipped_claims().claims:
        assert claim.reasoned is None or QUANTITIES[claim.quantity].kind != "number"


def test_no_file_means_no_claims(tmp_path: Path) -> None:
    assert read_claims(tmp_path / "claims.yaml").claims == ()


def test_a_claim_is_appended_and_everything_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(OWN)
    add_claim(file, made("second", note="a: b # c"))
    assert file.read_text().startswith(OWN)
    assert [claim.id for claim in read_claims(file).claims] == ["first", "second"]
    assert read_claims(file).claims[1].note == "a: b # c"


@given(statement=st.text(min_size=1, max_size=80), note=st.none() | st.text(max_size=40), who=st.text(max_size=20))
@settings(max_examples=30)
def test_whatever_is_said_is_read_back_as_it_was_said(statement: str, note: str | None, who: str) -> None:
    first, second = made("one", statement=statement, note=note, who=who), made("two", subject={"epochs": [1, 3]})
    with TemporaryDirectory() as folder:
        file = Path(folder) / "new" / "claims.yaml"
        try:
            add_claim(file, first)
        except ResultError:  # YAML cannot hold every character; then nothing is written
            assert not file.exists()
            return
        add_claim(file, second)
        assert read_claims(file).claims == (first, second)


def test_two_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(lambda n: add_claim(file, made(f"c{n}")), range(12)))
    assert {claim.id for claim in read_claims(file).claims} == {f"c{n}" for n in range(12)}


def test_an_id_that_is_taken_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(OWN)
    with pytest.raises(ResultError, match="there is a claim 'first' already"):
        add_claim(file, made("first"))
    assert file.read_text() == OWN


@pytest.mark.parametrize(
    "text", ["claims: []\n", "claims: [{id: a, statement: b, quantity: fits, value: true, who: c}]\n"]
)
def test_a_file_that_would_have_to_be_rewritten_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(text)
    with pytest.raises(ResultError, match="without rewriting"):
        add_claim(file, made("second"))
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("quantity: memory_gib", "quantity: memory_gb", 5, "did you mean 'memory_gib'"),
        ("unit: GB", "unit: GBs", 7, "'GBs' is no unit of memory_gib"),
        ("who: a blog", "whom: a blog", 8, "did you mean 'who'"),
        ("value: 8", "value: lots", 6, "memory_gib is a number, not 'lots'"),
        ("value: 8", "value: -8", 6, "greater than or equal to 0"),
        ("claims:", "claim:", 2, "did you mean 'claims'"),
        ("    - id: first", "    - id: [first", 4, "not valid YAML"),
        ("      who: a blog\n", "", 3, "who: field required"),
    ],
)
def test_a_fault_is_said_with_its_line_and_the_nearest_word(old: str, new: str, line: int, said: str) -> None:
    with pytest.raises(ResultError) as caught:
        parse_claims(OWN.replace(old, new), "claims.yaml")
    assert said in str(caught.value)
    assert str(caught.value.where).startswith(f"claims.yaml:{line}")


def test_two_claims_with_one_id_are_refused() -> None:
    again = OWN + OWN.partition("claims:\n")[2]
    with pytest.raises(ResultError, match="two claims have the id 'first'"):
        parse_claims(again, "claims.yaml")


@given(st.text(max_size=120))
def test_any_text_is_claims_or_a_clear_error(text: str) -> None:
    try:
        parse_claims(text, "claims.yaml")
    except ResultError as error:
        assert error.where and error.where.startswith("claims.yaml")


def test_bytes_that_are_no_text_are_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_bytes(b"\xff\xfe\x00claims")
    with pytest.raises(ResultError, match="cannot be read"):
        read_claims(file)
