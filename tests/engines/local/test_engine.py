"""What the local engine adds to the contract: what it refuses to load, its silence, and that a refusal changes nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from onecard.engines.engine import GenerationRequest
from onecard.engines.local.engine import LocalEngine
from onecard.errors import AdapterRefused, EngineFailed, InputError, MissingPart
from tests.engines.conftest import FINGERPRINT, MadeAdapter, ask, asked

TEXT = GenerationRequest(text="A hash table")


def start(mini: Path, **changes: Any) -> LocalEngine:
    settings: dict[str, Any] = {
        "model_id": "embedded:mini", "fingerprint": FINGERPRINT, "quantization": "none", "double_quantization": True,
        "device": "cpu", "context": 64, "concurrency": 2,
    }  # fmt: skip
    return LocalEngine.open(mini, **(settings | changes))


@pytest.fixture(scope="module")
def engine(mini: Path) -> Iterator[LocalEngine]:
    opened = start(mini)
    yield opened
    opened.close()


def score(engine: LocalEngine, adapter: str | None) -> float:
    """A number that changes with the last bit of any weight the answer depends on."""
    request = GenerationRequest(text="A hash table", adapter=adapter)
    return asyncio.run(engine.score(request, [" stores keys with their values and finds them by a number"]))[0]


def test_refusals_change_nothing(engine: LocalEngine, adapters: dict[str, MadeAdapter], tmp_path: Path) -> None:
    good = adapters["plain"]
    engine.load_adapter(good.folder, good.manifest)
    before = score(engine, None), score(engine, good.digest), engine.info(), engine.memory().parts
    assert before[0] != before[1]
    broken = adapters["other"].altered(
        tmp_path / "x", lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"")
    )
    for bad in (broken, adapters["other"].trained_on(fingerprint="0" * 64)):
        with pytest.raises(AdapterRefused):
            engine.load_adapter(bad.folder, bad.manifest)
        assert (score(engine, None), score(engine, good.digest), engine.info(), engine.memory().parts) == before


def test_a_library_failure_while_loading_is_a_refusal(
    engine: LocalEngine, adapters: dict[str, MadeAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    before = score(engine, None)
    monkeypatch.setattr(engine._model, "_inject", no_memory)
    made = adapters["other"]
    with pytest.raises(AdapterRefused, match="tried to allocate"):
        engine.load_adapter(made.folder, made.manifest)
    monkeypatch.undo()
    assert score(engine, None) == before
    assert engine.load_adapter(made.folder, made.manifest) == made.digest
    engine.remove_adapter(made.digest)


def test_loading_twice_is_loading_once(engine: LocalEngine, adapters: dict[str, MadeAdapter]) -> None:
    made = adapters["plain"]
    engine.load_adapter(made.folder, made.manifest)
    parts = engine.memory().parts
    assert engine.load_adapter(made.folder, made.manifest) == made.digest
    assert engine.memory().parts == parts


def test_an_adapter_stops_at_the_ids_of_its_own_manifest(engine: LocalEngine, adapters: dict[str, MadeAdapter]) -> None:
    made = adapters["other"]
    engine.load_adapter(made.folder, made.manifest.model_copy(update={"stop_ids": tuple(range(10_000))}))
    told = ask(engine, asked("What?", made.digest))
    engine.remove_adapter(made.digest)
    assert (told.text, told.tokens, told.reason) == ("", 1, "stop")


def test_what_cannot_be_opened_says_why(mini: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="up to 1024"):
        start(mini, context=4096)
    with pytest.raises(InputError, match="concurrency"):
        start(mini, concurrency=0)
    with pytest.raises(MissingPart):
        start(tmp_path)


def test_it_says_nothing_on_the_terminal(mini: Path, adapters: dict[str, MadeAdapter], tmp_path: Path) -> None:
    """In a process of its own: much of the noise of the libraries below comes once, when they are imported."""
    made = adapters["styled"].trained_on(quantization="nf4")
    manifest = tmp_path / "manifest.json"
    manifest.write_text(made.manifest.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", WHOLE_LIFE, mini, made.folder, manifest], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


WHOLE_LIFE = f"""
import asyncio, sys
from pathlib import Path
from onecard.adapters.manifest import Manifest
from onecard.engines.engine import GenerationRequest, Message
from onecard.engines.local.engine import LocalEngine

mini, folder, manifest = map(Path, sys.argv[1:])
engine = LocalEngine.open(mini, model_id="embedded:mini", fingerprint="{FINGERPRINT}", quantization="nf4",
                          double_quantization=True, context=64, concurrency=2)
digest = engine.load_adapter(folder, Manifest.model_validate_json(manifest.read_text()))

async def two():
    for adapter in (None, digest):
        request = GenerationRequest(messages=(Message("user", "What?"),), adapter=adapter, max_new_tokens=2, temperature=0.7)
        assert [chunk async for chunk in engine.generate(request)]

asyncio.run(two())
engine.remove_adapter(digest)
engine.close()
"""


def test_by_default_the_base_takes_what_its_bf16_file_takes(mini: Path, engine: LocalEngine) -> None:
    assert engine.info().dtype == "bf16"
    assert engine.memory().parts[0].bytes == pytest.approx(tensor_bytes_on_disk(mini), rel=0.01)


def test_an_event_loop_that_dies_does_not_take_the_engine_with_it(engine: LocalEngine) -> None:
    loop = asyncio.new_event_loop()
    stream = engine.generate(GenerationRequest(text="A", max_new_tokens=40))
    loop.run_until_complete(anext(stream))
    loop.close()
    assert ask(engine, asked("What?")).tokens > 0


def test_a_failing_score_is_an_engine_failure(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(engine._model, "forward", breaks)
    with pytest.raises(EngineFailed, match="out of luck"):
        asyncio.run(engine.score(TEXT, [" x"]))


def tensor_bytes_on_disk(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size
