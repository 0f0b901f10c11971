"""`onecard quantize` as a person or a script sees it: refusals before anything is loaded, a real nf4 run, and kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from onecard.cli.main import main
from onecard.cli.quantize import quantize
from onecard.errors import DataError, DiskFull, DoesNotFit, InputError, MissingPart
from onecard.evidence.ledger import Ledger
from onecard.weights import quantize_process

FLEET = """
name: small
card: {vram_gib: 4, bandwidth_gbs: 20}
models: {base: {id: "embedded:mini"}}
agents: {writer: {model: base, data: rows.jsonl, recipe: {chat_template: %s}}}
"""
HERE = {"versions": {"torch": "2", "transformers": "5", "bitsandbytes": "0.50", "llmcompressor": "0.14"}, "card": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("ONECARD_QUANTIZE_PYTHON", raising=False)
    rows = [{"prompt": f"What is a {n}?", "completion": f"A thing called {n}."} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Interpreters have what `found` says; nothing is started."""
    found = SimpleNamespace(**HERE)
    monkeypatch.setattr(quantize_process, "probe", lambda python: vars(found))
    return found


def run(*arguments: object):
    return CliRunner().invoke(quantize, [str(a) for a in arguments], standalone_mode=False)


JUDGED = """
name: judged
card: {vram_gib: 4, bandwidth_gbs: 20}
models: {base: {id: "embedded:mini"}}
agents:
  writer:
    model: base
    data: rows.jsonl
    deadline: {seconds: 1, prompt_tokens: 8, new_tokens: 6}
    presets: {default: {max_new_tokens: 6, token: <NEVER_SEEN>}}
    suite:
      data: held.jsonl
      checks: [{max_tokens: 6, share: 0.5, overlap: 0.1, in_time: true, no_worse_than: {base: 0.1}}]
"""


