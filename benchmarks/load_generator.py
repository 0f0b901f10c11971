"""Judges the load generator itself against a mock whose every moment is known, and puts GuideLLM beside it on the same mock.

The mock runs in a process of its own and writes into every word the moment at which it wrote it, on the machine's monotonic clock, which
is the client's clock too. So own error is a difference of two readings of one clock, not a guess about what the mock should have taken.

    python benchmarks/load_generator.py --out results/load_generator.json [--guidellm /path/to/its/python]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from onecard.benchmark.arrivals import parse_arrivals
from onecard.benchmark.breakdown import generator_verdict
from onecard.benchmark.http_stream import StreamClient
from onecard.benchmark.load import StepRun, closed_loop, open_loop
from onecard.benchmark.machine import cpu_name
from onecard.benchmark.prompts import Question, given_prompts
from onecard.evidence.results import Step, write_atomically
from onecard.evidence.summaries import latency_ms, percentile
from onecard.wire.chat import ChatRequest
from onecard.wire.client import TimedPiece
from onecard.wire.fake_server import FakeServer

QUESTION = Question("fake", None, given_prompts(["what time is it?"], "one").rows[0])
STREAMS = 64


def serve(port_file: str, settings: str) -> None:
    """The mock's own process: until it is ended."""

    async def forever() -> None:
        async with FakeServer(stamps=True, keeps_seen=False, **json.loads(settings)) as server:
            Path(port_file).write_text(server.url)
            await asyncio.sleep(3600)

    asyncio.run(forever())


