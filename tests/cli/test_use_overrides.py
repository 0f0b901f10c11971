from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onecard.cli.use_overrides import NAME, read_overrides
from onecard.errors import FleetError, OnecardError


def written(folder: Path, text: str) -> Path:
    (folder / NAME).write_text(text, encoding="utf-8")
    return folder


def test_each_model_has_its_own_wishes_by_any_case_of_its_id(tmp_path: Path) -> None:
    text = "Org/Name: {quantization: nf4, context: 4096, env: {VLLM_USE_V1: true, OMP_NUM_THREADS: 4}}\n./here: {concurrency: 2}\n"
    found = read_overrides(written(tmp_path, text))
    one = found.of("org/name")
    assert one is not None
    assert one.wishes == {"quantization": "nf4", "context": 4096}
    assert one.variables == {"VLLM_USE_V1": "1", "OMP_NUM_THREADS": "4"}
    assert found.of("x", "./here") is not None
    assert found.of("org/other") is None
    assert found.variables == {"VLLM_USE_V1", "OMP_NUM_THREADS"}


@pytest.mark.parametrize("text", [None, "", "  \n"])
def test_no_file_and_an_empty_one_say_nothing(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        written(tmp_path, text)
    assert read_overrides(tmp_path).models == {}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("org/name: {contxt: 4096}", 1, r"unknown key 'contxt' \(did you mean 'context'\?\)"),
        ("a: {context: 64}\norg/name:\n  quantisation: nf4", 3, r"did you mean 'quantization'\?"),
        ("org/name: {quantization: q4}", 1, "not an allowed value, got 'q4'"),
        ("org/name: {context: long}", 1, "got 'long'"),
        ("org/name: nf4", 1, "a model maps to keys and values"),
        ("org/name:", 1, "a model maps to keys and values"),
        ("org/name: {context: 64}\nOrg/Name: {context: 65}", 2, "given twice"),
        ("- org/name", 1, "must be a mapping"),
        ("org/name: {context: 64\n", 2, "not valid YAML"),
    ],
)
def test_a_fault_is_said_with_its_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(FleetError, match=said) as raised:
        read_overrides(written(tmp_path, text))
    assert f"{NAME}:{line}" in (raised.value.where or "")


@pytest.mark.parametrize(
    "name",
    [
        "PATH", "LD_PRELOAD", "BASH_ENV", "PROMPT_COMMAND", "PYTHONPATH", "VLLM_PLUGINS", "CUDA_INJECTION64_PATH", "HF_ENDPOINT",
        "HF_TOKEN", "VLLM_LOGGING_CONFIG_PATH", "NCCL_NET_PLUGIN", "CUDA_HOME", "TRITON_CACHE_DIR", "OMP_TOOL_LIBRARIES",
        "VLLM_MODEL_ID", "VLLM_QUANTIZATION", "VLLM_MAX_MODEL_LEN", "VLLM_X;touch pwned", "1",
    ],
)  # fmt: skip
def test_variables_that_run_code_send_tokens_or_follow_from_the_plan_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FleetError) as raised:
        read_overrides(written(tmp_path, f"org/name:\n  env: {{'{name}': x}}"))
    assert name in raised.value.problem


@pytest.mark.parametrize(
    "name",
    ["VLLM_ATTENTION_BACKEND", "PYTORCH_CUDA_ALLOC_CONF", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "NCCL_P2P_DISABLE"],
)
def test_variables_of_models_and_cards_are_taken(tmp_path: Path, name: str) -> None:
    assert read_overrides(written(tmp_path, f"org/name: {{env: {{{name}: x}}}}")).variables == {name}


def test_a_value_of_two_lines_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="which no name, path or value may"):
        read_overrides(written(tmp_path, 'org/name: {env: {VLLM_X: "a\\nb"}}'))


@given(st.text())
def test_whatever_stands_in_the_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / NAME).write_bytes(text.encode("utf-8", errors="surrogatepass"))
    try:
        read_overrides(folder)
    except OnecardError as error:
        assert error.where is not None


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(FleetError, match="cannot be read"):
        read_overrides(tmp_path)


def test_the_example_of_the_documentation_is_taken(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "verbs" / "use.md").read_text(encoding="utf-8")
    found = read_overrides(written(tmp_path, page.partition("```yaml\n")[2].partition("```")[0]))
    example = found.of("meta-llama/Llama-3.1-8B-Instruct")
    assert example is not None
    assert (example.wishes, example.variables) == ({"context": 4096}, {"VLLM_USE_V1": "1"})
