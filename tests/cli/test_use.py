from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from onecard.catalog.models import find_model
from onecard.cli.main import main
from onecard.cli.use_overrides import NAME
from onecard.fleet.examples import examples_folder
from onecard.weights.active import active_file, read_active
from onecard.weights.inventory import resolve

ONECARD = [sys.executable, "-m", "onecard"]


@pytest.fixture(autouse=True)
def environment(own_environment: None) -> Iterator[None]:
    """What a .env sets in this process ends with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with document B's fleet."""
    place = tmp_path / "deployment"
    place.mkdir()
    shutil.copy(examples_folder() / "local-rtx3070.yaml", place / "fleet.yaml")
    return place


PRIMARY = """\
export VLLM_MODEL_ID='hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4';
export VLLM_QUANTIZATION='awq';
export VLLM_MAX_MODEL_LEN='8192';
"""


def test_only_shell_lines_are_on_standard_output(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["use", "primary", "--fleet", str(home), "--shell", "bash"]) == 0
    shown = capsys.readouterr()
    assert shown.out == PRIMARY
    assert "active: meta-llama/Llama-3.1-8B-Instruct (awq, 8,192 tokens of context) on RTX 3070" in shown.err
    assert "onecard fetch hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4" in shown.err
    record = read_active(home)
    assert record is not None
    assert (record.id, record.quantization, record.context) == ("meta-llama/Llama-3.1-8B-Instruct", "awq", 8192)
    assert (record.asked, record.card, record.path) == ("primary", "rtx-3070", None)
    assert record.plan.by == "fleet.yaml: models.base"
    assert record.plan.fits
    assert record.plan.need_bytes <= record.plan.available_bytes


def test_fish_gets_lines_of_its_own(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["use", "maths", "--fleet", str(home), "--shell", "fish"]) == 0
    assert capsys.readouterr().out == (
        "set -gx VLLM_MODEL_ID 'mistralai/Mathstral-7B-v0.1';\n"
        "set -gx VLLM_QUANTIZATION 'bitsandbytes';\nset -gx VLLM_MAX_MODEL_LEN '8192';\n"
    )


def test_a_real_bash_holds_the_variables_after_eval(home: Path) -> None:
    line = f'eval "$({sys.executable} -m onecard use primary)"; echo "$VLLM_MODEL_ID|$VLLM_QUANTIZATION|$VLLM_MAX_MODEL_LEN"'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=home)
    assert done.stdout == "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4|awq|8192\n"


