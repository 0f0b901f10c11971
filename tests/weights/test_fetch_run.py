"""Fetching through every fault a network or a disk has: each is handled, and nothing half-written ever takes a whole file's name."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onecard.errors import DiskFull, InputError, MachineError, MissingPart, OnecardError
from onecard.weights import fetch_library
from onecard.weights.fetch import RepoPlan, choose_files
from onecard.weights.fetch_cache import RepoPlace, digest_of, states_of
from onecard.weights.fetch_listing import list_repo, recall_repo
from onecard.weights.fetch_run import carry_out
from onecard.weights.hub_access import access
from onecard.weights.inventory import resolve
from onecard.weights.places import hub_cache

SIZE = 1_500_000


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onecard.weights.fetch.PAUSES_S", (0.01,) * 5)
    monkeypatch.setattr(
        "huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda seconds: None, time=time.time)
    )


@pytest.fixture
def model(hub: Any, tmp_path: Path) -> Path:
    """org/name on the hub; the file behind its weights."""
    weights = tmp_path / "weights"
    weights.write_bytes(random.Random(3).randbytes(SIZE))
    hub.add("org/name", {"config.json": b'{"model_type": "llama"}', "model.safetensors": weights})
    return weights


def plan() -> RepoPlan:
    listing = list_repo("org/name")
    wanted, left_out = choose_files(listing)
    return RepoPlan(listing, tuple(states_of(listing, wanted, hub_cache())), tuple(left_out))


def fetch(notes: set[str] | None = None) -> RepoPlan:
    """Plans and carries out; returns the plan. What files said on the way goes into `notes`."""
    planned = plan()
    carry_out(
        [planned],
        access(),
        hub_cache(),
        lambda tracks: (notes if notes is not None else set()).update(t.note for t in tracks),
    )
    return planned


def check_whole(weights: Path) -> None:
    snapshot = resolve("org/name", Path("/nowhere"))
    assert (snapshot / "model.safetensors").read_bytes() == weights.read_bytes()
    assert plan().whole
    assert not list(hub_cache().rglob("*.incomplete"))


def check_nothing_counts() -> None:
    """No blob under a name that is not its content's, and no model."""
    for blob in hub_cache().glob("models--*/blobs/*"):
        assert blob.suffix == ".incomplete" or digest_of(blob, blob.name) == blob.name
    with pytest.raises(MissingPart):
        resolve("org/name", Path("/nowhere"))


def partial() -> Path:
    listing = list_repo("org/name")
    file = next(file for file in listing.files if file.name == "model.safetensors")
    place = RepoPlace(hub_cache(), "org/name")
    place.partial(file).parent.mkdir(parents=True, exist_ok=True)
    return place.partial(file)


def on_blobs(hub: Any, answer: Callable[[Any], None], times: int = 1) -> list[str]:
    """The next so many questions for the weights are answered in this way; returns the ranges that were asked for."""
    asked: list[str] = []

    def trick(handler: Any, path: str) -> bool:
        asked.append(handler.headers.get("range", ""))
        if len(asked) > times:
            return False
        answer(handler)
        return True

    hub.tricks["blobs"] = trick
    return asked


def refuse(status: int, **headers: str) -> Callable[[Any], None]:
    return lambda handler: handler.refuse(
        status, "", "no", {name.replace("_", "-"): value for name, value in headers.items()}
    )


def promise_and_leave(weights: Path, sent: int) -> Callable[[Any], None]:
    """The whole file is promised, and the connection ends after so many bytes."""

    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(SIZE))
        handler.end_headers()
        handler.wfile.write(weights.read_bytes()[:sent])
        handler.wfile.flush()
        handler.close_connection = True

    return answer


def test_a_model_comes_whole_and_the_next_time_nothing_does(hub: Any, model: Path) -> None:
    first = fetch()
    assert first.needed_bytes == SIZE + 23
    check_whole(model)
    hub.seen.clear()
    assert fetch().whole
    assert [one.path for one in hub.seen if "resolve" in one.path or one.host == "blobs"] == []
    listing, states = recall_repo("org/name", "main", hub_cache())
    assert listing.commit == first.listing.commit and {one.state for one in states} == {"whole"}


