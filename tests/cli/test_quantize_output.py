"""The figures in words, and what a person is told to do with the folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from onecard.cli.quantize_output import bar, facts, next_step

RECORD = {
    "bytes": {"source": 15_475_200, "weights": 7_198_080, "weights_predicted": 7_198_080},
    "perplexity": {"source": 2.0, "quantized": 2.05, "change_percent": 2.5},
    "logits": {"logit_error": 0.1512, "same_top_token": 0.969, "kl_divergence": 0.00685},
    "texts": {"held_out": 32, "held_out_tokens": 2297},
    "peak_bytes": {"memory": 2**30, "card": None, "predicted": 2**31},
    "device": "cpu",
    "seconds": {"all": 19.7},
}


def test_every_figure_stands_beside_what_it_is_compared_with() -> None:
    said = dict(facts(RECORD))
    assert said["weights"] == "6.9 MiB, predicted 6.9 MiB; 15 MiB in 16 bits"
    assert said["perplexity"] == "2.05, the source 2 (+2.50%), on 2,297 tokens of 32 held-out texts"
    assert said["logits"].startswith("relative error 0.151; the same most likely token at 96.9%")
    assert said["peak"] == "1.00 GiB on cpu, predicted 2.00 GiB"


def test_on_a_card_the_cards_peak_is_shown() -> None:
    record = {**RECORD, "device": "NVIDIA H200", "peak_bytes": {"memory": 1, "card": 2**32, "predicted": 2**33}}
    assert dict(facts(record))["peak"] == "4.00 GiB on NVIDIA H200, predicted 8.00 GiB"


@pytest.mark.parametrize(
    ("to", "maker", "said"),
    [("awq", "llm-compressor", "quantization: none, engine: vllm"), ("nf4", "bitsandbytes", "quantization: nf4")],
)
def test_how_it_goes_into_a_fleet(to, maker, said) -> None:
    assert said in next_step(SimpleNamespace(to=to, maker=maker, output=Path("/m/mini")))  # type: ignore[arg-type]


def test_without_a_terminal_each_part_is_one_line(capsys) -> None:
    with bar(quiet=False) as told:
        for share in (0.1, 0.2, 0.3):
            told("writing", share)
        told("", 1.0)
    with bar(quiet=True) as told:
        told("reading", 0.5)
    assert capsys.readouterr().err == "writing\n"
