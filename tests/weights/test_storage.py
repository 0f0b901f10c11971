"""The decision what goes: never what is needed, the least recently used first, enough or by how much not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.weights.storage import Held, Storage, choose, why_kept

KEYS = [(1, inode) for inode in range(8)]
SIZES = dict(zip(KEYS, (1, 2, 4, 8, 16, 32, 64, 0), strict=True))


def a_model(id: str, size: int, used_at: float, **wishes: object) -> Held:
    return Held(id, "hub", Path(id), {(1, hash(id)): size}, used_at=used_at, **wishes)  # type: ignore[arg-type]


@st.composite
def storages(draw: st.DrawFn) -> tuple[Storage, dict[str, str]]:
    models = []
    for number in range(draw(st.integers(0, 6))):
        keys = draw(st.sets(st.sampled_from(KEYS), max_size=4))
        models.append(
            Held(
                f"m{number}",
                "hub",
                Path(f"m{number}"),
                {key: SIZES[key] for key in keys},
                used_at=draw(st.integers(0, 4)),
                needed_by=draw(st.sampled_from([(), (), ("a.yaml",)])),
                fixed=draw(st.sampled_from([None, None, None, "yours"])),
            )
        )
    in_use = {model.id: "process 7" for model in models if draw(st.integers(0, 4)) == 0}
    return Storage(tuple(models), frozenset(draw(st.sets(st.sampled_from(KEYS), max_size=2)))), in_use


def gained(storage: Storage, ids: set[str]) -> int:
    """Bytes that come free, told file by file."""
    total = 0
    for key in KEYS:
        owners = {model.id for model in storage.models if key in model.blobs}
        if owners and owners <= ids and key not in storage.outside:
            total += SIZES[key]
    return total


@given(storages(), st.integers(0, 140), st.booleans())
def test_what_must_stay_stays(made: tuple[Storage, dict[str, str]], need: int, force: bool) -> None:
    storage, in_use = made
    pruning = choose(storage, need, in_use, force=force)
    for model in pruning.remove:
        assert not model.fixed
        assert model.id not in in_use
        assert force or not model.needed_by
        assert model.id not in pruning.kept


@given(storages(), st.integers(0, 140), st.booleans())
def test_frees_enough_or_says_by_how_much_not(made: tuple[Storage, dict[str, str]], need: int, force: bool) -> None:
    storage, in_use = made
    pruning = choose(storage, need, in_use, force=force)
    ids = {model.id for model in pruning.remove}
    assert pruning.frees_bytes == gained(storage, ids) == storage.freed_bytes(pruning.remove)
    assert pruning.short_bytes == max(0, need - pruning.frees_bytes)
    may_go = {model.id for model in storage.models if why_kept(model, in_use, force=force) is None}
    if pruning.short_bytes:
        assert pruning.frees_bytes == gained(storage, may_go), "more could have gone"


@given(storages(), st.integers(1, 140))
def test_the_least_recently_used_go_first(made: tuple[Storage, dict[str, str]], need: int) -> None:
    storage, in_use = made
    pruning = choose(storage, need, in_use)
    ids = {model.id for model in pruning.remove}
    assert [m.used_at for m in pruning.remove] == sorted(m.used_at for m in pruning.remove)
    for model in storage.models:
        stays_though_older = model.id not in ids and any(model.used_at < other.used_at for other in pruning.remove)
        if stays_though_older and model.id not in pruning.kept:
            assert gained(storage, ids | {model.id}) == gained(storage, ids), (
                "older, and its going would free something"
            )
    if pruning.remove and not pruning.short_bytes:
        assert gained(storage, ids - {pruning.remove[-1].id}) < need, "the last of them was not needed"
    for model in pruning.remove:
        assert gained(storage, ids - {model.id}) < pruning.frees_bytes, "it goes and frees nothing"


def test_one_older_model_that_is_enough_goes_alone() -> None:
    storage = Storage((a_model("new", 50, 9), a_model("old", 30, 1), a_model("older", 20, 0)))
    assert [model.id for model in choose(storage, 20, {}).remove] == ["older"]
    assert [model.id for model in choose(storage, 21, {}).remove] == ["older", "old"]


def test_a_shared_file_counts_once_and_is_freed_with_its_last_holder() -> None:
    shared = {(1, 1): 100}
    one = Held("one", "hub", Path("one"), {**shared, (1, 2): 5}, used_at=1)
    two = Held("two", "hub", Path("two"), {**shared, (1, 3): 7}, used_at=2)
    storage = Storage((one, two))
    assert storage.bytes == 112
    assert storage.freed_bytes([one]) == 5
    assert storage.freed_bytes([one, two]) == 112


def test_a_model_whose_files_a_needed_model_holds_is_not_removed_for_nothing() -> None:
    blobs = {(1, 1): 100}
    needed = Held("needed", "hub", Path("a"), blobs, used_at=1, needed_by=("f.yaml",))
    twin = Held("twin", "hub", Path("b"), blobs, used_at=0)
    pruning = choose(Storage((needed, twin)), 50, {})
    assert pruning.remove == ()
    assert pruning.short_bytes == 50


@pytest.mark.parametrize(
    ("wishes", "in_use", "force", "word"),
    [
        ({"needed_by": ("f.yaml",)}, {}, False, "f.yaml"),
        ({"needed_by": ("f.yaml",)}, {}, True, None),
        ({}, {"m": "process 7 (vllm)"}, True, "process 7"),
        ({"fixed": "part of the package"}, {}, True, "package"),
        ({}, {}, False, None),
    ],
)
def test_why_a_model_stays(wishes: dict[str, object], in_use: dict[str, str], force: bool, word: str | None) -> None:
    why = why_kept(a_model("m", 1, 0, **wishes), in_use, force=force)
    assert why is None if word is None else why is not None and word in why
