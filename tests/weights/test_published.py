"""Where a checkpoint and its config part, in sentences."""

from __future__ import annotations

from typing import Any

import pytest

from onecard.catalog.architecture import layout
from onecard.weights.headers import BITS_PER_ELEMENT, HeaderSummary, Tensor, summarize
from onecard.weights.published import disagreement

CONFIG: dict[str, Any] = {
    "model_type": "mistral", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "tie_word_embeddings": False,
}  # fmt: skip


def headers_of(tensors: dict[str, tuple[str, tuple[int, ...]]]) -> HeaderSummary:
    made = []
    for name, (dtype, shape) in tensors.items():
        size = 1
        for number in shape:
            size *= number
        made.append(Tensor(name, dtype, shape, 0, size * BITS_PER_ELEMENT[dtype] // 8))
    return summarize([made])


@pytest.fixture
def tensors(hub_server: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    made: dict[str, tuple[str, tuple[int, ...]]] = hub_server.decoder_tensors(CONFIG)
    return made


def said(
    tensors: dict[str, tuple[str, tuple[int, ...]]], form: str = "none", counted: int = 0, **change: Any
) -> str | None:
    return disagreement(headers_of(tensors), layout(CONFIG | change), form, counted)


def test_a_checkpoint_of_its_own_config_has_nothing_to_say(tensors: Any) -> None:
    assert said(tensors) is None
    assert said({name: ("F32", shape) for name, (_, shape) in tensors.items()}) is None  # 32 bits on disk, 16 in memory


def test_more_than_the_tolerance_is_said_with_both_counts(tensors: Any) -> None:
    count = layout(CONFIG).parameters
    assert said(tensors | {"mtp.weight": ("BF16", (count // 250,))}) is None  # 0.4%
    sentence = said(tensors | {"mtp.weight": ("BF16", (count // 50,))})
    assert sentence is not None
    assert f"{count:,}" in sentence and f"{count + count // 50:,}" in sentence and "+2.0%" in sentence


def test_less_than_the_config_counts_is_said_too(tensors: Any) -> None:
    sentence = said({name: tensor for name, tensor in tensors.items() if ".1." not in name})
    assert sentence is not None and "-" in sentence.split("(")[1]


def test_a_tied_head_stored_twice_is_explained(tensors: Any) -> None:
    sentence = said(tensors, tie_word_embeddings=True)
    assert sentence == "the checkpoint holds its tied output head a second time (500 KiB on disk); it is loaded once"


def test_a_head_that_is_missing_is_grave(tensors: Any) -> None:
    sentence = said({name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"})
    assert sentence is not None and "holds none" in sentence


def test_a_quantized_checkpoint_is_compared_by_bytes(hub_server: Any) -> None:
    packed = hub_server.awq_tensors(CONFIG)
    held = headers_of(packed).weight_bytes
    assert said(packed, "awq", held) is None
    assert said(packed, "awq", round(held * 1.004)) is None
    sentence = said(packed, "awq", round(held * 1.1))
    assert sentence is not None and "arithmetic of awq" in sentence and "-9.1%" in sentence


def test_a_config_that_says_another_form_than_the_checkpoint_has(tensors: Any, hub_server: Any) -> None:
    converted = said(tensors, "nf4", 1)
    assert converted is not None and "says nf4" in converted and "plain BF16" in converted
    unsaid = said(hub_server.awq_tensors(CONFIG))
    assert unsaid is not None and "names no quantization" in unsaid and "I32" in unsaid
