from __future__ import annotations

from pathlib import Path

import pytest

from onecard.cli.main import main
from onecard.cli.use_overrides import NAME

pytestmark = pytest.mark.usefixtures("own_environment")


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_is_calm(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    main(["use", "primary", "--fleet", str(tmp_path), "--card", "rtx-3070"])
    capsys.readouterr()
    assert main(["use", "--list", "--fleet", str(tmp_path), "--card", "rtx-3070"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[1:14]
    assert len({len(line) for line in table}) == 1
    assert max(map(len, table)) <= 80
    assert table[1].startswith("* primary         meta-llama/Llama-3.1-8B-Instruct")
    assert "too big" in next(line for line in table if line.startswith("  vision "))


def test_what_is_set_locally_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NAME).write_text("mistralai/Mathstral-7B-v0.1: {context: 2048, env: {VLLM_USE_V1: true}}")
    assert main(["use", "maths", "--fleet", str(tmp_path), "--card", "rtx-3070"]) == 0
    assert "models.local.yaml: context: 2048, VLLM_USE_V1=1" in capsys.readouterr().err


def test_what_was_active_before_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["use", "maths", "--fleet", str(tmp_path), "--card", "rtx-3070"])
    main(["use", "code", "--fleet", str(tmp_path), "--card", "rtx-3070"])
    assert "before: mistralai/Mathstral-7B-v0.1 (nf4); a server that runs still has it" in capsys.readouterr().err
