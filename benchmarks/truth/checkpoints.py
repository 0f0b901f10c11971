"""Checkpoints of the real shape with random weights: what decides memory and speed is there, and nothing need be downloaded.

Every tensor is cut from one block of noise, so that 15 GB are written as fast as the disk takes them. Norms are ones.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
import transformers
from gauge import alone

from onecard.catalog.models import find_model

EMBEDDED = "embedded:mini"
NOISE = 1 << 25
# Small enough that activations stay below 6: int8 treats every column that reaches it as an outlier, of which trained models have few.
SCALE = 0.01


def config_of(model_id: str, layers: int | None = None) -> dict[str, Any]:
    """The catalog's config of a model; of one that also takes images, its language model's."""
    config = dict(find_model(model_id).config)
    if isinstance(config.get("text_config"), dict) and model_id.startswith("google/gemma-3"):
        config = {"model_type": "gemma3_text", **config["text_config"]}
    if layers is not None:
        config.pop("layer_types", None)
        config[next(key for key in ("num_hidden_layers", "n_layers") if key in config)] = layers
    return config


def write_checkpoint(config: dict[str, Any], tokenizer_of: Path, folder: Path, lock: str) -> int:
    """A model folder that loads like a downloaded one; the bytes of its weights. The tokenizer is copied from another model."""
    named = {key: value for key, value in config.items() if key != "model_type"}
    settings = transformers.AutoConfig.for_model(config["model_type"], **named)
    settings.dtype = torch.bfloat16
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(settings)
    tensors = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    folder.mkdir(parents=True, exist_ok=True)
    settings.architectures = [type(model).__name__]
    settings.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer_of / name, folder / name)
    return _write_tensors(tensors, folder / "model.safetensors", lock)


def _write_tensors(tensors: dict[str, tuple[int, ...]], file: Path, lock: str) -> int:
    noise = (torch.randn(NOISE) * SCALE).to(torch.bfloat16)
    block = memoryview(noise.view(torch.int16).numpy().tobytes())
    ones = memoryview(torch.ones(1 << 20, dtype=torch.bfloat16).view(torch.int16).numpy().tobytes())
    header, place = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb", buffering=0) as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors.items():
            norm = len(shape) == 1 and name.endswith("weight")
            left, source = 2 * math.prod(shape), ones if norm else block
            while left:
                with alone(lock, shared=True):  # not while somebody takes the time
                    left -= out.write(source[: min(left, len(source))])
    return place