def test_a_real_run_is_recorded_beside_the_weights_and_in_the_ledger(folder: Path, capsys) -> None:
    (folder / "fleet.yaml").write_text(JUDGED)
    held = [
        {"prompt": f"What is a {word}?", "completion": f"A {word} is a part."} for word in ("mutex", "heap", "stack")
    ]
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    made = ["quantize", "embedded:mini", "--to", "nf4", "--data", "rows.jsonl", "--max-tokens", "64"]
    made += ["--fleet", "fleet.yaml", "--agent", "writer"]
    assert main([*made, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.pop("output") == str(folder / "mini-nf4")
    assert json.loads((folder / "mini-nf4" / "quantized.json").read_text()) == said
    (line,) = Ledger(folder / "cache" / "onecard" / "measurements.jsonl").read("quantized")
    assert line.payload["fingerprint"] == said["fingerprint"]
    suite = said["suite"]
    assert (suite["agent"], suite["asked"], line.payload["suite"]) == ("writer", 3, suite)
    assert [check["statistic"] for check in suite["checks"]] == ["share", "mean"]  # no deadline, nobody in production
    assert all(check["difference"]["rows"] == 3 for check in suite["checks"])
    assert said["texts"] | {"sha256": ""} == {
        "calibration": 20, "held_out": 4, "calibration_tokens": said["texts"]["calibration_tokens"],
        "held_out_tokens": said["texts"]["held_out_tokens"], "max_tokens": 64, "sha256": "",
    }  # fmt: skip

    assert said["bytes"]["weights_predicted"] - 56 * 10 < said["bytes"]["weights"] < said["bytes"]["weights_predicted"]
    assert said["peak_bytes"]["memory"] < said["peak_bytes"]["predicted"]
    assert 0.05 < said["logits"]["logit_error"] < 0.3
    assert abs(said["perplexity"]["change_percent"]) < 15

    assert main(made) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["quantize", "./mini-nf4", *made[2:]]) == 2
    assert "quantized already" in capsys.readouterr().err


def test_a_kill_leaves_nothing_under_the_name_and_the_next_run_cleans_up(folder: Path) -> None:
    command = [sys.executable, "-m", "onecard", "quantize", "embedded:mini", "--to", "nf4", "--data", "rows.jsonl"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = folder / ".mini-nf4.partial"
    end = time.monotonic() + 60
    while not (partial / "log.txt").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "mini-nf4").exists()
    assert (partial / "order.json").exists()
    from onecard.weights.quantize_folder import making

    with making(folder / "mini-nf4") as found:
        assert [entry.name for entry in found.iterdir()] == ["lock"]
    assert not partial.exists()


def test_the_prediction_alone(folder: Path, libraries) -> None:
    base = ["embedded:mini", "--data", "rows.jsonl", "--dry-run"]
    done = run(*base, "--to", "awq", "--json")
    said = json.loads(done.output)
    assert (said["to"], said["maker"], said["source_bytes"]) == ("awq", "llm-compressor", 15_475_200)
    assert said["files"][0] | {"source": ""} == {"what": "weights", "bytes": 7_198_080, "tag": "exact", "source": ""}
    shown = run(*base, "--to", "nf4").output
    assert "memory at once" in shown
    assert "assumed" in shown
    assert not (folder / "mini-awq").exists()


def test_an_agents_rows_are_the_text_in_the_bases_own_template(folder: Path, libraries, monkeypatch) -> None:
    from onecard.weights import quantize as room

    orders = []
    monkeypatch.setattr(room, "quantize", lambda order, *more: orders.append(order) or sys.exit(0))
    for chat in ("true", "false"):
        (folder / "fleet.yaml").write_text(FLEET % chat)
        run("base", "--to", "nf4", "--fleet", "fleet.yaml", "--agent", "writer")
    chat, plain = (order.texts for order in orders)
    assert orders[0].model == "embedded:mini"
    assert not chat.special_tokens
    assert all(text.startswith("<s>[INST] ") and text.endswith("</s>") for text in chat.calibration + chat.held_out)
    assert plain.special_tokens
    assert "What is a 3?A thing called 3." in plain.calibration + plain.held_out


def test_the_other_interpreter_is_for_llm_compressor_only(folder: Path, libraries, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(quantize_process, "probe", lambda python: asked.append(python) or vars(libraries))
    monkeypatch.setenv("ONECARD_QUANTIZE_PYTHON", "/there/python")
    for to in ("nf4", "fp8"):
        run("embedded:mini", "--to", to, "--data", "rows.jsonl", "--dry-run")
    assert asked == [Path(sys.executable).absolute(), Path("/there/python")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "nf4"], "text to calibrate and measure with is missing"),
        (["--to", "nf4", "--agent", "writer"], "--agent needs --fleet"),
        (["--to", "int4"], "'int4' is not one of"),
    ],
)
def test_wrong_use(arguments, said, folder: Path) -> None:
    assert said in str(run("embedded:mini", *arguments).exception)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["--to", "nf4", "--maker", "llm-compressor"], InputError, "llm-compressor does not make nf4"),
        (["--to", "nf4", "--data", "few.jsonl"], DataError, "2 different texts, and at least 8"),
        (["--to", "nf4", "--data", "faulty.jsonl"], DataError, "unknown key 'promt'"),
        (["--to", "nf4", "--data", "none.jsonl"], DataError, "no such file"),
    ],
)
def test_what_cannot_be_made_is_said_at_once(arguments, error, said, folder: Path, libraries) -> None:
    row = '{"prompt": "a", "completion": "%s"}\n'
    (folder / "few.jsonl").write_text(row % "b" + row % "c")
    (folder / "faulty.jsonl").write_text('{"promt": "a"}\n')
    done = run("embedded:mini", "--data", "rows.jsonl", *arguments)
    assert isinstance(done.exception, error)
    assert said in str(done.exception)


def test_a_library_that_is_not_there(folder: Path, libraries) -> None:
    del libraries.versions["llmcompressor"]
    try:
        done = run("embedded:mini", "--to", "gptq", "--data", "rows.jsonl", "--dry-run")
    finally:
        libraries.versions["llmcompressor"] = "0.14"
    assert isinstance(done.exception, MissingPart)
    assert "--python" in str(done.exception.next_step)


def test_too_little_memory_or_disk(folder: Path, libraries, monkeypatch) -> None:
    base = ["embedded:mini", "--to", "nf4", "--data", "rows.jsonl"]
    libraries.card = {"name": "Tiny card", "free_bytes": 2**20, "total_bytes": 2**30}
    refused = run(*base).exception
    assert isinstance(refused, DoesNotFit)
    assert "of Tiny card are free" in refused.problem
    assert run(*base, "--device", "cpu", "--dry-run").exception is None
    libraries.card = None
    monkeypatch.setattr("onecard.weights.quantize_folder.free_bytes", lambda folder: 2**20)
    assert isinstance(run(*base).exception, DiskFull)
    assert [entry.name for entry in folder.iterdir()] == ["rows.jsonl"]
