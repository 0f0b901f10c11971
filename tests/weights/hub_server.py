"""A hub for tests that speaks huggingface.co's protocol over real HTTP on loopback, and a second host that keeps its large files.

What it sends is what huggingface_hub 2.4 expects: /{repo}/resolve/{revision}/{file} with X-Repo-Commit, ETag, relative redirects for
small files, X-Linked-* headers and a redirect to another host for large ones, ranges, X-Error-Code with every refusal, and
/api/models/{repo}/revision/{revision}. Large files are sparse: a checkpoint of 14 GB takes the disk of its header.

    with HubServer() as hub:
        hub.add("org/name", {"config.json": b"...", "model.safetensors": path})
"""

from __future__ import annotations

import json
import re
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

_RESOLVE = re.compile(r"/((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)")
_SMALL = re.compile(r"/api/resolve-cache/models/((?:[^/]+/)?[^/]+)/([^/]+)/(.+)")
_API = re.compile(r"/api/models/((?:[^/]+/)?[^/]+?)(?:/revision/([^/]+))?")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
DTYPE_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "I32": 4, "U8": 1, "I8": 1, "F8_E4M3": 1, "I64": 8, "BOOL": 1}


@dataclass
class Repo:
    """`gated`: needs a token that `granted` holds; with `open_record` not for its record. `private`: hidden without one."""

    files: dict[str, bytes | Path]
    card: dict[str, Any] = field(default_factory=dict)
    gated: str | bool = False
    private: bool = False
    moved_to: str | None = None
    open_record: bool = False

    @property
    def commit(self) -> str:
        return sha1(repr(sorted((name, str(content)) for name, content in self.files.items())).encode()).hexdigest()


@dataclass
class Seen:
    """One request: which of the two hosts got it, and what it sends back; noted before the answer leaves."""

    host: str
    path: str
    headers: dict[str, str]
    status: int
    body_bytes: int


Trick = Callable[["_Handler", str], bool]
"""Answers a request in a way of its own: given the handler and the path; True when it did."""