def test_the_token_goes_to_the_hub_and_not_where_it_redirects_to(
    hub: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.granted.add("hf_mine")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    fetch()
    sent = {one.host: one.headers.get("authorization") for one in hub.seen if "model.safetensors" in one.path}
    assert sent == {"hub": "Bearer hf_mine", "blobs": None}


def test_a_beginning_is_resumed_from_its_last_byte(hub: Any, model: Path) -> None:
    partial().write_bytes(model.read_bytes()[:1_000_000])
    assert plan().needed_bytes == SIZE - 1_000_000 + 23
    asked = on_blobs(hub, lambda handler: None, times=0)
    fetch()
    assert asked == ["bytes=1000000-"]
    check_whole(model)


def test_a_hub_without_ranges_sends_it_all_again(hub: Any, model: Path) -> None:
    partial().write_bytes(model.read_bytes()[:1_000_000])
    hub.ranges = False
    fetch()
    check_whole(model)


def test_a_beginning_of_something_else_is_found_out_by_its_hash(hub: Any, model: Path) -> None:
    partial().write_bytes(b"x" * 1_000_000)
    notes: set[str] = set()
    asked = on_blobs(hub, lambda handler: None, times=0)
    fetch(notes)
    assert asked == ["bytes=1000000-", ""]
    check_whole(model)


@pytest.mark.parametrize("length", [SIZE, SIZE + 5])
def test_a_beginning_as_long_as_the_file_or_longer_is_no_trap(hub: Any, model: Path, length: int) -> None:
    partial().write_bytes(b"x" * length)
    fetch()
    check_whole(model)


def test_a_broken_connection_is_resumed(hub: Any, model: Path) -> None:
    asked = on_blobs(hub, promise_and_leave(model, 700_000))
    fetch()
    assert len(asked) == 2 and asked[1].startswith("bytes=") and int(asked[1][6:-1]) > 0
    check_whole(model)


def test_a_connection_that_always_breaks_is_an_error_and_what_came_is_kept(hub: Any, model: Path) -> None:
    on_blobs(hub, promise_and_leave(model, 0), times=1000)
    with pytest.raises(MachineError) as error:
        fetch()
    assert "broke" in error.value.problem
    check_nothing_counts()
    hub.tricks.clear()
    fetch()
    check_whole(model)


def test_damage_on_the_way_is_fetched_again(hub: Any, model: Path) -> None:
    asked = on_blobs(hub, lambda handler: handler.send(200, b"x" * SIZE, {}))
    fetch()
    assert asked == ["", ""]
    check_whole(model)


def test_damage_that_stays_is_an_error_and_is_thrown_away(hub: Any, model: Path) -> None:
    on_blobs(hub, lambda handler: handler.send(200, b"x" * SIZE, {}), times=1000)
    with pytest.raises(MachineError, match="its hash differs, twice"):
        fetch()
    check_nothing_counts()
    assert not partial().exists()


def test_a_file_shorter_than_the_hub_lists_never_becomes_one(hub: Any, model: Path) -> None:
    on_blobs(hub, lambda handler: handler.send(200, model.read_bytes()[:1000], {}), times=1000)
    with pytest.raises(MachineError):
        fetch()
    check_nothing_counts()


def test_a_file_longer_than_the_hub_lists_never_becomes_one(hub: Any, model: Path) -> None:
    on_blobs(hub, lambda handler: handler.send(200, model.read_bytes() + b"more", {}), times=1000)
    with pytest.raises(MachineError):
        fetch()
    check_nothing_counts()


def test_too_many_questions_are_asked_again_when_the_server_says(hub: Any, model: Path) -> None:
    asked = on_blobs(hub, refuse(429, Retry_After="0"), times=2)
    fetch()
    assert len(asked) == 3
    check_whole(model)


def test_a_wait_of_an_hour_is_said_and_not_slept(hub: Any, model: Path) -> None:
    on_blobs(hub, refuse(429, Retry_After="3600"), times=1000)
    with pytest.raises(MachineError, match="3,600 seconds"):
        fetch()
    check_nothing_counts()


def test_a_503_passes_or_is_said(hub: Any, model: Path) -> None:
    asked = on_blobs(hub, refuse(503), times=3)
    fetch()
    assert len(asked) == 4
    check_whole(model)
    shutil.rmtree(hub_cache())
    on_blobs(hub, refuse(503), times=1000)
    with pytest.raises(MachineError, match="file store answers 503"):
        fetch()
    check_nothing_counts()


def test_a_refusal_that_does_not_pass_is_said_at_once(hub: Any, model: Path) -> None:
    asked = on_blobs(hub, refuse(403), times=1000)
    with pytest.raises(MachineError, match="403"):
        fetch()
    assert len(asked) == 1
    check_nothing_counts()


def test_a_range_nobody_has_begins_anew(hub: Any, model: Path) -> None:
    partial().write_bytes(b"x" * 1_000_000)
    on_blobs(hub, lambda handler: handler.send(416, b"", {"Content-Range": "bytes */10"}))
    fetch()
    check_whole(model)


def test_a_server_that_falls_silent_is_left_and_resumed(hub: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.3")
    ended = threading.Event()

    def fall_silent(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(SIZE))
        handler.end_headers()
        handler.wfile.write(model.read_bytes()[:600_000])
        handler.wfile.flush()
        ended.wait(5)

    try:
        asked = on_blobs(hub, fall_silent)
        fetch()
        assert len(asked) == 2 and asked[1].startswith("bytes=")
        check_whole(model)
        shutil.rmtree(hub_cache())
        on_blobs(hub, lambda handler: ended.wait(5), times=1000)
        with pytest.raises(MachineError, match=r"no byte came within 0\.3 s"):
            fetch()
        check_nothing_counts()
    finally:
        ended.set()


def test_a_renamed_repository_is_followed(hub: Any, hub_server: Any, model: Path) -> None:
    new = hub.repos["org/name"]
    hub.add("org/new", new.files)
    hub.repos["org/name"] = hub_server.Repo(new.files, moved_to="org/new")
    fetch()
    check_whole(model)


def test_a_server_that_redirects_in_a_circle_is_an_error(hub: Any, model: Path) -> None:
    on_blobs(hub, lambda handler: handler.send(302, b"", {"Location": handler.path}), times=10_000)
    with pytest.raises(MachineError):
        fetch()
    check_nothing_counts()


@pytest.mark.parametrize("damage", ["short", "bit", "gone"])
def test_what_was_damaged_on_the_disk_is_fetched_again(hub: Any, model: Path, damage: str) -> None:
    fetch()
    blob = (resolve("org/name", Path("/nowhere")) / "model.safetensors").resolve()
    content = bytearray(model.read_bytes())
    content[7] ^= 1
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(content if damage == "bit" else model.read_bytes()[:900_000])
    planned = plan()
    assert [one.state for one in planned.files if one.file.name == "model.safetensors"] == [
        "absent" if damage == "gone" else "damaged"
    ]
    _, states = recall_repo("org/name", "main", hub_cache())
    assert "damaged" in {one.state for one in states}, "offline it is seen as well"
    asked = on_blobs(hub, lambda handler: None, times=0)
    fetch()
    assert asked == ["bytes=900000-" if damage == "short" else ""]
    check_whole(model)


def test_a_disk_that_is_full_says_so_and_nothing_counts(hub: Any, model: Path) -> None:
    partial().symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="full") as error:
        fetch()
    assert "the same command resumes" in (error.value.next_step or "")
    check_nothing_counts()
    partial().unlink()
    fetch()
    check_whole(model)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A volume of one MiB, where this user may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a volume")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_volume_that_fills_up_resumes_when_it_has_grown(
    hub: Any, model: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(small_disk))
    with pytest.raises(DiskFull, match="full"):
        fetch()
    begun = partial().stat().st_size
    assert 0 < begun < SIZE
    check_nothing_counts()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    asked = on_blobs(hub, lambda handler: None, times=0)
    fetch()
    assert asked == [f"bytes={begun}-"]
    check_whole(model)


