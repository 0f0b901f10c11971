"""Errors become OpenAI's body and come back as the same kind of error with the server's words."""

from __future__ import annotations

import pytest

from onecard import errors
from onecard.errors import EngineFailed, InputError, OnecardError, Overloaded, UnknownName
from onecard.wire.faults import CODES, ErrorBody, error_of, fault_of

URL = "http://127.0.0.1:1/v1/chat/completions"


def test_an_input_error_names_the_parameter() -> None:
    fault = fault_of(InputError("3 is refused", where="temperature", allowed="0 to 2"))
    assert (fault.type, fault.code, fault.param) == ("invalid_request_error", "invalid_request", "temperature")
    assert fault.message == "temperature: 3 is refused. Allowed: 0 to 2"


def test_an_unknown_model_has_openais_code() -> None:
    assert fault_of(UnknownName("no model 'x'", where="model")).code == "model_not_found"


def test_a_machine_error_is_the_servers_fault_and_has_no_parameter() -> None:
    fault = fault_of(EngineFailed("gone", where="/some/folder"))
    assert (fault.type, fault.code, fault.param) == ("server_error", "engine_failed", None)


@pytest.mark.parametrize("kind", [k for k in CODES if k is not OnecardError], ids=lambda k: k.__name__)
def test_every_error_survives_the_wire(kind: type[OnecardError]) -> None:
    error = kind("it is so", allowed="other things")
    body = ErrorBody(error=fault_of(error)).model_dump_json().encode()
    back = error_of(error.http_status, body, URL)
    assert type(back) is kind
    assert "it is so" in back.problem and "other things" in back.problem
    assert back.where == URL


def test_a_special_error_without_its_own_code_takes_that_of_its_family() -> None:
    assert fault_of(errors.DataError("x")).code == "invalid_request"
    assert fault_of(errors.PortInUse("x")).code == "machine_error"


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (
            404,
            b'{"object":"error","message":"The model `x` does not exist.","code":404}',
            UnknownName,
            "does not exist",
        ),
        (429, b'{"error":{"message":"slow down","type":"rate"}}', Overloaded, "slow down"),
        (400, b'{"detail":[{"msg":"bad"}]}', InputError, "bad"),
        (401, b"", InputError, "without a reason"),
        (500, b"<html>\x1b[31mInternal\n\n Server \xff Error</html>", EngineFailed, "Internal Server"),
        (503, b"", Overloaded, "503"),
        (302, b"elsewhere", EngineFailed, "302"),
    ],
)
def test_other_servers_are_understood_by_their_status(
    status: int, body: bytes, kind: type[OnecardError], words: str
) -> None:
    error = error_of(status, body, URL)
    assert type(error) is kind
    assert words in error.problem
    assert "\x1b" not in error.problem and "\n" not in error.problem


def test_a_huge_error_page_is_cut() -> None:
    assert len(error_of(500, b"x" * 10_000_000, URL).problem) < 300