class HubServer:
    """Listens while the context is open. `tricks` by host ("hub" or "blobs") are asked first."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.granted: set[str] = set()
        self.seen: list[Seen] = []
        self.tricks: dict[str, Trick] = {}
        self.ranges = True
        self.pause_s = 0.0  # before each piece of a large file: a slow network
        self.says_commit = True

    def __enter__(self) -> HubServer:
        self._servers = {name: _serve(self, name) for name in ("hub", "blobs")}
        return self

    def __exit__(self, *error: object) -> None:
        for server in self._servers.values():
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers['hub'].server_address[1]}"

    @property
    def blobs_url(self) -> str:
        return f"http://127.0.0.1:{self._servers['blobs'].server_address[1]}"

    def add(self, name: str, files: dict[str, bytes | Path], **facts: Any) -> Repo:
        self.repos[name] = Repo(files, **facts)
        return self.repos[name]

    @property
    def asked(self) -> list[str]:
        """Files of repositories that were asked for, in order."""
        return [match[3] for one in self.seen if one.host == "hub" and (match := _RESOLVE.fullmatch(one.path))]

    def bytes_sent(self) -> int:
        return sum(one.body_bytes for one in self.seen)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    host: str

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        trick = self.hub.tricks.get(self.host)
        try:
            if trick and trick(self, path):
                pass
            elif self.host == "blobs":
                self._blob(path)
            elif match := _SMALL.fullmatch(path):
                content = self.hub.repos[match[1]].files[match[3]]
                assert isinstance(content, bytes)
                self.send(200, content, {"ETag": _etag(content)} | self._commit_of(match[1]))
            elif match := _RESOLVE.fullmatch(path):
                self._file(match[1], match[2], match[3])
            elif match := _API.fullmatch(path):
                self._record(match[1], match[2])
            else:
                self.refuse(404, "", "Not found")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the reader had enough, as a reader of headers may

    def _file(self, name: str, revision: str, file: str) -> None:
        moved = self.hub.repos.get(name)
        if moved is not None and moved.moved_to:
            target = f"/{moved.moved_to}/resolve/{quote(revision, safe='')}/{file}"
            return self.send(307, b"", {"Location": target})
        repo = self._allowed(name, revision)
        if repo is None:
            return None
        if file not in repo.files:
            return self.refuse(404, "EntryNotFound", "Entry not found", self._commit_of(name))
        content = repo.files[file]
        if isinstance(content, bytes):
            target = f"/api/resolve-cache/models/{name}/{repo.commit}/{quote(file)}"
            return self.send(307, b"", {"Location": target, "ETag": _etag(content)} | self._commit_of(name))
        linked = {"X-Linked-Size": str(content.stat().st_size), "X-Linked-ETag": '"' + "0" * 64 + '"'}
        target = f"{self.hub.blobs_url}/{quote(name, safe='')}/{quote(file)}?signature=secret"
        return self.send(302, b"", {"Location": target} | linked | self._commit_of(name))

    def _allowed(self, name: str, revision: str | None) -> Repo | None:
        """The repository, or None when the asker was refused as huggingface.co refuses."""
        repo = self.hub.repos.get(name)
        said = self.headers.get("authorization")
        token = said.removeprefix("Bearer ") if said else None
        if token is not None and token not in self.hub.granted and token != "hf_stranger":
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and token not in self.hub.granted):
            if token is None:
                self.refuse(401, "RepoNotFound", "Invalid username or password.")
            else:
                self.refuse(404, "RepoNotFound", "Repository not found")
        elif repo.gated and token not in self.hub.granted:
            self.refuse(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        elif revision not in (None, "main", repo.commit):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return repo
        return None

    def _record(self, name: str, revision: str | None) -> None:
        known = self.hub.repos.get(name)
        repo = known if known and known.open_record else self._allowed(name, revision)
        blobs = "blobs=true" in urlsplit(self.path).query
        if repo is not None:
            licence = [f"license:{repo.card['license']}"] if "license" in repo.card else []
            record = {
                "id": name,
                "sha": repo.commit,
                "gated": repo.gated,
                "private": repo.private,
                "cardData": repo.card,
                "tags": ["transformers", "safetensors", *licence],
                "lastModified": "2026-10-01T08:00:00.000Z",
                "siblings": [_sibling(file, content, blobs) for file, content in repo.files.items()],
            }
            self.send(200, json.dumps(record).encode(), {"Content-Type": "application/json"})

    def _blob(self, path: str) -> None:
        name, _, file = path.removeprefix("/").rpartition("/")
        content = self.hub.repos[name].files[file]
        assert isinstance(content, Path)
        size = content.stat().st_size
        match = _RANGE.fullmatch(self.headers.get("range", "")) if self.hub.ranges else None
        if match is None:
            return self.stream(200, content, 0, size, {})
        start, end = int(match[1]), min(int(match[2]) if match[2] else size - 1, size - 1)
        if start >= size:
            return self.send(416, b"", {"Content-Range": f"bytes */{size}"})
        return self.stream(206, content, start, end + 1 - start, {"Content-Range": f"bytes {start}-{end}/{size}"})

    def _commit_of(self, name: str) -> dict[str, str]:
        return {"X-Repo-Commit": self.hub.repos[name].commit} if self.hub.says_commit else {}

    def refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self.send(
            status, body, {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | dict(headers or {})
        )

    def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        sent = body if self.command == "GET" else b""
        self._note(status).body_bytes = len(sent)
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(sent)

    def stream(self, status: int, file: Path, start: int, length: int, headers: Mapping[str, str]) -> None:
        """A part of a large file, in pieces, until the reader leaves."""
        seen = self._note(status)
        self.send_response(status)
        for key, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        with file.open("rb") as reader:
            reader.seek(start)
            while self.command == "GET" and seen.body_bytes < length:
                time.sleep(self.hub.pause_s)
                piece = reader.read(min(1 << 16, length - seen.body_bytes))
                seen.body_bytes += len(piece)
                self.wfile.write(piece)

    def _note(self, status: int) -> Seen:
        headers = {key.lower(): value for key, value in self.headers.items()}
        seen = Seen(self.host, urlsplit(unquote(self.path)).path, headers, status, 0)
        self.hub.seen.append(seen)
        return seen


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader who leaves in the middle of an answer is no error of the server's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _serve(hub: HubServer, host: str) -> ThreadingHTTPServer:
    handler = type(f"_{host}", (_Handler,), {"hub": hub, "host": host})
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


def _etag(content: bytes) -> str:
    return f'"{sha1(content).hexdigest()}"'


def _sibling(name: str, content: bytes | Path, blobs: bool) -> dict[str, Any]:
    """A file of a record; with `blobs` its size and hash as huggingface.co gives them: sha256 for a large one, git's sha1 for all."""
    if not blobs:
        return {"rfilename": name}
    if isinstance(content, bytes):
        return {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
    digest = sha256_of(content)
    size = content.stat().st_size
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()
    large = {"sha256": digest, "size": size, "pointerSize": len(pointer)}
    return {"rfilename": name, "size": size, "blobId": git_sha1(pointer), "lfs": large}


def git_sha1(content: bytes) -> str:
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


_sha256_of: dict[tuple[str, int, int], str] = {}


def sha256_of(file: Path) -> str:
    """Remembered, because a record is asked for often."""
    key = (str(file), file.stat().st_size, file.stat().st_mtime_ns)
    if key not in _sha256_of:
        _sha256_of[key] = sha256(file.read_bytes()).hexdigest()
    return _sha256_of[key]


Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""dtype and shape by name."""


def write_safetensors(file: Path, tensors: Tensors) -> Path:
    """A file of these tensors, all zero, that takes no more disk than its header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, shape) in tensors.items():
        end = position + prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with file.open("wb") as writer:
        writer.write(struct.pack("<Q", len(raw)) + raw)
        writer.truncate(8 + len(raw) + position)
    return file


