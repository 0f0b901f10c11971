"""What the hub lists, and that a closed door shows before the first byte; offline, what a cache says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onecard.errors import InputError, MachineError, MissingPart, UnknownName
from onecard.weights.fetch_listing import list_repo, recall_repo
from onecard.weights.hub_faults import Gated


def repo(tmp_path: Path) -> dict[str, Any]:
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(range(256)) * 100)
    return {"config.json": b"{}", "model.safetensors": weights}


def test_every_file_comes_with_size_and_hash_at_one_commit(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    held = hub.add("org/name", repo(tmp_path), card={"license": "mit"})
    listing = list_repo("org/name")
    assert (listing.commit, listing.licence, listing.gated) == (held.commit, "mit", False)
    files = {file.name: (file.size, file.digest) for file in listing.files}
    assert files["config.json"] == (2, hub_server.git_sha1(b"{}"))
    assert files["model.safetensors"] == (25_600, hub_server.sha256_of(tmp_path / "weights"))


@pytest.mark.parametrize("open_record", [True, False])
def test_a_gated_repository_says_where_to_agree_and_which_variable_holds_the_token(
    hub: Any, tmp_path: Path, open_record: bool
) -> None:
    hub.add("org/gated", repo(tmp_path), gated="manual", open_record=open_record)
    with pytest.raises(Gated) as error:
        list_repo("org/gated")
    assert f"{hub.url}/org/gated" in (error.value.next_step or "") and "HF_TOKEN" in (error.value.next_step or "")
    assert not [one for one in hub.seen if one.host == "blobs"]


def test_a_gated_repository_with_a_token_that_is_not_on_its_list(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/gated", repo(tmp_path), gated="manual", open_record=True)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(Gated, match="not on its list") as error:
        list_repo("org/gated")
    assert "the one in HF_TOKEN" in (error.value.next_step or "") and "hf_stranger" not in str(error.value)


def test_who_is_on_the_list_is_let_in(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/gated", repo(tmp_path), gated="auto", open_record=True)
    hub.granted.add("hf_granted")
    monkeypatch.setenv("HF_TOKEN", "hf_granted")
    assert list_repo("org/gated").gated is True


def test_what_is_not_there_is_said(hub: Any, tmp_path: Path) -> None:
    hub.add("org/name", repo(tmp_path))
    with pytest.raises(UnknownName, match="org/other"):
        list_repo("org/other")
    with pytest.raises(UnknownName, match="revision"):
        list_repo("org/name", "v9")
    with pytest.raises(InputError, match="no name of a repository"):
        list_repo("../../etc")


@pytest.mark.parametrize("record", [b"[]", b"{}", b'{"sha": "../..", "siblings": []}', b"<html>", b'{"sha": 3}'])
def test_an_answer_that_is_no_record_is_an_error(hub: Any, record: bytes) -> None:
    def answer(handler: Any, path: str) -> bool:
        handler.send(200, record, {})
        return True

    hub.tricks["hub"] = answer
    with pytest.raises(InputError):
        list_repo("org/name")


def test_a_hub_that_is_busy_says_when_to_come_again(hub: Any) -> None:
    def busy(handler: Any, path: str) -> bool:
        handler.refuse(429, "", "slow down", {"Retry-After": "77"})
        return True

    hub.tricks["hub"] = busy
    with pytest.raises(MachineError, match="77 seconds"):
        list_repo("org/name")


def test_siblings_that_are_no_files_are_passed_over(hub: Any) -> None:
    siblings = (
        b'[3, {"rfilename": 4}, {"rfilename": "a.json", "size": -1, "blobId": "x"}, {"rfilename": "b.json", "lfs": []}]'
    )

    def answer(handler: Any, path: str) -> bool:
        handler.send(200, b'{"sha": "' + b"c" * 40 + b'", "siblings": ' + siblings + b"}", {})
        return True

    hub.tricks["hub"] = answer
    assert [(file.name, file.size, file.digest) for file in list_repo("org/name").files] == [
        ("a.json", 0, ""),
        ("b.json", 0, ""),
    ]


def test_offline_nothing_is_asked_and_nothing_here_is_an_error(own_environment: None, tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match="the hub was not asked"):
        recall_repo("org/name", "main", tmp_path)
