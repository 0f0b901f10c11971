"""Lines of a batch decode as they would alone, whoever joins and leaves meanwhile, and take their cache with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, FalconConfig, Gemma2Config, GPTNeoXConfig, MistralConfig, MptConfig

from onecard.engines.engine import GenerationRequest
from onecard.engines.local import batch as batch_module
from onecard.engines.local.acceptance import accept, base_facts
from onecard.engines.local.answer import Answer, Prompt
from onecard.engines.local.batch import Batch, padded_left
from onecard.engines.local.loading import LoadedBase
from onecard.engines.local.shared_model import Resident, SharedModel
from tests.engines.conftest import FINGERPRINT, MadeAdapter, load_plain

PROMPTS = ([1, 40, 50], list(range(100, 130)), [1, 7], [1, *range(60, 75)])


class Line(Answer):
    """An answer that remembers its tokens."""

    def __init__(self, prompt: Sequence[int], adapter: Resident | None, new_tokens: int) -> None:
        request = GenerationRequest(text="?", max_new_tokens=new_tokens)
        super().__init__(
            request, Prompt(tuple(prompt), (), False), adapter, lambda ids: "x" * len(ids), lambda chunk: None
        )
        self.taken: list[int] = []

    def take(self, logits: torch.Tensor) -> None:
        super().take(logits)
        self.taken.append(self.last_token)


@pytest.fixture(scope="module")
def model(mini: Path, adapters: dict[str, MadeAdapter]) -> SharedModel:
    base = load_plain(mini)
    facts = base_facts(base, FINGERPRINT, "none", True)
    shared = SharedModel(base)
    for made in (adapters["plain"], adapters["other"]):
        shared.add(accept(made.folder, made.manifest, facts))
    return shared


def give(lines: Sequence[Answer], logits: torch.Tensor) -> None:
    for line, row in zip(lines, logits, strict=True):
        line.take(row)


def decode(model: SharedModel, arrivals: Sequence[Sequence[Line]]) -> None:
    """Lets lines join at the steps at which they arrive, until all are finished."""
    batch = Batch(model)
    for joining in arrivals:
        if joining:
            give(joining, batch.join(joining))
        batch.drop_finished()
        if batch.answers:
            give(batch.answers, batch.step())
    while batch.answers:
        batch.drop_finished()
        if batch.answers:
            give(batch.answers, batch.step())
    assert batch.cache_bytes == 0


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 7), st.integers(0, 5)), min_size=1, max_size=5
    )
)
def test_any_order_of_joining_and_leaving_gives_the_tokens_of_being_alone(
    model: SharedModel, lines: list[tuple[int, int, int, int]]
) -> None:
    routes = [None, *model.residents]
    mixed = [Line(PROMPTS[prompt], routes[route], new) for prompt, route, new, _ in lines]
    decode(model, [[line for line, (*_, at) in zip(mixed, lines, strict=True) if at == step] for step in range(6)])
    for line, (prompt, route, new, _) in zip(mixed, lines, strict=True):
        alone = Line(PROMPTS[prompt], routes[route], new)
        decode(model, [[alone]])
        assert line.taken == alone.taken
        assert len(line.taken) == new


def test_a_line_that_leaves_takes_its_cache_and_its_padding_with_it(model: SharedModel) -> None:
    long, short = Line(PROMPTS[1], None, 1), Line(PROMPTS[2], None, 9)
    batch = Batch(model)
    give([long, short], batch.join([long, short]))
    both = batch.cache_bytes
    batch.drop_finished()
    assert batch.answers == [short]
    assert batch.cache_bytes * 2 * len(PROMPTS[1]) == both * len(PROMPTS[2])


def test_a_long_prompt_in_pieces_says_what_it_says_whole(model: SharedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def joined() -> tuple[list[int], torch.Tensor]:
        widths: list[int] = []
        forward = model.forward
        monkeypatch.setattr(model, "forward", lambda *given: widths.append(given[1].shape[1]) or forward(*given))
        logits = Batch(model).join([Line(PROMPTS[1], None, 1), Line(PROMPTS[0], model.residents[0], 1)])
        monkeypatch.setattr(model, "forward", forward)
        return widths, logits

    whole_widths, whole = joined()
    monkeypatch.setattr(batch_module, "PREFILL_TOKENS", 10)
    widths, pieces = joined()
    assert whole_widths == [sum(widths)]
    assert max(widths) == 5  # two lines of five columns
    assert torch.allclose(whole, pieces, atol=1e-4)


def test_memory_that_runs_out_at_a_join_leaves_all_or_nothing(
    model: SharedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first tensor the running lines are whole and go on; at a later one none of them is left."""
    grown = batch_module._joined
    for at in (0, 1, 3):
        calls = iter(range(100))

        def fails(*given: torch.Tensor, at: int = at, calls: Iterator[int] = calls) -> torch.Tensor:
            if next(calls) == at:
                raise torch.OutOfMemoryError("no room")
            return grown(*given)

        batch, running = Batch(model), Line(PROMPTS[0], None, 4)
        give([running], batch.join([running]))
        monkeypatch.setattr(batch_module, "_joined", fails)
        with pytest.raises(torch.OutOfMemoryError):
            batch.join([Line(PROMPTS[1], None, 4)])
        monkeypatch.undo()
        assert batch.answers == ([running] if at == 0 else [])
        if at == 0:
            give(batch.answers, batch.step())


def test_padding_stands_on_the_left() -> None:
    ids, mask = padded_left([[5], [6, 7, 8]], torch.device("cpu"))
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]


SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURES = {
    "sliding window": MistralConfig(**SIZES, intermediate_size=64, num_key_value_heads=2, sliding_window=8),
    "partial rotary": GPTNeoXConfig(**SIZES, intermediate_size=64),
    "one key head": FalconConfig(**SIZES, multi_query=True, new_decoder_architecture=False, alibi=False),
    "no position ids": MptConfig(vocab_size=64, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    "capped logits": Gemma2Config(**SIZES, intermediate_size=64, num_key_value_heads=2, head_dim=8, sliding_window=8),
}


@pytest.mark.parametrize("piece", [12, 2048])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures_decode_as_transformers_does(
    name: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with prompts that go through the layers in pieces of four columns."""
    monkeypatch.setattr(batch_module, "PREFILL_TOKENS", piece)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval()
    for weight in model.parameters():
        weight.data *= 5 if weight.dim() > 1 else 1  # random weights as they come say the same whatever is asked
    prompts = [list(range(3, 30)), [5, 6], [9, 8, 7, 20, 21]]
    expected = []
    for prompt in prompts:
        asked = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt), dtype=torch.long)}
        out = model.generate(**asked, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
        expected.append(out[0, len(prompt) :].tolist())
    shared = SharedModel(LoadedBase(model, None, torch.device("cpu"), torch.float32, Path()))
    shared.check_cache(where=name)
    lines = [Line(prompt, None, 8) for prompt in prompts]
    decode(shared, [lines[:1], [], lines[1:]])
    assert [line.taken for line in lines] == expected
