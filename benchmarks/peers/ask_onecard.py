"""onecard: the planner's own lines for weights, and the cache of its layout.

Asked twice: from the config as published, and from the config with every key as transformers writes it when it saves a model.
"""

from __future__ import annotations

from asking import Answer, answer_all

FORMS = {"16bit": ("none", True), "int8": ("int8", True), "nf4": ("nf4", False), "nf4_dq": ("nf4", True)}


def version() -> str:
    from onecard import __version__

    return __version__


def ask(model: dict) -> Answer:
    answers: Answer = {}
    for name, key in (("published config", "config"), ("saved config", "saved_config")):
        for quantity, size in sizes(model["id"], model[key], model["long"]).items():
            answers.setdefault(quantity, {})[name] = size
    return answers


def sizes(model_id: str, config: dict, long: int) -> dict[str, float]:
    from onecard.fleet.schema import ModelSpec
    from onecard.planner.shapes import shape_of_config
    from onecard.planner.weights import weight_lines

    shape = shape_of_config(model_id, config)
    found: dict[str, float] = {}
    for quantity, (form, double) in FORMS.items():
        spec = ModelSpec(id=model_id, quantization=form, double_quantization=double, context=64, concurrency=1)
        found[quantity] = sum(line.bytes for line in weight_lines("model", spec, shape))
    return found | {"kv_per_token": shape.kv.bytes_per_token(), "cache_at_long": shape.kv.bytes_for(long)}


if __name__ == "__main__":
    answer_all(version, ask)
