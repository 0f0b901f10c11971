"""The judge of refusals, without a network: what counts as a clear error and what does not."""

from __future__ import annotations

import json

import pytest

from onecard.cli.verify_malformed import Answered, Malformed, check_of, problem_of, requests

ASKED = Malformed("bad JSON", "POST", "/generate", (400,), b"{")
CLEAR = {"error": {"message": "the body is not JSON", "type": "invalid_request_error", "code": "x", "param": None}}


def test_a_clear_refusal_passes_with_its_words() -> None:
    check = check_of(ASKED, Answered(400, json.dumps(CLEAR)))
    assert (check.outcome, check.seen, check.next_step) == ("pass", "400: the body is not JSON", "")


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        (Answered(None, "connection reset"), "no answer: connection reset"),
        (Answered(500, json.dumps(CLEAR)), "answered 500"),
        (Answered(200, '{"response": "hello"}'), "answered 200"),
        (Answered(404, json.dumps(CLEAR)), "answered 404"),
        (Answered(400, "Bad Request"), "documented shape"),
        (Answered(400, '{"detail": "Field required"}'), "documented shape"),
        (Answered(400, '{"error": "no"}'), "not message, type, code, param"),
        (Answered(400, json.dumps({"error": {**CLEAR["error"], "trace": "..."}})), "not message, type, code, param"),
        (Answered(400, json.dumps({"error": {**CLEAR["error"], "message": " "}})), "without a message"),
        (Answered(400, json.dumps({"error": {**CLEAR["error"], "message": "Traceback (most"}})), "stack trace"),
    ],
)
def test_anything_else_fails_and_says_what_came(answered: Answered, words: str) -> None:
    check = check_of(ASKED, answered)
    assert check.outcome == "fail" and words in check.seen and check.next_step


def test_the_table_has_every_kind_of_mistake_once() -> None:
    table = requests("writer", "terse", 512)
    names = [asked.name for asked in table]
    assert len(names) == len(set(names))
    assert {"bad JSON", "unknown model", "missing model", "unknown style", "empty prompt", "too long"} <= set(names)
    assert {"text for a number", "wrong method", "huge body"} <= set(names)
    assert all(400 <= status < 500 for asked in table for status in asked.statuses)
    assert problem_of(table[0], Answered(400, json.dumps(CLEAR))) is None
