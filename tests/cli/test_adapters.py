"""`onecard adapters` as a person at a terminal and as a script sees it: words, tables, JSON and exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from onecard.adapters.manifest import Verdict
from onecard.adapters.store import Store
from onecard.cli.main import main

Run = Callable[..., tuple[int, str, str]]
FLEET = """
name: here
card: {vram_gib: 8, bandwidth_gbs: 100}
store: ./modelstore
models: {base: {id: "embedded:mini"}}
agents: {writer: {model: base, adapter: style@production}}
"""


# The functions that make adapters for the store's own tests, and the S3 server they use.
_spec = spec_from_file_location("adapter_makes", Path(__file__).parents[1] / "adapters" / "conftest.py")
assert _spec and _spec.loader
_makes = module_from_spec(_spec)
sys.modules[_spec.name] = _makes
_spec.loader.exec_module(_makes)
s3_endpoint, s3_url, memory_url = _makes.s3_endpoint, _makes.s3_url, _makes.memory_url


@pytest.fixture(scope="module")
def makes() -> ModuleType:
    return _makes


@pytest.fixture
def store(tmp_path: Path, makes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Store:
    """./modelstore with three versions of writer/style, the last of which passed its gate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    store = Store("modelstore")
    for number in range(3):
        store.publish("writer", "style", makes.write_adapter(tmp_path / f"a{number}", 0.5 + number), makes.a_manifest())
    passed = Verdict(passed=True, at="2026-11-21T10:00:00Z", suite_digest="s", summary={})
    store.record_verdict("writer", "style", "v0003", passed)
    return store


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(["adapters", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_story_of_a_version(store: Store, run: Run) -> None:
    code, out, err = run("promote", "writer/style")
    assert (code, out, err) == (0, "writer/style@v0003 is in production\n", "")
    code, out, err = run("promote", "writer/style@v0002")
    assert (code, out) == (1, "")
    assert "not been evaluated" in err and "force it with a reason" in err
    code, out, err = run("promote", "writer/style@v0002", "--force")
    assert code == 2
    assert "needs a reason" in err
    code, out, err = run("promote", "writer/style@v0002", "--force", "--reason", "[bold]too wordy[/x]", "--by", "ada")
    assert code == 0
    assert "writer/style@v0002 is in production; `onecard adapters rollback` goes back to v0003" in out
    code, out, _ = run("list")
    assert code == 0
    assert out.split()[-6:] == ["3", "v0002", "v0003", "v0003", "passed", "2026-11-21"]
    code, out, _ = run("log", "writer/style")
    assert code == 0
    assert "[bold]too wordy[/x]" in out
    assert "promote, forced" in out and "ada" in out
    assert run("rollback", "writer/style")[:2] == (0, "writer/style@v0003 is in production\n")
    code, _, err = run("rollback", "writer/style")
    assert code == 1
    assert "no earlier production" in err


def test_tables_fit_a_hundred_columns(store: Store, run: Run, makes: ModuleType, tmp_path: Path) -> None:
    agent, name = "an-agent-with-a-name-of-sixty-four-letters-" + "x" * 21, "y" * 64
    store.publish(agent, name, tmp_path / "a0", makes.a_manifest(agent, name), by="somebody with a long name")
    for arguments in (
        ["list"], ["show", "writer/style"], ["show", "writer/style@v0001"], ["log", f"{agent}/{name}"], ["show", f"{agent}/{name}"],
    ):  # fmt: skip
        code, out, _ = run(*arguments)
        assert code == 0
        assert max(map(len, out.splitlines())) <= 100
    _, out, _ = run("list")
    rows = [line.split() for line in out.splitlines() if "v0003" in line]
    assert rows == [["writer/style", "3", "-", "v0003", "-", "passed", "2026-11-21"]]


def test_show_tells_everything_about_a_version(store: Store, run: Run) -> None:
    _, out, _ = run("show", "writer/style@candidate")
    stored = store.resolve("writer", "style@v0003")
    for text in (
        stored.digest,
        "writer/style@v0003 (candidate)",
        "rank 4, alpha 8",
        "2.500 -> 1.250",
        "0.93 GiB",
        "passed",
    ):
        assert text in out


def test_json_for_scripts(store: Store, run: Run) -> None:
    listed = json.loads(run("list", "--json")[1])
    assert [(item["agent"], item["name"], item["versions"]) for item in listed] == [
        ("writer", "style", ["v0001", "v0002", "v0003"])
    ]
    promoted = json.loads(run("promote", "writer/style", "--json")[1])
    assert promoted["aliases"]["production"] == "v0003"
    shown = json.loads(run("show", "writer/style@production", "--json")[1])
    assert shown["manifest"]["digest"] == promoted["digest"] == shown["verdict"]["digest"]
    assert len(json.loads(run("show", "writer/style", "--json")[1])) == 3
    assert json.loads(run("log", "writer/style", "--json")[1])[-1]["action"] == "promote"
    assert json.loads(run("verify", "--json")[1]) == {f"writer/style@v000{n}": [] for n in (1, 2, 3)}
    assert json.loads(run("remove", "writer/style@v0001", "--yes", "--json")[1]) == {"removed": "writer/style@v0001"}
    assert run("rollback", "writer/style", "--json")[:2] == (1, "")


def test_verify_says_what_differs(store: Store, run: Run) -> None:
    assert run("verify", "writer/style@candidate")[:2] == (0, "writer/style@candidate: as published\n")
    file = store.resolve("writer", "style@v0002").folder / "README.md"
    file.chmod(0o644)
    file.write_text("something else")
    code, out, _ = run("verify", "writer/style")
    assert code == 1
    assert "writer/style@v0001: as published" in out
    assert "writer/style@v0002: DIFFERS\n  README.md: sha256" in out
    assert run("verify", "writer/style@v0001")[0] == 0
    assert run("verify")[0] == 1


def test_remove_asks_first(store: Store, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.confirm", lambda *arguments, **more: False)
    assert run("remove", "writer/style@v0001")[0] == 1
    assert store.resolve("writer", "style@v0001")
    monkeypatch.setattr("click.confirm", lambda *arguments, **more: True)
    assert run("remove", "writer/style@v0001")[:2] == (0, "writer/style@v0001 is deleted\n")
    code, _, err = run("remove", "writer/style@v0003", "--yes")
    assert code == 1
    assert "v0003 is candidate" in err
    assert run("remove", "writer/style")[0] == 2


def test_the_store_of_a_fleet(store: Store, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fleet.yaml").write_text(FLEET)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, _ = run("list", "--fleet", "../fleet.yaml")
    assert code == 0
    assert "writer/style" in out
    assert run("list", "--store", "../modelstore")[1] == out
    code, _, err = run("list", "--fleet", "../fleet.yaml", "--store", "../modelstore")
    assert code == 2
    assert "not both" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "style"], "is not the address of an adapter"),
        (["show", "writer/stile"], "did you mean 'writer/style'"),
        (["show", "writer/style@v0009"], "has no 'v0009'"),
        (["show", "writer/style@newest"], "neither a version nor an alias"),
        (["show", "../../etc/passwd"], "cannot name an"),
        (["rollback", "writer/style@v0001"], "leave @v0001 out"),
        (["list", "--store", "nowhere"], "no store here"),
        (["list", "--store", "gopher://bucket/store"], "gopher"),
        (["list", "--fleet", "nowhere.yaml"], "nowhere.yaml"),
        (["remove", "writer/style@candidate", "--yes"], "is not a version"),
        (["frobnicate"], "No such command"),
    ],
)
def test_wrong_use_is_told_and_changes_nothing(
    store: Store, run: Run, makes: ModuleType, arguments: list[str], words: str
) -> None:
    before = makes.tree(store.root)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert makes.tree(store.root) == before


