"""Objects in memory and on S3 alike, and every way in which a server says no, over real HTTP."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from onecard.adapters import fsspec_objects
from onecard.adapters.fsspec_objects import FsspecObjects
from onecard.adapters.store import Store
from onecard.errors import DiskFull, InputError, MachineError, MissingPart, OnecardError


@pytest.fixture(params=["memory_url", "s3_url"])
def objects(request: pytest.FixtureRequest) -> FsspecObjects:
    return FsspecObjects(request.getfixturevalue(request.param))


def test_what_is_written_is_read(objects: FsspecObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec_objects, "CHUNK_BYTES", 1000)
    (tmp_path / "file").write_bytes(content := os.urandom(2500))
    objects.upload(tmp_path / "file", "a/b/file")
    objects.put("a/b/two", b"2")
    objects.put("a/b/two", b"3")
    objects.put("a/bb/other", b"")
    [found] = [found for found in objects.below("a/b") if found.key == "a/b/file"]
    assert (found.size_bytes, b"".join(objects.chunks(found))) == (2500, content)
    assert found.modified_s is not None
    assert abs(found.modified_s - time.time()) < 3600
    assert objects.read_all(["a/b/two", "a/none", "a/bb/other"]) == [b"3", None, b""]
    assert objects.read_all([]) == []
    assert (objects.names("a"), objects.names("a/b"), objects.names("none")) == (["b", "bb"], ["file", "two"], [])
    assert [found.key for found in objects.below("a/b")] == ["a/b/file", "a/b/two"]
    objects.delete(["a/b/two", "a/b/two", "a/none"])
    assert objects.read("a/b/two") is None
    assert objects.below("none") == []


def test_of_many_who_create_a_key_exactly_one_is_told_so(objects: FsspecObjects) -> None:
    for turn in range(3):
        told: list[int] = []
        start = threading.Barrier(8)

        def work(who: int, told: list[int] = told, start: threading.Barrier = start, turn: int = turn) -> None:
            start.wait()
            if objects.create(f"log/{turn}", str(who).encode()):
                told.append(who)

        threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(told) == 1
        assert objects.read(f"log/{turn}") == str(told[0]).encode()


class Answer(BaseHTTPRequestHandler):
    """Answers every request in the one way that the test sets."""

    status, body, delay_s = 200, b"", 0.0

    def do_GET(self) -> None:
        time.sleep(self.delay_s)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_PUT = do_HEAD = do_POST = do_DELETE = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answer]]:
    kind = type("OneAnswer", (Answer,), {})
    http = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    http.handle_error = lambda *arguments: None  # type: ignore[method-assign]
    threading.Thread(target=http.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{http.server_port}")
    yield kind
    http.shutdown()
    http.server_close()


def said_by(store: str, tmp_path: Path) -> OnecardError:
    with pytest.raises(OnecardError) as caught:
        Store(store, cache=tmp_path / "cache").resolve("writer", "style@production")
    assert caught.value.where
    assert caught.value.where.startswith("s3://bucket/store")
    assert caught.value.next_step
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "kind", "problem"),
    [
        (403, "AccessDenied", MachineError, "access denied"),
        (403, "InvalidAccessKeyId", MachineError, "no credentials that this store accepts"),
        (403, "SignatureDoesNotMatch", MachineError, "no credentials that this store accepts"),
        (404, "NoSuchBucket", InputError, "no such bucket"),
        (507, "XMinioStorageFull", DiskFull, "no room"),
        (500, "InternalError", MachineError, "the store refuses"),
    ],
)
def test_what_a_server_refuses_is_said_with_the_next_step(
    server: type[Answer], tmp_path: Path, status: int, code: str, kind: type[OnecardError], problem: str
) -> None:
    server.status = status
    server.body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    error = said_by("s3://bucket/store", tmp_path)
    assert type(error) is kind
    assert problem in error.problem


def test_a_server_that_does_not_answer_in_time(
    server: type[Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"connect_timeout": 1, "read_timeout": 0.2, "retries": {"max_attempts": 1}}
    monkeypatch.setitem(fsspec_objects._S3_OPTIONS, "config_kwargs", quick)
    server.delay_s = 1.0
    assert "no answer in time" in said_by("s3://bucket/store", tmp_path).problem


def test_no_credentials(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert "no credentials" in said_by("s3://bucket/store", tmp_path).problem


def test_no_such_host_and_nobody_listening(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        for endpoint in (f"http://127.0.0.1:{taken.getsockname()[1]}", "http://nobody.invalid"):
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            assert "cannot be reached" in said_by("s3://bucket/store", tmp_path).problem


def test_a_bucket_that_is_not_there(s3_url: str, tmp_path: Path) -> None:
    for ask in (lambda store: store.list(), lambda store: store.exists(), lambda store: store.resolve("a", "b@v0001")):
        with pytest.raises(InputError, match="s3://no-such-bucket/x: no such bucket"):
            ask(Store("s3://no-such-bucket/x", cache=tmp_path))


def test_a_server_without_conditional_writes_is_refused(memory_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = FsspecObjects(memory_url)
    monkeypatch.setattr(objects, "_create", lambda key, content: True)
    with pytest.raises(InputError, match="ignores If-None-Match"):
        objects.create("log/1", b"x")


@pytest.mark.parametrize(("url", "install"), [("s3://b/x", r"onecard\[store\]"), ("gs://b/x", "pip install gcsfs")])
def test_a_part_that_is_not_installed_is_named(url: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def filesystem(*arguments: object, **options: object) -> None:
        raise ImportError("Install it")

    monkeypatch.setattr(fsspec, "filesystem", filesystem)
    with pytest.raises(MissingPart, match=install):
        FsspecObjects(url).read("x")
