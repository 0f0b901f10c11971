"""Where a model's shape comes from, in which order, and what is said when it comes from nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onecard.catalog.models import find_model
from onecard.cli.main import main
from onecard.cli.model_shapes import FROM_HEADERS, shape_of
from onecard.errors import CatalogError, InputError, MachineError, OnecardError, UnknownName
from onecard.fleet.schema import ModelSpec
from onecard.planner.weights import weight_lines

MISTRAL = find_model("mistralai/Mistral-7B-v0.3")
SMALL: dict[str, Any] = {
    "model_type": "mistral", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}  # fmt: skip
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}

pytestmark = pytest.mark.usefixtures("own_environment")


def encoded(config: Any) -> bytes:
    return json.dumps(config).encode()


def write_model(folder: Path, hub_server: Any, config: dict[str, Any] = SMALL) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(encoded(config))
    hub_server.write_safetensors(folder / "model.safetensors", hub_server.decoder_tensors(config))
    return folder


def refused(kind: type[OnecardError], *arguments: Any, **options: Any) -> OnecardError:
    with pytest.raises(kind) as caught:
        shape_of(*arguments, **options)
    return caught.value


def test_a_folder_before_the_catalog_and_the_catalog_before_the_hub(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    hub.add(MISTRAL.id, {"config.json": encoded(SMALL)})
    assert shape_of(MISTRAL.id, tmp_path).layout.parameters == MISTRAL.parameters
    write_model(tmp_path / MISTRAL.id, hub_server)
    assert shape_of(MISTRAL.id, tmp_path).max_context == 512
    assert hub.seen == []


def test_a_snapshot_on_this_disk_before_the_hub(
    hub: Any, hub_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/here", {"config.json": encoded(MISTRAL.config)})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    place = tmp_path / "hub" / "models--org--here"
    write_model(place / "snapshots" / "abc", hub_server)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    assert shape_of("org/here", tmp_path).max_context == 512
    assert hub.seen == []


def test_what_answers_elsewhere_is_never_looked_for(hub: Any, tmp_path: Path) -> None:
    assert shape_of("whatever/it-is", tmp_path, remote=True).linears == ()
    assert hub.seen == []


@pytest.mark.parametrize("name", ["config.json", "mistral-small.json"])
def test_a_config_alone_is_enough(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / name).write_bytes(encoded(SMALL))
    by_path = shape_of(f"sub/{name}", tmp_path)
    assert by_path.layout == shape_of(f"./sub/{name}", Path(tmp_path)).layout
    assert by_path.layout == shape_of(str(tmp_path / "sub" / name), Path("/")).layout
    assert (by_path.max_context, by_path.notes) == (512, ())


def test_a_path_to_nothing_is_not_asked_of_the_hub(hub: Any, tmp_path: Path) -> None:
    for path in ("./config.json", "/nowhere/config.json", "./x", "../config.json", "~/none"):
        assert "no folder" in refused(UnknownName, path, tmp_path).problem
    assert hub.seen == []


def test_a_model_of_the_hub_is_planned_from_its_config(
    hub: Any, hub_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = hub_server.write_shards(tmp_path, hub_server.decoder_tensors(MISTRAL.config), 3)
    hub.add("org/seven", {"config.json": encoded(MISTRAL.config), **files})
    shape = shape_of("org/seven", tmp_path)
    assert (shape.id, shape.layout, shape.notes) == ("org/seven", MISTRAL.layout, ())
    assert (shape.published, shape.published_bytes) == ("none", None)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"asking {hub.url.removeprefix('http://')} about org/seven: its config and the headers of its weights, no weights"
    ]


def test_headers_are_the_truth_of_a_quantized_checkpoint(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    tensors = hub_server.awq_tensors(MISTRAL.config) | {"model.more.qweight": ("I32", (1000, 50_000))}
    file = hub_server.write_safetensors(tmp_path / "m", tensors)
    hub.add(
        "org/awq", {"config.json": encoded(MISTRAL.config | {"quantization_config": AWQ}), "model.safetensors": file}
    )
    shape = shape_of("org/awq", tmp_path)
    with file.open("rb") as reader:
        header_bytes = 8 + int.from_bytes(reader.read(8), "little")
    (line,) = weight_lines("base", ModelSpec.model_validate({"id": "org/awq"}), shape)
    assert (line.tag, line.source) == ("exact", FROM_HEADERS)
    (same,) = weight_lines("base", ModelSpec.model_validate({"id": "org/awq", "quantization": "awq"}), shape)
    assert line.bytes == same.bytes == shape.published_bytes == file.stat().st_size - header_bytes
    (note,) = shape.notes
    assert "arithmetic of awq" in note and "+4.8%" in note


def test_what_the_checkpoint_has_beyond_its_config_is_said(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    tensors = hub_server.decoder_tensors(SMALL) | {"mtp.weight": ("BF16", (100, 1000))}
    hub.add(
        "org/more",
        {"config.json": encoded(SMALL), "model.safetensors": hub_server.write_safetensors(tmp_path / "m", tensors)},
    )
    (note,) = shape_of("org/more", tmp_path).notes
    assert "parameters and its config counts" in note


def test_a_folder_is_compared_with_its_own_headers_too(hub_server: Any, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "mine", hub_server)
    assert shape_of("./mine", tmp_path).notes == ()
    file = folder / "model.safetensors"
    with file.open("r+b") as writer:
        writer.truncate(file.stat().st_size - 8)
    (note,) = shape_of("./mine", tmp_path).notes
    assert "cannot be read (cut off" in note
    file.unlink()
    assert shape_of("./mine", tmp_path).notes == ()


def test_a_repository_without_safetensors_says_what_it_was_counted_from(hub: Any, tmp_path: Path) -> None:
    hub.add("org/bin", {"config.json": encoded(SMALL)})
    (note,) = shape_of("org/bin", tmp_path).notes
    assert "from its config alone" in note


def test_an_architecture_nobody_knows_is_refused_although_its_headers_are_there(
    hub: Any, hub_server: Any, tmp_path: Path
) -> None:
    file = hub_server.write_safetensors(tmp_path / "m", hub_server.decoder_tensors(SMALL))
    own = {"model_type": "zebra", "auto_map": {"AutoConfig": "configuration_zebra.ZebraConfig"}}
    hub.add("org/zebra", {"config.json": encoded(SMALL | own), "model.safetensors": file})
    error = refused(CatalogError, "org/zebra", tmp_path)
    for said in ("architecture 'zebra' is not known", "weights exactly (", "nothing is guessed", "trust_remote_code"):
        assert said in error.problem
    assert error.where == "org/zebra: config.json: model_type"
    assert "mistral" in str(error.allowed)


def test_code_of_its_own_does_not_matter_where_the_architecture_is_known(
    hub: Any, hub_server: Any, tmp_path: Path
) -> None:
    file = hub_server.write_safetensors(tmp_path / "m", hub_server.decoder_tensors(SMALL))
    own = {"auto_map": {"AutoModelForCausalLM": "modeling_mine.Mine"}}
    hub.add("org/mine", {"config.json": encoded(SMALL | own), "model.safetensors": file})
    assert shape_of("org/mine", tmp_path).linear_count == 14
    assert hub.asked == ["config.json", "model.safetensors.index.json", "model.safetensors"]


def test_a_size_the_config_lacks_is_named_with_the_model(hub: Any, tmp_path: Path) -> None:
    hub.add("org/less", {"config.json": encoded({"model_type": "mistral", "hidden_size": 64})})
    error = refused(CatalogError, "org/less", tmp_path)
    assert str(error.where).startswith("org/less: ") and "intermediate_size" in str(error)


# Offline, and when the hub is not there


@pytest.mark.parametrize(("variable", "option"), [("HF_HUB_OFFLINE", False), (None, True)])
def test_offline_nobody_is_asked_and_the_error_says_so(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, option: bool
) -> None:
    if variable:
        monkeypatch.setenv(variable, "1")
    error = refused(CatalogError, "mistralai/Mistral-7B-v0.33", tmp_path, offline=option)
    assert "no model 'mistralai/Mistral-7B-v0.33' in the catalog (did you mean" in error.problem
    assert f"the hub was not asked ({'HF_HUB_OFFLINE=1' if variable else '--offline'})" in error.problem
    assert hub.seen == []


def test_what_was_read_once_is_planned_offline(hub: Any, hub_server: Any, tmp_path: Path) -> None:
    file = hub_server.write_safetensors(tmp_path / "m", hub_server.decoder_tensors(SMALL))
    hub.add("org/once", {"config.json": encoded(SMALL), "model.safetensors": file})
    online = shape_of("org/once", tmp_path)
    hub.seen.clear()
    assert shape_of("org/once", tmp_path, offline=True).layout == online.layout
    assert hub.seen == []


def test_a_hub_that_is_down_is_stood_in_for_by_what_it_said(
    hub: Any, hub_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = hub_server.write_safetensors(tmp_path / "m", hub_server.decoder_tensors(SMALL))
    hub.add("org/once", {"config.json": encoded(SMALL), "model.safetensors": file})
    online = shape_of("org/once", tmp_path)
    hub.tricks["hub"] = lambda handler, path: handler.send(429, b"", {}) or True
    down = shape_of("org/once", tmp_path)
    assert down.layout == online.layout
    assert "asked too often" in down.notes[0] and "this is what it said on 20" in down.notes[0]


def test_a_hub_that_is_down_is_an_error_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = refused(MachineError, "mistralai/Mistral-7B-v0.33", tmp_path)
    assert "did you mean 'mistralai/Mistral-7B-v0.3'" in error.problem and "cannot be reached" in error.problem


def test_a_name_that_neither_has(hub: Any, tmp_path: Path) -> None:
    error = refused(UnknownName, "mistralai/Mistral-7B-v0.33", tmp_path)
    assert "did you mean 'mistralai/Mistral-7B-v0.3'" in error.problem and "the hub has no model" in error.problem


def test_a_name_known_to_be_wrong_is_not_asked_for(hub: Any, tmp_path: Path) -> None:
    assert "is not a repository" in refused(CatalogError, "Qwen/Qwen3-8B-Instruct", tmp_path).problem
    assert hub.seen == []


@pytest.mark.parametrize("name", ["a/b/c", "org/na me", "x..y", "", "a\0b", "org/" + "x" * 300])
def test_what_is_no_name_is_not_asked_for(hub: Any, tmp_path: Path, name: str) -> None:
    refused(InputError, name, tmp_path)
    assert hub.seen == []


# As a person at a terminal sees it


FLEET = """\
name: small
card: rtx-3090
models:
  base: {{id: {id}, context: 512}}