def write_shards(folder: Path, tensors: Tensors, shards: int) -> dict[str, bytes | Path]:
    """The same in so many files with an index, as files of a repository."""
    names = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
    parts: list[dict[str, tuple[str, tuple[int, ...]]]] = [{} for _ in names]
    for number, (name, tensor) in enumerate(tensors.items()):
        parts[number * shards // len(tensors)][name] = tensor
    weight_map = {name: file for file, part in zip(names, parts, strict=True) for name in part}
    files: dict[str, bytes | Path] = {
        file: write_safetensors(folder / file, part) for file, part in zip(names, parts, strict=True)
    }
    return {"model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weight_map}).encode(), **files}


def decoder_tensors(config: Mapping[str, Any], dtype: str = "BF16") -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a Llama or Mistral checkpoint as transformers saves it."""
    width, mlp, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    kv_width = kv_heads * config.get("head_dim", width // heads)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, width)}
    for layer in range(config["num_hidden_layers"]):
        place = f"model.layers.{layer}."
        q_width = heads * config.get("head_dim", width // heads)
        shapes |= {
            f"{place}self_attn.q_proj.weight": (q_width, width),
            f"{place}self_attn.k_proj.weight": (kv_width, width),
            f"{place}self_attn.v_proj.weight": (kv_width, width),
            f"{place}self_attn.o_proj.weight": (width, q_width),
            f"{place}mlp.gate_proj.weight": (mlp, width),
            f"{place}mlp.up_proj.weight": (mlp, width),
            f"{place}mlp.down_proj.weight": (width, mlp),
            f"{place}input_layernorm.weight": (width,),
            f"{place}post_attention_layernorm.weight": (width,),
        }
    shapes["model.norm.weight"] = (width,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, width)
    return {name: (dtype, shape) for name, shape in shapes.items()}


def awq_tensors(config: Mapping[str, Any], group: int = 128) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The same checkpoint as AutoAWQ writes it: eight 4-bit numbers in an int32, a scale and a zero a group."""
    packed: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, (_, shape) in decoder_tensors(config, "F16").items():
        if not name.endswith("_proj.weight"):
            packed[name] = ("F16", shape)
            continue
        rows, columns = shape
        stem = name.removesuffix("weight")
        packed[f"{stem}qweight"] = ("I32", (columns, rows // 8))
        packed[f"{stem}qzeros"] = ("I32", (columns // group, rows // 8))
        packed[f"{stem}scales"] = ("F16", (columns // group, rows))
    return packed


def drip(handler: _Handler, pause_s: float) -> None:
    """Promises a body and sends a byte of it at a time."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(50):
        handler.wfile.write(b"{")
        handler.wfile.flush()
        time.sleep(pause_s)
