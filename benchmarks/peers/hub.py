"""A model hub on loopback, for peers that read one: each repository has the whole config.json and a safetensors file with real header.

The weights file is sparse: a header as save_pretrained writes it (bfloat16, tied heads once) and a hole of the right length. The protocol
is the part of the Hugging Face hub's that the peers use: model information, the file tree, and files with ranges.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import transformers
from truth import built


def write_repository(folder: Path, model_id: str, config: Mapping[str, Any]) -> Path:
    """A repository with config.json, what is published and every other key as transformers completes it, and model.safetensors.

    Returns its folder. SystemExit when the config so written means another model than the one it was written from.
    """
    model = built(config)
    place = folder / model_id
    place.mkdir(parents=True, exist_ok=True)
    settings = joined(saved_config(config), config) | {"dtype": "bfloat16"}
    (place / "config.json").write_text(json.dumps(settings, indent=2, default=str), encoding="utf-8")
    again = built({**json.loads((place / "config.json").read_text(encoding="utf-8")), "dtype": None})
    sizes = [[list(parameter.shape) for parameter in each.parameters()] for each in (model, again)]
    if sizes[0] != sizes[1]:
        sys.exit(f"{model_id}: its config written out in full builds another model")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, parameter in model.named_parameters():
        start, end = end, end + 2 * parameter.numel()
        header[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (place / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return place


def saved_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as transformers would write it beside a saved model, with every key."""
    settings = completed(built(config).config.to_dict()) | {"architectures": list(config["architectures"])}
    return dict(json.loads(json.dumps(settings, default=str)))


def joined(whole: Mapping[str, Any], published: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `whole`, with published ones in their place, nested ones too."""
    both = {**whole, **published}
    for key, value in published.items():
        if isinstance(value, Mapping) and isinstance(whole.get(key), Mapping):
            both[key] = joined(whole[key], value)
    return both


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nulls are left out as published configs leave them out, unless the class would put something else in their place."""
    known = transformers.CONFIG_MAPPING
    kind = settings.get("model_type")
    defaults = known[kind]().to_dict() if kind in known else {}
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if value is None and defaults.get(key) is None:
            continue
        kept[str(key)] = completed(value) if isinstance(value, dict) else value
    return kept


def information(folder: Path, model_id: str) -> dict[str, Any]:
    """What /api/models/ID says."""
    config = json.loads((folder / model_id / "config.json").read_text(encoding="utf-8"))
    with (folder / model_id / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        total = (folder / model_id / "model.safetensors").stat().st_size - 8 - length
    return {
        "_id": hashlib.sha256(model_id.encode()).hexdigest()[:24],
        "id": model_id,
        "modelId": model_id,
        "author": model_id.partition("/")[0],
        "sha": hashlib.sha1(model_id.encode()).hexdigest(),
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 1,
        "likes": 1,
        "tags": ["transformers", "safetensors", "text-generation"],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "lastModified": "2026-01-01T00:00:00.000Z",
        "config": config,
        "cardData": {},
        "safetensors": {"parameters": {"BF16": total // 2}, "total": total // 2},
        "siblings": [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}],
    }


class _Hub(BaseHTTPRequestHandler):
    folder: Path
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self.api("/".join(parts[2:4]), parts[4:], body)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self.file(self.folder / parts[0] / parts[1] / "/".join(parts[4:]), "/".join(parts[:2]), body)
        else:
            self.send(404, b'{"error": "Repository not found"}', body, {"X-Error-Code": "RepoNotFound"})

    def api(self, model_id: str, rest: list[str], body: bool) -> None:
        if not (self.folder / model_id / "config.json").is_file():
            self.send(404, b'{"error": "Repository not found"}', body, {"X-Error-Code": "RepoNotFound"})
        elif rest[:1] == ["tree"]:
            files = sorted((self.folder / model_id).iterdir())
            tree = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0"} for file in files]
            self.send(200, json.dumps(tree).encode(), body)
        else:
            self.send(200, json.dumps(information(self.folder, model_id)).encode(), body)

    def file(self, file: Path, model_id: str, body: bool) -> None:
        commit = {"X-Repo-Commit": hashlib.sha1(model_id.encode()).hexdigest()}
        if not file.is_file():
            self.send(404, b"", body, {**commit, "X-Error-Code": "EntryNotFound"})
            return
        size = file.stat().st_size
        first, last = 0, size - 1
        asked = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if asked[0]:
            first, last = int(asked[0]), min(int(asked[2] or last), last)
        tag = {**commit, "ETag": f'"{hashlib.sha1(str(file).encode()).hexdigest()}"', "Accept-Ranges": "bytes"}
        if asked[0]:
            tag["Content-Range"] = f"bytes {first}-{last}/{size}"
        with file.open("rb") as stream:
            stream.seek(first)
            piece = stream.read(last - first + 1) if body else b""
        self.send(206 if asked[0] else 200, piece, body, tag, length=last - first + 1)

    def send(
        self,
        status: int,
        content: bytes,
        body: bool,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the benchmark shows its own progress."""


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The hub over this folder on a free port of loopback; yields its address."""
    handler = type("Hub", (_Hub,), {"folder": folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