agents:
  writer: {{model: base}}
"""


def test_a_plan_says_what_the_headers_say(
    hub: Any, hub_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = hub_server.decoder_tensors(SMALL) | {"mtp.weight": ("BF16", (100, 1000))}
    hub.add(
        "org/more",
        {"config.json": encoded(SMALL), "model.safetensors": hub_server.write_safetensors(tmp_path / "m", tensors)},
    )
    (tmp_path / "fleet.yaml").write_text(FLEET.format(id="org/more"))
    assert main(["plan", str(tmp_path / "fleet.yaml")]) == 0
    shown = capsys.readouterr()
    assert "models.base: the checkpoint holds" in " ".join(shown.out.split())
    assert shown.err.startswith("asking ")
    assert main(["plan", str(tmp_path / "fleet.yaml"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert any("the checkpoint holds" in warning for warning in made["warnings"])


def test_a_gated_model_ends_with_2_and_what_to_do(hub: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("org/gated", {"config.json": encoded(SMALL)}, gated="manual")
    (tmp_path / "fleet.yaml").write_text(FLEET.format(id="org/gated"))
    assert main(["plan", str(tmp_path / "fleet.yaml")]) == 2
    shown = capsys.readouterr()
    assert "is gated" in shown.err and "hf auth login" in shown.err and "Traceback" not in shown.err
