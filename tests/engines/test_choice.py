"""Which engine answers, and the sentence that says why."""

from __future__ import annotations

import itertools

import pytest

from onecard.engines.choice import LOCAL_MISSING, VLLM_MISSING, Here, Wanted, choose_engine
from onecard.fleet.schema import ModelSpec
from onecard.planner.engine_facts import engine_of

ALL = Here(card=True, local=True, vllm=True)


@pytest.mark.parametrize(
    ("wanted", "here", "engine", "words"),
    [
        (Wanted(), ALL, "local", "the plan counts on; vLLM is installed too"),
        (Wanted(), Here(card=False, local=True, vllm=True), "local", "no card"),
        (Wanted(), Here(card=True, local=False, vllm=True), "vllm", "not installed, and vLLM is"),
        (Wanted(engine="vllm"), ALL, "vllm", "the fleet says so"),
        (Wanted(engine="remote"), Here(False, False, False), "remote", "names a server"),
        (Wanted(quantization="awq"), ALL, "vllm", "only vLLM holds awq"),
        (Wanted(quantization="nf4"), Here(card=True, local=False, vllm=True), "local", "vLLM does not hold nf4"),
        (Wanted(kv_cache="fp8"), ALL, "vllm", "fp8"),
        (Wanted(recurrent=True), ALL, "vllm", "recurrent"),
        (Wanted(added_tokens=("writer",)), ALL, "local", "adapter of writer adds tokens"),
        (Wanted(added_tokens=("writer",), exported_for="writer/s@v1"), ALL, "vllm", "export of writer/s@v1"),
        (Wanted(scores=True), ALL, "local", "candidates are scored"),
    ],
)
def test_the_choice_and_its_reason(wanted: Wanted, here: Here, engine: str, words: str) -> None:
    choice = choose_engine(wanted, here)
    assert choice.engine == engine and words in str(choice)
    assert not str(choice).endswith(".")


def test_what_is_missing_is_named_with_its_install_line() -> None:
    bare = Here(card=True, local=False, vllm=False)
    assert choose_engine(Wanted(), bare).missing == LOCAL_MISSING
    assert choose_engine(Wanted(quantization="gptq"), bare).missing == VLLM_MISSING
    assert choose_engine(Wanted(engine="vllm"), bare).missing == VLLM_MISSING
    assert choose_engine(Wanted(engine="remote"), bare).missing is None


def test_with_everything_installed_auto_is_what_the_plan_counts_on() -> None:
    for form, recurrent in itertools.product(("none", "int8", "nf4", "awq", "gptq", "fp8"), (False, True)):
        planned = engine_of(ModelSpec(id="a/b", quantization=form), recurrent=recurrent)  # type: ignore[arg-type]
        for card in (False, True):
            wanted = Wanted(quantization=form, recurrent=recurrent)
            assert choose_engine(wanted, Here(card=card, local=True, vllm=True)).engine == planned
