"""What an agent's suite comes to before and after quantizing, from answers that were given by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onecard.cli.quantize_suite import SuiteAsked, suite_of
from onecard.engines.local.tokens import load_tokenizer
from onecard.fleet.loader import load_fleet
from onecard.weights.inventory import resolve
from onecard.weights.quantize_order import Said

FLEET = """
name: judged
card: {vram_gib: 4, bandwidth_gbs: 20}
models: {base: {id: "embedded:mini"}}
agents:
  writer:
    model: base
    deadline: {seconds: 1, prompt_tokens: 8, new_tokens: 6}
    presets:
      terse: {max_new_tokens: 8, token: <TERSE>}
      long: {max_new_tokens: 32, temperature: 0.7, top_p: 0.9}
    suite:
      data: held.jsonl
      rows: 30
      checks:
        - {preset: terse, max_tokens: 4, share: 0.9, in_time: true}
        - {preset: long, overlap: 0.9, no_worse_than: {production: 0.1}, better_than: base}
        - {preset: long, perplexity: 9}
  silent: {model: base}
  scored: {model: base, suite: {data: held.jsonl, checks: [{preset: default, perplexity: 9}]}}
"""
TOKENIZER = load_tokenizer(resolve("embedded:mini", Path()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"prompt": f"{p} {n}?", "completion": f"it is {n}", "preset": p} for n in range(30) for p in ("terse", "long")
    ]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "fleet.yaml").write_text(FLEET)
    return tmp_path


def asked(folder: Path, agent: str = "writer", chat: bool = True) -> SuiteAsked | None:
    return suite_of(load_fleet(folder / "fleet.yaml"), agent, TOKENIZER, (2,), chat)


def test_the_bare_model_is_asked_under_the_presets_without_their_tokens(folder: Path) -> None:
    suite = asked(folder)
    assert suite is not None and len(suite.questions) == 60
    terse = next(one for one in suite.questions if "terse 3?" in one.text)
    assert terse.text == "<s>[INST] terse 3? [/INST]"
    assert (terse.max_new_tokens, terse.temperature, terse.stop_ids) == (8, 0.0, (2,))
    drawn = {(one.temperature, one.top_p) for one in suite.questions if "long" in one.text}
    assert drawn == {(0.7, 0.9)}
    assert len({one.seed for one in suite.questions}) == 60
    plain = asked(folder, chat=False)
    assert plain is not None and plain.questions[0].text == "terse 0?"


def test_an_agent_without_a_suite_or_with_none_for_written_answers_is_not_asked(folder: Path) -> None:
    assert asked(folder, "silent") is None
    assert asked(folder, "scored") is None


def test_figures_of_what_was_made_stand_beside_what_changed(folder: Path) -> None:
    suite = asked(folder)
    assert suite is not None
    right = [Said(f"it is {row.prompt.split()[1][:-1]}", 4, "stop") for row in suite.exam.questions]
    worse = [Said("no", 1, "stop") if n in (1, 3, 5) else one for n, one in enumerate(right)]  # three answers of `long`
    cut = [Said(one.text, 8, "length") if n in (0, 2) else one for n, one in enumerate(worse)]  # two of `terse`
    said = suite.judged(right, cut)
    assert (said["agent"], said["asked"]) == ("writer", 60)
    assert said["same_answers"] == pytest.approx(57 / 60)
    length, overlap = said["checks"]
    assert (length["preset"], length["observed"], length["kept"]) == ("terse", pytest.approx(28 / 30), True)
    assert length["difference"]["mean"] == pytest.approx(-2 / 30)
    assert overlap["difference"]["mean"] == pytest.approx(-3 / 30)
    assert overlap["difference"]["low"] < -3 / 30 < overlap["difference"]["high"]
    unchanged = suite.judged(right, right)
    assert unchanged["same_answers"] == 1
    assert {check["difference"]["mean"] for check in unchanged["checks"]} == {0.0}
