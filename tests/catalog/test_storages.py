"""Bytes of one Linear in every form, against real tensors of bitsandbytes and transformers, or against the tensors a format names."""

from __future__ import annotations

from math import ceil, prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.catalog.storages import Awq, Bnb4Bit, Bnb8Bit, Compressed, Fp4, Fp8, Gptq

WIDTHS = {"int32": 4, "fp16": 2, "bf16": 2, "fp32": 4, "int8": 1, "fp8": 1, "uint8": 1, "int64": 8}
EIGHTS = st.integers(1, 40).map(lambda n: 8 * n)


def size(*tensors: tuple[str, tuple[int, ...]]) -> int:
    """Bytes of tensors given as (dtype, shape)."""
    return sum(WIDTHS[dtype] * prod(shape) for dtype, shape in tensors)


def real_bytes(module) -> int:
    """Bytes of every tensor a quantized module really holds."""
    import torch

    total = 0
    for parameter in module.parameters():
        total += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        pieces = [getattr(parameter, "SCB", None)]
        if state is not None:
            pieces += [state.absmax, state.code, state.offset]
            pieces += [state.state2.absmax, state.state2.code] if state.nested else []
        total += sum(piece.nbytes for piece in pieces if isinstance(piece, torch.Tensor))
    return total


@settings(max_examples=30, deadline=None)
@given(
    inputs=EIGHTS,
    outputs=st.integers(1, 300),
    double=st.booleans(),
    kind=st.sampled_from(["nf4", "fp4"]),
    block=st.sampled_from([64, 128, 256]),
)
def test_4_bits_of_any_shape_are_what_bitsandbytes_holds(inputs, outputs, double, kind, block):
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear4bit(inputs, outputs, bias=False, quant_type=kind, compress_statistics=double)
    layer.weight.blocksize = block
    layer = layer.to(torch.bfloat16).to("cpu")
    assert layer.weight.bnb_quantized and layer.weight.quant_state.blocksize == block
    assert Bnb4Bit(kind, double, block).bytes_of(inputs, outputs) == real_bytes(layer)


@settings(max_examples=30, deadline=None)
@given(inputs=st.integers(1, 300), outputs=st.integers(1, 300))
def test_8_bits_of_any_shape_are_what_bitsandbytes_holds(inputs, outputs):
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False).to("cpu")
    layer.weight = bitsandbytes.nn.Int8Params(
        torch.randn(outputs, inputs, dtype=torch.bfloat16), requires_grad=False, has_fp16_weights=False
    ).to("cpu")
    assert Bnb8Bit().bytes_of(inputs, outputs) == real_bytes(layer)


@settings(max_examples=20, deadline=None)
@given(
    inputs=st.integers(1, 500),
    outputs=st.integers(1, 500),
    block=st.sampled_from([None, (128, 128), (64, 32)]),
    static=st.booleans(),
    tiny=st.booleans(),
)
def test_fp8_of_any_shape_is_what_transformers_holds(inputs, outputs, block, static, tiny):
    import torch
    from transformers.integrations.finegrained_fp8 import FP8Linear

    scheme, scale = ("static" if static else "dynamic"), ("ue8m0" if tiny and block else "float")
    with torch.device("meta"):
        layer = FP8Linear(inputs, outputs, block, activation_scheme=scheme, scale_fmt=scale)
    storage = Fp8("block", block, static, 1 if scale == "ue8m0" else 4) if block else Fp8(static=static)
    assert storage.bytes_of(inputs, outputs) == sum(p.numel() * p.element_size() for p in layer.parameters())


