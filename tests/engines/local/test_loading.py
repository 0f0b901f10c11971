"""The door to base models: what is asked for is what is held, to the byte, and what cannot be used is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file

from onecard.engines.local.loading import (
    LoadedBase,
    choose_device,
    grow_vocabulary,
    load_base,
    quiet,
    read_config,
    tensor_bytes,
)
from onecard.engines.local.tokens import load_tokenizer
from onecard.errors import InputError, MissingPart

PROJECTION = "model.layers.0.mlp.up_proj"


def load(folder, quantization="none", double=True, dtype="bf16") -> LoadedBase:
    return load_base(folder, quantization, double_quantization=double, dtype=dtype, device="cpu")


@pytest.fixture
def copy(mini, tmp_path):
    """A copy of the embedded base that a test may spoil."""
    shutil.copytree(mini, tmp_path / "copy")
    return tmp_path / "copy"


def linear_parameters(model) -> int:
    head = model.get_output_embeddings()
    return sum(
        m.in_features * m.out_features for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head
    )


@pytest.fixture(scope="module")
def plain(mini) -> LoadedBase:
    return load(mini)


@pytest.fixture(scope="module")
def others(plain) -> int:
    """Bytes of everything that is never quantized: embedding, head, norms."""
    return tensor_bytes(plain.model) - 2 * linear_parameters(plain.model)


def test_the_base_is_frozen_in_eval_mode_and_on_sdpa(plain):
    assert not plain.model.training and not any(weight.requires_grad for weight in plain.model.parameters())
    assert plain.model.config._attn_implementation == "sdpa"
    assert {weight.dtype for weight in plain.model.parameters()} == {torch.bfloat16}


def test_unquantized_bytes_are_two_or_four_a_parameter(plain, mini):
    parameters = plain.model.num_parameters()
    rotary = sum(buffer.numel() * buffer.element_size() for buffer in plain.model.buffers())
    assert tensor_bytes(plain.model) == 2 * parameters + rotary
    assert tensor_bytes(load(mini, dtype="fp32").model) == 4 * parameters + rotary


@pytest.mark.parametrize(("double", "per_parameter"), [(False, 0.5625), (True, 0.5159)])
def test_nf4_bytes(mini, plain, others, double, per_parameter):
    """The trap: the library's default is fp4, and the scales stand beside the module's parameters."""
    base = load(mini, "nf4", double)
    layer = base.model.get_submodule(PROJECTION)
    assert isinstance(layer, Linear4bit)
    assert layer.weight.quant_state.quant_type == "nf4" and layer.weight.quant_state.nested == double
    held = tensor_bytes(base.model) - others
    # Small layers round their double-quantized scales up to whole blocks of 256 and share few code tables.
    assert held / linear_parameters(plain.model) == pytest.approx(per_parameter, rel=0.025)
    assert type(base.model.get_output_embeddings()) is torch.nn.Linear
    assert base.model.get_output_embeddings().weight.dtype == torch.bfloat16


def test_int8_bytes_before_and_after_the_first_forward(mini, plain, others):
    base = load(mini, "int8")
    rows = sum(m.out_features for name, m in plain.model.named_modules() if name.endswith("proj"))
    expected = others + linear_parameters(plain.model) + 4 * rows
    assert tensor_bytes(base.model) == expected
    with torch.no_grad():
        base.model(input_ids=torch.tensor([[1, 5, 6]]))
    assert tensor_bytes(base.model) == expected


def test_tied_weights_count_once(mini, tmp_path):
    for file in mini.glob("*token*.json"):
        shutil.copy(file, tmp_path)
    config = transformers.MistralConfig(
        vocab_size=4200, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path)
    model = load(tmp_path).model
    assert tensor_bytes(model) < 2 * (model.num_parameters() + 2000)
    assert model.num_parameters() < 4200 * 64 * 2


def test_gradients_are_right_after_an_evaluation_forward(mini):
    """The trap: on AVX512-BF16 CPUs an evaluation forward repacks 4-bit weights, and training gradients are wrong from then on."""
    base = load(mini, "nf4")
    layer = base.model.get_submodule(PROJECTION)
    packed = layer.weight.detach().clone()

    def gradient() -> torch.Tensor:
        x = torch.linspace(-1, 1, layer.in_features, dtype=torch.bfloat16)[None].requires_grad_()
        layer.train()(x).float().square().sum().backward()
        return x.grad

    before = gradient()
    base.model.eval()
    with torch.no_grad():
        base.model(input_ids=torch.tensor([[1, 5, 6, 7]]))
    assert torch.equal(layer.weight, packed)
    assert torch.equal(gradient(), before)


def test_growing_the_vocabulary_keeps_old_rows_and_never_shrinks(mini):
    base = load(mini, dtype="fp32")
    tokenizer = load_tokenizer(mini)
    before = base.model.get_output_embeddings().weight.detach().clone()
    grow_vocabulary(base.model, tokenizer, known=len(tokenizer))
    assert torch.equal(base.model.get_output_embeddings().weight, before)
    known = len(tokenizer)
    tokenizer.add_tokens(["<NEW>"], special_tokens=True)
    grow_vocabulary(base.model, tokenizer, known)
    head = base.model.get_output_embeddings().weight
    assert torch.equal(head[:known], before[:known])
    torch.testing.assert_close(head[known], before[:known].mean(dim=0))


def test_loading_prints_nothing(mini, capfd):
    for quantization in ("none", "int8", "nf4"):
        load(mini, quantization)
    assert capfd.readouterr() == ("", "")


def test_importing_never_asks_the_hub_and_threads_sleep_while_they_wait(tmp_path):
    """bitsandbytes fetches a kernel through the package `kernels` while it is imported, where it finds one."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('asked the hub')")
    code = (
        "import sys, os, onecard.training; assert 'torch' not in sys.modules; import peft, bitsandbytes; "
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "PASSIVE\n", "")


