"""The runner's process: what it says, how it ends, and that it ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onecard.errors import DiskFull, DoesNotFit, EngineFailed, MissingPart
from onecard.weights import quantize_process
from onecard.weights.quantize_process import probe, start


def interpreter(folder: Path, script: str) -> Path:
    """A program that is started like an interpreter and does what `script` says."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def work(tmp_path: Path, script: str) -> object:
    folder = tmp_path / "work"
    folder.mkdir()
    return start(interpreter(tmp_path, script), [], folder, lambda doing, share: None)


def test_an_interpreter_says_what_it_has() -> None:
    found = probe(Path(sys.executable))
    assert {"python", "torch", "transformers", "bitsandbytes"} <= set(found["versions"])
    assert found["card"] is None or found["card"]["free_bytes"] > 0


def test_what_is_no_interpreter_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match="No such file") as error:
        probe(tmp_path / "python")
    assert error.value.where == str(tmp_path / "python")


@pytest.mark.parametrize(
    ("script", "error", "said"),
    [
        ("echo noise; echo '{\"error\": {\"kind\": \"disk\", \"type\": \"OSError\", \"problem\": \"no space\"}}'", DiskFull, "no space"),
        ("echo '{\"error\": {\"kind\": \"memory\", \"type\": \"X\", \"problem\": \"40 GiB\"}}'", DoesNotFit, "out of memory: 40 GiB"),
        ("echo '{\"error\": {\"kind\": \"missing\", \"type\": \"X\", \"problem\": \"No module\"}}'", MissingPart, "No module"),
        ("echo '{\"error\": {\"kind\": \"other\", \"type\": \"KeyError\", \"problem\": \"x\"}}'", EngineFailed, "KeyError: x"),
        ("kill -9 $$", DoesNotFit, "killed it"),
        ("echo 'Segmentation fault' >&2; exit 7", EngineFailed, "exit code 7: Segmentation fault"),
        ("exit 1", EngineFailed, "nothing was printed"),
    ],
)  # fmt: skip
def test_every_end_is_one_of_our_errors(script, error, said, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        work(tmp_path, script)


def test_the_result_is_what_it_says_last(tmp_path: Path) -> None:
    assert work(tmp_path, """echo '{"doing": "a", "share": 0.5}'; echo 'tqdm'; echo '{"result": {"b": 1}}'""") == {
        "b": 1
    }


def test_only_onecard_is_lent_to_the_other_interpreter(tmp_path: Path) -> None:
    lent = work(tmp_path, """echo "{\\"result\\": {\\"names\\": \\"$(ls $PYTHONPATH)\\"}}" """)
    assert lent == {"names": "onecard"}


def test_an_interrupt_ends_it_first(tmp_path: Path) -> None:
    script = f"""echo '{{"doing": "a", "share": 0.5}}'; echo $$ > {tmp_path}/pid; exec sleep 600"""

    def interrupt(doing: str, share: float) -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        (tmp_path / "work").mkdir()
        start(interpreter(tmp_path, script), [], tmp_path / "work", interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_runner_ends_when_its_parent_is_gone() -> None:
    """The parent's end closes the runner's standard input; here it is closed by hand while the runner waits for its order."""
    fifo = "import os, sys, threading, time; from onecard.weights import quantize_runner as r; "
    code = (
        fifo
        + "threading.Thread(target=r._end_with_parent, daemon=True).start(); print('up', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "up\n"
        process.stdin.close()
        assert process.wait(20) == 130
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def test_the_install_line_names_the_library() -> None:
    assert "llmcompressor==" in quantize_process.install_line(Path("/usr/bin/python3"))