@contextmanager
def mock(**settings: Any) -> Iterator[str]:
    """The URL of a mock in another process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "url"
        command = [sys.executable, __file__, "--serve", str(file), json.dumps(settings)]
        process = subprocess.Popen(command)
        try:
            while not file.exists() or not file.read_text():
                time.sleep(0.02)
            yield file.read_text()
        finally:
            process.terminate()
            process.wait()


@dataclass
class Stamped:
    """A client that notes, for every piece, how much later than written it was seen; milliseconds."""

    inner: StreamClient
    behind_ms: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    last_ms: list[float] = field(default_factory=list)

    async def stream_chat(self, request: ChatRequest, headers: Any = None, /) -> Any:
        behind = None
        async for piece in self.inner.stream_chat(request, headers):
            if isinstance(piece, TimedPiece) and piece.text:
                first, behind = behind is None, (piece.at_s - float(piece.text)) * 1e3
                self.behind_ms.append(behind)
                if first:
                    self.first_ms.append(behind)
            yield piece
        if behind is not None:
            self.last_ms.append(behind)


def spread_of(values: list[float]) -> dict[str, float]:
    return {f"p{percent:g}": round(percentile(values, percent), 4) for percent in (50, 95, 99)} | {
        "max": round(max(values), 4)
    }


def own_error(tokens: int, itl_s: float, requests: int) -> dict[str, Any]:
    """64 streams at once: how late we see what the mock wrote, and our throughput against the mock's own words."""
    with mock(ttft_s=0.1, itl_s=itl_s, tokens=tokens) as url:

        async def measure() -> tuple[Stamped, StepRun]:
            async with StreamClient(url, timeout_s=60) as inner:
                await closed_loop(
                    inner, [[QUESTION]] * STREAMS, StepRun(), max_new_tokens=None
                )  # connections, first calls
                client, run = Stamped(inner), StepRun()
                await closed_loop(client, [[QUESTION] * requests] * STREAMS, run, max_new_tokens=None)
                return client, run

        before = resource.getrusage(resource.RUSAGE_SELF)
        client, run = asyncio.run(measure())
        after = resource.getrusage(resource.RUSAGE_SELF)
    step = Step(callers=STREAMS, repeat=1, started_at="", requests=tuple(run.requests), loop_lag_p99_ms=run.lag_p99_ms)
    begin, end = min(r.intended_s for r in run.requests), max(r.end_s for r in run.requests)
    late = [(r.sent_s - r.intended_s) * 1e3 for r in run.requests]
    # What our lateness took from the load: the time between an answer and the next request, over all the time callers had.
    lost = sum(late) / 1e3 / (STREAMS * (end - begin)) + percentile(client.last_ms, 50) / 1e3 * len(late) / (
        STREAMS * (end - begin)
    )
    return {
        "streams": STREAMS, "tokens_s_of_each": round(1 / itl_s), "requests": len(run.requests),
        "failed": sum(r.outcome != "ok" for r in run.requests),
        "behind_the_mock_ms": {"every_piece": spread_of(client.behind_ms), "first": spread_of(client.first_ms)},
        "sent_late_ms": spread_of(late), "throughput_lost": round(lost, 5), "loop_lag_p99_ms": run.lag_p99_ms,
        "valid": generator_verdict(step).valid,
        "cpu_share": round((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / (end - begin), 3),
    }  # fmt: skip


def at_rate(rate: float, requests: int, words: str) -> dict[str, Any]:
    """An open loop: when requests left against when they were meant to, and the rate that came out."""
    with mock(ttft_s=0.01, tokens=1) as url:

        async def measure() -> StepRun:
            async with StreamClient(url, timeout_s=60) as client:
                run = StepRun()
                moments = parse_arrivals(f"{words}:{rate}").first(requests, seed=1)
                await open_loop(client, ((m.at_s, QUESTION) for m in moments), run, max_new_tokens=None)
                return run

        run = asyncio.run(measure())
    sent = sorted(r.sent_s for r in run.requests)
    step = Step(callers=1, repeat=1, started_at="", requests=tuple(run.requests), loop_lag_p99_ms=run.lag_p99_ms)
    meant = sorted(r.intended_s for r in run.requests)
    return {
        "asked_rps": rate, "arrivals": words, "requests": len(sent), "failed": sum(r.outcome != "ok" for r in run.requests),
        "meant_rps": round((len(meant) - 1) / (meant[-1] - meant[0]), 4), "sent_rps": round((len(sent) - 1) / (sent[-1] - sent[0]), 4),
        "sent_late_ms": spread_of([(r.sent_s - r.intended_s) * 1e3 for r in run.requests]),
        "latency_ms": spread_of([latency_ms(r) for r in run.requests]), "valid": generator_verdict(step).valid,
    }  # fmt: skip


def freeze(seconds: float = 5.0) -> dict[str, Any]:
    """The server stands still for five of forty seconds: what the headline says in a closed and in an open loop."""
    found: dict[str, Any] = {"freeze_s": seconds, "of_s": 40}
    for loop in ("closed", "open"):
        with mock(ttft_s=0.05, tokens=2, freeze_at_s=15, freeze_s=seconds) as url:

            async def measure(url: str = url, loop: str = loop) -> StepRun:
                async with StreamClient(url, timeout_s=60) as client:
                    run, begin_s = StepRun(), time.monotonic()
                    if loop == "closed":
                        over = lambda run: time.monotonic() - begin_s > 40  # noqa: E731
                        line = iter(lambda: QUESTION, None)
                        await closed_loop(client, [line] * 4, run, max_new_tokens=None, enough=over)
                    else:
                        moments = parse_arrivals("poisson:20").first(800, seed=1)
                        await open_loop(client, ((m.at_s, QUESTION) for m in moments), run, max_new_tokens=None)
                    return run

            run = asyncio.run(measure())
        from_intended = [latency_ms(r) for r in run.requests]
        found[loop] = {
            "requests": len(from_intended), "from_intended_ms": spread_of(from_intended),
            "from_sent_ms": spread_of([(r.end_s - r.sent_s) * 1e3 for r in run.requests]),
        }  # fmt: skip
    return found


def guidellm(python: str, streams: int, seconds: int) -> dict[str, Any]:
    """GuideLLM 0.8's own figures against the same mock: 0.1 s to the first token, 20 ms a token, 16 tokens, so 400 ms in all."""
    mocked = mock(ttft_s=0.1, itl_s=0.02, tokens=16, health={"status": "ok"})  # it asks /health first
    with mocked as url, tempfile.TemporaryDirectory() as folder:
        prompts, file = Path(folder) / "prompts.jsonl", Path(folder) / "out.json"
        prompts.write_text('{"prompt": "what time is it?"}\n' * 5000)
        command = [
            str(Path(python).parent / "guidellm"), "run", "--disable-console",
            "--backend", f"kind=openai_http,target={url},model=fake,request_format=/v1/chat/completions",
            "--profile", f"kind=concurrent,streams={streams}", "--constraint", f"kind=max_duration,seconds={seconds}",
            "--data", f"kind=json_file,path={prompts}", "--output", f"kind=json,path={file}",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=300
        )
        if done.returncode or not file.exists():
            return {"failed": (done.stderr or done.stdout)[-1500:]}
        report = json.loads(file.read_text())
    metrics = report["benchmarks"][0]["metrics"]

    def percentiles(name: str) -> dict[str, Any]:
        return {key: metrics[name]["successful"]["percentiles"][key] for key in ("p50", "p95", "p99")}

    return {
        "requests_s": metrics["requests_per_second"]["successful"]["mean"], "ttft_ms": percentiles("time_to_first_token_ms"),
        "latency_s": percentiles("request_latency"), "itl_ms": percentiles("inter_token_latency_ms"),
    }  # fmt: skip


def ours(streams: int, seconds: int) -> dict[str, Any]:
    """The same load as `guidellm`, by us."""
    with mock(ttft_s=0.1, itl_s=0.02, tokens=16) as url:

        async def measure() -> StepRun:
            async with StreamClient(url, timeout_s=60) as client:
                run, begin_s = StepRun(), time.monotonic()
                line = iter(lambda: QUESTION, None)
                over = lambda run: time.monotonic() - begin_s > seconds  # noqa: E731
                await closed_loop(client, [line] * streams, run, max_new_tokens=None, enough=over)
                return run

        run = asyncio.run(measure())
    span = max(r.end_s for r in run.requests)
    return {
        "requests_s": len(run.requests) / span,
        "ttft_ms": spread_of([((r.first_token_s or 0) - r.intended_s) * 1e3 for r in run.requests]),
        "latency_s": spread_of([latency_ms(r) / 1e3 for r in run.requests]),
        "lag_p99_ms": run.lag_p99_ms,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("results/load_generator.json"))
    parser.add_argument("--guidellm", help="the python of a virtual environment that has it")
    parser.add_argument("--only", choices=["error", "rates", "freeze", "guidellm"], action="append")
    wanted = parser.parse_args()
    if wanted.serve:
        return serve(*wanted.serve)
    parts = wanted.only or ["error", "rates", "freeze", "guidellm"]
    found: dict[str, Any] = {
        "what": "the load generator against a mock of known latency", "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "load_before": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{n: metadata.version(n) for n in ("onecard", "pydantic", "httpx")}},
    }  # fmt: skip
    if "error" in parts:
        found["own_error"] = [own_error(32, 0.02, 10), own_error(64, 0.01, 10)]
    if "rates" in parts:
        found["rates"] = [at_rate(0.2, 6, "constant"), at_rate(200, 2000, "poisson"), at_rate(2000, 20_000, "poisson")]
    if "freeze" in parts:
        found["freeze"] = freeze()
    if "guidellm" in parts:
        found["side_by_side"] = {
            "load": "64 callers, 20 s, 0.1 s to the first token, 16 tokens 20 ms apart",
            "ours": ours(64, 20),
        }
        if wanted.guidellm:
            found["side_by_side"]["guidellm"] = guidellm(wanted.guidellm, 64, 20)
    found["machine"]["load_after"] = os.getloadavg()[0]
    write_atomically(wanted.out, json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))
    return None


if __name__ == "__main__":
    main()
