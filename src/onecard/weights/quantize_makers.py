"""Makes the quantized model in memory: bitsandbytes through transformers, or llm-compressor. Runs in the runner's interpreter only.

llm-compressor 0.14 on a machine without an accelerator needs one of its methods replaced; symmetric scales only, because asymmetric
4-bit checkpoints of compressed-tensors 0.19 are not read back by every transformers.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

from onecard.weights.quantize_order import CALIBRATED, Order


def load(folder: Any, device: str, **more: Any) -> Any:
    """A causal language model from local safetensors only, frozen, in bf16 wherever it is not quantized."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        device_map={"": 0 if device == "cuda" else "cpu"},
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **more,
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"the files lack the weight {missing[0]}")
    keep_unpacked(model)
    model.requires_grad_(False)
    return model.eval()


def keep_unpacked(model: Any) -> None:
    """A forward on an AVX512-BF16 CPU repacks bitsandbytes' 4-bit weights in place, and the repacked ones would be saved."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def make(order: Order, source: Any, ids: list[Any], device: str) -> Any:
    """The quantized model in memory. `source` is the 16-bit model, which llm-compressor converts in place; `ids` the calibration text."""
    if order.maker == "llm-compressor":
        return _compress(order, source, ids)
    return load(order.source, device, quantization_config=_bitsandbytes(order.to))


def _bitsandbytes(to: str) -> Any:
    if to == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",  # the default is fp4
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _compress(order: Order, model: Any, ids: list[Any]) -> Any:
    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda cache, batch: None  # pinning needs an accelerator's driver
    more: dict[str, Any] = {}
    if order.to in CALIBRATED:
        rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in ids]
        more = {
            "dataset": torch.utils.data.DataLoader(rows, batch_size=None),
            "num_calibration_samples": len(rows),
            "max_seq_length": order.max_tokens,
        }
    oneshot(model=model, recipe=_modifiers(order), **more)
    return model.eval()


def _modifiers(order: Order) -> list[Any]:
    """llm-compressor's own recipe: every Linear but the head, symmetric; of w8a8 the inputs too, each token by its own largest value."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    inputs = None
    if order.to in ("int8", "w8a8", "fp8"):
        kind = "float" if order.to == "fp8" else "int"
        weights = QuantizationArgs(num_bits=8, type=kind, strategy="channel", symmetric=True)
        if order.to == "w8a8":
            inputs = QuantizationArgs(num_bits=8, type="int", strategy="token", symmetric=True, dynamic=True)
    else:
        weights = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=order.group, symmetric=True)
    asked = {
        "config_groups": {"linears": QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)},
        "ignore": ["lm_head"],
    }
    if order.to == "gptq":
        return [GPTQModifier(**asked)]
    return [AWQModifier(), QuantizationModifier(**asked)] if order.to == "awq" else [QuantizationModifier(**asked)]
