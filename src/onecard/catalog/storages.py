"""How quantization libraries keep one Linear: every tensor they store for it, in bytes.

Read in the source of the version each class names; bitsandbytes is also checked against its real tensors in the tests. `inputs` and
`outputs` are in_features and out_features, `dtype_bytes` is the width of what stays in the model's own type (most scales do).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Form = Literal["none", "int8", "nf4", "awq", "gptq", "fp8", "mxfp4", "nvfp4", "int4", "w8"]
FORMS: tuple[Form, ...] = ("none", "int8", "nf4", "awq", "gptq", "fp8", "mxfp4", "nvfp4", "int4", "w8")

Kind = Literal["int", "float"]
BnbKind = Literal["nf4", "fp4"]
AwqVersion = Literal["gemm", "gemv", "gemv_fast", "marlin"]
Strategy = Literal["tensor", "channel", "group", "block", "tensor_group"]

NESTED_BLOCK = 256  # absmaxes that share one nested absmax under double quantization
NF4_CODE_BYTES = 16 * 4  # the 16 fp32 levels, one copy per Linear
NESTED_CODE_BYTES = 256 * 4  # the 256 fp32 levels of the nested form, one copy per Linear


class Storage(Protocol):
    """How one Linear is kept. `form` is the family of kernels that reads it, `name` what a ledger shows, `tensors` why it takes that."""

    @property
    def form(self) -> Form: ...

    @property
    def name(self) -> str: ...

    @property
    def tensors(self) -> str: ...

    def holds(self, inputs: int, outputs: int) -> bool:
        """Whether the library can convert a Linear of this shape; one it cannot stays in 16 bits."""
        ...

    def bytes_of(self, inputs: int, outputs: int, dtype_bytes: int = 2) -> int:
        """Bytes of the weight and of all that belongs to it, the bias left out."""
        ...


def up(count: int, size: int) -> int:
    """How many pieces of `size` hold `count`."""
    return -(-count // size)


@dataclass(frozen=True)
class Bnb4Bit:
    """bitsandbytes 0.50.2, functional.quantize_4bit: packed halves, an fp32 absmax per block, the levels.

    With double quantization each absmax is one byte, every 256 of them share an fp32, and there is one fp32 offset.
    """

    kind: BnbKind = "nf4"
    double_quantization: bool = True
    block: int = 64

    form: Form = "nf4"

    @property
    def name(self) -> str:
        return f"{self.kind}+DQ" if self.double_quantization else self.kind

    @property
    def tensors(self) -> str:
        scale = "a nested byte" if self.double_quantization else "an fp32"
        return f"4 bits a weight and {scale} per {self.block}, as bitsandbytes keeps them"

    def holds(self, inputs: int, outputs: int) -> bool:
        return True

    def bytes_of(self, inputs: int, outputs: int, dtype_bytes: int = 2) -> int:
        weights = inputs * outputs
        blocks = up(weights, self.block)
        nested = blocks + 4 * up(blocks, NESTED_BLOCK) + 4 + NESTED_CODE_BYTES
        return up(weights, 2) + (nested if self.double_quantization else 4 * blocks) + NF4_CODE_BYTES


@dataclass(frozen=True)
class Bnb8Bit:
    """bitsandbytes 0.50.2, nn.Linear8bitLt: a byte a weight and one fp32 a row (SCB)."""

    form: Form = "int8"
    name: str = "int8"
    tensors: str = "a byte a weight and an fp32 a row, as bitsandbytes keeps them"

    def holds(self, inputs: int, outputs: int) -> bool:
        return True

    def bytes_of(self, inputs: int, outputs: int, dtype_bytes: int = 2) -> int:
        return inputs * outputs + 4 * outputs


@dataclass(frozen=True)
class Awq:
    """AutoAWQ 0.2.9, awq/modules/linear/{gemm,gemv,gemv_fast,marlin}.py: qweight in int32, fp16 scales, qzeros in int32 (marlin: none).

    gemv pads groups to whole int32 of zeros, and its scales with them; gemv_fast keeps its zeros in fp16. `group` -1 is a whole row.
    """

    group: int = 128
    version: AwqVersion = "gemm"

    form: Form = "awq"

    @property
    def name(self) -> str:
        return f"awq g{self.group}" if self.group > 0 else "awq"

    @property
    def tensors(self) -> str:
        groups = f"groups of {self.group}" if self.group > 0 else "whole rows"
        return f"int32-packed 4 bits, 16-bit scales{', zeros' if self.version != 'marlin' else ''}, {groups}, as AutoAWQ packs them"

    def _group(self, inputs: int) -> int:
        return self.group if self.group > 0 else inputs

    def holds(self, inputs: int, outputs: int) -> bool:
        return inputs % self._group(inputs) == 0 and outputs % 8 == 0

    def bytes_of(self, inputs: int, outputs: int, dtype_bytes: int = 2) -> int:
        group, packed = self._group(inputs), inputs * outputs // 2
        if self.version in ("gemm", "marlin"):
            zeros = inputs // group * outputs // 2 if self.version == "gemm" else 0
            return packed + zeros + 2 * (inputs // group) * outputs
        pieces = 4 if group == 32 else 2 if group == 64 else 1
        padded = up(up(inputs // group, 8), pieces) * pieces
        each = (4 + 2 * 8) if self.version == "gemv" else (2 * 8 + 2 * 8)
        return packed + padded * outputs * each


@dataclass(frozen=True)
class Gptq:
    """GPTQModel 7.3.4, nn_modules/qlinear/__init__.py: qweight and qzeros in int32, fp16 scales, an int32 group index per input.

    The zeros are stored for symmetric checkpoints too, and the index without desc_act. `group` -1 is a whole row.
    """

    bits: int = 4
    group: int = 128

    form: Form = "gptq"

    @property
    def name(self) -> str:
        bits = "" if self.bits == 4 else f" {self.bits}-bit"
        return f"gptq{bits} g{self.group}" if self.group > 0 else f"gptq{bits}"

    @property
    def tensors(self) -> str:
        groups = f"groups of {self.group}" if self.group > 0 else "whole rows"
        return f"int32-packed {self.bits} bits, 16-bit scales, zeros, g_idx, {groups}, as GPTQModel packs them"

    def holds(self, inputs: int, outputs: int) -> bool:
        return inputs % 32 == 0 and outputs % 32 == 0

    def bytes_of(self, inputs: int, outputs: int, dtype_bytes: int = 2) -> int:
        groups = up(inputs, self.group) if self.group > 0 else 1
        weight = 4 * up(inputs * self.bits, 32) * outputs
        zeros = 4 * groups * up(outputs * self.bits, 32)
        return weight + zeros + 2 * groups * outputs + 4 * inputs


@dataclass(frozen=True)
class Fp8:
    """transformers 5.19, integrations/finegrained_fp8.py FP8Linear, and fbgemm: a byte a weight, fp32 scales, one more if static.

    `strategy`: one scale a Linear, one a row, or one for every `block` (rows, inputs); `scale_bytes` is 1 for ue8m0 scales.
    """

    strategy: Strategy = "tensor"
    block: tuple[int, int] = (128, 128)
    static: bool = False
    scale_bytes: int = 4

    form: Form = "fp8"

    @property
    def name(self) -> str:
        return "fp8"

    @property
    def tensors(self) -> str:
        blocks = f"{self.block[0]} x {self.block[1]} block"
        return f"a byte a weight and a scale per {blocks if self.strategy == 'block' else self.strategy}"

    def holds(self, inputs: int, outputs: int) -> bool:
        return True

    def bytes_of(self, inputs: int, outputs: int, dtype_bytes: int = 2) -> int:
        scales = {"tensor": 1, "channel": outputs}.get(self.strategy)
        if scales is None:
            scales = up(outputs, self.block[0]) * up(inputs, self.block[1])
        return inputs * outputs + self.scale_bytes * scales + (4 if self.static else 0)


@dataclass(frozen=True)
class Compressed:
    """compressed-tensors 0.18.0: quantization/lifecycle/initialize.py for scales and zeros, compressors/ for the weight.

    `packed` weights are int32 words of dense bits with their shape as two int64; others are a byte a weight. Scales have the model's
    type. `symmetric` drops the zeros, which are packed along the rows; `ordered` is actorder "group", an int32 per input.
    """

    bits: int
    kind: Kind
    strategy: Strategy
    group: int = 0
    block: tuple[int, int] = (0, 0)
    symmetric: bool = True
    packed: bool = False
    ordered: bool = False
    static: bool = False

    @property
    def form(self) -> Form:
        return "fp8" if self.kind == "float" else "int4" if self.bits <= 4 else "w8"

    @property
    def name(self) -> str:
        group = f" g{self.group}" if self.strategy == "group" else ""
        return f"{'fp' if self.kind == 'float' else 'int'}{self.bits}{group}"

    @property
    def tensors(self) -> str:
        each = {"group": f"groups of {self.group}", "block": f"{self.block[0]} x {self.block[1]} blocks"}
        zeros = "" if self.symmetric else ", zeros"
        how = f"int32-packed {self.bits} bits" if self.packed else "a byte a weight"
        return f"{how}, scales{zeros} per {each.get(self.strategy, self.strategy)}, as compressed-tensors keeps them"

    def holds(self, inputs: int, outputs: int) -> bool:
        return True

    def bytes_of(self, inputs: int, outputs: int, dtype_bytes: int = 2) -> int:
        along = {"tensor": 0, "channel": 1, "group": up(inputs, self.group or inputs)}.get(self.strategy, 0)
        scales, zeros = along * outputs or 1, 0
        if self.strategy == "block":
            scales = up(outputs, self.block[0]) * up(inputs, self.block[1])
        if not self.symmetric:
            zeros = 4 * along * up(outputs * self.bits, 32) if self.packed and along else scales
        weight = 4 * outputs * up(inputs * self.bits, 32) + 16 if self.packed else inputs * outputs
        return weight + scales * dtype_bytes + zeros + (4 * inputs if self.ordered else 0) + self.static * dtype_bytes


@dataclass(frozen=True)
class Fp4:
    """4-bit floats: halves and a byte of scale per group of 32 (mxfp4) or 16 (nvfp4, with fp32 global scales).

    mxfp4: transformers 5.19, integrations/mxfp4.py; both: compressed-tensors 0.18.0, compressors/{mxfp4,nvfp4}/base.py.
    """

    form: Literal["mxfp4", "nvfp4"] = "mxfp4"
    static: bool = False

    @property
    def name(self) -> str:
        return self.form

    @property
    def tensors(self) -> str:
        return f"4 bits a weight and a byte of scale per {self.group}"

    @property
    def group(self) -> int:
        return 32 if self.form == "mxfp4" else 16

    def holds(self, inputs: int, outputs: int) -> bool:
        return inputs % self.group == 0

    def bytes_of(self, inputs: int, outputs: int, dtype_bytes: int = 2) -> int:
        global_scales = (4 if self.form == "nvfp4" else 0) + (4 if self.static else 0)
        return inputs * outputs // 2 + inputs // self.group * outputs + global_scales
