"""From a fleet file to answers: the real engine on the embedded base with real adapters, and every reason not to start."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
import yaml

from onecard.adapters.manifest import BaseModelRecord, Manifest, TrainingRecord
from onecard.adapters.store import Store
from onecard.engines.local.loading import load_base
from onecard.engines.local.tokens import chat_template_sha256, load_tokenizer, stop_ids
from onecard.errors import AdapterRefused, FleetError, OnecardError, UnknownName
from onecard.fleet.loader import LoadedFleet, load_fleet
from onecard.fleet.recipe import LoraSection
from onecard.serving import start as starting
from onecard.serving.listening import listen
from onecard.serving.running import run_in_background
from onecard.serving.start import start
from onecard.training.adapter import attach, save, targets_of
from onecard.training.added_tokens import extend_model
from onecard.training.preparation import extend_tokenizer
from onecard.weights.inventory import fingerprint, resolve

FLEET: dict[str, Any] = {
    "name": "little",
    "card": "auto",
    "store": "./modelstore",
    "models": {"base": {"id": "embedded:mini", "context": 128, "concurrency": 4}},
    "agents": {
        "explainer": {
            "model": "base",
            "adapter": "style@production",
            "presets": {
                "terse": {"token": "<STYLE_TERSE>", "max_new_tokens": 8},
                "verbose": {"token": "<STYLE_VERBOSE>", "max_new_tokens": 16},
            },
        },
        "quizmaster": {"model": "base", "adapter": "quiz@v0001", "presets": {"default": {"max_new_tokens": 8}}},
        "plain": {"model": "base", "presets": {"default": {"max_new_tokens": 8}}},
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fleet file and a store with two adapters of random weights."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "fleet.yaml").write_text(yaml.safe_dump(FLEET))
    store = Store(folder / "modelstore")
    _publish(store, "explainer", "style", folder, seed=1, added=("<STYLE_TERSE>", "<STYLE_VERBOSE>"))
    _publish(store, "quizmaster", "quiz", folder, seed=2)
    store.promote("explainer", "style", "v0001", force=True, reason="a test")
    return folder


def _publish(store: Store, agent: str, name: str, folder: Path, seed: int, added: tuple[str, ...] = ()) -> None:
    mini, output = resolve("embedded:mini", folder), folder / f"made-{name}"
    base = load_base(mini, "none", double_quantization=True, dtype="fp32", device="cpu")
    tokenizer = load_tokenizer(mini)
    tokens = extend_tokenizer(tokenizer, added)
    extend_model(base, tokenizer, tokens)
    model = attach(base, LoraSection(rank=4, alpha=8, dropout=0.0), tokens)
    random = torch.Generator().manual_seed(seed)
    for weight_name, weight in model.named_parameters():
        if "lora_" in weight_name or "trainable_tokens" in weight_name:
            weight.data.copy_(torch.randn(weight.shape, generator=random) * 0.1)
    output.mkdir()
    save(model, output, "embedded:mini", tokenizer if added else None)
    manifest = Manifest(
        agent=agent,
        name=name,
        base=BaseModelRecord(id="embedded:mini", fingerprint=fingerprint(mini), quantization="none"),
        rank=4,
        alpha=8,
        targets=targets_of(model),
        added_tokens=tokens,
        chat_template_sha256=chat_template_sha256(tokenizer),
        stop_ids=stop_ids(tokenizer, mini),
        recipe={},
        data_sha256="0" * 64,
        training=TrainingRecord(
            rows=1, trained_tokens=1, steps=1, seconds=1, tokens_s=1, peak_memory_bytes=1, memory_kind="process-rss",
            curve=(), hardware="test", versions={},
        ),
    )  # fmt: skip
    store.publish(agent, name, output, manifest)


def changed(place: Path, **changes: Any) -> LoadedFleet:
    """The fleet with a model's or an agent's keys changed: `base__engine="vllm"`."""
    fleet = yaml.safe_load(yaml.safe_dump(FLEET))
    for path, value in changes.items():
        section, key = path.split("__")
        fleet["models" if section in fleet["models"] else "agents"][section][key] = value
    file = place / "changed.yaml"
    file.write_text(yaml.safe_dump(fleet))
    return load_fleet(file)


def refusal(loaded: LoadedFleet, kind: type[OnecardError]) -> OnecardError:
    with pytest.raises(kind) as caught:
        start(loaded)
    assert type(caught.value) is kind
    return caught.value


def test_every_agent_answers_with_its_own_adapter(place: Path) -> None:
    loaded, steps = load_fleet(place / "fleet.yaml"), []
    digests = {
        a: Store(loaded.store_url).resolve(a, f"{n}@v0001").digest
        for a, n in (("explainer", "style"), ("quizmaster", "quiz"))
    }
    service = start(loaded, steps.append)
    assert steps[0].startswith("base: engine local: ")
    assert steps[1:] == [
        "loading embedded:mini",
        "loading style@v0001 for explainer",
        "loading quiz@v0001 for quizmaster",
    ]
    with run_in_background(service, listen("127.0.0.1", 0)) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        said: dict[str, str] = {}
        for model in ("explainer", "explainer@v0001", "quizmaster", "plain", "base"):
            question: list[Any] = [{"role": "user", "content": "What is a stack?"}]
            raw = client.chat.completions.with_raw_response.create(model=model, messages=question, max_tokens=8)
            said[model] = raw.parse().choices[0].message.content or ""
            assert raw.headers["x-onecard-digest"] == digests.get(model.partition("@")[0], "none")
        assert said["explainer"] == said["explainer@v0001"]
        assert said["plain"] == said["base"]
        assert len({said["explainer"], said["quizmaster"], said["base"]}) == 3
        pieces = client.chat.completions.create(model="quizmaster", messages=question, max_tokens=8, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == said["quizmaster"]
        with pytest.raises(openai.BadRequestError, match="the context holds 128"):
            client.chat.completions.create(model="base", messages=question, max_tokens=500)
        health = service.health()
        assert {part.name for part in health.memory.parts} >= {"base weights", f"adapter {digests['explainer'][:12]}"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plain__input": "image"}, "agent plain cannot be served: images"),
        ({"plain__fallback": ["base"]}, "agent plain cannot be served: fallback"),
        ({"base__engine": "vllm", "base__quantization": "nf4"}, "nf4 is not served by vLLM"),
        ({"base__engine": "local", "base__quantization": "awq"}, "awq is not served by the local engine"),
    ],
    ids=str,
)
def test_what_cannot_be_served_stops_the_start(place: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(FleetError, match=words):
        start(changed(place, **changes))


def test_an_adapter_that_was_never_trained_names_the_command(place: Path) -> None:
    error = refusal(changed(place, plain__adapter="nothing@production"), UnknownName)
    assert error.next_step is not None and error.next_step.startswith("onecard train ")
    assert error.next_step.endswith("changed.yaml --agent plain")


def test_an_adapter_that_was_never_promoted_names_the_gate(place: Path) -> None:
    error = refusal(changed(place, quizmaster__adapter="quiz@production"), UnknownName)
    assert error.next_step is not None and error.next_step.endswith("--agent quizmaster --promote")


def test_a_tampered_adapter_stops_the_start_and_leaves_no_engine(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "copy")
    weights = tmp_path / "copy/modelstore/agents/quizmaster/adapters/quiz/v0001/adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    opened: list[Any] = []
    original = starting.open_model

    def remembering(*arguments: Any) -> Any:
        opened.append(original(*arguments))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starting, "open_model", remembering)
        error = refusal(load_fleet(tmp_path / "copy" / "fleet.yaml"), AdapterRefused)
    assert "quiz@v0001 of agent quizmaster" in error.problem and "sha256" in error.problem
    stored = Store(place / "modelstore").resolve("explainer", "style@production")
    with pytest.raises(OnecardError, match="closed"):
        opened[0].load_adapter(stored.folder, stored.manifest)


def test_an_adapter_of_another_quantization_stops_the_start(place: Path) -> None:
    error = refusal(changed(place, base__quantization="nf4"), AdapterRefused)
    assert "agent explainer" in error.problem and "nf4" in error.problem


def test_with_several_models_the_base_is_the_one_of_that_name(engine) -> None:
    base = starting._base({"base": engine, "other": engine})
    assert base is not None and base.model == "base"
    only = starting._base({"only": engine})
    assert only is not None and (only.agent, only.model) == ("base", "only")
    assert starting._base({"one": engine, "other": engine}) is None
