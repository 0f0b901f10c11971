"""What a failed write and a refusal mean to a person."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from onecard.errors import DiskFull, InputError, MachineError
from onecard.weights.fetch_faults import disk_fault, refusal_fault
from onecard.weights.fetch_library import Refused
from onecard.weights.hub_access import Access


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_a_full_disk(number: int) -> None:
    error = disk_fault(OSError(number, "No space left on device"), Path("/models"))
    assert isinstance(error, DiskFull) and error.where == "/models" and "resumes" in (error.next_step or "")


def test_another_fault_of_the_disk_names_the_file() -> None:
    error = disk_fault(PermissionError(errno.EACCES, "Permission denied", "/models/blobs"), Path("/models"))
    assert isinstance(error, MachineError) and not isinstance(error, DiskFull)
    assert (error.problem, error.where) == ("cannot be written: Permission denied", "/models/blobs")


@pytest.mark.parametrize(
    ("status", "host", "kind", "words"),
    [
        (503, "huggingface.co", MachineError, "the hub answers 503"),
        (503, "cdn.example", MachineError, "the hub's file store answers 503"),
        (403, "cdn.example", MachineError, "the hub's file store answers 403"),
        (429, "cdn.example", MachineError, "asked too often"),
        (403, "huggingface.co", InputError, "refuses access to org/name"),
    ],
)
def test_a_refusal_says_who_refused(status: int, host: str, kind: type[Exception], words: str) -> None:
    error = refusal_fault(Refused(status, {}, host), Access(), "org/name", "config.json")
    assert isinstance(error, kind) and words in error.problem and "org/name" in (error.where or "")