def test_a_folder_with_a_hostile_name_is_heard_by_bash_as_its_name(tmp_path: Path) -> None:
    name = "a $(touch pwned) `touch pwned` 'b' \"c\"; touch pwned"
    shutil.copytree(resolve("embedded:mini", tmp_path), tmp_path / name)
    line = f'eval "$({sys.executable} -m onecard use "$1" --card rtx-3070 --shell bash)"; printf %s "$VLLM_MODEL_ID"'
    done = subprocess.run(["bash", "-c", line, "-", f"./{name}"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == str(tmp_path / name)
    assert not list(tmp_path.rglob("pwned"))
    record = read_active(tmp_path)
    assert record is not None
    assert record.path == str(tmp_path / name)


def test_a_name_that_would_end_a_line_is_refused_and_nothing_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(resolve("embedded:mini", tmp_path), tmp_path / "a\nb")
    assert main(["use", "./a\nb", "--fleet", str(tmp_path), "--card", "rtx-3070"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "which no name, path or value may" in shown.err
    assert read_active(tmp_path) is None


def test_what_does_not_fit_is_refused_with_what_would_and_nothing_is_touched(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["use", "primary", "--fleet", str(home)])
    before = active_file(home).read_bytes()
    capsys.readouterr()
    assert main(["use", "vision", "--fleet", str(home)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "llava-hf/llava-1.5-7b-hf as int8 with 4,096 tokens of context needs" in shown.err
    assert "quantization: nf4" in shown.err
    assert "--force" in shown.err
    assert active_file(home).read_bytes() == before


def test_force_records_that_it_was_forced(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / NAME).write_text("mistralai/Mathstral-7B-v0.1: {quantization: none}")
    assert main(["use", "maths", "--fleet", str(home)]) == 1
    assert main(["use", "maths", "--fleet", str(home), "--force"]) == 0
    assert "FORCED" in capsys.readouterr().err
    record = read_active(home)
    assert record is not None
    assert not record.plan.fits


def test_what_another_model_set_is_taken_away(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / NAME).write_text(
        "mistralai/Mathstral-7B-v0.1: {env: {VLLM_ATTENTION_BACKEND: 'a b'}}\nbigcode/starcoder2-7b: {env: {OMP_NUM_THREADS: 2}}\n"
    )
    main(["use", "maths", "--fleet", str(home), "--shell", "bash"])
    assert "unset OMP_NUM_THREADS;\n" in (out := capsys.readouterr().out)
    assert "export VLLM_ATTENTION_BACKEND='a b';\n" in out
    (home / NAME).unlink()
    main(["use", "code", "--fleet", str(home), "--shell", "bash"])
    assert "unset VLLM_ATTENTION_BACKEND;\n" in capsys.readouterr().out


def test_int8_is_nothing_vllm_has_so_its_variables_go(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["use", "adapter-base", "--fleet", str(home), "--card", "rtx-3090", "--shell", "bash"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "unset VLLM_MODEL_ID;\nunset VLLM_QUANTIZATION;\nunset VLLM_MAX_MODEL_LEN;\n"
    assert "vLLM cannot hold int8 of this model here" in shown.err


def test_a_4_bit_checkpoint_nobody_made_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / NAME).write_text("mistralai/Mathstral-7B-v0.1: {quantization: awq}")
    assert main(["use", "maths", "--fleet", str(home)]) == 1
    assert "onecard quantize mistralai/Mathstral-7B-v0.1 --to awq" in capsys.readouterr().err
    assert read_active(home) is None


def test_the_folder_that_the_fleets_env_file_names_is_exported(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".env").write_text("HF_HOME='/my volume/hf'\n")
    assert main(["use", "primary", "--fleet", str(home), "--shell", "bash"]) == 0
    assert capsys.readouterr().out == PRIMARY + "export HF_HOME='/my volume/hf';\n"


def test_a_model_in_that_folder_is_found_on_the_disk(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".env").write_text("HF_HOME=./hf\n")
    place = home / "hf" / "hub" / "models--mistralai--Mathstral-7B-v0.1"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    snapshot = place / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(find_model("mistralai/Mathstral-7B-v0.1").config))
    (snapshot / "model.safetensors").write_bytes(b"")
    assert main(["use", "maths", "--fleet", str(home)]) == 0
    shown = capsys.readouterr()
    assert "export VLLM_MODEL_ID='mistralai/Mathstral-7B-v0.1';" in shown.out
    assert "fetch" not in shown.err
    record = read_active(home)
    assert record is not None
    assert record.path == str(snapshot)


def test_a_folder_without_weights_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "bare").mkdir()
    (home / "bare" / "config.json").write_text(json.dumps(find_model("mistralai/Mathstral-7B-v0.1").config))
    assert main(["use", "bare", "--fleet", str(home)]) == 0
    assert f"no weights in {home / 'bare'}" in capsys.readouterr().err


def test_json_says_what_is_active_and_what_a_shell_would_hold(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["use", "primary", "--fleet", str(home), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["exports"]["VLLM_QUANTIZATION"] == "awq"
    assert said["active"] == json.loads(active_file(home).read_text())


def test_a_damaged_record_is_said_and_replaced(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    active_file(home).write_text("meta-llama/Llama-3.1-8B\n")
    assert main(["use", "primary", "--fleet", str(home)]) == 0
    assert "the record is damaged: not valid JSON" in capsys.readouterr().err
    assert read_active(home) is not None


def test_the_fleet_beside_the_person_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    assert main(["use", "base"]) == 0
    assert read_active(home) is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a ROLE, PATH or ID, or ask for --list"),
        ([""], "name a ROLE, PATH or ID, or ask for --list"),
        (["primary", "--list"], "name a ROLE, PATH or ID, or ask for --list"),
        (["prmary"], "did you mean 'primary'?"),
        (["primary", "--card", "rtx-307"], "rtx-3070"),
        (["primary", "--fleet", "nowhere.yaml"], "no such file"),
        (["./nowhere"], "no folder './nowhere'"),
        (["org/unknown", "--offline"], "the hub was not asked"),
    ],
)
def test_wrong_use_is_said_without_a_line_for_the_shell(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["use", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert list(tmp_path.glob(".active*")) == []


CROWD = """
import os, sys
from onecard.cli.main import main
main(["use", "primary", "--shell", "bash"])  # everything is imported and planned once before the crowd parts
children = []
for number in range(200):
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        os._exit(main(["use", ("maths", "code", "fallback", "primary")[number % 4], "--shell", "bash"]))
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children].count(0))
"""


def test_two_hundred_calls_at_once_leave_one_whole_record(home: Path) -> None:
    crowd = subprocess.run([sys.executable, "-c", CROWD], cwd=home, capture_output=True, text=True)
    assert crowd.stdout.splitlines()[-1] == "200"
    record = read_active(home)
    assert record is not None
    models = {"primary": "meta-llama/Llama-3.1-8B-Instruct", "maths": "mistralai/Mathstral-7B-v0.1"}
    models |= {"code": "bigcode/starcoder2-7b", "fallback": "microsoft/Phi-3.5-mini-instruct"}
    assert record.id == models[record.asked]
    assert sorted(file.name for file in home.iterdir()) == [".active_model", ".active_model.lock", "fleet.yaml"]


def test_eight_real_processes_at_once_each_tell_their_shell_their_own_model(home: Path) -> None:
    asked = ["primary", "maths", "code", "fallback"] * 2
    calls = [
        subprocess.Popen(
            [*ONECARD, "use", role, "--shell", "bash"], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for role in asked
    ]
    ended = [(call.communicate()[0].decode(), call.returncode) for call in calls]
    assert [code for _, code in ended] == [0] * 8
    assert all(out.count("\n") == 3 for out, _ in ended)
    assert ended[0][0] == ended[4][0] == PRIMARY
    record = read_active(home)
    assert record is not None
    assert record.asked in asked


INTERRUPTED = """
import os, signal, sys
from onecard.cli.main import main
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGINT)
sys.exit(main(["use", "maths"]))
"""


def test_a_real_ctrl_c_at_the_worst_moment_leaves_the_old_record_and_says_nothing_to_the_shell(home: Path) -> None:
    assert main(["use", "primary", "--fleet", str(home)]) == 0
    before = active_file(home).read_bytes()
    call = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=home, capture_output=True)
    assert (call.returncode, call.stdout, call.stderr.strip()) == (130, b"", b"interrupted")
    assert active_file(home).read_bytes() == before
    assert not list(home.glob("*.tmp"))
