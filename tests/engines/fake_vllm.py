"""A program that speaks vLLM's HTTP as far as the engine uses it, in a few milliseconds, and misbehaves on demand.

It has a child of its own, as vLLM has its engine. The model is arithmetic: the next token follows from the last one and the adapter's
name. Behaviour comes from files beside FAKE_VLLM_PLACE: `slow` (seconds before it listens), `broken` (it ends while starting), `mute` (it
loads adapters that change nothing), `poisoned` (it answers NaN).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

VOCABULARY = 200
PLACE = Path(os.environ["FAKE_VLLM_PLACE"])
LORAS: dict[str, str] = {}
RUNNING: set[int] = set()


def effect(model: str, name: str) -> int:
    """What a model adds to every step: 0 for the base."""
    return 0 if model in (name, "no-adapter") or (PLACE / "mute").exists() else 1 + crc32(model.encode()) % 50


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name, key = "", ""
    stopping = False

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            return self.whole({"data": [{"id": self.name}]}) if self.allowed() else None
        if self.path == "/version":
            return self.whole({"version": "0.0-fake"})
        if self.path == "/metrics":
            return self.whole('vllm:cache_config_info{kv_cache_memory_bytes="4096"} 1.0')
        return self.whole({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.allowed():
            return None
        if self.stopping:
            return self.whole({"error": {"message": "shutting down", "code": 500}}, 500)
        if self.path == "/v1/load_lora_adapter":
            LORAS[body["lora_name"]] = body["lora_path"]
            if body["lora_name"] != "no-adapter":
                with (PLACE / "loaded").open("a") as told:
                    told.write(f"{body['lora_name']} {body['lora_path']}\n")
            return self.whole("loaded")
        if self.path == "/v1/unload_lora_adapter":
            LORAS.pop(body["lora_name"], None)
            return self.whole("unloaded")
        if body["model"] not in (self.name, *LORAS):
            return self.whole({"error": {"message": "no such model", "code": 404}}, 404)
        return self.stream(body) if body.get("stream") else self.likely(body)

    def allowed(self) -> bool:
        if self.headers.get("authorization") == f"Bearer {self.key}":
            return True
        self.whole({"error": {"message": "Unauthorized", "code": 401}}, 401)
        return False

    def likely(self, body: dict[str, Any]) -> None:
        prompt = body["prompt"]
        value = float("nan") if (PLACE / "poisoned").exists() else -1.0 - effect(body["model"], self.name) / 100
        told = [None, *({str(token): {"logprob": value - token / 1e4}} for token in prompt[1:])]
        self.whole(
            {"model": body["model"], "choices": [{"text": "", "finish_reason": "length", "prompt_logprobs": told}]}
        )

    def stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        RUNNING.add(id(self))
        token, step = body["prompt"][-1], 1 + effect(body["model"], self.name)
        try:
            for number in range(body["max_tokens"]):
                token = 100 + (token + step) % VOCABULARY
                reason = "length" if number + 1 == body["max_tokens"] else None
                self.event(
                    {"model": body["model"], "choices": [{"text": "", "finish_reason": reason, "token_ids": [token]}]}
                )
                time.sleep(float(os.environ.get("FAKE_VLLM_STEP_S", "0.01")))
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            (PLACE / "cancelled").touch()
        finally:
            RUNNING.discard(id(self))
            self.close_connection = True

    def event(self, body: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())
        self.wfile.flush()

    def whole(self, body: Any, status: int = 200) -> None:
        payload = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--served-model-name")
    parser.add_argument("--port", type=int)
    parser.add_argument("--shutdown-timeout", type=float)
    told, rest = parser.parse_known_args()
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])  # does not end with its parent
    apart = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    (PLACE / "pids").write_text(f"{os.getpid()} {engine.pid} {apart.pid}")
    (PLACE / "arguments").write_text(json.dumps(rest))
    print("Loading weights took 0.04 seconds", flush=True)
    if (PLACE / "broken").exists():
        sys.exit("ValueError: the card has no room for the cache")
    if (PLACE / "slow").exists():
        time.sleep(float((PLACE / "slow").read_text()))
    Handler.name, Handler.key = told.served_model_name, os.environ["VLLM_API_KEY"]
    server = ThreadingHTTPServer(("127.0.0.1", told.port), Handler)
    server.daemon_threads = True

    def drain(*_: Any) -> None:
        Handler.stopping = True
        (PLACE / "drained").touch()
        threading.Thread(target=finish, daemon=True).start()

    def finish() -> None:
        end = time.monotonic() + told.shutdown_timeout
        while RUNNING and time.monotonic() < end:
            time.sleep(0.01)
        os._exit(0)

    signal.signal(signal.SIGTERM, drain)
    server.serve_forever()


main()
