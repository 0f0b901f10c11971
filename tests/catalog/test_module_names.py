"""Full names against the real models of transformers on the meta device."""

from __future__ import annotations

from collections import Counter

import pytest

from onecard.catalog.architecture import layout
from onecard.catalog.models import load_models
from onecard.catalog.module_names import every_place, named_linears
from onecard.catalog.shapes import Layout
from onecard.errors import CatalogError

# One model of each architecture of the catalog; the others of it have the same names.
MODELS = {model.config["model_type"]: model for model in load_models()}


@pytest.fixture(scope="module")
def real_names():
    """The full names of all Linears of a real model, the experts' not among them: they are 3-D parameters."""

    def look(config) -> set[str]:
        import torch
        import transformers

        keys = {key: value for key, value in config.items() if key != "quantization_config"}
        built = transformers.CONFIG_MAPPING[keys.pop("model_type")](**keys)
        with torch.device("meta"):
            model = getattr(transformers, keys["architectures"][0])(built)
        return {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}

    return look


@pytest.mark.parametrize("model_type", MODELS)
def test_every_linear_of_the_language_model_is_named_as_transformers_names_it(model_type, real_names):
    model = MODELS[model_type]
    real = real_names(model.config)
    seen: Counter[str] = Counter()
    for named in named_linears(model.config, model.layout):
        if named.shape.component not in ("linear", "lm_head") or named.layers is None:
            continue
        for place, layer in every_place(named):
            found = [path for path in named.paths(place, layer, older=False) if path in real]
            seen.update(found)
            assert len(named.places) > 1 or found, named
    outside = (
        "vision",
        "visual",
        "audio",
        "projector",
        "qformer",
        "embed_",
        "language_projection",
        "per_layer_model",
        "router",
    )
    outside += ("lm_head",) if model.tied_head else ()
    text = {name for name in real if not any(mark in name for mark in outside)}
    unsure = {n.shape.module for n in named_linears(model.config, model.layout) if n.layers is None}
    assert text - set(seen) <= {name for name in text if name.rpartition(".")[2] in unsure}
    if (
        model_type != "gemma4"
    ):  # its smallest size shares caches between layers, so which have a k_proj is not in its name
        assert not unsure & {name.rpartition(".")[2] for name in text}
    if not model.tied_head:
        assert any(name.endswith("lm_head") for name in seen)


def test_towers_and_projectors_go_by_their_names_now_and_before():
    model = MODELS["llava"]
    for named in named_linears(model.config, model.layout):
        if named.shape.component == "vision_tower":
            place, layer = every_place(named)[3]
            now = named.paths(place, layer, older=False)
            assert any(path.startswith("model.vision_tower.encoder.layers.3.") for path in now)
            assert not any(path.startswith("vision_tower.") for path in now)
            before = named.paths(place, layer, older=True)
            assert any(path.startswith("vision_tower.vision_model.encoder.layers.3.") for path in before)


def test_experts_are_counted_to_the_last_parameter():
    for model_type in ("gpt_oss", "qwen3_5_moe", "nemotron_h"):
        model = MODELS[model_type]
        experts = [n.shape for n in named_linears(model.config, model.layout) if n.shape.component == "experts"]
        assert sum(shape.weights + shape.biases for shape in experts) == model.counted["experts"]


def test_experts_that_do_not_divide_are_refused():
    model = MODELS["qwen3_5_moe"]
    whole = model.layout
    odd = Layout(whole.linears, {**whole.rest, "experts": 7}, whole.kv, whole.hidden_size, whole.vocab_size)
    with pytest.raises(CatalogError, match="do not divide into its 256 experts"):
        named_linears(model.config, odd)


def test_layers_with_dense_and_with_mixed_mlps_are_told_apart():
    config = {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 6,
        "first_k_dense_replace": 2,
        "hidden_size": 8,
        "n_routed_experts": 4,
        "moe_intermediate_size": 4,
    }
    from onecard.catalog.shapes import KvShape, LinearShape

    dense, shared = LinearShape("up_proj", 8, 16, 2), LinearShape("up_proj", 8, 4, 4)
    found = named_linears(config, Layout((dense, shared), {"embeddings": 80}, KvShape(6, 1, 8), 8, 10))
    assert [(named.places, named.layers) for named in found] == [
        ((("mlp",),), (0, 1)),
        ((("mlp.shared_experts",),), (2, 3, 4, 5)),
    ]


def test_a_tied_head_has_no_name_of_its_own():
    config = {**MODELS["llama"].config, "tie_word_embeddings": True}
    assert "lm_head" not in {named.shape.component for named in named_linears(config, layout(config))}
