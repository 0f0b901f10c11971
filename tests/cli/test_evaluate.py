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


MANY = [row(f"thing {n}", "terse") for n in range(60)]
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
        self.digests: dict[str, str] = {}  # by version
        self.answers: dict[str, Any] = {}  # by version: how its answers differ from the references
        self.base = "No idea."  # what the base answers; empty: the references
        self.closed = False

    def info(self) -> EngineInfo:
        return EngineInfo("scripted", "1", "embedded:mini", "none", "fp32", "cpu", 128, 4, "f" * 64)

    def load_adapter(self, folder: Path, manifest: Manifest) -> str:
        if self.refuses:
            raise AdapterRefused("it holds NaN", where=str(folder))
        self.loaded = self.loaded or manifest.digest
        self.digests[manifest.digest] = manifest.version
        return manifest.digest

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Chunk]:
        self.requests.append(request)
        await asyncio.sleep(0)
        prompt = request.messages[0].content.removeprefix("<T> ")
        if request.adapter is None:
            text = self.base or next(row["completion"] for row in ROWS + MANY if row["prompt"] == prompt)
        else:
            change = self.answers.get(self.digests[request.adapter], self.change)
            text = change(next(row["completion"] for row in ROWS + MANY if row["prompt"] == prompt))
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
    assert {file.name for file in (fleet.parent / "results").iterdir()} == {
        "evaluate-writer-v0001-trial.json",
        "evaluate-writer-v0001-trial.md",
    }


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
        ({"task": "rerank"}, "no candidates to choose from"),
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
    assert (fleet.parent / "results" / "evaluate-writer-url.json").is_file()
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
    [
        ({"engine": "vllm"}, "engine vllm is not installed"),
        ({"quantization": "awq"}, "only vLLM holds awq"),
        ({"engine": "local", "quantization": "awq"}, "awq is not served by the local engine"),
    ],
)
def test_a_model_that_cannot_be_opened_here_is_an_error(
    fleet: Path, model: dict[str, str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONECARD_VLLM_PYTHON", raising=False)
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


def another_version(fleet: Path, adapter: Path, manifest: Manifest, folder: Path, seed: int) -> str:
    """Publishes the adapter with other weights; it becomes the candidate."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    copy = folder / f"adapter-{seed}"
    shutil.copytree(adapter, copy)
    weights = load_file(copy / "adapter_model.safetensors")
    torch.manual_seed(seed)
    changed = {name: w + 0.1 * torch.randn_like(w) if "lora_B" in name else w for name, w in weights.items()}
    save_file(changed, copy / "adapter_model.safetensors", metadata={"format": "pt"})
    return store_of(fleet).publish("writer", "style", copy, manifest).version


@pytest.fixture
def released(fleet: Path, engine: Scripted, adapter: Path, manifest: Manifest, tmp_path: Path) -> Path:
    """v0001 in production, v0002 the candidate, and a suite of sixty rows that compares the two."""
    write_rows(fleet.parent / "test.jsonl", MANY)
    suite = {
        "data": "test.jsonl",
        "rows": 60,
        "checks": [
            {"preset": "terse", "overlap": 0.1, "no_worse_than": {"production": 0.05}, "better_than": "base"},
        ],
    }
    write_fleet(fleet.parent, suite=suite)
    assert main(["adapters", "promote", "writer/style", "--store", "modelstore"]) == 1  # never judged
    assert run(fleet, "--promote") == 0
    assert another_version(fleet, adapter, manifest, tmp_path, 7) == "v0002"
    engine.requests.clear()
    return fleet


def wordier(text: str) -> str:
    return text + " so it is said, and so it goes on"


def test_a_first_version_has_no_production_to_be_compared_with(released: Path) -> None:
    verdict = verdict_of(released)
    assert verdict.passed
    assert verdict.summary["judged_against"]["production"] is None
    assert [one["outcome"] for one in verdict.summary["checks"][0]["compared"]] == ["skipped", "passed"]


def test_a_candidate_that_is_worse_than_production_fails_however_good_its_figure_is(
    released: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.answers["v0002"] = wordier
    capsys.readouterr()
    assert run(released, "--promote") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "to be no worse than production by more than 5 points: failed" in shown
    assert "candidate - production (95%" in shown
    assert store_of(released).aliases("writer", "style").production == "v0001"
    report = json.loads((released.parent / "results" / "evaluate-writer-v0002.json").read_text())
    assert report["judged"]["production"] == "v0001"
    assert set(report["rows"][0]["against"]) == {"production", "base"}


def test_an_equal_candidate_is_promoted_and_its_verdict_names_what_it_was_judged_against(released: Path) -> None:
    store = store_of(released)
    before = store.resolve("writer", "style@production")
    assert run(released, "--promote") == 0
    assert store.aliases("writer", "style").production == "v0002"
    given = store.verdict(store.resolve("writer", "style@v0002"))
    assert given is not None
    assert given.summary["judged_against"]["production"] == before.digest
    assert given.summary["judged_against"]["base_fingerprint"] == "f" * 64


def test_leaving_out_a_rival_that_a_check_names_is_never_a_pass(
    released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(released, "--against", "base", "--promote") == 1
    shown = capsys.readouterr().out
    assert "--against left it out" in shown and "cannot tell" in shown and "Not promoted." in shown
    assert store_of(released).aliases("writer", "style").production == "v0001"
    assert run(released, "--against", "production", "--against", "base") == 0


def test_too_few_rows_cannot_tell_and_do_not_pass(released: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(released.parent / "test.jsonl", MANY[:10])
    assert run(released) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "not enough rows to tell, at least 20 are needed" in shown
    assert "more held-out rows in the suite" in shown
    assert main(["adapters", "promote", "writer/style", "--store", "modelstore"]) == 1
    assert "did not pass its suite" in capsys.readouterr().err


def test_production_that_changes_while_it_is_judged_stops_the_promotion(
    released: Path, engine: Scripted, adapter: Path, manifest: Manifest, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def someone_else_promotes(text: str) -> str:
        if store_of(released).aliases("writer", "style").production == "v0001":
            another_version(released, adapter, manifest, tmp_path, 8)
            store_of(released).promote("writer", "style", "v0003", force=True, reason="in a hurry")
        return text

    engine.answers["v0002"] = someone_else_promotes
    assert run(released, "--promote") == 1
    shown = capsys.readouterr().err
    assert "is not promoted: it was judged against" in shown and "evaluate again" in shown
    assert store_of(released).aliases("writer", "style").production == "v0003"


def test_a_failed_version_reaches_production_only_by_force_with_a_reason_in_the_log(
    released: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.answers["v0002"] = wordier
    assert run(released) == 1
    promote = ["adapters", "promote", "writer/style@v0002", "--store", "modelstore"]
    assert main(promote) == 1
    assert main([*promote, "--force"]) == 2
    assert store_of(released).aliases("writer", "style").production == "v0001"
    assert main([*promote, "--force", "--reason", "the old one is broken"]) == 0
    last = store_of(released).log("writer", "style")[-1]
    assert (last.action, last.version, last.forced, last.reason) == ("promote", "v0002", True, "the old one is broken")


def test_the_page_beside_the_report_reads_as_the_terminal(released: Path, engine: Scripted) -> None:
    engine.answers["v0002"] = wordier
    run(released)
    page = (released.parent / "results" / "evaluate-writer-v0002.md").read_text()
    assert page.startswith("# writer/style@v0002: **failed**")
    assert "so it is said" in page and "production is v0001" in page


def test_another_agents_task_is_asked_of_this_adapter(
    fleet: Path, engine: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(fleet.parent / "other.jsonl", MANY)
    document = yaml.safe_load(fleet.read_text())
    document["agents"]["other"] = {
        "model": "base",
        "presets": {"terse": {"token": "<O>", "max_new_tokens": 5}},
        "suite": {"data": "other.jsonl", "checks": [{"preset": "terse", "max_tokens": 9}]},
    }
    document["agents"]["writer"]["suite"]["regressions"] = [{"agent": "other", "rows": 60}]
    fleet.write_text(yaml.safe_dump(document))
    assert run(fleet) == 0
    asked = [r.messages[0].content for r in engine.requests if r.max_new_tokens == 5]
    assert len(asked) == 120 and not any(text.startswith("<O>") for text in asked)
    gate_alone = ["verify", str(fleet), "--agent", "writer", "--only", "gate"]
    assert main(gate_alone) == 0, capsys.readouterr().out
    assert run(fleet, "--seed", "3") == 0
    assert main(gate_alone) == 0, "a verdict of another seed is one on the same suite"
    engine.base = ""
    engine.change = lambda text: "No clue" if "A thing" in text else text
    assert run(fleet) == 1
    assert verdict_of(fleet).summary["failed"][0].startswith("other/terse")


def test_a_regression_of_an_unknown_agent_is_an_error(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = {**FLEET["agents"]["writer"]["suite"], "regressions": [{"agent": "writr"}]}
    write_fleet(fleet.parent, suite=suite)
    assert run(fleet) == 2
    assert "no agent with a suite 'writr' (did you mean 'writer'?)" in capsys.readouterr().err


def test_a_re_ranker_and_perplexity_are_judged_by_the_real_engine(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded base knows that a heap is a tree rather than noise; its likelihoods are those of the engine's own scoring."""
    rows = [
        {"query": f"What is a {term}?", "candidates": ["zq xx kv 7 jj", f"A {term} is a data structure."], "best": 1}
        for term in TERMS
    ]
    write_rows(fleet.parent / "test.jsonl", rows)
    suite = {"data": "test.jsonl", "checks": [{"accuracy": 0.9, "mrr": 0.9, "perplexity": 1e6, "better_than": None}]}
    write_fleet(fleet.parent, suite=suite, task="rerank", presets={"default": {"max_new_tokens": 4}})
    assert run(fleet, "--json") in (0, 1)
    printed = json.loads(capsys.readouterr().out)
    accuracy, mrr, perplexity = printed["gate"]["checks"]
    assert accuracy["against"].keys() == {"base"}
    assert 1 < perplexity["observed"] < 1e6 and mrr["observed"] >= 0.5
    report = json.loads((fleet.parent / "results" / "evaluate-writer-v0001.json").read_text())
    base = report["rows"][0]["against"]["base"]
    assert base["likelihoods"][1] > base["likelihoods"][0]
    assert base["reference_nats"] == pytest.approx(-base["likelihoods"][1], abs=0.02)


def test_likelihoods_are_refused_by_url_where_the_server_gives_none(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = {"data": "test.jsonl", "rows": 3, "checks": [{"preset": "terse", "perplexity": 50}]}
    write_fleet(fleet.parent, suite=suite)
    with running(FakeServer(models=("writer", "base"))) as server:
        assert run(fleet, "--url", server.url) == 2
    assert (
        "completions with echo and logprobs say 'the server answered 404: no route /v1/completions'"
        in capsys.readouterr().err
    )


def test_production_by_url_is_the_agent_without_a_version(fleet: Path) -> None:
    with running(FakeServer(models=("writer", "writer@v0001"))) as server:
        assert run(fleet, "--url", server.url, "--version", "v0001", "--against", "production") == 1
    assert {seen.body["model"] for seen in server.seen if seen.body} == {"writer", "writer@v0001"}