def test_an_adapter_that_cannot_be_read_does_not_hide_the_others(
    store: Store, run: Run, makes: ModuleType, tmp_path: Path
) -> None:
    store.publish("reader", "facts", tmp_path / "a0", makes.a_manifest("reader", "facts"))
    (store.root / "agents" / "reader" / "adapters" / "facts" / "aliases.json").write_text("{")
    code, out, err = run("list")
    assert code == 0
    assert "writer/style" in out and "unreadable" in out
    assert "reader/facts: " in err and "aliases.json" in err


def test_an_empty_store_says_what_fills_it(run: Run, tmp_path: Path) -> None:
    assert "`onecard train` publishes one" in run("list", "--store", str(tmp_path))[1]


def test_a_store_at_a_url_is_used_like_a_folder(
    store: Store, run: Run, memory_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = ("--store", memory_url)
    code, out, _ = run("list", *there)
    assert code == 0 and out.startswith(f"no adapters at {memory_url}: ") and f"import --store {memory_url}" in out
    code, _, err = run("promote", "writer/style", *there)
    assert code == 2 and "no store here" in err
    run("export", "writer/style@v0003", "--to", str(tmp_path / "style.tar"))
    for version in ("v0001", "v0002"):
        assert f"writer/style@{version} is published" in run("import", str(tmp_path / "style.tar"), *there)[1]
    shutil.rmtree(tmp_path / "cache")
    shown = " ".join(run("show", "writer/style@candidate", *there)[1].split())
    assert f"where {memory_url}/agents/writer/adapters/style/v0002" in shown
    assert "origin writer/style@v0003 of another store" in shown
    assert json.loads(run("show", "writer/style@v0001", *there, "--json")[1])["where"].endswith("/v0001")
    for arguments in (["list"], ["show", "writer/style"], ["log", "writer/style"]):
        assert run(*arguments, *there)[0] == 0
    assert run("verify", *there)[:2] == (0, "writer/style@v0001: as published\nwriter/style@v0002: as published\n")
    assert not (tmp_path / "cache").exists(), "looking downloads nothing"
    assert run("promote", "writer/style", *there)[0] == 1
    for version in ("v0001", "v0002"):
        assert run("promote", f"writer/style@{version}", *there, "--force", "--reason", "seen by hand")[0] == 0
    assert run("rollback", "writer/style", *there)[:2] == (0, "writer/style@v0001 is in production\n")
    assert run("export", "writer/style@production", "--to", str(tmp_path / "back"), *there)[0] == 0
    assert (tmp_path / "back" / "adapter_model.safetensors").read_bytes() == (
        store.resolve("writer", "style@v0003").folder / "adapter_model.safetensors"
    ).read_bytes()
    code, _, err = run("remove", "writer/style@v0001", "--yes", *there)
    assert code == 1 and "v0001 is production" in err


def test_a_store_in_a_bucket_is_looked_at_without_a_download(
    store: Store, run: Run, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run("list", "--store", s3_url)[1].startswith(f"no adapters at {s3_url}: ")
    run("export", "writer/style@v0003", "--to", str(tmp_path / "style.tar"))
    assert "writer/style@v0001 is published" in run("import", str(tmp_path / "style.tar"), "--store", s3_url)[1]
    shutil.rmtree(tmp_path / "cache")
    assert f"{s3_url}/agents/writer" in run("show", "writer/style@v0001", "--store", s3_url)[1]
    assert not (tmp_path / "cache").exists()
    code, _, err = run("list", "--store", "s3://no-such-bucket/x")
    assert code == 2 and "no such bucket" in err


def test_nothing_heavy_is_imported(store: Store) -> None:
    code = (
        "import sys; from onecard.cli.main import main; main(['adapters', 'list']);"
        "sys.exit(bool({'torch', 'transformers', 'numpy', 'safetensors'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
