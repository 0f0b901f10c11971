"""hf-mem: `run(..., experimental=True)` with its own requests, sent to the hub on loopback instead of the one it has built in.

It reads the bytes a repository holds, so it answers for 16 bits; a quantized form it can read only from a repository that holds one.
"""

from __future__ import annotations

import os
from importlib.metadata import version

from asking import Answer, answer_all, per_token


def ask(model: dict) -> Answer:
    import hf_mem
    import httpx2

    here = httpx2.URL(os.environ["HF_ENDPOINT"])

    class ToLoopback(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            request.url = request.url.copy_with(scheme=here.scheme, host=here.host, port=here.port)
            return await super().handle_async_request(request)

    client = httpx2.AsyncClient
    httpx2.AsyncClient = lambda **settings: client(**{**settings, "http2": False}, transport=ToLoopback())
    try:

        def at(tokens: int) -> float:
            said = hf_mem.run(model["id"], experimental=True, max_model_len=tokens, kv_cache_dtype="bfloat16")
            if said.kv_cache is None:
                raise LookupError("no KV cache for this architecture")
            return said.kv_cache

        answers: Answer = {"16bit": {"weights": hf_mem.run(model["id"]).memory}}
        try:
            cache = per_token(at, model["long"])
        except Exception:  # weights stand without a cache
            return answers
        return answers | {quantity: {"--experimental": size} for quantity, size in cache.items()}
    finally:
        httpx2.AsyncClient = client


if __name__ == "__main__":
    answer_all(lambda: version("hf-mem"), ask)
