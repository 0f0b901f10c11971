"""What is predicted, and what is refused before anything is loaded. That the bytes are true is shown where files are written."""

from __future__ import annotations

import pytest

from onecard.catalog.architecture import layout
from onecard.catalog.models import find_model
from onecard.catalog.units import GIB
from onecard.errors import DiskFull, DoesNotFit, InputError
from onecard.weights.quantize_order import FORMS, MAKERS
from onecard.weights.quantize_plan import demand_room, group_for, predict, refuse_what_cannot_be_made, storage_of

MISTRAL = find_model("mistralai/Mistral-7B-v0.3")
ASKED = {"samples": 128, "max_tokens": 512, "copied": 1000, "on_card": False}
EVERY = [(to, maker) for to in FORMS for maker in MAKERS[to]]


@pytest.mark.parametrize(("to", "maker"), EVERY)
def test_a_7b_shape(to, maker) -> None:
    shape = layout(MISTRAL.config)
    found = predict(shape, to, maker, group=group_for(shape, to), **ASKED)
    four_bits = to in ("awq", "gptq", "nf4")
    assert found.source_bytes == 2 * shape.parameters
    assert (3.5 if four_bits else 6.8) * GIB < found.file_bytes < (4.2 if four_bits else 7.6) * GIB
    assert found.source_bytes < found.peak_bytes < 4.2 * found.source_bytes
    assert {part.tag for part in found.peak} == {"exact", "assumed"}


def test_a_card_holds_the_source_and_never_a_second_copy_of_it() -> None:
    shape = layout(MISTRAL.config)
    found = predict(shape, "nf4", "bitsandbytes", group=0, **{**ASKED, "on_card": True})
    assert found.source_bytes < found.peak_bytes < found.source_bytes + 2 * GIB


def test_much_text_takes_memory_only_where_it_is_used() -> None:
    shape = layout(MISTRAL.config)
    much = {**ASKED, "samples": 20_000}
    for to, maker in EVERY:
        group = group_for(shape, to)
        peaks = [predict(shape, to, maker, group=group, **asked).peak_bytes for asked in (ASKED, much)]
        assert (peaks[0] < peaks[1]) == (to in ("awq", "gptq"))


def test_the_group_divides_every_input() -> None:
    falcon = layout(find_model("tiiuae/falcon-7b").config)
    assert group_for(layout(MISTRAL.config), "awq") == 128
    assert group_for(falcon, "gptq") == 64  # a width of 4544
    assert group_for(falcon, "nf4") == 0


def test_a_model_without_a_fitting_group_is_refused() -> None:
    config = {**MISTRAL.config, "hidden_size": 4100, "head_dim": 100}
    with pytest.raises(InputError, match="divides every Linear's input") as error:
        group_for(layout(config), "awq")
    assert "nf4" in str(error.value.next_step)


def test_unknown_pairs_of_form_and_library_are_refused() -> None:
    with pytest.raises(InputError, match="none is not made by bitsandbytes"):
        storage_of("none", "bitsandbytes", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("llava-hf/llava-1.5-7b-hf", "vision tower"),
        ("openai/gpt-oss-20b", "mixture of experts|quantized already"),
        ("Qwen/Qwen3.6-35B-A3B", "mixture of experts"),
    ],
)
def test_what_is_no_plain_language_model_is_refused(model, said) -> None:
    config = find_model(model).config
    with pytest.raises(InputError, match=said):
        refuse_what_cannot_be_made(config, layout(config), model)


def test_a_quantized_checkpoint_is_refused() -> None:
    config = {**MISTRAL.config, "quantization_config": {"quant_method": "awq"}}
    with pytest.raises(InputError, match="quantized already"):
        refuse_what_cannot_be_made(config, layout(config), "here")


def test_too_little_memory_or_disk_is_said_with_the_sums() -> None:
    found = predict(layout(MISTRAL.config), "nf4", "bitsandbytes", group=0, **ASKED)
    place = {"memory_is": "memory", "where": "here"}
    demand_room(found, free_memory=found.peak_bytes, free_disk=found.file_bytes, **place)
    with pytest.raises(DoesNotFit, match=r"takes about 2\d\.\d+ GiB at once, and 8\.00 GiB of memory are free"):
        demand_room(found, free_memory=8 * GIB, free_disk=100 * GIB, **place)
    with pytest.raises(DiskFull, match=r"will take 3\.\d+ GiB and 1\.00 GiB are free"):
        demand_room(found, free_memory=100 * GIB, free_disk=GIB, **place)
