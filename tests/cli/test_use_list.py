from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from onecard.catalog.machine import resolve_card
from onecard.cli.use_fit import Ground
from onecard.cli.use_list import Listing, listing, on_disk, record_of
from onecard.cli.use_overrides import NAME, read_overrides
from onecard.cli.use_targets import ROLES, Place
from onecard.fleet.examples import examples_folder
from onecard.fleet.loader import load_fleet
from onecard.weights.active import ActiveModel, ActivePlan, active_file, write_active
from onecard.weights.inventory import resolve

pytestmark = pytest.mark.usefixtures("own_environment")

GROUND = Ground(resolve_card("rtx-3070"), 0.5)
FACTS: dict[str, Any] = {
    "id": "meta-llama/Llama-3.1-8B-Instruct",
    "repository": "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4",
    "quantization": "awq",
    "context": 8192,
    "concurrency": 1,
    "engine": "vllm",
    "card": "rtx-3070",
    "asked": "primary",
    "activated_at": datetime(2026, 11, 21, 10, 0, tzinfo=UTC),
    "plan": ActivePlan(by="role primary of the catalog", need_bytes=6, available_bytes=7, fits=True),
}


def listed(folder: Path, overrides: str = "", fleet: bool = False, **changes: Any) -> Listing:
    if changes:
        write_active(folder, ActiveModel(**FACTS | changes))
    (folder / NAME).write_text(overrides, encoding="utf-8")
    loaded = None
    if fleet:
        shutil.copy(examples_folder() / "local-rtx3070.yaml", folder / "fleet.yaml")
        loaded = load_fleet(folder / "fleet.yaml")
    return listing(Place(folder, loaded, read_overrides(folder)), GROUND)


def test_every_role_and_every_model_of_the_fleet_has_a_line(tmp_path: Path) -> None:
    assert [row.name for row in listed(tmp_path).rows] == list(ROLES)
    assert [row.name for row in listed(tmp_path, fleet=True).rows] == ["base", *ROLES]


def test_what_fits_says_how_far_it_goes_and_what_does_not_is_marked(tmp_path: Path) -> None:
    rows = {row.name: row for row in listed(tmp_path).rows}
    assert (rows["primary"].fits, rows["primary"].context) == (True, 8192)
    assert rows["primary"].largest > 8192
    assert rows["primary"].copy == FACTS["repository"]
    assert not rows["vision"].fits
    assert {row.on_disk for row in rows.values()} == {"no"}


def test_the_active_model_is_marked_in_the_form_it_is_active_in(tmp_path: Path) -> None:
    active = {row.name for row in listed(tmp_path, asked="primary").rows if row.active}
    assert active == {"primary", "reasoning"}  # reasoning sets no form, and the same copy is what fits
    assert not any(row.active for row in listed(tmp_path, repository=FACTS["id"], quantization="nf4").rows)


def test_a_model_that_is_not_on_this_disk_is_said(tmp_path: Path) -> None:
    assert any("is not on this disk" in remark for remark in listed(tmp_path, asked="primary").remarks)


def test_files_that_are_gone_are_said(tmp_path: Path) -> None:
    assert f"its files are gone: no folder {tmp_path / 'x'}" in listed(tmp_path, path=str(tmp_path / "x")).remarks


def said(folder: Path, *arguments: Any, **changes: Any) -> str:
    changes = {"id": "embedded:mini", "asked": "embedded:mini", "quantization": "none", "context": 512} | changes
    place = str(resolve("embedded:mini", folder))
    return "\n".join(listed(folder, *arguments, repository=place, path=place, **changes).remarks)


def test_an_active_model_that_is_as_asked_has_no_remark(tmp_path: Path) -> None:
    assert said(tmp_path) == ""


def test_where_record_and_world_have_parted_it_is_said(tmp_path: Path) -> None:
    assert "activated for h200, and this is rtx-3070" in said(tmp_path, card="h200")
    assert "it was forced" in said(tmp_path, plan=ActivePlan(by="x", need_bytes=9, available_bytes=7, fits=False))
    assert "'primary' is meta-llama/Llama-3.1-8B-Instruct now, and embedded:mini is active" in said(
        tmp_path, asked="primary"
    )
    assert "context was 512 when it was activated and is 256 in models.local.yaml" in said(
        tmp_path, "embedded:mini: {context: 256}"
    )
    assert "'prmary', which it was activated as, is no longer known" in said(tmp_path, asked="prmary")


def test_a_damaged_record_is_a_remark_and_no_end(tmp_path: Path) -> None:
    active_file(tmp_path).write_text("{")
    found = listed(tmp_path)
    assert found.active is None
    assert "the record is damaged" in found.remarks[0]
    assert len(found.rows) == len(ROLES)


def test_a_download_that_stopped_halfway_is_called_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    place = tmp_path / "hf" / "hub" / "models--org--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "snapshots" / "abc" / "config.json").write_text("{}")
    assert on_disk("org/name", tmp_path)[0] == "part"
    (place / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    assert on_disk("org/name", tmp_path)[::2] == ("yes", place / "snapshots" / "abc")
    assert on_disk(None, tmp_path)[0] == "no"


def test_the_listing_as_data(tmp_path: Path) -> None:
    record = record_of(listed(tmp_path, asked="primary"), GROUND)
    assert record["card"] == "rtx-3070"
    assert record["active"]["id"] == FACTS["id"]
    first = record["models"][0]
    assert (first["name"], first["fits"], first["on_disk"], first["active"]) == ("primary", True, "no", True)
