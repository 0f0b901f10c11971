"""Every error onecard raises on purpose, in one tree.

An error a person can cause carries four things: where (file and key), what is wrong with which value, what is allowed,
and what to do next. The command line and the service map the three branches to exit codes and HTTP statuses, each in one place.

    OnecardError
    |-- InputError              what was asked is wrong or impossible to read        exit 2   HTTP 400
    |   |-- FleetError          a fleet file or a recipe
    |   |-- CatalogError        an unknown model, card or licence; a broken catalog file
    |   |-- DataError           a training or test data file, or a row of it
    |   |-- UnknownName         an agent, adapter, version or alias nobody has        exit 2   HTTP 404
    |   `-- ResultError         a result or evidence file that cannot be read
    |-- Refusal                 well formed, and the answer is no                     exit 1   HTTP 409
    |   |-- DoesNotFit          the plan says it will not fit on the card
    |   |-- NothingLearned      training finished, but the adapter is not what it says
    |   |-- GateFailed          the candidate did not pass its suite
    |   |-- AdapterRefused      an adapter that would not answer as itself
    |   `-- Overloaded          a request that cannot be answered in time             exit 1   HTTP 503
    `-- MachineError            the machine under us says no                          exit 2   HTTP 503
        |-- DiskFull
        |-- PortInUse
        |-- StoreBusy           somebody else changed or holds it at this moment
        |-- MissingPart         an optional dependency or a file that is not installed
        `-- EngineFailed        the engine died or does not answer
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches


class OnecardError(Exception):
    """An error with a place, a reason, the allowed values and a next step.

    `problem` is a sentence without a full stop; `where` a file, key, URL or command; `allowed` and `next_step` are sentences.
    """

    exit_code = 2
    http_status = 500

    def __init__(
        self, problem: str, *, where: str | None = None, allowed: str | None = None, next_step: str | None = None
    ) -> None:
        self.problem = problem
        self.where = where
        self.allowed = allowed
        self.next_step = next_step
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.problem}" if self.where else self.problem
        if self.allowed:
            text += f". Allowed: {self.allowed}"
        if self.next_step:
            text += f". Next: {self.next_step}"
        return text


class InputError(OnecardError):
    exit_code = 2
    http_status = 400


class FleetError(InputError):
    pass


class CatalogError(InputError):
    pass


class DataError(InputError):
    pass


class UnknownName(InputError):
    http_status = 404


class ResultError(InputError):
    pass


class Refusal(OnecardError):
    exit_code = 1
    http_status = 409


class DoesNotFit(Refusal):
    pass


class NothingLearned(Refusal):
    pass


class GateFailed(Refusal):
    pass


class AdapterRefused(Refusal):
    pass


class Overloaded(Refusal):
    http_status = 503


class MachineError(OnecardError):
    exit_code = 2
    http_status = 503


class DiskFull(MachineError):
    pass


class PortInUse(MachineError):
    pass


class StoreBusy(MachineError):
    pass


class MissingPart(MachineError):
    pass


class EngineFailed(MachineError):
    pass


def nearest(name: str, known: Sequence[str]) -> str:
    """A phrase such as " (did you mean 'context'?)" for the closest of `known`, or an empty string."""
    close = get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.55)
    if not close:
        return ""
    return f" (did you mean '{next(k for k in known if k.lower() == close[0])}'?)"
