"""The manners of a session: where the token goes, which redirects are followed, what happens when the network misbehaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onecard.errors import InputError, MachineError, OnecardError
from onecard.weights import hub_session
from onecard.weights.hub_access import Access, access
from onecard.weights.hub_session import HubSession


@pytest.fixture
def model(hub: Any, tmp_path: Path) -> Any:
    """org/x with a small and a large file; answers to wait for are short."""
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 1000)
    hub.add("org/x", {"config.json": b"{}", "large": large})
    return hub


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_session, "PAUSES_S", (0.0, 0.0))


def small(by: Access | None = None) -> bytes:
    with HubSession(by or access()) as hub:
        return hub.file("org/x", "main", "config.json", 1000).body


def part(start: int = 0, length: int = 10) -> tuple[bytes, int | None]:
    with HubSession(access()) as hub:
        return hub.range("org/x", "main", "large", start, length)


def refused(ask: Any, kind: type[OnecardError]) -> OnecardError:
    with pytest.raises(kind) as caught:
        ask()
    return caught.value


def test_a_range_is_what_stands_there_with_or_without_the_servers_help(model: Any) -> None:
    for model.ranges in (True, False):
        assert part(3, 4) == (b"\3\4\5\6", 256_000)
        assert part(255_998, 10) == (b"\xfe\xff", 256_000)
        assert part(300_000, 10)[0] == b""


def test_the_token_goes_to_the_hub_and_never_to_where_it_redirects(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model.granted.add("hf_friend")
    monkeypatch.setenv("HF_TOKEN", "hf_friend")
    small()
    part()
    told = {one.host: one.headers.get("authorization") for one in model.seen}
    assert told == {"hub": "Bearer hf_friend", "blobs": None}
    assert all(one.headers.get("authorization") for one in model.seen if one.host == "hub")
    assert all("cookie" not in one.headers for one in model.seen)


def test_a_small_file_behind_another_host_is_read_without_the_token(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.granted.add("hf_friend")
    monkeypatch.setenv("HF_TOKEN", "hf_friend")
    with HubSession(access()) as hub:
        assert len(hub.file("org/x", "main", "large", 300_000).body) == 256_000
    assert [one.headers.get("authorization") for one in model.seen if one.host == "blobs"] == [None]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x", "javascript:x", "http://[", "http://"]
)
def test_a_redirect_leads_to_http_or_nowhere(model: Any, location: str) -> None:
    model.tricks["hub"] = lambda handler, path: handler.send(302, b"", {"Location": location}) or True
    refused(small, OnecardError)
    assert {(one.host, one.path) for one in model.seen} == {("hub", "/org/x/resolve/main/config.json")}


def test_no_redirect_leads_from_https_to_http() -> None:
    session = HubSession(Access("https://hub.example"))
    assert session._next("https://hub.example/a", "/b", "r", "f") == "https://hub.example/b"
    with pytest.raises(InputError, match="not https"):
        session._next("https://hub.example/a", "http://hub.example/b", "r", "f")


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://hub.example/a", True), ("https://hub.example:443/a", True), ("https://HUB.example/a", True),
        ("http://hub.example/a", False), ("https://hub.example:444/a", False), ("https://cdn.hub.example/a", False),
        ("https://hub.example.evil.example/a", False), ("https://evil.example/hub.example", False),
        ("https://hub.example@evil.example/", False),
    ],
)  # fmt: skip
def test_who_gets_the_token(url: str, sent: bool) -> None:
    assert bool(HubSession(Access("https://hub.example", "hf_secret"))._authority(url)) is sent


def test_a_circle_of_redirects_ends(model: Any) -> None:
    model.tricks["hub"] = lambda handler, path: handler.send(302, b"", {"Location": path}) or True
    assert "redirects more than 5 times" in refused(small, InputError).problem
    assert len(model.seen) < 20


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Retry-After": "120"}, "in 120 seconds"),
        ({"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, "in 55 seconds"),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "in a few minutes"),
        ({}, "in a few minutes"),
    ],
)
def test_asked_too_often(model: Any, headers: dict[str, str], said: str) -> None:
    model.tricks["hub"] = lambda handler, path: handler.send(429, b"", headers) or True
    error = refused(small, MachineError)
    assert "(429)" in error.problem and said in str(error.next_step) and "hf auth login" in str(error.next_step)
    assert len({one.path for one in model.seen}) == 1


def test_a_failure_that_passes_is_not_seen(model: Any) -> None:
    answers = iter([503, 502])

    def trick(handler: Any, path: str) -> bool:
        status = next(answers, None)
        return status is not None and (handler.send(status, b"", {}) or True)

    model.tricks["hub"] = trick
    assert small() == b"{}"


@pytest.mark.parametrize("status", [400, 403, 404, 410, 418, 451, 500, 503])
def test_every_status_is_an_error_of_the_tree(model: Any, status: int) -> None:
    model.tricks["hub"] = lambda handler, path: handler.send(status, b"<html>", {}) or True
    error = refused(small, OnecardError)
    assert error.exit_code == 2 and error.where and error.next_step
    assert "org/x" in str(error)


def test_the_file_stores_own_refusal_is_not_the_hubs(model: Any) -> None:
    model.tricks["blobs"] = lambda handler, path: handler.send(403, b"<Error>AccessDenied", {}) or True
    assert "file store answers 403" in refused(part, MachineError).problem


def test_an_answer_that_breaks_off(model: Any) -> None:
    def trick(handler: Any, path: str) -> bool:
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-9/256000")
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"\0" * 5)
        handler.close_connection = True
        return True

    model.tricks["blobs"] = trick
    assert "broke off" in refused(part, MachineError).problem


@pytest.mark.parametrize(
    "content_range", ["bytes 5-14/256000", "bytes 0-99/256000", "0-9", "", "bytes 0-9", "bytes 9-0/256000"]
)
def test_another_part_than_was_asked_for(model: Any, content_range: str) -> None:
    headers = {"Content-Range": content_range} if content_range else {}
    model.tricks["blobs"] = lambda handler, path: handler.send(206, b"\0" * 10, headers) or True
    refused(part, OnecardError)


def test_a_hub_that_does_not_answer_in_time(model: Any, hub_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.2")
    model.tricks["hub"] = lambda handler, path: hub_server.drip(handler, 1.0) or True
    with HubSession(access()) as session, pytest.raises(MachineError) as caught:
        session.file("org/x", "main", "config.json", 200_000)
    error = caught.value
    assert "did not answer within 0.2 s" in error.problem and "HF_HUB_DOWNLOAD_TIMEOUT" in str(error.next_step)


def test_a_hub_that_drips(model: Any, hub_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_session, "REQUEST_LIMIT_S", 0.2)
    model.tricks["hub"] = lambda handler, path: hub_server.drip(handler, 0.05) or True
    with HubSession(access()) as hub, pytest.raises(MachineError, match=r"longer than 0.2 s"):
        hub.file("org/x", "main", "config.json", 200_000)


def test_a_body_that_never_ends_is_left_at_its_limit(model: Any) -> None:
    def trick(handler: Any, path: str) -> bool:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        while True:
            handler.wfile.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")

    model.tricks["hub"] = trick
    assert "larger than 1,000 bytes" in refused(small, InputError).problem


def test_headers_of_all_shards_together_have_a_limit(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_session, "HEADERS_LIMIT_BYTES", 25)
    with HubSession(access()) as hub:
        hub.range("org/x", "main", "large", 0, 10)
        hub.range("org/x", "main", "large", 10, 10)
        with pytest.raises(InputError, match="together are over"):
            hub.range("org/x", "main", "large", 20, 10)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "bogus://x", "http://[", "http://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_a_sentence(
    own_environment: None, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    refused(small, MachineError)


def test_no_token_stands_in_an_error_or_a_repr(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in str(refused(small, InputError)) + repr(access())
