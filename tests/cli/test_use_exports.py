from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.cli.use_exports import Shell, exports, shell_of
from onecard.errors import InputError
from onecard.weights.active import check_text

HOSTILE = [
    "plain",
    "two words",
    "it's",
    "''",
    'say "x"',
    "$(touch pwned)",
    "`touch pwned`",
    "$HOME",
    "a;touch pwned",
    "a && touch pwned",
    "\\",
    "\\'; touch pwned; '",
    "'; touch pwned #",
    "!!",
    "*",
    "~",
    "{a,b}",
    "-n",
    "",
    "\u00e4\u4e2d\U0001f600",
]


def printable(text: str) -> bool:
    try:
        check_text(text)
    except ValueError:
        return False
    return True


TEXTS = st.one_of(st.text(), st.text(alphabet="'\"\\$`!#;&|(){}<>*?~ ab-=")).filter(printable)


def heard(shell: str, lines: str, name: str, folder: Path) -> str:
    """What a program that the real shell starts finds in its environment, after the shell has read the lines."""
    read = {"fish": "source", "zsh": 'eval "$(cat)"', "bash": 'eval "$(cat)"'}[shell]
    quiet = {"fish": ["--no-config"], "zsh": ["-f"], "bash": ["--noprofile", "--norc"]}[shell]
    done = subprocess.run(
        [shell, *quiet, "-c", f"{read}; printenv {name}"], input=lines.encode(), capture_output=True, cwd=folder
    )
    assert done.stderr == b""
    assert list(folder.iterdir()) == []
    return done.stdout.decode().removesuffix("\n")


SHELLS: tuple[Shell, ...] = ("bash", "zsh", "fish")
HERE = [shell for shell in SHELLS if shutil.which(shell)]  # bash at least


@pytest.mark.parametrize("shell", HERE)
@pytest.mark.parametrize("value", HOSTILE)
def test_a_real_shell_hears_every_value_and_runs_nothing(shell: Shell, value: str, tmp_path: Path) -> None:
    assert heard(shell, exports({"VLLM_MODEL_ID": value}, shell), "VLLM_MODEL_ID", tmp_path) == value


@settings(max_examples=60)
@given(values=st.lists(TEXTS, min_size=1, max_size=8))
def test_bash_hears_what_was_meant_whatever_it_was(tmp_path_factory: pytest.TempPathFactory, values: list[str]) -> None:
    names = [f"VLLM_{number}" for number in range(len(values))]
    lines = exports(dict(zip(names, values, strict=True)), "bash")
    shown = "; ".join(f'printf "%s\\0" "${name}"' for name in names)
    line = f'eval "$(cat)"; {shown}'
    shell = ["bash", "--noprofile", "--norc", "-c", line]
    done = subprocess.run(shell, input=lines.encode(), capture_output=True, cwd=tmp_path_factory.getbasetemp())
    assert done.stderr == b""
    assert done.stdout.decode().split("\0")[:-1] == values


def fish_reads(quoted: str) -> str:
    """What fish makes of one single-quoted word, by its manual: only \\' and \\\\ are special. Fails where the quote ends early."""
    assert quoted[0] == quoted[-1] == "'"
    inner, out, at = quoted[1:-1], "", 0
    while at < len(inner):
        if inner[at] == "\\" and inner[at + 1 : at + 2] in ("'", "\\"):
            out, at = out + inner[at + 1], at + 2
            continue
        assert inner[at] != "'"
        out, at = out + inner[at], at + 1
    return out


@given(TEXTS)
def test_fish_reads_what_was_meant_by_the_rules_of_its_manual(value: str) -> None:
    line = exports({"VLLM_MODEL_ID": value}, "fish")
    assert line.endswith(";\n")
    assert fish_reads(line.removesuffix(";\n").removeprefix("set -gx VLLM_MODEL_ID ")) == value


@given(TEXTS, st.sampled_from(["bash", "zsh", "fish"]))
def test_a_value_never_takes_more_than_its_line(value: str, shell: Shell) -> None:
    assert len(exports({"A": value, "B": None}, shell).splitlines()) == 2


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00b", "a\x1b[2Jb", "a\u2028b", "a\x85b", "a\udcffb"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_could_end_a_line_is_refused(value: str, shell: Shell) -> None:
    with pytest.raises(InputError, match="which no name, path or value may"):
        exports({"VLLM_MODEL_ID": value}, shell)


@pytest.mark.parametrize("name", ["", "A B", "A=B", "A;touch x", "1A", "A\n", "$(x)", "A[$(x)]", "\u00c4"])
def test_only_names_of_variables_are_written(name: str) -> None:
    with pytest.raises(InputError, match="no name of a variable"):
        exports({name: "x"}, "bash")


@pytest.mark.parametrize("shell", HERE)
def test_none_takes_a_variable_away(shell: Shell, tmp_path: Path) -> None:
    lines = exports({"VLLM_QUANTIZATION": "awq"}, shell) + exports({"VLLM_QUANTIZATION": None}, shell)
    assert heard(shell, lines, "VLLM_QUANTIZATION", tmp_path) == ""


def test_an_eval_whose_quotes_were_forgotten_still_works(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text(exports({"A": "org/name", "B": None, "C": "8192"}, "bash"))
    done = subprocess.run(["bash", "-c", f'B=1; eval $(cat {file}); echo "$A|$B|$C"'], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("org/name||8192\n", "")


class Named:
    def __init__(self, name: str) -> None:
        self.said = name

    def name(self) -> str:
        return self.said


def above(*names: str) -> Callable[[object], list[Named]]:
    return lambda process: [Named(name) for name in names]


@pytest.mark.parametrize(
    ("processes", "variable", "expected"),
    [
        (("fish", "bash"), "/bin/zsh", "fish"),
        (("python3", "-zsh", "login"), "", "zsh"),
        (("make", "cron"), "/usr/bin/fish", "fish"),
        (("make",), "/bin/tcsh", "bash"),
        ((), "", "bash"),
    ],
)
def test_auto_is_the_nearest_shell_above(
    processes: tuple[str, ...], variable: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil.Process, "parents", above(*processes))
    monkeypatch.setitem(os.environ, "SHELL", variable)
    assert shell_of("auto") == expected
    assert shell_of("zsh") == "zsh"
