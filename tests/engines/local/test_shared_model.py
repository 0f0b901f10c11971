"""Adapters beside one base leave it and each other as they were, to the bit, and each line of a batch has its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from onecard.engines.local.acceptance import AcceptedAdapter, BaseFacts, accept, base_facts
from onecard.engines.local.loading import LoadedBase, tensor_bytes
from onecard.engines.local.shared_model import Resident, SharedModel
from onecard.errors import AdapterRefused, InputError
from onecard.training.adapter import load
from tests.engines.conftest import FINGERPRINT, MadeAdapter, load_plain

IDS = [1, 40, 50, 60, 70]


class Bench:
    """A shared model with the adapters of the tests at hand."""

    def __init__(self, mini: Path, quantization: str, adapters: dict[str, MadeAdapter]) -> None:
        base = load_plain(mini, quantization)
        self.raw = base.model
        self.facts: BaseFacts = base_facts(base, FINGERPRINT, quantization, True)
        self.model = SharedModel(base)
        self.adapters = {name: made.trained_on(quantization=quantization) for name, made in adapters.items()}

    def accepted(self, name: str) -> AcceptedAdapter:
        return accept(self.adapters[name].folder, self.adapters[name].manifest, self.facts)

    def logits(self, *adapters: Resident | None) -> torch.Tensor:
        ids = torch.tensor([IDS] * len(adapters))
        return self.model.forward(adapters, ids, torch.ones_like(ids), keep=len(IDS))


@pytest.fixture(scope="module", params=["none", "nf4"])
def shared(request: pytest.FixtureRequest, mini: Path, adapters: dict[str, MadeAdapter]) -> Bench:
    return Bench(mini, request.param, adapters)


@pytest.fixture
def bench(shared: Bench) -> Iterator[Bench]:
    yield shared
    for resident in list(shared.model.residents):
        shared.model.remove(resident)


def test_the_base_and_each_adapter_stay_as_they_were(bench: Bench) -> None:
    with torch.no_grad():
        untouched = bench.raw(input_ids=torch.tensor([IDS])).logits
    assert torch.equal(bench.logits(None), untouched)
    plain = bench.model.add(bench.accepted("plain"))
    alone = bench.logits(plain)
    styled, other = bench.model.add(bench.accepted("styled")), bench.model.add(bench.accepted("other"))
    bench.logits(styled)
    assert torch.equal(bench.logits(plain), alone)
    assert torch.equal(bench.logits(None), untouched)
    bench.model.remove(other)
    bench.model.remove(styled)
    assert torch.equal(bench.logits(plain), alone)
    assert torch.equal(bench.logits(None), untouched)


def test_every_line_of_a_mixed_batch_has_its_own_adapter(bench: Bench) -> None:
    residents = [None, *(bench.model.add(bench.accepted(name)) for name in ("plain", "styled", "other"))]
    alone = [bench.logits(resident)[0] for resident in residents]
    order = [3, 0, 1, 2, 0, 1]
    mixed = bench.logits(*(residents[n] for n in order))
    for line, n in zip(mixed, order, strict=True):
        width = bench.model.vocabulary_of(residents[n])
        torch.testing.assert_close(line[:, :width], alone[n][:, :width], rtol=1e-4, atol=1e-4)
        assert all(m == n or not torch.allclose(line[:, :9], alone[m][:, :9], atol=1e-2) for m in range(4))


def test_columns_of_added_tokens_belong_to_their_owner(bench: Bench) -> None:
    plain, styled = bench.model.add(bench.accepted("plain")), bench.model.add(bench.accepted("styled"))
    base_width = bench.facts.vocabulary
    assert [bench.model.vocabulary_of(r) for r in (None, plain, styled)] == [base_width, base_width, base_width + 2]
    mixed = bench.logits(None, styled)
    assert bool(torch.isfinite(mixed[1]).all())
    assert bool((mixed[0, :, base_width:] == -torch.inf).all())


def test_removing_gives_the_memory_back(bench: Bench) -> None:
    before = tensor_bytes(bench.raw)
    resident = bench.model.add(bench.accepted("styled"))
    rows = resident.rows
    assert rows is not None
    # Rows live beside the model, LoRA inside it.
    assert tensor_bytes(bench.raw) - before == resident.bytes - rows.embedding.nbytes - rows.head.nbytes > 0
    bench.model.remove(resident)
    assert tensor_bytes(bench.raw) == before


@pytest.mark.parametrize(("strength", "reason"), [(0.0, "changes nothing"), (1e30, "infinities or NaN")])
def test_a_refused_adapter_leaves_everything_as_it_was(bench: Bench, strength: float, reason: str) -> None:
    plain = bench.model.add(bench.accepted("plain"))
    before, size = (bench.logits(None), bench.logits(plain)), tensor_bytes(bench.raw)
    good = bench.accepted("other")
    bad = replace(good, lora={module: (a, b * strength) for module, (a, b) in good.lora.items()})
    with pytest.raises(AdapterRefused, match=reason):
        bench.model.add_if_it_acts(bad, IDS)
    assert torch.equal(bench.logits(None), before[0]) and torch.equal(bench.logits(plain), before[1])
    assert (bench.model.residents, tensor_bytes(bench.raw)) == ([plain], size)


def test_an_adapter_that_breaks_while_it_is_put_in_leaves_everything_as_it_was(bench: Bench) -> None:
    plain = bench.model.add(bench.accepted("plain"))
    before, size = (bench.logits(None), bench.logits(plain)), tensor_bytes(bench.raw)
    good = bench.accepted("other")
    pair = next(iter(good.lora.values()))
    with pytest.raises(AttributeError):
        bench.model.add(replace(good, lora={**good.lora, "model.nowhere": pair}))
    assert torch.equal(bench.logits(None), before[0]) and torch.equal(bench.logits(plain), before[1])
    assert (bench.model.residents, tensor_bytes(bench.raw)) == ([plain], size)


def test_a_model_with_another_kind_of_state_is_refused(mini: Path) -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1))
    base = LoadedBase(mamba.eval(), None, torch.device("cpu"), torch.float32, mini)
    with pytest.raises(InputError, match="cannot hold this architecture"):
        SharedModel(base).check_cache(where="some/mamba")


def test_lora_is_fp32_beside_a_bf16_base_as_peft_has_it(mini: Path, adapters: dict[str, MadeAdapter]) -> None:
    base, made = load_plain(mini, dtype="bf16"), adapters["plain"]
    model = SharedModel(base)
    resident = model.add(accept(made.folder, made.manifest, base_facts(base, FINGERPRINT, "none", True)))
    reference = load(load_plain(mini, dtype="bf16"), made.folder)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        expected = reference(input_ids=ids).logits.float()
    assert torch.equal(model.forward([resident], ids, torch.ones_like(ids), keep=len(IDS)), expected)
