"""Keys over HTTP: nobody without one, each within its scopes, administration from loopback names alone when there are none."""

from __future__ import annotations

import httpx
import openai
import pytest

from onecard.serving.keys import KeyRing
from onecard.serving.settings import Settings

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def guarded(service_around, tmp_path_factory: pytest.TempPathFactory):
    """A service with keys: its URL, and the keys by name."""
    ring = KeyRing(tmp_path_factory.mktemp("keys") / "keys.json")
    scopes = {"writer": ("infer:explainer",), "all": ("infer:*",), "boss": ("admin",), "gone": ("infer:*",)}
    secrets = {name: ring.add(name, scope) for name, scope in scopes.items()}
    with service_around(Settings(keys=ring)) as (running, _):
        yield running.url, secrets, ring


def asked(url: str, key: str | None, method: str = "GET", path: str = "/v1/models", **body) -> httpx.Response:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.request(method, url + path, headers=headers, json=body or None)


def test_without_a_key_there_is_only_ready(guarded) -> None:
    url, _, _ = guarded
    assert asked(url, None, path="/ready").status_code == 200
    for path in ("/v1/models", "/health", "/metrics", "/admin/adapters", "/openapi.json", "/nothing"):
        for key in (None, "onecard_wrong", "x" * 5000):
            response = asked(url, key, path=path)
            assert response.status_code == 401, (path, key)
            assert set(response.json()["error"]) == {"message", "type", "code", "param"}
            assert response.headers["www-authenticate"] == "Bearer"
    response = asked(url, None, "POST", "/v1/chat/completions", model="explainer", messages=HELLO)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert httpx.get(f"{url}/v1/models", headers={"authorization": "Basic eDp5"}).status_code == 401


def test_the_official_client_takes_a_key_and_says_what_is_wrong_with_one(guarded) -> None:
    url, secrets, _ = guarded
    with openai.OpenAI(base_url=f"{url}/v1", api_key=secrets["writer"], max_retries=0) as client:
        assert client.chat.completions.create(model="explainer", messages=HELLO).choices  # type: ignore[arg-type]
        with pytest.raises(openai.PermissionDeniedError, match="infer:quizmaster"):
            client.chat.completions.create(model="quizmaster", messages=HELLO)  # type: ignore[arg-type]
    wrong = openai.OpenAI(base_url=f"{url}/v1", api_key="onecard_wrong", max_retries=0)
    with wrong, pytest.raises(openai.AuthenticationError, match="not known"):
        wrong.models.list()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/v1/chat/completions", {"messages": HELLO, "stream": True}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/rerank", {"query": "x", "documents": ["a", "b"]}),
        ("/v1/score", {"text_1": "x", "text_2": "a"}),
    ],
)
def test_every_route_that_answers_asks_for_the_agents_scope(guarded, path: str, body: dict) -> None:
    url, secrets, _ = guarded
    assert asked(url, secrets["writer"], "POST", path, model="explainer@v0003", **body).status_code == 200
    assert asked(url, secrets["all"], "POST", path, model="base", **body).status_code == 200
    for key in ("writer", "boss"):
        response = asked(url, secrets[key], "POST", path, model="base", **body)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "permission_denied")


def test_generate_asks_for_the_scope_of_whom_it_finds(guarded) -> None:
    url, secrets, _ = guarded
    assert asked(url, secrets["writer"], "POST", "/generate", prompt="x", style="verbose").status_code == 200
    assert asked(url, secrets["writer"], "POST", "/generate", prompt="x", style="warm").status_code == 403


def test_administration_asks_for_its_own_scope(guarded) -> None:
    url, secrets, _ = guarded
    for key in ("writer", "all"):
        assert asked(url, secrets[key], path="/admin/adapters").status_code == 403
        assert asked(url, secrets[key], "POST", "/admin/adapters/promote", agent="explainer").status_code == 403
    answer = asked(url, secrets["boss"], path="/admin/adapters")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "refused")  # this service has no store


def test_a_key_that_is_removed_stops_with_the_next_request(guarded) -> None:
    url, secrets, ring = guarded
    assert asked(url, secrets["gone"]).status_code == 200
    ring.remove("gone")
    assert asked(url, secrets["gone"]).status_code == 401


def test_without_keys_a_foreign_page_cannot_administer(running) -> None:
    """A page that rebinds its name to 127.0.0.1 sends its own name as the host."""
    assert httpx.get(f"{running.url}/admin/adapters").status_code == 409
    for host, status in (
        ("evil.example:8700", 403),
        ("localhost:1", 409),
        ("[::1]:1", 409),
        ("127.0.0.1.evil.example", 403),
    ):
        response = httpx.get(f"{running.url}/admin/adapters", headers={"host": host})
        assert response.status_code == status, host


def test_keys_that_cannot_be_read_let_nobody_in(service_around, tmp_path) -> None:
    ring = KeyRing(tmp_path / "keys.json")
    secret = ring.add("a", ("infer:*",))
    with service_around(Settings(keys=ring)) as (running, _):
        assert asked(running.url, secret).status_code == 200
        ring.file.write_text("{")
        response = asked(running.url, secret)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "machine_error")
        assert str(tmp_path) not in response.text