def test_quiet_gives_the_verbosity_back():
    before = transformers.logging.get_verbosity()
    with pytest.raises(KeyboardInterrupt), quiet():
        raise KeyboardInterrupt
    assert transformers.logging.get_verbosity() == before


def test_a_folder_without_weights_or_config_is_said(copy, tmp_path):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(MissingPart, match="no weights"):
        load(copy)
    with pytest.raises(MissingPart, match=r"no config\.json"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "nonsense"}, "cannot be read"),
        ({"model_type": "clip"}, "'clip' is not a causal language model"),
        ({"hidden_size": "wide"}, "cannot be read"),
        ({"hidden_size": 128}, "the model cannot be loaded"),
        ({"num_hidden_layers": 9}, r"lack the weight model\.layers\.8\..* and 8 more"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_config_that_cannot_be_used_is_said(copy, change, problem):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=problem):
        load(copy)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_cut_off_is_said(copy, file):
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError) as error:
        load(copy)
    assert str(copy) in error.value.where


def test_a_missing_weight_is_never_filled_with_random_numbers(copy):
    """The trap: transformers fills it in and only warns."""
    state = load_file(copy / "model.safetensors")
    del state["model.layers.3.self_attn.q_proj.weight"]
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack the weight model\.layers\.3\.self_attn\.q_proj\.weight"):
        load(copy)


def test_a_quantized_checkpoint_is_taken_as_it_is_and_never_as_another(mini, copy):
    """What a person who downloads an nf4 checkpoint has."""
    base = load(mini, "nf4")
    for file in ("model.safetensors", "config.json"):
        (copy / file).unlink()
    base.model.save_pretrained(copy)
    again = load(copy, "nf4")
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        assert torch.equal(base.model(input_ids=ids).logits, again.model(input_ids=ids).logits)
    for other in ("none", "int8"):
        with pytest.raises(InputError, match=f"the checkpoint is nf4, {other} was asked for"):
            load(copy, other)


@pytest.mark.parametrize("form", ["awq", "gptq", "fp8"])
def test_a_form_that_loading_cannot_make_is_refused_and_never_another_in_its_place(mini, form):
    with pytest.raises(InputError, match=f"{form} was asked for, and the checkpoint is not quantized") as error:
        load(mini, form)
    assert error.value.allowed == "none, int8, nf4" and str(mini) in error.value.where
    assert "vllm" in error.value.next_step and f"quantize the checkpoint to {form} first" in error.value.next_step


def test_a_card_that_is_not_there_is_said():
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert choose_device("auto").type == "cpu"
        with pytest.raises(MissingPart, match="no CUDA card"):
            choose_device("cuda")


def test_the_config_is_read_without_weights(copy):
    (copy / "model.safetensors").unlink()
    assert read_config(copy).model_type == "mistral"
