"""Over real HTTP, with the official client unchanged: who answers, how errors look, and that no input gives a 5xx."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onecard.serving.limits import MAX_BODY_BYTES
from onecard.serving.running import Running
from onecard.serving.unsupported import CHAT
from onecard.wire.faults import ErrorBody, Fault

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]
WHO = ["agent", "adapter", "digest", "model", "queue-ms"]


@pytest.fixture(scope="module")
def shared(service_around):
    """One server for all tests of this file: starting and stopping one takes a quarter of a second."""
    with service_around() as served:
        yield served


@pytest.fixture
def running(shared) -> Running:
    return shared[0]


@pytest.fixture
def engine(shared):
    """The server's engine, as new."""
    shared[1].asked.clear()
    shared[1].cancelled, shared[1].closed = 0, False
    return shared[1]


@pytest.fixture
def client(running: Running, engine):
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(running: Running, engine):
    with httpx.Client(base_url=running.url) as http:
        yield http


def who(headers: Any) -> list[str]:
    return [headers[f"x-onecard-{name}"] for name in WHO]


def fault(response: httpx.Response) -> Fault:
    assert set(json.loads(response.content)) == {"error"}
    assert set(json.loads(response.content)["error"]) == {"message", "type", "code", "param"}
    return ErrorBody.model_validate_json(response.content).error


def test_the_official_client_lists_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["explainer", "explainer@v0003", "quizmaster", "quizmaster@v0001", "clerk", "base"]
    assert client.models.retrieve("explainer@v0003").id == "explainer@v0003"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_the_official_client_chats(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="explainer", messages=HELLO)
    answer = raw.parse()
    assert answer.choices[0].message.content == "[digest-1] <T> hello there "
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", "explainer@v0003")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 4, 7)
    assert who(raw.headers) == ["explainer", "style@v0003", "digest-1", "embedded:fake", "12.5"]


def test_the_official_client_streams(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="quizmaster", messages=HELLO, stream=True, stream_options={"include_usage": True}, max_tokens=2
    )
    chunks = list(raw.parse())
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "[digest-2] hello "
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 2 and not chunks[-1].choices
    assert len({c.id for c in chunks}) == 1
    assert who(raw.headers) == ["quizmaster", "quiz@v0001", "digest-2", "embedded:fake", "12.5"]


def test_a_stream_without_usage_has_none(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="base", messages=HELLO, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_the_official_client_completes(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="base", prompt="once upon", stop=["upon"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("[base] once ", "stop")
    pieces = client.completions.create(model="explainer", prompt="once", stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "[digest-1] <T> once "


def test_seed_and_presets_reach_the_engine(client: openai.OpenAI) -> None:
    def ask(**fields: Any) -> str | None:
        return client.chat.completions.create(model="clerk", messages=HELLO, **fields).choices[0].message.content

    assert ask(seed=1) == ask(seed=1) != ask(seed=2)
    assert ask(extra_body={"preset": "terse"}) == "[base] hello there "


@pytest.mark.parametrize("model", ["gpt-4", "explainer@v0004", "Explainer", "base@v0001", " base"])
def test_an_unknown_model_is_never_the_base(client: openai.OpenAI, engine, model: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError, match="explainer, explainer@v0003") as caught:
            client.chat.completions.create(model=model, messages=HELLO, stream=stream)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert engine.asked == []


def test_a_missing_model_is_an_error(http: httpx.Client, engine) -> None:
    response = http.post("/v1/chat/completions", json={"messages": HELLO})
    assert (response.status_code, fault(response).param) == (400, "model")
    assert engine.asked == []


def test_what_cannot_be_honoured_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(model="base", messages=HELLO, tools=[{"type": "function"}])  # type: ignore[list-item]
    with pytest.raises(openai.BadRequestError, match="engine of base tells no log-probabilities"):
        client.chat.completions.create(model="base", messages=HELLO, logprobs=True)


def test_a_prompt_that_does_not_fit_is_a_400_also_when_streamed(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="the context holds 64"):
            client.chat.completions.create(model="base", messages=HELLO, max_tokens=100, stream=stream)


def test_an_engine_that_dies_is_a_503_and_in_a_stream_an_error_event(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "please die now"}]
    with pytest.raises(openai.InternalServerError, match="the engine died") as caught:
        client.chat.completions.create(model="base", messages=messages)
    assert (caught.value.status_code, caught.value.code) == (503, "engine_failed")
    text = ""
    with pytest.raises(openai.APIError, match="the engine died"):
        for chunk in client.chat.completions.create(model="base", messages=messages, stream=True):
            text += chunk.choices[0].delta.content or ""
    assert text == "[base] "


def test_a_bug_is_a_500_that_tells_nothing_and_is_logged(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "crash now"}]}
    response = http.post("/v1/chat/completions", json=body)
    assert (response.status_code, fault(response).code) == (500, "internal_error")
    assert "a bug in the engine" not in response.text
    assert any(record.exc_info for record in caplog.records)
    streamed = http.post("/v1/chat/completions", json={**body, "stream": True})
    assert "internal_error" in streamed.text and "[DONE]" not in streamed.text


def test_generate_answers_in_a_style(http: httpx.Client) -> None:
    response = http.post("/generate", json={"prompt": "hello there", "style": "verbose"})
    said = response.json()
    assert response.status_code == 200 and said.pop("latency_s") > 0
    assert said == {"response": "[digest-1] <V> hello there ", "style": "verbose", "tokens": 4}
    assert who(response.headers)[:3] == ["explainer", "style@v0003", "digest-1"]
    assert http.post("/generate", json={"prompt": "hi", "agent": "clerk"}).json()["style"] == "warm"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": "x", "style": "loud"}, "style", "default, terse, verbose, warm"),
        ({"prompt": "x", "style": "terse"}, "agent", "explainer, clerk"),
        ({"prompt": "x"}, "agent", "explainer, quizmaster, clerk"),
        ({"style": "terse"}, "prompt", "missing"),
        ({"prompt": "x", "style": "verbose", "styel": "terse"}, "styel", "not a field"),
        ({"prompt": 5, "style": "verbose"}, "prompt", "string"),
    ],
    ids=str,
)
def test_generate_explains_what_is_wrong(http: httpx.Client, body: Any, param: str, words: str) -> None:
    response = http.post("/generate", json=body)
    assert response.status_code == 400
    assert fault(response).param == param and words in fault(response).message


