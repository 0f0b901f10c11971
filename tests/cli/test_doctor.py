"""The verb as people run it, with faults really made: files in the way, a driver's tool on the PATH, ports taken, variables set."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from onecard.cli.main import VERBS, main
from onecard.fleet.loader import load_fleet
from onecard.weights.active import ActiveModel, ActivePlan, write_active
from onecard.wire.health import Health, ModelHealth

ROOT = Path(__file__).parents[2]
FLEET = """\
name: small
card: {card}
reserve_gib: 0.5
store: ./store
models:
  base: {{id: {id}, quantization: {quantization}, context: {context}, concurrency: 2}}
agents:
  writer: {{model: base}}
"""
MISTRAL = "mistralai/Mistral-7B-v0.3"
NVIDIA_SMI = """\
#!/bin/sh
case "$1" in
  --query-gpu*) echo "GPU-1, NVIDIA GeForce RTX 3090, {driver}, 24576, {used}, {free}" ;;
  --query-compute-apps*) {processes} ;;
esac
"""


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cache, token or variable of whoever runs the tests; `.env` files set variables, which are taken back."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("HF_", "ONECARD_", "PYTORCH_", "CUDA_", "TRANSFORMERS_", "VLLM_", "BNB_", "HUGGING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.chdir(tmp_path)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as asking:
        asking.bind(("127.0.0.1", 0))
        number: int = asking.getsockname()[1]
        return number


def write_fleet(
    folder: Path, *, id: str = "embedded:mini", quantization: str = "nf4", context: int = 512, card: str = "auto"
) -> Path:
    file = folder / "fleet.yaml"
    file.write_text(FLEET.format(card=card, id=id, quantization=quantization, context=context))
    return file


def write_tool(folder: Path, text: str, name: str = "nvidia-smi") -> None:
    tool = folder / "bin" / name
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(text)
    tool.chmod(0o755)


def nvidia_smi(folder: Path, *, used: int = 300, driver: str = "580.95.05", processes: tuple[str, ...] = ()) -> None:
    """A driver's tool that answers as the real one does; sizes are MiB."""
    said = "; ".join(f"echo '{line}'" for line in processes) or ":"
    write_tool(folder, NVIDIA_SMI.format(driver=driver, used=used, free=24576 - 400 - used, processes=said))


def examined(
    capsys: pytest.CaptureFixture[str], *arguments: str | Path, port: int, expected: int | None = None
) -> list[dict[str, Any]]:
    """Findings of a run; the exit code is 1 with a problem and 0 without one, and every finding has what mends it."""
    code = main(["doctor", *map(str, arguments), "--port", str(port), "--json"])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["findings"]
    assert code == (1 if any(one["severity"] == "problem" for one in found) else 0)
    assert expected is None or code == expected
    for one in found:
        if one["severity"] != "ok":
            assert one["what"] and one["why"] and one["mend"], one
            check_command(one["mend"])
    return found


