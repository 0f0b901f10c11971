"""Keys are shown once, kept as hashes, and found again only whole."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.errors import InputError, UnknownName
from onecard.serving.keys import Key, KeyRing


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(tmp_path / "deep" / "keys.json")


def test_the_file_holds_no_key_and_is_its_owners(ring: KeyRing) -> None:
    secret = ring.add("newsroom", ("infer:writer", "admin", "admin"))
    content = ring.file.read_text()
    assert secret not in content and secret[12:] not in content
    assert stat.S_IMODE(ring.file.stat().st_mode) == 0o600
    assert [(key.name, key.scopes) for key in ring.keys] == [("newsroom", ("infer:writer", "admin"))]
    assert secret.startswith("onecard_") and len(secret) > 48
    assert sorted(file.name for file in ring.file.parent.iterdir()) == ["keys.json", "keys.json.lock"]


def test_only_the_whole_key_is_found(ring: KeyRing) -> None:
    one, other = ring.add("one", ("infer:*",)), ring.add("other", ("admin",))
    found = [ring.find(one), ring.find(other)]
    assert [key.name for key in found if key] == ["one", "other"]
    for wrong in ("", "one", one[:-1], one + "x", one.upper(), "\ud800", ring.keys[0].sha256, "\xe9" * 50):
        assert ring.find(wrong) is None


def test_another_process_change_counts_with_the_next_look(ring: KeyRing) -> None:
    secret = ring.add("one", ("infer:*",))
    elsewhere = KeyRing(ring.file)
    assert elsewhere.find(secret) is not None
    ring.remove("one")
    assert elsewhere.find(secret) is None and elsewhere.keys == ()
    ring.file.unlink()
    assert elsewhere.keys == ()


def test_scopes_decide(ring: KeyRing) -> None:
    ring.add("writer", ("infer:writer",))
    ring.add("all", ("infer:*",))
    ring.add("boss", ("admin",))
    writer, everybody, boss = ring.keys
    assert writer.may_infer("writer") and not writer.may_infer("writers") and not writer.may_infer("base")
    assert everybody.may_infer("base") and not everybody.may_administer
    assert boss.may_administer and not boss.may_infer("writer")


def test_mistakes_are_named(ring: KeyRing) -> None:
    ring.add("one", ("infer:*",))
    with pytest.raises(InputError, match="already"):
        ring.add("one", ("admin",))
    for name in ("", "a b", "x" * 65, "\n", "-x"):
        with pytest.raises(InputError, match="no name"):
            ring.add(name, ("admin",))
    for scope in ("infer", "infer:", "Admin", "infer:a b", "infer:a\n", "*"):
        with pytest.raises(InputError, match="no scope"):
            ring.add("two", (scope,))
    with pytest.raises(InputError, match="without a scope"):
        ring.add("two", ())
    with pytest.raises(UnknownName, match="did you mean 'one'"):
        ring.remove("on")


@given(
    content=st.binary(max_size=80)
    | st.sampled_from([b"{}", b'{"keys": [{}]}', b'{"schema": 2}', b"[]", b'{"keys": 1}'])
)
def test_a_file_that_is_not_one_of_keys_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_bytes(content)
    try:
        found = KeyRing(file).keys
    except InputError as error:
        assert error.where == str(file)
    else:
        assert found == ()


def test_a_record_has_no_room_for_more() -> None:
    with pytest.raises(ValueError, match="secret"):
        Key(name="a", scopes=("admin",), begins="", sha256="0" * 64, added="", secret="x")  # type: ignore[call-arg]
