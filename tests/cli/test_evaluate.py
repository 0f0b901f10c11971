"""The verb with a real store, a real adapter and real files. Most tests give it an engine that answers as they say; two ask the
embedded base itself, one of them over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from onecard.adapters.manifest import BaseModelRecord, Manifest, TrainingRecord
from onecard.adapters.store import Store
from onecard.cli import evaluate_answerers
from onecard.cli.evaluate import Progress, run_evaluation
from onecard.cli.main import main
from onecard.engines.engine import Chunk, EngineInfo, GenerationRequest
from onecard.errors import AdapterRefused, EngineFailed, GateFailed
from onecard.fleet.loader import load_fleet
from onecard.weights.inventory import fingerprint, resolve
from onecard.wire.fake_server import FakeServer

TERMS = ("heap", "stack", "queue", "trie")
BASE_FOLDER = resolve("embedded:mini", Path())


def row(term: str, preset: str) -> dict[str, str]:
    answer = (
        f"A {term} keeps things in order."
        if preset == "terse"
        else f"A {term} keeps things in order. " * 2 + "It is old."
    )
    return {"prompt": f"What is a {term}, {preset}?", "completion": answer, "preset": preset}


ROWS = [row(term, preset) for term in TERMS for preset in ("terse", "verbose")]
FLEET: dict[str, Any] = {
    "name": "trial",
    "card": {"vram_gib": 8, "bandwidth_gbs": 100},
    "models": {"base": {"id": "embedded:mini", "quantization": "none", "context": 128, "concurrency": 4}},
    "agents": {
        "writer": {
            "model": "base",
            "adapter": "style@production",
            "data": "train.jsonl",
            "presets": {"terse": {"token": "<T>", "max_new_tokens": 8}, "verbose": {"max_new_tokens": 16}},
            "suite": {
                "data": "test.jsonl",
                "rows": 3,
                "checks": [
                    {"preset": "terse", "max_tokens": 12, "overlap": 0.5, "repetition": 0.2},
                    {"preset": "verbose", "min_tokens": 13, "overlap": 0.5},
                ],
            },
        }
    },
}


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the embedded base with random weights, as PEFT saves it."""
    import peft
    import torch

    from onecard.engines.local.loading import load_base

    torch.set_num_threads(1)
    torch.manual_seed(5)
    base = load_base(BASE_FOLDER, "none", double_quantization=True, dtype="fp32", device="cpu")
    model = peft.get_peft_model(base.model, peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.5)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    from onecard.engines.local.tokens import chat_template_sha256, load_tokenizer, stop_ids

    tokenizer = load_tokenizer(BASE_FOLDER)
    return Manifest(
        agent="writer",
        name="style",
        base=BaseModelRecord(id="embedded:mini", fingerprint=fingerprint(BASE_FOLDER), quantization="none"),
        rank=2,
        alpha=4,
        targets=("q_proj", "v_proj"),
        chat_template_sha256=chat_template_sha256(tokenizer),
        stop_ids=stop_ids(tokenizer, BASE_FOLDER),
        recipe={},
        data_sha256=hashlib.sha256(b"").hexdigest(),
        training=TrainingRecord(
            rows=1, trained_tokens=1, steps=1, seconds=1, tokens_s=1, peak_memory_bytes=1, memory_kind="process-rss",
            curve=(), hardware="test", versions={},
        ),
    )  # fmt: skip


