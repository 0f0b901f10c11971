"""Fleet files are read whole or refused with the place, the value, what is allowed and the nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from onecard.errors import FleetError
from onecard.fleet.document import known_keys
from onecard.fleet.loader import load_fleet, shipped_recipes
from onecard.fleet.recipe import HUB
from onecard.fleet.schema import Fleet, ModelSpec
from onecard.training import hub_rows

GOOD = """\
name: newsroom
card: rtx-3090
models:
  base: {id: mistralai/Mistral-7B-v0.3, quantization: int8}
agents:
  synthesizer:
    model: base
    adapter: synth@production
    recipe: style-tokens
    data: rows.jsonl
"""


@pytest.fixture
def fleet_file(tmp_path: Path):
    def write(text: str) -> Path:
        (tmp_path / "fleet.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "fleet.yaml"

    return write


def refusal(file: Path) -> str:
    with pytest.raises(FleetError) as caught:
        load_fleet(file)
    return str(caught.value)


def test_a_good_fleet_is_read_with_its_recipe(fleet_file) -> None:
    loaded = load_fleet(fleet_file(GOOD))
    assert loaded.fleet.models["base"].quantization == "int8"
    recipe = loaded.fleet.agents["synthesizer"].recipe
    assert recipe is not None and recipe.added_tokens == ("<STYLE_TERSE>", "<STYLE_VERBOSE>")
    assert loaded.fleet.agents["synthesizer"].adapter_name == "synth"
    assert loaded.store_url == str(loaded.folder / "modelstore")


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (
            "quantization: int8",
            "quantisation: int8",
            ["fleet.yaml:4", "models.base.quantisation", "did you mean 'quantization'?", "context"],
        ),
        ("int8", "int4", ["fleet.yaml:4: models.base.quantization", "got 'int4'", "did you mean 'int8'?", "'nf4'"]),
        (
            "model: base",
            "model: bass",
            ["fleet.yaml:7: agents.synthesizer.model", "no model 'bass'", "did you mean 'base'?"],
        ),
        ("recipe: style-tokens", "recipe: style-token", ["fleet.yaml:9", "did you mean 'style-tokens'?", "qlora"]),
        ("synth@production", "synth", ["agents.synthesizer.adapter", "<name>@<version or alias>"]),
        ("name: newsroom", "name: newsroom\nname: again", ["fleet.yaml:2: name", "given twice"]),
        ("name: newsroom", "name: ../up", ["fleet.yaml:1: name", "../up"]),
        (
            "card: rtx-3090",
            "card: {vram_gib: -1, bandwidth_gbs: 900}",
            ["fleet.yaml:2: card.vram_gib", "greater than 0", "-1"],
        ),
        ("card: rtx-3090", "card: {vram_gib: 24}", ["fleet.yaml:2", "bandwidth_gbs", "missing"]),
        ("agents:", "agents: [", ["not valid YAML", "fleet.yaml:"]),
        (
            "data: rows.jsonl",
            "presets: {default: {temperature: 3}}",
            ["presets.default.temperature", "less than or equal to 2", "got 3"],
        ),
        ("recipe: style-tokens", "recipe: {lora: {rnk: 8}}", ["recipe.lora.rnk", "did you mean 'rank'?"]),
        ("int8}", "int8, engine: remote}", ["models.base", "remote needs a url"]),
        ("  synthesizer:", "  base:", ["agents", "bare model's name"]),
    ],
)
def test_a_fault_names_place_value_and_help(fleet_file, old: str, new: str, wanted: list[str]) -> None:
    message = refusal(fleet_file(GOOD.replace(old, new, 1)))
    for part in wanted:
        assert part in message, message


def test_missing_empty_and_odd_files(fleet_file, tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.yaml")
    assert "mapping" in refusal(fleet_file(""))
    assert "mapping" in refusal(fleet_file("- a\n- b\n"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(tmp_path / "binary.yaml")


def test_missing_data_file_says_where_it_was_looked_for(fleet_file) -> None:
    loaded = load_fleet(fleet_file(GOOD))
    with pytest.raises(FleetError, match=r"agents\.synthesizer\.data: no file .*rows\.jsonl"):
        loaded.data_file("synthesizer")


def test_rows_may_be_a_data_set_of_the_hub_or_a_saved_one(fleet_file, tmp_path: Path) -> None:
    """Named by the agent, or by a recipe in another folder; the hub is not asked, a folder is told by what `save_to_disk` leaves."""
    named = load_fleet(fleet_file(GOOD.replace("rows.jsonl", "hub:owner/rows:test")))
    assert named.data_file("synthesizer") == "hub:owner/rows:test"
    (tmp_path / "recipes").mkdir()
    for said, wanted in (("hub:owner/rows", "hub:owner/rows"), ("../saved", tmp_path.resolve() / "saved")):
        (tmp_path / "recipes" / "mine.yaml").write_text(f"data: {said}\n")
        text = GOOD.replace("style-tokens", "recipes/mine.yaml").replace("    data: rows.jsonl\n", "")
        for name in ("dataset_info.json", "dataset_dict.json"):
            (tmp_path / "saved").mkdir(exist_ok=True)
            (tmp_path / "saved" / name).write_text("{}")
            assert load_fleet(fleet_file(text)).data_file("synthesizer") == wanted
            (tmp_path / "saved" / name).unlink()
    with pytest.raises(FleetError, match=r"no file .*saved"):
        load_fleet(fleet_file(text)).data_file("synthesizer")
    with pytest.raises(FleetError, match=r"no training data.*hub:owner/name\[:split\]"):
        load_fleet(fleet_file(GOOD.replace("    data: rows.jsonl\n", ""))).data_file("synthesizer")


def test_the_hubs_prefix_is_the_readers() -> None:
    assert hub_rows.PREFIX == HUB


def test_recipe_file_faults_name_the_recipe_file(fleet_file, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("lora:\n  rank: 0\n")
    message = refusal(fleet_file(GOOD.replace("style-tokens", "mine.yaml")))
    assert "mine.yaml:2: lora.rank" in message


def test_unknown_agent_gets_the_nearest(fleet_file) -> None:
    loaded = load_fleet(fleet_file(GOOD))
    with pytest.raises(FleetError, match="did you mean 'synthesizer'"):
        loaded.agent("synthesiser")


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_loads(fleet_file, name: str) -> None:
    loaded = load_fleet(fleet_file(GOOD.replace("style-tokens", name)))
    recipe = loaded.fleet.agents["synthesizer"].recipe
    assert recipe is not None and recipe.name == name


def test_same_wishes_same_digest(fleet_file) -> None:
    first = load_fleet(fleet_file(GOOD)).digest
    assert load_fleet(fleet_file("# a comment\n" + GOOD)).digest == first
    assert load_fleet(fleet_file(GOOD.replace("int8", "nf4"))).digest != first


def test_known_keys_follow_unions_and_dictionaries() -> None:
    assert known_keys(Fleet, ("models", "base")) == list(ModelSpec.model_fields)
    assert "alpha" in known_keys(Fleet, ("agents", "x", "recipe", "lora"))
    assert "vram_gib" in known_keys(Fleet, ("card", "CustomCard"))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=120, deadline=None)
@given(key=st.sampled_from(["name", "card", "models", "agents", "store", "reserve_gib", "extra"]), value=trees)
def test_any_value_anywhere_is_read_or_refused_never_a_crash(tmp_path_factory, key: str, value: object) -> None:
    fleet = yaml.safe_load(GOOD)
    fleet[key] = value
    file = tmp_path_factory.mktemp("fleet") / "fleet.yaml"
    file.write_text(yaml.safe_dump(fleet), encoding="utf-8")
    try:
        load_fleet(file)
    except FleetError as error:
        assert str(file) in str(error)


@settings(max_examples=80, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_refused_with_the_file(tmp_path_factory, text: str) -> None:
    file = tmp_path_factory.mktemp("fleet") / "fleet.yaml"
    file.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(FleetError) as caught:
        load_fleet(file)
    assert str(file) in str(caught.value)