def test_awq_is_packed_as_autoawq_packs_it():
    inputs, outputs, groups = 4096, 1024, 4096 // 128
    packed = ("int32", (inputs, outputs // 8))
    scales = ("fp16", (groups, outputs))
    assert Awq(128).bytes_of(inputs, outputs) == size(packed, ("int32", (groups, outputs // 8)), scales)
    assert Awq(128, "marlin").bytes_of(inputs, outputs) == size(("int32", (inputs // 16, outputs * 2)), scales)
    assert Awq(-1).bytes_of(inputs, outputs) == size(packed, ("int32", (1, outputs // 8)), ("fp16", (1, outputs)))
    # gemv pads the groups of 64 to whole pairs of int32: 11008 / 64 = 172 groups take 22 words.
    wide = size(("int32", (outputs, 11008 // 8)), ("int32", (outputs, 22)), ("fp16", (outputs, 22 * 8)))
    assert Awq(64, "gemv").bytes_of(11008, outputs) == wide
    fast = size(("int32", (outputs, 11008 // 8)), ("fp16", (22 * 8, outputs)), ("fp16", (22 * 8, outputs)))
    assert Awq(64, "gemv_fast").bytes_of(11008, outputs) == fast


def test_a_shape_autoawq_refuses_stays_in_16_bits():
    assert Awq(128).holds(4096, 1024)
    assert not Awq(128).holds(4096, 1)  # the gate of a shared expert
    assert not Awq(128).holds(4000, 1024)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_is_packed_as_gptqmodel_packs_it(bits):
    inputs, outputs = 4096, 1024
    assert Gptq(bits, 128).bytes_of(inputs, outputs) == size(
        ("int32", (ceil(inputs * bits / 32), outputs)),
        ("int32", (inputs // 128, ceil(outputs * bits / 32))),
        ("fp16", (inputs // 128, outputs)),
        ("int32", (inputs,)),
    )


@pytest.mark.parametrize(
    ("storage", "tensors"),
    [
        pytest.param(
            Compressed(4, "int", "group", 128, packed=True),
            [("int32", (1024, 512)), ("bf16", (1024, 32)), ("int64", (2,))],
            id="w4a16",
        ),
        pytest.param(
            Compressed(4, "int", "group", 128, packed=True, symmetric=False, ordered=True),
            [("int32", (1024, 512)), ("bf16", (1024, 32)), ("int64", (2,)), ("int32", (128, 32)), ("int32", (4096,))],
            id="w4a16-asymmetric-ordered",
        ),
        pytest.param(
            Compressed(8, "int", "channel", packed=True),
            [("int32", (1024, 1024)), ("bf16", (1024, 1)), ("int64", (2,))],
            id="w8a16",
        ),
        pytest.param(Compressed(8, "int", "channel"), [("int8", (1024, 4096)), ("bf16", (1024, 1))], id="w8a8"),
        pytest.param(
            Compressed(8, "int", "tensor", symmetric=False, static=True),
            [("int8", (1024, 4096)), ("bf16", (1,)), ("int8", (1,)), ("bf16", (1,))],
            id="w8a8-static-asymmetric",
        ),
        pytest.param(
            Compressed(8, "float", "block", block=(128, 128)),
            [("fp8", (1024, 4096)), ("bf16", (8, 32))],
            id="fp8-block",
        ),
        pytest.param(Compressed(8, "float", "channel"), [("fp8", (1024, 4096)), ("bf16", (1024, 1))], id="fp8-dynamic"),
        pytest.param(Fp4("mxfp4"), [("uint8", (1024, 2048)), ("uint8", (1024, 128))], id="mxfp4"),
        pytest.param(
            Fp4("nvfp4", static=True),
            [("uint8", (1024, 2048)), ("fp8", (1024, 256)), ("fp32", (1,)), ("fp32", (1,))],
            id="nvfp4",
        ),
    ],
)
def test_compressed_forms_are_the_tensors_their_format_names(storage, tensors):
    assert storage.bytes_of(4096, 1024) == size(*tensors)


STORAGES = st.one_of(
    st.builds(Bnb4Bit, st.sampled_from(["nf4", "fp4"]), st.booleans(), st.sampled_from([64, 128])),
    st.just(Bnb8Bit()),
    st.builds(Awq, st.sampled_from([32, 64, 128, -1]), st.sampled_from(["gemm", "gemv", "gemv_fast", "marlin"])),
    st.builds(Gptq, st.sampled_from([2, 3, 4, 8]), st.sampled_from([32, 128, -1])),
    st.builds(Fp8, st.sampled_from(["tensor", "channel", "block"]), static=st.booleans()),
    st.builds(
        Compressed,
        st.integers(2, 8),
        st.just("int"),
        st.just("group"),
        st.sampled_from([32, 128]),
        packed=st.just(True),
    ),
    st.builds(Fp4, st.sampled_from(["mxfp4", "nvfp4"])),
)
SIZES = st.integers(8, 64).map(lambda n: 128 * n)


@given(storage=STORAGES, inputs=SIZES, outputs=SIZES)
def test_every_form_is_smaller_than_16_bits_and_larger_than_its_bits(storage, inputs, outputs):
    bits = getattr(storage, "bits", 8 if storage.form in ("int8", "fp8") else 4)
    assert storage.holds(inputs, outputs)
    assert inputs * outputs * bits // 8 <= storage.bytes_of(inputs, outputs) < 1.35 * inputs * outputs
    assert storage.name and storage.tensors


@given(inputs=SIZES, outputs=SIZES, group=st.sampled_from([32, 64, 128]))
def test_more_bits_and_smaller_groups_never_take_less(inputs, outputs, group):
    by_bits = [Gptq(bits, group).bytes_of(inputs, outputs) for bits in (2, 3, 4, 8)]
    packed = [Compressed(bits, "int", "group", group, packed=True).bytes_of(inputs, outputs) for bits in range(1, 9)]
    by_group = [Awq(length).bytes_of(inputs, outputs) for length in (32, 64, 128, -1)]
    assert by_bits == sorted(by_bits) and packed == sorted(packed)
    assert by_group == sorted(by_group, reverse=True)
    assert Bnb4Bit("nf4", True).bytes_of(inputs, outputs) < Bnb4Bit("nf4", False).bytes_of(inputs, outputs)


@given(storage=STORAGES, inputs=SIZES, outputs=SIZES, more=st.integers(0, 9).map(lambda n: 128 * n))
def test_a_larger_linear_never_takes_less(storage, inputs, outputs, more):
    assert storage.bytes_of(inputs, outputs) <= storage.bytes_of(inputs + more, outputs)
    assert storage.bytes_of(inputs, outputs) <= storage.bytes_of(inputs, outputs + more)
