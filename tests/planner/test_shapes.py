from __future__ import annotations

import pytest

from onecard.catalog.architecture import lora_parameters
from onecard.catalog.models import Model, load_models
from onecard.errors import CatalogError
from onecard.fleet.recipe import LoraSection
from onecard.planner.memory import lora_weights
from onecard.planner.shapes import ModelShape, shape_of_config, shape_of_model, unknown_shape


@pytest.mark.parametrize("model", load_models(), ids=lambda model: model.id)
def test_every_model_of_the_catalog_has_the_same_shape_from_its_entry_and_from_its_config(model: Model) -> None:
    entry, config = shape_of_model(model), shape_of_config(model.id, model.config)
    assert entry.layout == config.layout
    assert set(entry.lora_targets) == set(config.lora_targets)
    assert (entry.experts, entry.experts_used) == (config.experts, config.experts_used)
    assert entry.active_parameters <= model.parameters


@pytest.mark.parametrize("model", load_models(), ids=lambda model: model.id)
def test_layers_are_those_of_the_config(model: Model) -> None:
    text = model.config.get("text_config") or model.config
    layers = next((text[key] for key in ("num_hidden_layers", "n_layers", "n_layer") if key in text), None)
    if layers is not None:
        assert shape_of_model(model).layers == layers


def test_adapter_parameters_agree_with_the_catalogs_own_count() -> None:
    model = load_models()[0]
    shape = shape_of_model(model)
    assert lora_weights(shape, LoraSection(rank=24)) == lora_parameters(model.config, 24, model.lora_targets)
    assert lora_weights(shape, LoraSection(rank=16)) == 41_943_040  # the figure PEFT prints for Mistral-7B


def test_a_mixture_reads_a_part_of_its_experts() -> None:
    mixture = next(m for m in load_models() if m.id == "openai/gpt-oss-20b")
    shape = shape_of_model(mixture)
    assert (shape.experts, shape.experts_used) == (32, 4)
    assert shape.active_parameters < 0.25 * mixture.parameters
    assert shape.published == "mxfp4"


def test_a_target_nobody_has_is_refused_with_the_nearest(mistral: ModelShape) -> None:
    with pytest.raises(CatalogError, match=r"no linear layer 'q_prj'.*did you mean 'q_proj'"):
        mistral.targets(("q_prj",))
    assert mistral.targets("all-linear") == mistral.lora_targets


@pytest.mark.parametrize(
    ("said", "form"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4"),
        ({"load_in_4bit": True}, "nf4"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        (None, "none"),
    ],
)
def test_a_checkpoint_that_is_quantized_already_is_recognised(said: dict[str, object] | None, form: str) -> None:
    config = {**load_models()[0].config, "quantization_config": said}
    shape = shape_of_config("local", config)
    assert shape.published == form
    assert (shape.checkpoint is None) == (form == "none")


def test_a_form_that_cannot_be_counted_is_refused() -> None:
    config = {**load_models()[0].config, "quantization_config": {"quant_method": "aqlm"}}
    with pytest.raises(CatalogError, match="'aqlm'"):
        shape_of_config("local", config)
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    with pytest.raises(CatalogError, match=r"quantization_config\.group_size: it is missing"):
        shape_of_config("local", config)


def test_an_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(CatalogError, match="'brand_new' is not known"):
        shape_of_config("local", {"model_type": "brand_new"})


def test_a_remote_model_needs_no_shape() -> None:
    assert unknown_shape("anything").active_parameters == 0