def test_a_folder_that_is_not_ours_is_said(
    hub: Any, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(MachineError, match="cannot be written"):
        fetch()


def test_two_at_once_do_not_spoil_each_other(hub: Any, model: Path) -> None:
    hub.pause_s = 0.002
    planned = [plan(), plan()]
    failures: list[OnecardError] = []

    def one(which: RepoPlan) -> None:
        try:
            carry_out([which], access(), hub_cache())
        except OnecardError as error:
            failures.append(error)

    both = [threading.Thread(target=one, args=(which,)) for which in planned]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert not failures
    check_whole(model)
    assert sum(one.body_bytes for one in hub.seen if one.host == "blobs") == SIZE, "it came once"


def test_files_of_the_same_content_come_once(hub: Any, model: Path) -> None:
    hub.repos["org/name"].files |= {"a.json": b"{}  ", "b.json": b"{}  "}
    fetch()
    snapshot = resolve("org/name", Path("/nowhere"))
    assert (snapshot / "a.json").read_bytes() == (snapshot / "b.json").read_bytes() == b"{}  "


def test_an_empty_file_is_a_file(hub: Any, model: Path) -> None:
    hub.repos["org/name"].files |= {"added_tokens.json": b""}
    fetch()
    assert (resolve("org/name", Path("/nowhere")) / "added_tokens.json").read_bytes() == b""
    assert plan().whole


def test_one_repository_that_fails_leaves_the_other_whole(hub: Any, model: Path) -> None:
    hub.add("org/other", {"config.json": b'{"a": 1}', "model.safetensors": model.with_name("none")})
    model.with_name("none").write_bytes(b"weights of the other" * 1000)
    first = plan()
    listing = list_repo("org/other")
    other = RepoPlan(listing, tuple(states_of(listing, choose_files(listing)[0], hub_cache())))

    def refuse_other(handler: Any, path: str) -> bool:
        if "other" in path:
            time.sleep(0.2)
            handler.refuse(403, "", "no")
        return "other" in path

    hub.tricks["blobs"] = refuse_other
    with pytest.raises(MachineError, match="403"):
        carry_out([first, other], access(), hub_cache(), at_once=4)
    assert plan().whole and resolve("org/name", Path("/nowhere"))
    with pytest.raises(MissingPart):
        resolve("org/other", Path("/nowhere"))


def test_stopping_keeps_what_has_come(hub: Any, model: Path) -> None:
    hub.pause_s = 0.02

    def press(tracks: Any) -> None:
        if any(track.done_bytes >= 300_000 for track in tracks):
            raise KeyboardInterrupt

    planned = plan()
    with pytest.raises(KeyboardInterrupt):
        carry_out([planned], access(), hub_cache(), press)
    begun = partial().stat().st_size
    assert 0 < begun < SIZE
    check_nothing_counts()
    hub.pause_s = 0.0
    fetch()
    check_whole(model)


def test_without_huggingface_hub_the_missing_part_is_named(
    hub: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named '{name}'")

    planned = plan()
    monkeypatch.setattr(fetch_library.importlib, "import_module", absent)
    with pytest.raises(MissingPart, match="huggingface_hub is not installed"):
        carry_out([planned], access(), hub_cache())


def test_an_index_that_names_what_is_not_there_leaves_no_model(hub: Any, model: Path) -> None:
    hub.repos["org/name"].files |= {
        "model.safetensors.index.json": b'{"weight_map": {"t": "model-00002-of-00002.safetensors"}}'
    }
    with pytest.raises(InputError, match="model-00002-of-00002"):
        fetch()
    with pytest.raises(OnecardError):
        resolve("org/name", Path("/nowhere"))


def test_links_are_relative(hub: Any, model: Path) -> None:
    fetch()
    assert not (resolve("org/name", Path("/nowhere")) / "config.json").readlink().is_absolute()
