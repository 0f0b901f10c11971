"""Metrics as Prometheus reads them, after requests whose counts are known."""

from __future__ import annotations

import re

import httpx
import pytest

from onecard.serving.metrics import CONTENT_TYPE, Metrics, sample
from onecard.wire.health import Health

LINE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)$')


def parsed(text: str) -> dict[tuple[str, str], float]:
    """Series by name and labels; every sample must stand under a HELP and a TYPE of its family."""
    found, family, kind = {}, "", ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
        elif line.startswith("# TYPE "):
            assert line.split()[2] == family
            kind = line.split()[3]
        else:
            match = LINE.match(line)
            assert match, line
            name = match[1]
            assert name == family or (kind == "histogram" and name.rpartition("_")[0] == family), line
            assert (name, match[2] or "") not in found, line
            found[name, match[2] or ""] = float(match[3].replace("+Inf", "inf"))
    return found


@pytest.fixture
def series(running):
    def read() -> dict[tuple[str, str], float]:
        response = httpx.get(f"{running.url}/metrics")
        assert response.headers["content-type"] == CONTENT_TYPE
        return parsed(response.text)

    return read


def test_requests_refusals_tokens_and_times_are_counted_by_agent_and_version(running, series) -> None:
    hello = [{"role": "user", "content": "hello there"}]
    with httpx.Client(base_url=running.url) as http:
        for _ in range(2):
            http.post("/v1/chat/completions", json={"model": "explainer", "messages": hello})
        http.post("/v1/chat/completions", json={"model": "explainer", "messages": hello, "stream": True, "n": 2})
        http.post("/v1/chat/completions", json={"model": "quizmaster", "messages": hello, "max_tokens": 100})
        http.post("/v1/chat/completions", json={"model": "nobody", "messages": hello})
        http.post("/v1/rerank", json={"model": "clerk", "query": "q", "documents": ["a"]})
        http.get("/somewhere/else")
    found = series()
    style = 'agent="explainer",adapter="style@v0003"'
    quiz = 'agent="quizmaster",adapter="quiz@v0001"'
    chat = 'route="/v1/chat/completions"'
    assert found["onecard_requests_total", f'{style},{chat},status="200"'] == 3
    assert found["onecard_requests_total", f'{quiz},{chat},status="400"'] == 1
    assert found["onecard_refusals_total", f'{quiz},reason="invalid_request"'] == 1
    assert found["onecard_refusals_total", 'agent="",adapter="",reason="model_not_found"'] == 1
    assert found["onecard_refusals_total", 'agent="",adapter="",reason="route_not_found"'] == 1
    assert found["onecard_requests_total", 'agent="clerk",adapter="none",route="/v1/rerank",status="200"'] == 1
    assert found["onecard_generated_tokens_total", style] == 4 * 4  # "[digest-1] <T> hello there", four answers
    assert found["onecard_prompt_tokens_total", style] == 4 * 3
    assert found["onecard_queue_seconds_count", style] == found["onecard_time_to_first_token_seconds_count", style] == 4
    assert found["onecard_queue_seconds_sum", style] == pytest.approx(4 * 0.0125)
    assert found["onecard_inter_token_seconds_count", style] == 4 * 3
    assert found["onecard_request_seconds_count", style] == 3
    assert found["onecard_queue_seconds_bucket", f'{style},le="0.01"'] == 0
    assert found["onecard_queue_seconds_bucket", f'{style},le="0.025"'] == 4
    assert found["onecard_queue_seconds_bucket", f'{style},le="+Inf"'] == 4


def test_memory_and_residency_are_told_by_part(running, series) -> None:
    found = series()
    assert found["onecard_memory_bytes", 'model="base",part="base weights"'] == 1000
    assert found["onecard_adapter_resident", 'agent="explainer",adapter="style@v0003",digest="digest-1"'] == 1
    assert found["onecard_up", ""] == 1 and found["onecard_requests_in_flight", ""] == 0
    assert found["onecard_memory_taken_bytes", 'of="process"'] > 2**20


def test_nobody_outside_decides_how_many_series_there_are(running, series) -> None:
    before = len(series())

    def ask(number: int) -> None:
        http.get(f"/x{number}")
        http.get(f"/v1/models/y{number}")
        http.request(f"Z{number}", "/health")

    with httpx.Client(base_url=running.url) as http:
        ask(0)
        first = len(series())
        for number in range(1, 6):
            ask(number)
    assert len(series()) == first and first - before < 10


def test_a_label_may_hold_anything() -> None:
    line = sample("a", ("x",), ('"\\\n',), 1.5)
    assert line == 'a{x="\\"\\\\\\n"} 1.5\n' and LINE.match(line.rstrip("\n"))


def test_an_idle_service_has_a_whole_page() -> None:
    assert parsed(Metrics().text(Health(status="failed", detail="x")))["onecard_up", ""] == 0
