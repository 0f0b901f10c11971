"""Checkpoints that are really made, on the embedded base, by the real libraries, each in a process of its own.

The forms of llm-compressor are made where ONECARD_QUANTIZE_PYTHON names an interpreter that has it, and are not collected elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onecard.catalog.architecture import layout
from onecard.errors import EngineFailed, InputError, MissingPart
from onecard.weights import quantize_process
from onecard.weights.inventory import fingerprint, read_config, resolve
from onecard.weights.quantize import RECORD_NAME, demand_libraries, quantize
from onecard.weights.quantize_folder import kept_files, partial_of
from onecard.weights.quantize_order import MAKERS, Order, from_json, split_texts
from onecard.weights.quantize_plan import Prediction, group_for, predict

MINI = resolve("embedded:mini", Path())
TERMS = [
    "mutex",
    "queue",
    "stack",
    "heap",
    "socket",
    "thread",
    "cache",
    "kernel",
    "compiler",
    "branch",
    "hash table",
    "tree",
]
TEXTS = [f"<s>[INST] What is a {a}, beside a {b}? [/INST]" for a in TERMS for b in TERMS if a != b]
ELSEWHERE = os.environ.get("ONECARD_QUANTIZE_PYTHON")
HERE = [("int8", "bitsandbytes")]  # nf4 is really made by the test of the command
COMPRESSED = [(to, maker) for to, makers in MAKERS.items() for maker in makers if maker == "llm-compressor"]


def order_of(to: str, maker: str, output: Path, samples: int = 16) -> Order:
    return Order(
        model="embedded:mini",
        source=MINI,
        output=output,
        to=to,  # type: ignore[arg-type]
        maker=maker,  # type: ignore[arg-type]
        group=group_for(layout(read_config(MINI)), to),  # type: ignore[arg-type]
        texts=split_texts(TEXTS, samples, special_tokens=False),
        max_tokens=128,
        device="cpu",
        python=Path(ELSEWHERE if maker == "llm-compressor" and ELSEWHERE else sys.executable),
    )


def prediction_of(order: Order) -> Prediction:
    return predict(
        layout(read_config(MINI)),
        order.to,
        order.maker,
        group=order.group,
        samples=len(order.texts.calibration),
        max_tokens=order.max_tokens,
        copied=sum(file.stat().st_size for file in kept_files(MINI)),
        on_card=False,
    )


@pytest.fixture(autouse=True)
def quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(("to", "maker"), [*HERE, *(COMPRESSED if ELSEWHERE else [])])
def test_a_checkpoint_is_what_was_predicted_and_answers_nearly_like_its_source(to, maker, tmp_path: Path) -> None:
    output, told = tmp_path / "made", []
    order = order_of(to, maker, output)
    prediction = prediction_of(order)
    record = quantize(order, prediction, lambda doing, share: told.append((doing, share)))

    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "cache"] == ["made"]
    assert json.loads((output / RECORD_NAME).read_text()) == record
    assert record["source_fingerprint"] == fingerprint(MINI)
    assert record["fingerprint"] == fingerprint(output)
    assert (output / "tokenizer.json").read_bytes() == (MINI / "tokenizer.json").read_bytes()
    assert read_config(output)["quantization_config"]["quant_method"] in ("bitsandbytes", "compressed-tensors")

    size, notes = record["bytes"], sum(part.bytes for part in prediction.files if "notes" in part.what)
    assert size["weights_predicted"] - notes <= size["weights"] <= size["weights_predicted"]
    assert size["weights"] < 0.65 * size["source"]
    assert size["files"] < size["files_predicted"]
    assert record["peak_bytes"]["memory"] < record["peak_bytes"]["predicted"]

    four_bits = to in ("nf4", "awq", "gptq")
    assert 0.005 < record["logits"]["logit_error"] < (0.3 if four_bits else 0.08)
    assert record["logits"]["same_top_token"] > (0.85 if four_bits else 0.95)
    assert abs(record["perplexity"]["change_percent"]) < (15 if four_bits else 3)
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_nothing_is_kept_when_it_is_interrupted_while_it_writes(tmp_path: Path, monkeypatch) -> None:
    def write(python, arguments, folder: Path, told):
        target = from_json(Path(arguments[0]).read_text()).output
        assert target == partial_of(tmp_path / "made") / "weights"
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize_process, "start", write)
    order = order_of("nf4", "bitsandbytes", tmp_path / "made")
    with pytest.raises(KeyboardInterrupt):
        quantize(order, prediction_of(order), lambda doing, share: None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reload_difference": 0.25}, "logits differ by up to 0.25"),
        ({"made": {"perplexity": float("nan"), "logit_error": 0.1}}, "infinities or no numbers"),
    ],
)
def test_a_checkpoint_that_is_not_what_was_made_is_not_kept(change, said, tmp_path: Path, monkeypatch) -> None:
    result = {"reload_difference": 0.0, "source": {"perplexity": 2.0}, "made": {"perplexity": 2.0}, **change}
    monkeypatch.setattr(quantize_process, "start", lambda *given: result)
    order = order_of("nf4", "bitsandbytes", tmp_path / "made")
    with pytest.raises(EngineFailed, match=said):
        quantize(order, prediction_of(order), lambda doing, share: None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


def test_a_source_that_is_cut_off_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(MINI, broken)
    with (broken / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    order = replace(order_of("nf4", "bitsandbytes", tmp_path / "made"), source=broken, python=Path("/not/there"))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        quantize(order, prediction_of(order), lambda doing, share: None)
    assert [entry.name for entry in tmp_path.iterdir()] == ["broken"]


def test_a_missing_library_is_said_with_what_installs_it() -> None:
    python = Path("/usr/bin/python3")
    with pytest.raises(MissingPart, match="llmcompressor is not installed there") as error:
        demand_libraries("llm-compressor", python, {"torch": "2", "transformers": "5"})
    assert "--python" in str(error.value.next_step)
    with pytest.raises(MissingPart, match="torch, bitsandbytes"):
        demand_libraries("bitsandbytes", python, {"transformers": "5"})