def check_command(mend: str) -> None:
    """A command that a shell can read; a verb of ours exists."""
    done = subprocess.run(["bash", "-n", "-c", mend], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (mend, done.stderr)
    for verb in re.findall(r"onecard (\w+)", mend):
        assert verb in VERBS, mend


def about(found: list[dict[str, Any]], subject: str, severity: str) -> list[dict[str, Any]]:
    return [one for one in found if one["subject"] == subject and one["severity"] == severity]


class Answering:
    """An HTTP server on a free port that answers GET paths with JSON."""

    def __init__(self, answers: dict[str, Any]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(answers.get(self.path, {"error": "no"})).encode()
                self.send_response(200 if self.path in answers else 404)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]

    def __enter__(self) -> Answering:
        Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def health_of(model: str, fleet: str = "small", digest: str = "") -> dict[str, Any]:
    part = ModelHealth(
        name="base", id=model, fingerprint="f", engine="local", engine_version="x", quantization="nf4", dtype="bf16", device="cpu",
        context=512, concurrency=2,
    )  # fmt: skip
    return {"/health": Health(status="ok", fleet=fleet, fleet_digest=digest, models=(part,)).model_dump(mode="json")}


def activate(folder: Path, model: str, path: str | None = None) -> None:
    plan = ActivePlan(by="alone", need_bytes=1, available_bytes=2, fits=True)
    write_active(folder, ActiveModel(
        schema=1, id=model, repository=model, path=path, quantization="nf4", context=512, concurrency=1, engine="vllm", card="cpu",
        asked="primary", activated_at="2026-11-21T10:00:00+00:00", plan=plan,
    ))  # fmt: skip


def test_a_sound_machine_has_no_problem_and_says_what_was_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    found = examined(capsys, write_fleet(tmp_path), port=free_port, expected=0)
    fine = {one["subject"] for one in found if one["severity"] == "ok"}
    assert {"card", "versions", "places", "disk", "models", "memory", "port", "open files", "leftovers"} <= fine
    assert main(["doctor", "--port", str(free_port)]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


def test_nothing_heavy_is_imported_and_nothing_is_written(tmp_path: Path, free_port: int) -> None:
    file = write_fleet(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code = (
        "import sys; from onecard.cli.main import main; main(sys.argv[1:]); "
        "print(sorted({'torch', 'transformers', 'numpy', 'fastapi', 'bitsandbytes'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", code, "doctor", str(file), "--port", str(free_port), "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_use_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "no.yaml")]) == 2
    assert main(["doctor", "--port", "99999"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_strict_makes_a_warning_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("TRANSFORMERS_CACHE", str(tmp_path))
    assert main(["doctor", "--port", str(free_port)]) == 0
    assert main(["doctor", "--port", str(free_port), "--strict"]) == 1


def test_memory_that_others_hold_is_told_with_their_names_and_what_to_lower_makes_it_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    sleeping = subprocess.Popen(["sleep", "60"])
    try:
        nvidia_smi(tmp_path, used=17000, processes=(f"GPU-1, {sleeping.pid}, /usr/bin/python3, 16900",))
        file = write_fleet(tmp_path, id=MISTRAL, context=16384, card="rtx-3090")
        found = examined(capsys, file, port=free_port, expected=1)
        (held,) = about(found, "memory held", "warning")
        assert "sleep 60" in held["what"] and f"pid {sleeping.pid}, 16.50 GiB" in held["what"]
        assert held["mend"] == f"kill {sleeping.pid}"
        (short,) = about(found, "memory", "problem")
        lowered = re.search(r"models\.base\.context: 16384 -> (\d+)", short["mend"])
        assert lowered is not None and short["mend"].startswith("${EDITOR:-vi} fleet.yaml")
        write_fleet(tmp_path, id=MISTRAL, context=int(lowered[1]), card="rtx-3090")
        assert about(examined(capsys, file, port=free_port), "memory", "ok")
    finally:
        sleeping.kill()
        sleeping.wait()


def test_a_driver_that_does_not_answer_is_a_problem_and_not_no_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tool(tmp_path, "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    (tool,) = about(examined(capsys, port=free_port, expected=0), "driver", "warning")  # there is no card to drive
    assert "version mismatch" in tool["what"]
    monkeypatch.setattr("onecard.cli.doctor_machine.gpu_on_bus", lambda _: "nvidia")
    (driver,) = about(examined(capsys, port=free_port, expected=1), "driver", "problem")
    assert "version mismatch" in driver["what"] and driver["rights"]


def test_torch_for_the_cpu_beside_a_card_and_allocator_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path)
    monkeypatch.setattr("onecard.cli.doctor_packages.torch_build", lambda _: (None, None))
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128,expandable_segments:False")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = examined(capsys, port=free_port, expected=1)
    (build,) = about(found, "torch", "problem")
    assert "built for the CPU" in build["what"] and "RTX 3090" in build["what"]
    (allocator,) = about(found, "variables", "warning")
    assert allocator["mend"].endswith("='expandable_segments:True,max_split_size_mb:128'")
    (hidden,) = about(found, "variables", "problem")
    assert hidden["mend"] == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_a_cache_that_cannot_be_written_names_who_put_it_there(
    variable: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "cache", Path("/proc/nowhere")):
        monkeypatch.setenv(variable, str(place))
        (one,) = about(examined(capsys, port=free_port, expected=1), "places", "problem")
        assert f"where {variable} puts models ({place}" in one["what"] and one["mend"] == f"unset {variable}"
        assert ("data sets" in one["what"]) is (variable == "HF_HOME")


def test_a_cache_from_env_file_is_told_as_such_and_a_broken_one_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    file = tmp_path / ".env"
    file.write_text("HF_HOME=/proc/nowhere\n")
    (first, *_) = about(examined(capsys, port=free_port, expected=1), "places", "problem")
    assert f"HF_HOME in {file}" in first["what"] and first["mend"].startswith("${EDITOR:-vi} ")
    os.environ.pop("HF_HOME")
    file.write_text("this is no assignment\n")
    (broken,) = about(examined(capsys, port=free_port, expected=1), "places", "problem")
    assert ".env:1" in broken["what"]


def test_a_store_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int) -> None:
    (tmp_path / "store").write_text("a file")
    (store,) = about(examined(capsys, write_fleet(tmp_path), port=free_port, expected=1), "places", "problem")
    assert "adapter store" in store["what"]
    subprocess.run(["bash", "-c", store["mend"]], check=True)
    assert not about(examined(capsys, write_fleet(tmp_path), port=free_port), "places", "problem")


def test_missing_models_offline_without_a_token_and_on_a_small_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_fleet(tmp_path, id=MISTRAL, card="rtx-3090")
    found = examined(capsys, file, port=free_port, expected=1)
    (missing,) = about(found, "models", "warning")
    assert MISTRAL in missing["what"] and "13.50 GiB" in missing["what"]
    assert about(found, "token", "problem")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = examined(capsys, file, port=free_port, expected=1)
    assert not about(found, "token", "problem")
    (offline,) = about(found, "models", "problem")
    assert offline["mend"] == "unset HF_HUB_OFFLINE"
    blobs = tmp_path / "cache/huggingface/hub" / f"models--{MISTRAL.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / "half.incomplete").open("wb") as half:
        half.truncate(7 * 2**30)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    (resumed,) = about(examined(capsys, file, port=free_port), "models", "warning")
    assert "6.50 GiB" in resumed["what"]


def test_a_port_that_something_else_holds_is_told_with_the_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (busy,) = about(examined(capsys, port=port, expected=0), "port", "warning")
        assert f"(pid {os.getpid()})" in busy["what"] and busy["mend"] == f"kill {os.getpid()}"
        (busy,) = about(examined(capsys, write_fleet(tmp_path), port=port, expected=1), "port", "problem")
        assert busy["mend"] == "onecard serve fleet.yaml --port 0"


def test_a_service_of_this_fleet_is_fine_until_the_file_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_fleet(tmp_path)
    with Answering(health_of("embedded:mini", digest=load_fleet(file).digest)) as service:
        found = examined(capsys, file, port=service.port, expected=0)
        assert about(found, "port", "ok")[0]["what"] == f"small is served on port {service.port}"
        assert not [
            one for one in found if one["subject"] == "memory"
        ]  # it is taken already, and nothing to hold against
        write_fleet(tmp_path, context=256)
        (stale,) = about(examined(capsys, file, port=service.port), "port", "warning")
        assert f"kill {os.getpid()}; onecard serve fleet.yaml" in stale["mend"]


@pytest.mark.parametrize("kind", ["onecard", "vllm"])
def test_another_model_than_the_active_one_is_loaded(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = "Qwen/Qwen2.5-7B-Instruct"
    listed = {"/v1/models": {"data": [{"id": "served-name", "root": loaded}]}}
    with Answering(health_of(loaded) if kind == "onecard" else listed) as service:
        activate(tmp_path, MISTRAL)
        (wrong,) = about(examined(capsys, port=service.port, expected=1), "active model", "problem")
        assert MISTRAL in wrong["what"] and loaded in wrong["what"]
        assert "onecard use" in wrong["mend"]
        activate(tmp_path, loaded.lower())
        assert about(examined(capsys, port=service.port, expected=0), "active model", "ok")


def test_the_active_model_against_this_shell_its_files_and_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    activate(tmp_path, MISTRAL)
    monkeypatch.setenv("VLLM_MODEL_ID", "another/model")
    absent, other = about(examined(capsys, port=free_port), "active model", "warning")
    assert "not on this disk" in absent["what"] and MISTRAL in absent["mend"]
    assert other["mend"] == 'eval "$(onecard use primary)"'
    activate(tmp_path, MISTRAL, path=str(tmp_path / "gone"))
    (gone,) = about(examined(capsys, port=free_port), "active model", "problem")
    assert "gone" in gone["what"]
    (tmp_path / ".active_model").write_text("{half")
    (broken,) = about(examined(capsys, port=free_port), "active model", "problem")
    assert "damaged" in broken["what"]


def test_versions_beside_the_pins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (("peft", "0.9.0"), ("uvicorn", "99.0")):
        info = tmp_path / "site" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    found = examined(capsys, port=free_port, expected=1)
    (refused,) = about(found, "versions", "problem")
    assert "peft 0.9.0 (onecard needs" in refused["what"] and refused["mend"].startswith("pip install 'peft==0.")
    (newer,) = about(found, "versions", "warning")
    assert "uvicorn 99.0 (newer than" in newer["what"]


def test_too_few_open_files_for_the_callers(tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        (few,) = about(examined(capsys, write_fleet(tmp_path), port=free_port), "open files", "warning")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "200 open files" in few["what"] and few["mend"] == "ulimit -n 1024"


def test_what_killed_processes_left_behind_is_found_and_removed_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    build = tmp_path / "cache/torch_extensions/py311_cu130/kernel/lock"
    download = tmp_path / "cache/huggingface/hub/models--a--b/blobs/x.incomplete"
    holder = tmp_path / "store/agents/writer/adapters/style/.holder"
    for file, text in (
        (build, ""),
        (download, "part"),
        (holder, f"me, process {gone.pid} on {socket.gethostname()}, publishing"),
    ):
        file.parent.mkdir(parents=True)
        file.write_text(text)
    fleet = write_fleet(tmp_path)
    fresh = examined(capsys, fresh_fleet := fleet, port=free_port)
    assert not about(fresh, "leftovers", "problem")  # somebody may be at it still
    for file in (build, download):
        os.utime(file, (time.time() - 90_000,) * 2)
    found = examined(capsys, fresh_fleet, port=free_port, expected=1)
    (stuck,), (rest,) = about(found, "leftovers", "problem"), about(found, "leftovers", "warning")
    assert str(build) in stuck["mend"] and str(download) in rest["mend"] and str(holder) in rest["mend"]
    for one in (stuck, rest):
        subprocess.run(["bash", "-c", one["mend"]], check=True)
    assert about(examined(capsys, fleet, port=free_port), "leftovers", "ok")


def test_a_calibration_made_with_another_torch_is_old(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    file = tmp_path / "cache/onecard/calibrations/cpu.json"
    file.parent.mkdir(parents=True)
    document = {
        "schema": 1, "at": "2026-01-02T10:00:00+00:00", "seconds": 9, "versions": {"torch": "2.1.0"},
        "card": {"id": "cpu", "name": "x", "kind": "cpu", "total_bytes": 1},
        "host": {"cpu": "x", "cores": 1, "threads": 1, "ram_bytes": 1, "system": "Linux"},
        "small_model": {"hidden_size": 64, "vocabulary": 256, "rank": 8},
    }  # fmt: skip
    file.write_text(json.dumps(document))
    (old,) = about(examined(capsys, port=free_port, expected=0), "calibration", "warning")
    assert "torch 2.1.0, now 2." in old["what"] and old["mend"] == "onecard calibrate"
    file.write_text("{")
    (broken,) = about(examined(capsys, port=free_port, expected=0), "calibration", "warning")
    assert "not valid JSON" in broken["what"]


def test_a_fleet_that_could_not_be_served(tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int) -> None:
    file = write_fleet(tmp_path)
    file.write_text(file.read_text().replace("{model: base}", "{model: base, adapter: style@production}"))
    (bare,) = about(examined(capsys, file, port=free_port, expected=0), "fleet", "warning")
    assert "no adapter style@production" in bare["what"] and "onecard train" in bare["mend"]
    write_fleet(tmp_path, id="./no/such/folder")
    (broken,) = about(examined(capsys, file, port=free_port, expected=1), "models", "problem")
    assert "models.base.id" in broken["mend"]


@pytest.mark.slow
def test_a_cold_start_is_timed_in_parts_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    file = write_fleet(tmp_path)
    code = main(["doctor", str(file), "--port", str(free_port), "--cold-start", "--json"])
    said = json.loads(capsys.readouterr().out)
    measured = said["facts"]["cold_start"]
    assert code == 0 and measured["fault"] is None, measured
    names = [name for name, _ in measured["parts"]]
    assert names[0] == "start python" and names[-2:] == ["open the model", "first token"] and "import torch" in names
    assert main(["doctor", str(file), "--port", str(free_port)]) == 0
    assert re.search(r"embedded:mini: \d+\.\d s to its first token on ", " ".join(capsys.readouterr().out.split()))


@pytest.mark.slow
def test_a_start_of_the_service_is_timed_too_without_being_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_port: int
) -> None:
    file = write_fleet(tmp_path)
    served = subprocess.run(
        [sys.executable, "-m", "onecard", "serve", str(file), "--check", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert served.returncode == 0, served.stderr
    assert main(["doctor", str(file), "--port", str(free_port), "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)["facts"]["cold_start"]
    names = ["import torch, transformers, peft", "hash the weights", "open the model", "load the adapters"]
    assert (kept["model"], kept["until"], [name for name, _ in kept["parts"]]) == (
        "embedded:mini",
        "being served",
        names,
    )
    assert dict(kept["parts"])["import torch, transformers, peft"] > 0
    assert main(["doctor", str(file), "--port", str(free_port)]) == 0
    assert "s to being served on " in " ".join(capsys.readouterr().out.split())
