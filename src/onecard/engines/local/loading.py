"""Loads a base model from a folder: the one door through which training and serving get the same weights in the same form.

Nothing comes from the network, only safetensors are read and no code from a checkpoint runs. Quantization is bitsandbytes' own, on a
CPU too, with the settings its defaults get wrong (fp4 instead of nf4, the AVX512 repacking that corrupts gradients).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError

from onecard.engines.local.tokens import load_tokenizer
from onecard.errors import DoesNotFit, InputError, MissingPart
from onecard.weights.storage_memory import note_use

Quantization = Literal["none", "int8", "nf4"]
Dtype = Literal["bf16", "fp16", "fp32"]
Device = Literal["auto", "cpu", "cuda"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MADE_WHILE_LOADING = ("none", "int8", "nf4")  # awq, gptq and fp8 exist only in checkpoints that already are


@dataclass(frozen=True)
class LoadedBase:
    """A base model in memory, in eval mode and frozen. `dtype` is that of everything that is not quantized."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    folder: Path


def load_base(
    folder: Path, quantization: Quantization, *, double_quantization: bool, dtype: Dtype, device: Device
) -> LoadedBase:
    """The causal language model of `folder`. MissingPart when files are missing, InputError when they cannot be used,
    DoesNotFit when the card is too small.

    `double_quantization` matters for nf4 only. A checkpoint that is already quantized is taken as it is, and refused when it is not
    what was asked for; any other can be held as none, int8 or nf4.
    """
    config = read_config(folder)
    place = choose_device(device)
    if place.type == "cuda":
        # cuDNN's attention plans every new pair of batch and length: 36 ms for a step, 0.5 s for a prompt of 2,048 tokens on an H200.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if not list(folder.glob("*.safetensors")):
        raise MissingPart(
            "no weights",
            where=str(folder),
            allowed="*.safetensors",
            next_step="fetch the model, or convert its weights",
        )
    asked = {
        "dtype": DTYPES[dtype],
        "device_map": {"": 0 if place.type == "cuda" else "cpu"},
        "attn_implementation": _attention(config),
        **_quantization(config, quantization, double_quantization, DTYPES[dtype], folder),
    }
    with quiet():
        tokenizer = load_tokenizer(folder)
        model = _read_weights(folder, asked)
    _keep_gradients_right(model)
    model.requires_grad_(False)
    model.eval()
    note_use(folder)
    return LoadedBase(model, tokenizer, place, DTYPES[dtype], folder)


def _read_weights(folder: Path, asked: dict[str, Any]) -> Any:
    """The model, every weight of it from the files: transformers would fill a missing one with random numbers and only warn."""
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **asked,
        )
    except ImportError as error:
        raise MissingPart(_first_line(error), next_step="pip install 'onecard[local]'") from error
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            f"the model does not fit: {_first_line(error)}", where=str(folder), next_step="quantize it further"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"the model cannot be loaded: {_first_line(error)}", where=str(folder)) from error
    if missing := sorted(info["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"the files lack the weight {missing[0]}{more}", where=str(folder), next_step="fetch it again")
    return model


def read_config(folder: Path) -> Any:
    """The transformers config of a model folder. MissingPart without one, InputError for one that is no causal language model's."""
    if not (folder / "config.json").is_file():
        raise MissingPart("no config.json", where=str(folder), next_step="fetch the model, or name its folder")
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # every config class validates in its own way
        raise InputError(f"cannot be read: {_first_line(error)}", where=str(folder / "config.json")) from error
    if type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        raise InputError(f"'{config.model_type}' is not a causal language model", where=str(folder / "config.json"))
    return config


def choose_device(device: Device) -> torch.device:
    """`auto` is the first CUDA card, or the CPU without one. MissingPart when cuda is asked for and absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise MissingPart("no CUDA card", next_step="use device auto or cpu")
    return torch.device("cuda", 0) if device != "cpu" and torch.cuda.is_available() else torch.device("cpu")


def tensor_bytes(model: torch.nn.Module) -> int:
    """Bytes of every distinct tensor the model holds: parameters, buffers, and bitsandbytes' scales and code tables."""
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in _tensors(model) if t.numel()}.values())


def grow_vocabulary(model: Any, tokenizer: Any, known: int) -> None:
    """Makes room for every token of `tokenizer`; the rows from `known` on start as the mean of those before. Never shrinks.

    Embedding and head get the same treatment, tied or not. Values trained for these rows replace them when an adapter is loaded, so
    what matters there is the number of rows.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        with quiet():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    layers = {id(layer.weight): layer for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for layer in layers.values():
            mean = layer.weight[:known].mean(dim=0, dtype=torch.float32)
            layer.weight[known : len(tokenizer)] = mean.to(layer.weight.dtype)
    model.requires_grad_(False)


def _tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Everything held, shared tensors as often as they are shared. Quantization states stand beside their weights, not in the module."""
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        while state is not None:  # double quantization nests a second state in the first
            yield from (t for t in (state.absmax, state.code, state.offset) if isinstance(t, torch.Tensor))
            state = state.state2
        for holder in (getattr(module, "weight", None), getattr(module, "state", None)):
            for name in ("CB", "SCB"):
                if isinstance(tensor := getattr(holder, name, None), torch.Tensor):
                    yield tensor


def _attention(config: Any) -> str:
    """sdpa where transformers has it for this architecture; the others know only eager."""
    return "sdpa" if transformers.AutoModelForCausalLM._model_mapping[type(config)]._supports_sdpa else "eager"


def _quantization(
    config: Any, asked: Quantization, double: bool, dtype: torch.dtype, folder: Path
) -> dict[str, transformers.BitsAndBytesConfig]:
    """The keyword for from_pretrained, empty where nothing is to be quantized."""
    held = _already_quantized(config)
    if held is not None:
        if held != asked:
            raise InputError(f"the checkpoint is {held}, {asked} was asked for", where=str(folder), allowed=held)
        return {}
    if asked not in MADE_WHILE_LOADING:
        raise InputError(
            f"{asked} was asked for, and the checkpoint is not quantized",
            where=str(folder),
            allowed=", ".join(MADE_WHILE_LOADING),
            next_step=f"use the vllm engine, or quantize the checkpoint to {asked} first",
        )
    if asked == "none":
        return {}
    if asked == "int8":
        return {"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",  # the default is fp4
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=dtype,
        )
    }


def _already_quantized(config: Any) -> str | None:
    """How a checkpoint says it is quantized: nf4 and int8 as we name them, anything else by its own name."""
    said = getattr(config, "quantization_config", None)
    if said is None:
        return None
    said = said if isinstance(said, dict) else said.to_dict()
    if said.get("load_in_8bit"):
        return "int8"
    return str(said.get("bnb_4bit_quant_type") if said.get("load_in_4bit") else said.get("quant_method", "unknown"))


def _keep_gradients_right(model: torch.nn.Module) -> None:
    """An evaluation forward on an AVX512-BF16 CPU repacks 4-bit weights; gradients and merges are wrong from then on."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the progress bars, warnings and notices of the libraries below; errors still come through as exceptions."""
    loggers = [logging.getLogger(name) for name in ("bitsandbytes", "peft", "trl", "accelerate", "datasets")]
    levels = [logger.level for logger in loggers]
    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
