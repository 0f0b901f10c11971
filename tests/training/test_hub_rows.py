"""Data sets of the hub over its own protocol, on loopback: rows come as they are asked for, and the offline variable is obeyed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from onecard.errors import DataError
from onecard.training.hub_rows import hub_records

COMMIT = "a" * 40
ROWS = [{"prompt": f"p{n}", "completion": f"c{n}", "source": "x"} for n in range(5)]
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "train.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
}
# The libraries read the hub's address when they are imported, so that each question is put in a process of its own.
READER = """
import json, sys
from onecard.errors import DataError
from onecard.training.rows import read_rows
for source, limit in json.loads(sys.argv[1]):
    try:
        scan = read_rows(source, limit=limit)
        print(json.dumps([[row.prompt, row.where] for row in scan.rows] + sorted(scan.unread)))
    except DataError as error:
        print(json.dumps(str(error)))
"""


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        name = path.rpartition("/")[2]
        self.server.asked.append(path)
        if path.startswith("/api/datasets/own/rows"):
            files = [{"type": "file", "path": n, "size": len(c), "oid": "b" * 40} for n, c in FILES.items()]
            facts = {"id": "own/rows", "sha": COMMIT, "private": False, "gated": False, "tags": [], "siblings": []}
            self.answer(200, json.dumps(files if "/tree/" in path else facts).encode())
        elif path.startswith("/datasets/own/rows/resolve/") and name in FILES:
            tag = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1(FILES[name]).hexdigest()}"'}
            self.answer(200, FILES[name], tag)
        else:
            code = "EntryNotFound" if "/own/rows" in path else "RepoNotFound"
            self.answer(404, b"{}", {"X-Error-Code": code})

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def read(hub, tmp_path, questions, **environment):
    variables = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}"}
    variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "PATH": os.environ["PATH"], **environment}
    command = [sys.executable, "-c", READER, json.dumps(questions)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_rows_of_the_hub_come_with_their_numbers(hub, tmp_path):
    questions = [("hub:own/rows", 2), ("hub:own/rows:train", None), ("hub:own/rows:test", None), ("hub:own/none", None)]
    two, all_rows, no_split, no_data_set = read(hub, tmp_path, questions)
    assert two == [["p0", "hub:own/rows:1"], ["p1", "hub:own/rows:2"], "source"]
    assert [row[0] for row in all_rows[:-1]] == [row["prompt"] for row in ROWS]
    assert "hub:own/rows:test: cannot be read" in no_split and "train" in no_split
    assert "hub:own/none: cannot be read" in no_data_set


def test_nothing_is_asked_when_the_variable_forbids_it(hub, tmp_path):
    (said,) = read(hub, tmp_path, [("hub:own/rows", 2)], HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE=1 forbids asking the hub" in said and not hub.asked


@pytest.mark.parametrize("source", ["hub:", "hub:../etc", "hub:a/b/c", "hub:a--b/c"])
def test_a_name_no_data_set_has_is_refused_unasked(source):
    with pytest.raises(DataError, match="no data set's name"):
        next(hub_records(source))