def test_health_and_ready(http: httpx.Client, running: Running, engine) -> None:
    health = http.get("/health").json()
    assert (health["status"], health["model"]) == ("ok", "embedded:fake")
    assert health["adapters"][0]["digest"] == "digest-1"
    assert http.get("/ready").json() == {"ready": True}
    engine.closed = True
    assert (http.get("/health").status_code, http.get("/health").json()["status"]) == (503, "failed")
    assert (http.get("/ready").status_code, fault(http.get("/ready")).code) == (503, "engine_failed")


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code"),
    [
        ("GET", "/nowhere", {}, 404, "route_not_found"),
        ("GET", "/v1/models/", {}, 404, "route_not_found"),
        ("GET", "/docs", {}, 404, "route_not_found"),
        ("GET", "/generate", {}, 405, "method_not_allowed"),
        ("DELETE", "/v1/chat/completions", {}, 405, "method_not_allowed"),
        ("POST", "/generate", {"data": {"prompt": "x"}}, 415, "unsupported_content_type"),
        ("POST", "/generate", {"content": b"{}"}, 415, "unsupported_content_type"),
        (
            "POST",
            "/generate",
            {"content": b"{", "headers": {"content-type": "application/json"}},
            400,
            "invalid_request",
        ),
        ("POST", "/generate", {"json": [1]}, 400, "invalid_request"),
        ("POST", "/v1/completions", {"json": {"model": "base", "prompt": [1, 2]}}, 400, "invalid_request"),
        ("POST", "/generate", {"json": {"prompt": "x" * MAX_BODY_BYTES}}, 413, "body_too_large"),
    ],
)
def test_every_error_has_openais_shape(
    http: httpx.Client, method: str, path: str, sent: dict[str, Any], status: int, code: str
) -> None:
    response = http.request(method, path, **sent)
    assert (response.status_code, fault(response).code) == (status, code)


