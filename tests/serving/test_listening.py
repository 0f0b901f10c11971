"""The port is claimed at once, on loopback only, and errors say what to do."""

from __future__ import annotations

import socket

import pytest

from onecard.errors import InputError, PortInUse
from onecard.serving.listening import listen, loopback_address, url_of


def test_port_0_takes_a_free_one() -> None:
    with listen("localhost", 0) as one, listen("127.0.0.1", 0) as other:
        assert url_of(one) != url_of(other)
        assert url_of(one).startswith("http://127.0.0.1:")
        with socket.create_connection(one.getsockname()):
            pass


def test_a_port_in_use_is_named_with_a_next_step() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"port {port} is in use.*--port 0"):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()


def test_a_port_in_time_wait_is_free() -> None:
    with listen("127.0.0.1", 0) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the server closes first: its side stays in TIME_WAIT
        client.close()
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "", "127.0.0.1.example.org", "8.8.8.8"]
)
def test_other_machines_are_kept_out(host: str) -> None:
    with pytest.raises(InputError, match=r"no keys.*127\.0\.0\.1, localhost or ::1"):
        listen(host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST", "127.9.9.9", "::1", "[::1]"])
def test_every_way_to_say_loopback(host: str) -> None:
    assert loopback_address(host).is_loopback


def test_ipv6_urls_have_brackets() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with listen("::1", 0) as opened:
        assert url_of(opened).startswith("http://[::1]:")


def test_small_answers_leave_at_once() -> None:
    """asyncio turns Nagle's algorithm off only for sockets that name their protocol: 40 ms an answer otherwise."""
    with listen("127.0.0.1", 0) as opened:
        assert opened.proto == socket.IPPROTO_TCP