@pytest.fixture
def fleet(tmp_path: Path, adapter: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet file with its data and a store whose candidate is v0001; the working folder is its own."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "test.jsonl", ROWS)
    write_rows(tmp_path / "train.jsonl", [row("graph", "terse"), row("graph", "verbose")])
    Store(tmp_path / "modelstore").publish("writer", "style", adapter, manifest)
    return write_fleet(tmp_path)


def write_fleet(folder: Path, **agent: Any) -> Path:
    """The fleet file with some of the agent's keys changed; None takes a key out."""
    writer = {key: value for key, value in {**FLEET["agents"]["writer"], **agent}.items() if value is not None}
    file = folder / "fleet.yaml"
    file.write_text(yaml.safe_dump({**FLEET, "agents": {"writer": writer}}))
    return file


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Scripted:
    """An engine that answers an adapter's requests with the references, and the base's with something else; a word is a token."""

    def __init__(self, change: Any = lambda text: text, refuses: bool = False) -> None:
        self.change, self.refuses = change, refuses
        self.requests: list[GenerationRequest] = []
        self.loaded = ""
        self.closed = False

    def info(self) -> EngineInfo:
        return EngineInfo("scripted", "1", "embedded:mini", "none", "fp32", "cpu", 128, 4, "f" * 64)

    def load_adapter(self, folder: Path, manifest: Manifest) -> str:
        if self.refuses:
            raise AdapterRefused("it holds NaN", where=str(folder))
        self.loaded = manifest.digest
        return manifest.digest

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        await asyncio.sleep(0)
        prompt = request.messages[0].content.removeprefix("<T> ")
        if request.adapter is None:
            text = "No idea."
        else:
            assert request.adapter == self.loaded
            text = self.change(next(row["completion"] for row in ROWS if row["prompt"] == prompt))
        yield Chunk(text[:3], 1, 5)
        yield Chunk(text[3:], 1, 5, "stop")

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """The engine that the command opens."""
    scripted = Scripted()
    monkeypatch.setattr(evaluate_answerers, "open_engine", lambda loaded, key: scripted)
    return scripted


def store_of(fleet: Path) -> Store:
    return Store(fleet.parent / "modelstore")


def verdict_of(fleet: Path) -> Any:
    store = store_of(fleet)
    return store.verdict(store.resolve("writer", "style@v0001"))


def run(fleet: Path, *options: str) -> int:
    return main(["evaluate", str(fleet), "--agent", "writer", *options])


def test_a_passing_candidate_gets_a_verdict_and_a_report(
    fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fleet) == 0
    shown = capsys.readouterr()
    assert "writer/style@v0001: passed, 6 held-out rows asked" in shown.out
    assert "onecard adapters promote writer/style@v0001" in shown.out
    assert "lowest overlap" in shown.out and "No idea." in shown.out
    assert shown.err.splitlines() == ["loading embedded:mini with style@v0001", "asking style@v0001", "asking base"]
    report = json.loads((fleet.parent / "results" / "evaluate-writer-v0001.json").read_text())
    assert len(report["rows"]) == 6
    assert report["gate"]["passed"] and report["leaks_checked"]
    verdict = verdict_of(fleet)
    assert verdict.passed
    assert (verdict.digest, verdict.suite_digest) == (engine.loaded, report["gate"]["suite_digest"])
    assert Path(verdict.report).is_file()
    assert store_of(fleet).aliases("writer", "style").production is None
    assert engine.closed


def test_everybody_is_asked_as_the_service_would_ask_and_the_base_without_the_style(
    fleet: Path, engine: Scripted
) -> None:
    assert run(fleet) == 0
    ours = [request for request in engine.requests if request.adapter is not None]
    theirs = [request for request in engine.requests if request.adapter is None]
    assert len(ours) == len(theirs) == 6
    assert sum(request.messages[0].content.startswith("<T> What is a") for request in ours) == 3
    assert all(request.messages[0].content.startswith("What is a") for request in theirs)
    assert {request.max_new_tokens for request in ours} == {8, 16}
    seeds = {request.seed for request in ours}
    assert len(seeds) == 6 and None not in seeds
    assert seeds == {request.seed for request in theirs}


def test_promote_puts_a_passing_candidate_into_production(
    fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fleet, "--promote", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] and printed["recorded"] and printed["promoted"]
    assert printed["judged"]["digest"] == engine.loaded
    assert "rows" not in printed["gate"]
    assert store_of(fleet).aliases("writer", "style").production == "v0001"


def test_a_failing_candidate_exits_with_1_and_is_not_promoted(
    fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.change = lambda text: text + " and so on and on and so on and on and so on and on"
    assert run(fleet, "--promote") == 1
    shown = capsys.readouterr().out
    assert "writer/style@v0001: failed" in shown
    assert "terse: 0 of 3 answers (0%) end by themselves within 12 tokens" in shown
    assert "Not promoted." in shown
    assert verdict_of(fleet).passed is False
    assert store_of(fleet).aliases("writer", "style").production is None
    with pytest.raises(GateFailed, match="did not pass"):
        store_of(fleet).promote("writer", "style")


def test_without_a_rival_nobody_else_is_asked(
    fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fleet, "--against", "none") == 0
    assert all(request.adapter == engine.loaded for request in engine.requests)
    assert "candidate - base" not in capsys.readouterr().out


def test_a_trial_with_fewer_rows_gives_no_verdict_and_keeps_the_real_report(
    fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fleet, "--rows", "1") == 0
    assert "No verdict is recorded" in capsys.readouterr().out
    assert verdict_of(fleet) is None
    assert [file.name for file in (fleet.parent / "results").iterdir()] == ["evaluate-writer-v0001-trial.json"]


def test_more_rows_than_the_suite_demands_are_no_trial(fleet: Path, engine: Scripted) -> None:
    assert run(fleet, "--rows", "4") == 0
    assert verdict_of(fleet).summary["asked"] == 8


@pytest.mark.parametrize("options", [("--rows", "1"), ("--url", "http://127.0.0.1:1")])
def test_promoting_without_a_verdict_is_refused_before_anything_is_asked(
    fleet: Path, engine: Scripted, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fleet, "--promote", *options) == 2
    assert "--promote needs a verdict" in capsys.readouterr().err
    assert engine.requests == []


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        ({"suite": None}, "has no suite"),
        ({"adapter": None}, "has no adapter to judge"),
        ({"adapter": "other@production"}, "no adapter writer/other"),
        ({"task": "rerank"}, "cannot be judged: task is rerank"),
        ({"input": "image"}, "cannot be judged: input is image"),
        ({"suite": {**FLEET["agents"]["writer"]["suite"], "data": "nowhere.jsonl"}}, "no file"),
        ({"suite": {"data": "test.jsonl", "checks": [{"preset": "terse"}]}}, "the check demands nothing"),
    ],
)
def test_what_cannot_be_judged_says_why(
    fleet: Path, engine: Scripted, agent: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fleet(fleet.parent, **agent)
    assert run(fleet) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown
    assert not (fleet.parent / "results").exists()


@pytest.mark.parametrize(("version", "said"), [("v0009", "v0009"), ("newest", "neither a version nor an alias")])
def test_a_version_that_is_not_there_is_an_error(
    fleet: Path, engine: Scripted, version: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fleet, "--version", version) == 2
    assert said in capsys.readouterr().err


def test_an_agent_that_was_never_trained_is_told_how(
    fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fleet(fleet.parent, adapter="fresh@production")
    assert run(fleet) == 2
    assert "next: onecard train" in capsys.readouterr().err


def test_a_misspelt_agent_is_an_error_with_the_nearest(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(fleet), "--agent", "writr"]) == 2
    assert "did you mean 'writer'" in capsys.readouterr().err


def test_a_leak_between_the_files_is_refused(fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(fleet.parent / "train.jsonl", [row("graph", "terse"), ROWS[3]])
    assert run(fleet) == 2
    shown = capsys.readouterr().err
    assert "the prompt of line 4 is also at" in shown and "train.jsonl:2" in shown
    assert engine.requests == []


def test_without_the_training_file_the_run_goes_on_and_says_so(
    fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    (fleet.parent / "train.jsonl").unlink()
    assert run(fleet) == 0
    assert "nobody looked for held-out rows among them" in capsys.readouterr().out


def test_a_faulty_held_out_row_is_named(fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(fleet.parent / "test.jsonl", [*ROWS, {"prompt": "p", "preset": "terse"}])
    assert run(fleet) == 2
    shown = capsys.readouterr().err
    assert "the completion is missing" in shown and f"test.jsonl:{len(ROWS) + 1}" in shown


def test_an_adapter_that_is_not_itself_is_refused_without_a_verdict(
    fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.refuses = True
    assert run(fleet) == 1
    assert "it holds NaN" in capsys.readouterr().err
    assert engine.closed
    assert verdict_of(fleet) is None


@pytest.mark.parametrize(("error", "code"), [(EngineFailed("it died"), 2), (KeyboardInterrupt(), 130)])
def test_what_ends_in_the_middle_leaves_nothing_behind(
    fleet: Path, engine: Scripted, error: BaseException, code: int
) -> None:
    def fail(text: str) -> str:
        if len(engine.requests) == 4:
            raise error
        return text

    engine.change = fail
    assert run(fleet) == code
    assert engine.closed
    assert verdict_of(fleet) is None
    assert not (fleet.parent / "results").exists()


def test_hostile_answers_are_shown_as_text(fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    engine.change = lambda text: text + " \x1b[2J[bold]red[/] \x07"
    run(fleet)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown
    assert "[bold]red[/]" in shown


def test_the_story_can_be_told_by_others_with_their_own_engine(fleet: Path, tmp_path: Path) -> None:
    engine, told = Scripted(), []
    done = run_evaluation(
        load_fleet(fleet), "writer", version="v0001", promote=True, out=tmp_path / "out", engine=engine,  # type: ignore[arg-type]
        on_progress=told.append,
    )  # fmt: skip
    assert done.passed and done.promoted and done.verdict is not None
    assert done.file == tmp_path / "out" / "evaluate-writer-v0001.json"
    assert not engine.closed
    assert told[0] == Progress("loading embedded:mini with style@v0001")
    assert told[1:] == [
        *(Progress("asking style@v0001", number, 6) for number in range(1, 7)),
        *(Progress("asking base", number, 6) for number in range(1, 7)),
    ]
    length = done.report.gate.checks[3].against["base"]
    assert (done.report.gate.checks[3].preset, length.mean) == ("verbose", 1.0)


def test_the_embedded_base_with_random_weights_fails(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything real: store, engine, tokenizer, adapter. Its answers are cut at 8 and 16 tokens and say nothing of the reference."""
    assert run(fleet) == 1
    assert "writer/style@v0001: failed" in capsys.readouterr().out
    report = json.loads((fleet.parent / "results" / "evaluate-writer-v0001.json").read_text())
    assert report["judged"]["engine"] == "local"
    assert report["judged"]["tokens_counted_by"] == "base tokenizer"
    assert any(row["candidate"]["text"] != row["against"]["base"]["text"] for row in report["rows"])
    assert verdict_of(fleet).passed is False
    with pytest.raises(GateFailed):
        store_of(fleet).promote("writer", "style")


@contextmanager
def running(server: FakeServer) -> Iterator[FakeServer]:
    """The fake server in a thread of its own, as a server is in a process of its own."""
    started, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        async with server:
            started.set()
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield server
    finally:
        ended.set()
        thread.join()


def test_a_server_by_url_is_judged_and_gets_no_verdict(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(FakeServer(tokens=30, models=("writer", "base"))) as server:
        assert run(fleet, "--url", server.url) == 1
    shown = capsys.readouterr().out
    assert f"writer at {server.url}: failed" in shown
    assert "No verdict is recorded" in shown
    assert verdict_of(fleet) is None
    (file,) = (fleet.parent / "results").iterdir()
    assert file.name == "evaluate-writer-url.json"
    assert {seen.body["model"] for seen in server.seen if seen.body} == {"writer", "base"}


def test_a_running_onecard_service_answers_by_url_as_it_is_judged_in_process(fleet: Path) -> None:
    """Everything real, over real HTTP. One caller at a time: in bf16 who shares a batch may tip a close choice of token."""
    from onecard.cli.serve import serve_in_background

    document = yaml.safe_load(write_fleet(fleet.parent, adapter="style@v0001").read_text())
    document["models"]["base"]["concurrency"] = 1
    fleet.write_text(yaml.safe_dump(document))
    loaded = load_fleet(fleet)
    with serve_in_background(loaded) as service:
        by_url = run_evaluation(loaded, "writer", url=service.url)
    here = run_evaluation(loaded, "writer")
    judged = by_url.report.judged
    assert (judged.adapter, judged.digest) == ("style@v0001", here.report.judged.digest)
    assert (by_url.verdict, by_url.file.name) == (None, "evaluate-writer-v0001-url.json")
    for ours, theirs in zip(here.report.gate.rows, by_url.report.gate.rows, strict=True):
        assert ours.candidate.text == theirs.candidate.text
        assert ours.against["base"].text == theirs.against["base"].text
    assert here.report.gate.suite_digest == by_url.report.gate.suite_digest


def test_a_server_without_a_base_is_judged_alone_unless_the_base_is_asked_for(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(FakeServer(models=("writer", "writer@v0001"))) as server:
        assert run(fleet, "--url", server.url, "--version", "v0001") == 1
        assert {seen.body["model"] for seen in server.seen if seen.body} == {"writer@v0001"}
        assert run(fleet, "--url", server.url, "--against", "base") == 2
    assert "no model 'base'" in capsys.readouterr().err


def test_a_url_where_nobody_is_says_so(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(FakeServer()) as server:
        pass
    assert run(fleet, "--url", server.url) == 2
    assert "nothing answers" in capsys.readouterr().err


def test_a_plain_completion_agent_is_not_judged_over_chat(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fleet(fleet.parent, recipe={"chat_template": False})
    assert run(fleet, "--url", "http://127.0.0.1:1") == 2
    assert "chat_template: false" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "said"),
    [({"engine": "vllm"}, "engine vllm is not opened here"), ({"quantization": "awq"}, "awq is not loaded")],
)
def test_a_model_that_is_opened_elsewhere_is_an_error(
    fleet: Path, model: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    document = yaml.safe_load(fleet.read_text())
    document["models"]["base"] |= model
    fleet.write_text(yaml.safe_dump(document))
    assert run(fleet) == 2
    assert said in capsys.readouterr().err


def test_the_verb_is_light_until_it_loads_a_model() -> None:
    code = (
        "import sys, onecard.cli.evaluate, onecard.cli.evaluate_output, onecard.cli.evaluate_answerers, onecard.evaluation.exam;"
        "sys.exit(bool({'torch', 'transformers', 'peft', 'fastapi', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