def test_a_body_without_a_length_is_stopped_at_the_limit(http: httpx.Client) -> None:
    def pieces():
        for _ in range(MAX_BODY_BYTES // 2**16 + 2):
            yield b" " * 2**16

    response = http.post("/generate", content=pieces(), headers={"content-type": "application/json"})
    assert (response.status_code, fault(response).code) == (413, "body_too_large")
    assert http.get("/ready").status_code == 200


def test_the_description_names_every_route_and_body(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/v1/models", "/v1/models/{name}", "/v1/chat/completions", "/v1/completions", "/v1/rerank", "/v1/score",
        "/generate", "/health", "/ready", "/metrics", "/admin/adapters", "/admin/adapters/promote",
        "/admin/adapters/rollback", "/admin/adapters/load", "/admin/adapters/unload",
    }  # fmt: skip
    body = described["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = described["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert set(schema["required"]) == {"model", "messages"}
    for reference in _references(described):
        assert reference.rpartition("/")[2] in described["components"]["schemas"]


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for part in value.values() for found in _references(part)]
    return [found for part in value for found in _references(part)] if isinstance(value, list) else []


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_answer(running: Running, engine, stream: bool) -> None:
    content = " ".join(["slowly"] * 40)
    body = json.dumps({"model": "base", "messages": [{"role": "user", "content": content}], "stream": stream})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
    with socket.create_connection(address) as connection:
        connection.sendall(f"{head}\r\n\r\n{body}".encode())
        _until(lambda: engine.running == 1)
        if stream:
            connection.recv(10)
    _until(lambda: engine.running == 0)
    assert engine.cancelled == 1
    assert not running.service.in_flight


def _until(condition: Any) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it did not happen within 5 s"
        time.sleep(0.01)


WEIRD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TURNS = {"role": st.sampled_from(["user", "system", "assistant"]), "content": st.sampled_from(["a b", "die", "c d e"])}
SETTINGS = {
    "max_tokens": st.integers(1, 20),
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.1, 1),
    "stop": st.sampled_from([None, "a", ["a", "b"]]),
    "stream": st.booleans(),
    "preset": st.none(),
}
MODELS = st.sampled_from(["base", "explainer", "clerk", "quizmaster@v0001"])
PROMPTS = st.sampled_from(["hello", "word " * 70, "nothing", "once upon a time"])
MESSAGES = st.lists(st.fixed_dictionaries(TURNS), min_size=1, max_size=3)
STYLES = {"style": st.sampled_from(["verbose", "warm"])}
TEXTS = st.lists(st.sampled_from(["a", "a b c", "\ud83d\ude00"]), min_size=1, max_size=4)
SENSIBLE = {
    "/v1/chat/completions": st.fixed_dictionaries({"model": MODELS, "messages": MESSAGES}, optional=SETTINGS),
    "/v1/completions": st.fixed_dictionaries({"model": MODELS, "prompt": PROMPTS}, optional=SETTINGS),
    "/generate": st.fixed_dictionaries({"prompt": PROMPTS, **STYLES}),
    "/v1/rerank": st.fixed_dictionaries(
        {"model": MODELS, "query": PROMPTS, "documents": TEXTS}, optional={"top_n": st.integers(1, 5)}
    ),
    "/v1/score": st.fixed_dictionaries({"model": MODELS, "text_1": PROMPTS, "text_2": TEXTS}),
    "/admin/adapters/promote": st.fixed_dictionaries({"agent": MODELS}, optional={"version": PROMPTS}),
    "/admin/adapters/rollback": st.fixed_dictionaries({"agent": MODELS}),
    "/admin/adapters/load": st.fixed_dictionaries({"agent": MODELS, "version": PROMPTS}),
    "/admin/adapters/unload": st.fixed_dictionaries({"agent": MODELS, "version": PROMPTS}),
}
NAMES = [
    "model", "messages", "prompt", "style", "agent", "stream_options", "n", "seed", "user", "logprobs", "top_logprobs",
    "echo", "max_completion_tokens", "query", "documents", "candidates", "top_n", "return_documents", "text_1", "text_2",
    "version", "force", "reason", *SETTINGS, *CHAT,
]  # fmt: skip
SPOILT = st.just({}) | st.dictionaries(st.sampled_from(NAMES), WEIRD, min_size=1, max_size=2)
REQUESTS = st.sampled_from(sorted(SENSIBLE)).flatmap(
    lambda route: st.tuples(
        st.just(route),
        st.builds(lambda body, spoilt: {**body, **spoilt}, SENSIBLE[route], SPOILT) | WEIRD | st.binary(max_size=60),
    )
)
KINDS = st.sampled_from(["application/json"] * 16 + ["application/json; charset=latin-1", "text/plain", "", "\xe9"])


@settings(
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(asked=REQUESTS, kind=KINDS)
def test_no_input_gives_a_5xx(http: httpx.Client, engine, asked: tuple[str, Any], kind: str) -> None:
    """2,000 of them. `die` and `nothing` make the engine fail: those 503 are the machine's, said with its code."""
    route, body = asked
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = http.post(route, content=raw, headers={"content-type": kind.encode("latin-1")})
    assert response.status_code < 500 or fault(response).code == "engine_failed", response.text
    if response.status_code == 200:
        assert who(response.headers)
    else:
        assert fault(response).message
    assert engine.running == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW"]),
    path=st.sampled_from(["/generate", "/health", "/v1/models", "/v1/models/x"])
    | st.text(max_size=12).map(lambda text: f"/{text}"),
    query=st.text(max_size=12),
)
def test_no_route_gives_a_5xx(http: httpx.Client, method: str, path: str, query: str) -> None:
    from urllib.parse import quote

    response = http.request(method, f"{quote(path, errors='replace')}?{quote(query, errors='replace')}")
    assert response.status_code < 500
    if response.status_code >= 400 and method != "HEAD":
        fault(response)
