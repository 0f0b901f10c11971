"""`onecard models` as a person at a terminal of 100 columns, or a script, sees it."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from onecard.catalog.models import load_models
from onecard.cli.models import models
from onecard.errors import CatalogError, InputError, Refusal


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def invoke(*arguments: str):
        return CliRunner().invoke(models, list(arguments))

    return invoke


def test_the_list_names_every_model_within_the_terminal(run):
    done = run()
    assert done.exit_code == 0
    assert all(model.id in done.output for model in load_models())
    assert max(len(line.rstrip()) for line in done.output.splitlines()) <= 100
    assert "37 models" in done.output


def test_one_line_of_figures_and_one_of_words_a_model(run):
    lines = run("--role", "maths").output.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("mistralai/Mathstral-7B-v0.1"))
    assert lines[place].split()[1:] == ["7.2B", "32k", "13.50", "7.01", "3.85", "128", "KiB"]
    assert lines[place + 1].strip() == "maths | text | apache-2.0 (open)"


def test_a_narrow_terminal_keeps_ids_whole(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run().output.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16" in [line.strip() for line in lines]


def test_fits_shows_what_it_takes_and_in_which_form(run):
    output = run("--fits", "8GiB", "--licence", "open", "--context", "32k", "--role", "general").output
    assert "fits as nf4" in output
    assert "Qwen/Qwen2.5-7B-Instruct" in output
    assert "Llama-3.1" not in output and "phi-4" not in output
    assert "weights, KV of 4k tokens and 1 GiB of reserve; 8GiB is 8.00 GiB" in " ".join(output.split())


def test_fits_takes_a_card_by_name(run):
    on_card = run("--fits", "rtx-3070", "--json")
    by_size = run("--fits", "7.8GiB", "--json")
    assert on_card.output == by_size.output


def test_a_form_asked_for_is_the_only_one_considered(run):
    best = {m["id"] for m in json.loads(run("--fits", "16GiB", "--json").output)}
    sixteen_bits = {m["id"] for m in json.loads(run("--fits", "16GiB", "--quantization", "none", "--json").output)}
    assert sixteen_bits < best
    assert "mistralai/Mistral-7B-v0.3" in sixteen_bits and "microsoft/phi-4" in best - sixteen_bits


def test_images(run):
    found = json.loads(run("--input", "image", "--json").output)
    assert {"llava-hf/llava-1.5-7b-hf", "Salesforce/blip2-opt-2.7b"} <= {m["id"] for m in found}
    assert all("image" in m["input"] for m in found)


def test_json_carries_facts_sources_and_bytes(run):
    found = {m["id"]: m for m in json.loads(run("--json", "--fits", "24GiB").output)}
    mistral = found["mistralai/Mistral-7B-v0.3"]
    assert mistral["weights_bytes"]["none"] == 14_496_047_104
    assert mistral["licence"]["source"] and mistral["config"]["model_type"] == "mistral"
    assert mistral["fits"]["total_bytes"] == sum(
        mistral["fits"][k] for k in ("weights_bytes", "kv_bytes", "reserve_bytes")
    )
    assert mistral["kv_bytes_per_token"] == {"full": 131072, "sliding": 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fits", "2GiB"), "--fits 2GiB removed all 37 models"),
        (("--role", "code", "--fits", "4GiB"), "--fits 4GiB removed all"),
        (("--role", "maths", "--input", "image"), "--input image removed all 2 models"),
        (
            ("--fits", "8GiB", "--role", "primary", "--quantization", "none"),
            "--fits 8GiB --quantization none removed the only",
        ),
    ],
)
def test_when_nothing_is_left_the_filter_that_removed_it_is_named(run, arguments, said):
    done = run(*arguments)
    assert isinstance(done.exception, Refusal) and done.exception.exit_code == 1
    assert said in done.exception.problem


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("--fits", "8"), InputError, "'8' is not a size of memory"),
        (("--fits", "rtx-3071"), CatalogError, "no card 'rtx-3071'"),
        (("--role", "cod"), CatalogError, "did you mean 'code'"),
        (("--context", "lots"), InputError, "'lots' is not a number of tokens"),
        (("--quantization", "nf4"), InputError, "in which form a model must fit"),
        (("--fits", "8GiB", "--quantization", "nf5"), InputError, "did you mean 'nf4'"),
        (("--licence", "gpl"), CatalogError, "no licence 'gpl'"),
        (("show", "Qwen/Qwen3-8B-Instruct"), CatalogError, "is not a repository"),
    ],
)
def test_wrong_words_are_wrong_use(run, arguments, error, said):
    done = run(*arguments)
    assert isinstance(done.exception, error) and done.exception.exit_code == 2
    assert said in str(done.exception)


@pytest.mark.parametrize("model_id", [model.id for model in load_models()])
def test_show_prints_every_fact_with_its_source(run, model_id):
    model = next(m for m in load_models() if m.id == model_id)
    done = run("show", model_id)
    assert done.exit_code == 0
    words = re.sub(r"\s+", "", done.output)
    for fact in (
        model.licence.source,
        model.access.source,
        model.released.source,
        model.published.source,
        model.disk.source,
        *model.sources.values(),
        *model.notes,
        *(ready.id for ready in model.prequantized),
        f"{model.parameters:,}",
    ):
        assert re.sub(r"\s+", "", fact) in words
    assert max(len(line.rstrip()) for line in done.output.splitlines()) <= 100


def test_show_as_json(run):
    shown = json.loads(run("show", "qwen/qwen3-8b", "--json").output)
    assert shown["id"] == "Qwen/Qwen3-8B"
    assert shown["parameters"] == 8_190_735_360


def test_help_has_an_example(run):
    assert "onecard models --fits 8GiB" in run("--help").output
    assert "onecard models show" in run("show", "--help").output
