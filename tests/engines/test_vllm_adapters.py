"""What is checked of an adapter and of a base before vLLM hears of it, and what vLLM is started with: all from files, without a server."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from onecard.engines.local.tokens import chat_template_sha256, load_tokenizer
from onecard.engines.local.vllm_export import export_for_vllm
from onecard.engines.vllm_adapters import VllmBase, check_servable, servable_name
from onecard.engines.vllm_arguments import VllmSettings, arguments, check_settings, environment, rank_setting
from onecard.engines.vllm_base import exported_base, linear_shapes, longest_context, write_base_tokenizer
from onecard.engines.vllm_http import probe_problem
from onecard.engines.vllm_log import last_words
from onecard.engines.vllm_no_adapter import write_no_adapter
from onecard.engines.vllm_restarts import Restarts
from onecard.errors import AdapterRefused, InputError
from onecard.weights.inventory import fingerprint
from tests.engines.conftest import FINGERPRINT, STYLES, MadeAdapter

WEIGHTS = "adapter_model.safetensors"
SETTINGS = VllmSettings(
    folder=Path("base"),
    quantization="none",
    dtype="bf16",
    device="cuda",
    context=4096,
    concurrency=6,
    adapters=3,
    max_rank=24,
)


@pytest.fixture(scope="module")
def base(mini: Path) -> VllmBase:
    template = chat_template_sha256(load_tokenizer(mini))
    return VllmBase(FINGERPRINT, "none", template, linear_shapes(mini), 8, None)


def test_a_whole_adapter_of_this_base_passes_under_its_own_name(
    base: VllmBase, adapters: dict[str, MadeAdapter]
) -> None:
    made = adapters["plain"]
    found = check_servable(made.folder, made.manifest, base)
    assert (found.digest, found.folder) == (made.digest, made.folder)
    versioned = made.manifest.model_copy(update={"version": "v0003"})
    assert servable_name(versioned) == f"plain@v0003-{made.digest[:12]}"


def test_a_missing_layer_a_foreign_one_and_a_wrong_size_are_refused(
    base: VllmBase, adapters: dict[str, MadeAdapter], tmp_path: Path
) -> None:
    module = "model.layers.1.mlp.up_proj"
    first = next(name for name in load_file(adapters["plain"].folder / WEIGHTS) if module in name).split(".lora_")[0]

    def drop(folder: Path) -> None:
        tensors = {n: t for n, t in load_file(folder / WEIGHTS).items() if not n.startswith(f"{first}.")}
        save_file(tensors, folder / WEIGHTS)

    def invent(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        more = {
            n.replace("layers.1.", "layers.77."): t.clone() for n, t in tensors.items() if n.startswith(f"{first}.")
        }
        save_file(tensors | more, folder / WEIGHTS)

    def widen(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        name = f"{first}.lora_B.weight"
        save_file(tensors | {name: tensors[name].repeat(2, 1)}, folder / WEIGHTS)

    for change, words in (
        (drop, f"no tensors for {module}"),
        (invent, "no layer of this base"),
        (widen, "the base's layer has"),
    ):
        bad = adapters["plain"].altered(tmp_path / change.__name__, change)
        with pytest.raises(AdapterRefused, match=words):
            check_servable(bad.folder, bad.manifest, base)


def test_nan_a_changed_file_and_too_high_a_rank_are_refused(
    base: VllmBase, adapters: dict[str, MadeAdapter], tmp_path: Path
) -> None:
    def poison(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        name = next(iter(tensors))
        tensors[name][0, 0] = float("nan")
        save_file(tensors, folder / WEIGHTS)

    made = adapters["plain"]
    poisoned = made.altered(tmp_path / "nan", poison)
    with pytest.raises(AdapterRefused, match="NaN"):
        check_servable(poisoned.folder, poisoned.manifest, base)
    with pytest.raises(AdapterRefused, match="not those that were published"):
        check_servable(poisoned.folder, made.manifest, base)
    with pytest.raises(AdapterRefused, match="ranks up to 2"):
        check_servable(made.folder, made.manifest, replace(base, max_rank=2))


def test_added_tokens_pass_on_their_own_export_only(
    base: VllmBase, mini: Path, adapters: dict[str, MadeAdapter], tmp_path: Path
) -> None:
    real = fingerprint(mini)
    styled = adapters["styled"].trained_on(fingerprint=real)
    export_for_vllm(styled.folder, styled.manifest, mini, tmp_path / "export", proven=False)
    export = exported_base(tmp_path / "export" / "base")
    assert export is not None and export.digest == styled.digest
    assert exported_base(mini) is None
    on_export = replace(base, fingerprint=real, export=export)
    assert check_servable(styled.folder, styled.manifest, on_export).folder == export.adapter
    with pytest.raises(AdapterRefused, match=r"the base of .* is served"):
        check_servable(styled.folder, styled.manifest, replace(on_export, export=replace(export, digest="0" * 64)))
    tensors = load_file(export.adapter / WEIGHTS)
    name = next(iter(tensors))
    (export.adapter / WEIGHTS).unlink()
    save_file(tensors | {name: tensors[name] + 1}, export.adapter / WEIGHTS)
    with pytest.raises(AdapterRefused, match=r"the export's .* is not the adapter's"):
        check_servable(styled.folder, styled.manifest, on_export)


def test_others_read_text_on_an_exported_base_without_its_tokens(
    mini: Path, adapters: dict[str, MadeAdapter], tmp_path: Path
) -> None:
    write_base_tokenizer(adapters["styled"].folder, tmp_path / "tokenizer", frozenset(STYLES))
    written, own = load_tokenizer(tmp_path / "tokenizer"), load_tokenizer(mini)
    assert written.get_vocab() == own.get_vocab()
    for text in ("plain", f"{STYLES[0]} styled", "[INST] chat [/INST]"):
        assert written(text)["input_ids"] == own(text)["input_ids"]
    assert chat_template_sha256(written) == chat_template_sha256(own)


def test_the_adapter_of_zeros_is_one_that_peft_would_write(mini: Path, tmp_path: Path) -> None:
    write_no_adapter(tmp_path / "none", linear_shapes(mini))
    with safe_open(tmp_path / "none" / WEIGHTS, framework="pt") as tensors:
        loaded = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    assert len(loaded) == 2 and not any(tensor.any() for tensor in loaded.values())
    module = next(iter(loaded)).split(".lora_")[0].removeprefix("base_model.model.")
    outputs = next(tensor for name, tensor in loaded.items() if "lora_B" in name).shape[0]
    size = linear_shapes(mini)[module]
    assert size is not None and outputs == size[1]
    assert json.loads((tmp_path / "none" / "adapter_config.json").read_text())["target_modules"] == [
        module.rpartition(".")[2]
    ]
    with pytest.raises(InputError):
        write_no_adapter(tmp_path / "packed", {"model.layers.0.q": None})


def test_a_probe_tells_a_loaded_adapter_from_one_that_is_not() -> None:
    base, own = (-1.0, -2.0), (-1.5, -2.0)
    assert probe_problem(base, own, own) is None
    assert "exactly as the base" in str(probe_problem(base, base, base))
    assert "exactly as the base" in str(probe_problem(base, (-1.01, -2.0), (-1.0, -2.01))), "less than its own noise"
    assert "same twice" in str(probe_problem(base, own, (-1.7, -2.0)))
    assert "not finite" in str(probe_problem(base, (float("nan"), -2.0), own))


def test_arguments_are_the_plans_and_nothing_comes_from_the_checkpoint_or_the_network() -> None:
    said = " ".join(arguments(replace(SETTINGS, memory_fraction=0.7), name="n", port=5, grace_s=20))
    for words in (
        "--max-model-len 4097", "--max-num-seqs 6", "--dtype bfloat16", "--gpu-memory-utilization 0.7000", "--max-lora-rank 32",
        "--max-loras 3 --max-cpu-loras 4", "--generation-config vllm", "--shutdown-timeout 20", "--host 127.0.0.1",
    ):  # fmt: skip
        assert words in said
    assert "trust-remote-code" not in said and "enforce-eager" not in said
    assert "--max-model-len 4096" in " ".join(arguments(replace(SETTINGS, longest=4096), name="n", port=5, grace_s=20))
    assert "lora" not in " ".join(arguments(replace(SETTINGS, adapters=0), name="n", port=5, grace_s=20))
    cpu = replace(SETTINGS, device="cpu", cache_bytes=3 << 30)
    assert "--max-loras 4 --max-cpu-loras 5" in " ".join(arguments(cpu, name="n", port=5, grace_s=20)), (
        "one for the base"
    )
    made = environment(cpu, {"PATH": "/bin", "VLLM_API_KEY": "old"}, key="k", scratch=Path("/t"))
    assert (made["VLLM_API_KEY"], made["TMPDIR"], made["HF_HUB_OFFLINE"], made["PATH"]) == ("k", "/t", "1", "/bin")
    assert made["VLLM_CPU_KVCACHE_SPACE"] == "3"
    fp8 = " ".join(arguments(replace(SETTINGS, quantization="fp8", kv_cache="fp8"), name="n", port=5, grace_s=20))
    assert "--quantization fp8" in fp8 and "--kv-cache-dtype fp8" in fp8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantization": "nf4"}, "does not hold nf4"),
        ({"quantization": "awq"}, "the checkpoint is not awq"),
        ({"published": "awq"}, "the checkpoint is awq"),
        ({"longest": 1024}, "up to 1024"),
        ({"concurrency": 0}, "concurrency"),
    ],
)
def test_what_vllm_cannot_hold_is_said_before_it_starts(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_settings(replace(SETTINGS, **changes), "here")  # type: ignore[arg-type]


def test_ranks_and_the_longest_context(mini: Path) -> None:
    assert [rank_setting(rank, "x") for rank in (1, 8, 9, 512)] == [8, 8, 16, 512]
    with pytest.raises(AdapterRefused, match="rank 513"):
        rank_setting(513, "x")
    assert longest_context(mini) == 1024


def test_restarts_wait_longer_each_time_and_end() -> None:
    policy = Restarts(most=3, window_s=100, first_s=1, longest_s=3)
    assert [policy.delay_s(tuple(range(n))) for n in (1, 2, 3, 4)] == [1, 2, 3, None]
    assert policy.delay_s((0.0, 1.0, 2.0, 200.0)) == 1, "what is long ago does not count"


def test_the_last_words_are_the_cause() -> None:
    log = (
        "(EngineCore pid=12) INFO 11-21 19:51:01 [base_loader.py:82] Initializing model took 0.4 seconds\n"
        "(EngineCore pid=12) ERROR 11-21 19:51:02 [core.py:9] ValueError: No available memory for the cache blocks.\n"
        "Traceback (most recent call last):\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert last_words(log) == "ValueError: No available memory for the cache blocks."
    assert last_words("") == "it said nothing"
