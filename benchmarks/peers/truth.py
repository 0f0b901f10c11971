"""What the weights of a model really take: the class transformers builds, on the meta device, and the tensors bitsandbytes stores.

Nothing here knows onecard's arithmetic. 16 bits are two bytes a parameter, a tied head once. For int8 and nf4 the Linears are replaced by
the very function transformers' loader uses; the bytes of each replaced one are those of a real tensor quantized on this CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from math import gcd
from typing import Any

import bitsandbytes
import torch
import transformers
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit
from transformers import BitsAndBytesConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import HfQuantizer

transformers.logging.set_verbosity_error()
warnings.filterwarnings("ignore")

FORMS = {
    "16bit": None,
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=False),
    "nf4_dq": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
}

# nf4 stores blocks of 64 weights and, doubly quantized, blocks of 256 of those: sizes are linear in multiples of this.
WHOLE_BLOCKS = 64 * 256


def built(config: Mapping[str, Any], device: str = "meta") -> Any:
    """The model of a config in bfloat16, without memory for its weights."""
    keys = dict(config)
    kind = getattr(transformers, keys["architectures"][0])
    settings = transformers.CONFIG_MAPPING[keys.pop("model_type")](**keys)
    with torch.device(device):
        return kind._from_config(settings, dtype=torch.bfloat16).eval()


def weight_bytes(config: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of all weights in each of FORMS, under "parameters" their number, under "kept" those of layers the loader passes over.

    Passed over are experts held as 3-D parameters, and Falcon, whose Linears are a class of their own.
    """
    model = built(config)
    every = dict(model.named_parameters())
    experts = sum(parameter.numel() for name, parameter in every.items() if parameter.ndim == 3 and ".experts." in name)
    falcon = sum(m.weight.numel() for m in model.modules() if type(m).__name__ == "FalconLinear")
    sizes = {"parameters": sum(parameter.numel() for parameter in every.values()), "kept": experts + falcon}
    for form, settings in FORMS.items():
        model = built(config)
        if settings is not None:
            convert(model, settings)
        sizes[form] = sum(held_bytes(model))
    return sizes


def convert(model: Any, settings: BitsAndBytesConfig) -> None:
    """Replaces Linears as loading with these settings does, with the loader's own choice of what to keep."""
    keep = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    replace_with_bnb_linear(model, keep, settings)


def held_bytes(model: Any) -> Iterator[int]:
    """Bytes of each parameter of a converted model; weights of replaced Linears as bitsandbytes stores them."""
    replaced = {}
    for module in model.modules():
        if isinstance(module, Linear4bit):
            double = module.weight.compress_statistics
            replaced[id(module.weight)] = nf4_bytes(module.in_features, module.out_features, double)
        elif isinstance(module, Linear8bitLt):
            replaced[id(module.weight)] = int8_bytes(module.in_features, module.out_features)
    for parameter in model.parameters():
        yield replaced.get(id(parameter), 2 * parameter.numel())


@cache
def nf4_bytes(inputs: int, outputs: int, double: bool) -> int:
    """A Linear4bit's weight of this shape. A large one is the line through two real ones of fewer rows."""

    def real(rows: int) -> int:
        weight = Params4bit(
            torch.zeros(rows, inputs, dtype=torch.bfloat16),
            requires_grad=False,
            quant_type="nf4",
            compress_statistics=double,
        ).to("cpu")
        state = weight.quant_state
        pieces = [weight, state.absmax, state.code, state.offset]
        if state.nested:
            pieces += [state.state2.absmax, state.state2.code]
        return sum(piece.nbytes for piece in pieces if isinstance(piece, torch.Tensor))

    return along_rows(real, outputs, WHOLE_BLOCKS // gcd(WHOLE_BLOCKS, inputs))


@cache
def int8_bytes(inputs: int, outputs: int) -> int:
    """A Linear8bitLt's weight of this shape with its scales."""

    def real(rows: int) -> int:
        weight = torch.zeros(rows, inputs, dtype=torch.bfloat16)
        layer = Int8Params(weight, requires_grad=False, has_fp16_weights=False).to("cpu")
        return int(layer.nbytes + layer.SCB.nbytes)

    return along_rows(real, outputs, 1)


def along_rows(real: Any, rows: int, step: int) -> int:
    """`real(rows)`; where that is a multiple of `step` beyond twice of it, by the line through `step` and twice `step`."""
    if rows % step or rows <= 2 * step:
        return int(real(rows))
    first, second = real(step), real(2 * step)
    return int(first + (rows // step - 1) * (second - first))


def versions() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "bitsandbytes": bitsandbytes.__version__,
    }
