"""Reads what an agent's candidates are asked: its suite, the regressions on other
agents' tasks, and the training rows they may not repeat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onecard.errors import FleetError, MissingPart
from onecard.evaluation.exam import Exam, prepare
from onecard.evaluation.leaks import TrainingRow
from onecard.evaluation.regressions import OtherTask
from onecard.fleet.loader import LoadedFleet


def exam_of(loaded: LoadedFleet, agent: str, rows: int | None, seed: int) -> Exam:
    """Reads the suite with its regressions; FleetError when there is none, or the agent does something this gate does not judge."""
    spec, where = loaded.agent(agent), f"{loaded.file}: agents.{agent}"
    if spec.suite is None:
        next_step = "name held-out rows and checks"
        raise FleetError(f"agent {agent} has no suite", where=f"{where}.suite", next_step=next_step)
    if spec.input != "text":
        problem = f"agent {agent} cannot be judged: input is {spec.input}"
        raise FleetError(problem, where=f"{where}.input", allowed="text")
    return prepare(
        spec.suite,
        spec.presets,
        loaded.existing(spec.suite.data, f"agents.{agent}.suite.data"),
        training=_training_rows(loaded, agent),
        rows=rows,
        seed=seed,
        others=[_other_task(loaded, agent, number) for number in range(len(spec.suite.regressions))],
        deadline=spec.deadline,
        ranks=spec.task == "rerank",
    )


def _other_task(loaded: LoadedFleet, agent: str, number: int) -> OtherTask:
    """A regression with its file: another agent's suite under that agent's presets, or a file under this agent's."""
    spec, where = loaded.agent(agent), f"agents.{agent}.suite.regressions.{number}"
    assert spec.suite is not None
    wanted = spec.suite.regressions[number]
    if wanted.agent is not None:
        other = loaded.agent(wanted.agent)
        assert other.suite is not None  # the fleet's own check
        file = loaded.existing(other.suite.data, f"agents.{wanted.agent}.suite.data")
        return OtherTask(wanted.agent, wanted, file, other.presets)
    file = loaded.existing(wanted.data or "", f"{where}.data")
    return OtherTask(file.stem, wanted, file, spec.presets)


def _training_rows(loaded: LoadedFleet, agent: str) -> Sequence[TrainingRow] | None:
    """What the agent is trained on. None when the fleet names none or it is not here: an adapter may come without its data.

    A data set of the hub is not here either; `onecard train` looks for the suite's rows in what it reads of it.
    """
    from onecard.training.rows import scan_rows

    try:
        source = loaded.data_file(agent)
        return scan_rows(source)[0] if isinstance(source, Path) else None
    except (FleetError, MissingPart):
        return None
