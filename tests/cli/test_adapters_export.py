"""`onecard adapters export` and `import` as a person and a script see them, between two stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from onecard.adapters.manifest import Verdict
from onecard.adapters.store import Store
from onecard.cli.main import main
from onecard.engines.local import vllm_proof
from onecard.weights.inventory import fingerprint, resolve
from tests.engines.conftest import STYLES, make_adapter

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """./modelstore with writer/styled@v0001, which adds tokens and passed its gate, and beside it a plain LoRA of PEFT's."""
    mini, place = resolve("embedded:mini", Path()), tmp_path_factory.mktemp("made")
    adapter = make_adapter(mini, place / "styled", seed=3, added=STYLES)
    base = adapter.manifest.base.model_copy(update={"fingerprint": fingerprint(mini)})
    changes = {"base": base, "agent": "writer", "files": {}, "digest": ""}
    store = Store(place / "modelstore")
    store.publish("writer", "styled", adapter.folder, adapter.manifest.model_copy(update=changes))
    store.record_verdict(
        "writer", "styled", "v0001", Verdict(passed=True, at="2026-11-21T10:00:00Z", suite_digest="s", summary={})
    )
    make_adapter(mini, place / "my-lora", seed=4)
    return place


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], made: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(made)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["adapters", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return call


def test_a_version_travels_by_an_archive(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("export", "writer/styled@candidate", "--to", tmp_path / "s.tar")
    assert code == 0 and "writer/styled@v0001 is in" in out
    digest = out.split()[-1]
    assert len(digest) == 64
    code, out, _ = run(
        "import", tmp_path / "s.tar", "--store", tmp_path / "other", "--digest", digest[:12], "--agent", "reader"
    )
    assert code == 0
    assert "reader/styled@v0001 is published" in out
    assert "it is writer/styled@v0001 of another store" in out and "not evaluated here" in out
    assert run("verify", "--store", tmp_path / "other")[0] == 0
    code, _, err = run("promote", "reader/styled", "--store", tmp_path / "other")
    assert code == 1 and "has not been evaluated" in err, "an archive's verdict alone puts nothing into production"


def test_scripts_get_json(run: Run, tmp_path: Path) -> None:
    exported = json.loads(run("export", "writer/styled@v0001", "--to", tmp_path / "s", "--json")[1])
    assert exported["exported"] == "writer/styled@v0001" and (tmp_path / "s" / "archive.json").is_file()
    asked = ("import", tmp_path / "s", "--store", tmp_path / "other", "--with-verdict", "--json")
    imported = json.loads(run(*asked)[1])
    assert imported["imported"] == "writer/styled@v0001" and imported["verdict"] is True and imported["unknown"] == []
    assert run("promote", "writer/styled", "--store", tmp_path / "other")[0] == 0


def test_another_archive_than_the_one_asked_for_is_refused(run: Run, tmp_path: Path) -> None:
    run("export", "writer/styled@v0001", "--to", tmp_path / "s.tar")
    for digest in ("0" * 64, ""):
        code, _, err = run("import", tmp_path / "s.tar", "--store", tmp_path / "other", "--digest", digest or "ab")
        assert code == 1 and "archive digest is" in err
    assert not (tmp_path / "other").exists()


def test_a_lora_made_elsewhere_is_imported_with_its_base(run: Run, tmp_path: Path) -> None:
    asked = ("import", "my-lora", "--base", "embedded:mini", "--agent", "writer", "--store", tmp_path / "other")
    code, out, _ = run(*asked)
    assert (
        code == 0
        and "writer/my-lora@v0001 is published" in out
        and "not trained here; unknown: recipe, data_sha256, training" in out
    )
    _, shown, _ = run("show", "writer/my-lora@v0001", "--store", tmp_path / "other")
    assert "the folder my-lora" in shown and "not trained here; unknown: recipe, data_sha256, training" in shown
    assert "not trained here" in " ".join(run("show", "writer/my-lora", "--store", tmp_path / "other")[1].split())
    assert Store(tmp_path / "other").resolve("writer", "my-lora@v0001").manifest.base.id == "embedded:mini"


def test_wrong_use_is_told(run: Run, tmp_path: Path) -> None:
    for arguments, problem in (
        (("export", "writer/styled", "--to", tmp_path / "x"), "name the version"),
        (("export", "writer/styled@v0001", "--to", tmp_path / "x", "--base", "y"), "go with --for vllm"),
        (("export", "writer/styled@v0001", "--to", tmp_path), "exists already"),
        (("export", "writer/styled@v0009", "--to", tmp_path / "x"), "has no 'v0009'"),
        (("import", tmp_path / "none"), "no such file"),
        (("import", "my-lora", "--agent", "writer"), "needs --base and --agent"),
        (("import", "my-lora", "--base", "embedded:mini", "--agent", "../x"), "cannot name an agent"),
        (("import", "my-lora", "--base", "embedded:mini", "--agent", "x", "--with-verdict"), "are for archives"),
        (("import", "my-lora", "--base", "embedded:nano", "--agent", "x"), "no model 'embedded:nano'"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "") and problem in err, arguments
    assert list(tmp_path.iterdir()) == []


def test_an_export_for_vllm_says_what_it_proved_and_how_to_serve_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_proof, "NEW_TOKENS", 4)
    code, out, _ = run("export", "writer/styled@candidate", "--for", "vllm", "--to", tmp_path / "served")
    assert code == 0
    assert "4,098 tokens with the rows of <STYLE_TERSE>, <STYLE_VERBOSE>" in out
    assert "greedy tokens equal, logits differ by at most 0 over" in out
    assert f"vllm serve {tmp_path / 'served' / 'base'} --enable-lora --max-lora-rank 8" in out
    asked = ("export", "writer/styled@candidate", "--for", "vllm", "--to", tmp_path / "again", "--unproven")
    code, out, _ = run(*asked)
    assert code == 0 and "not proven" in out
    code, _, err = run(*asked)
    assert code == 2 and "each has its own" in err
