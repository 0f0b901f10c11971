"""tests/ mirrors src/onecard/ path for path: a test file stands where its module stands."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "onecard"
ELSEWHERE = {"browser", "gpu", "vllm", "examples", "mini", "docs"}  # rooms of tests that have no module of their own
ABOUT_EVERYTHING = {
    "test_mirror.py",
    "test_floors.py",
    "test_install.py",
    "adapters/test_hostile.py",
    "training/test_moving_bases.py",
    "training/test_recipe_keys.py",
    "training/test_traps.py",
}


def test_every_test_file_stands_where_its_module_stands() -> None:
    strays = []
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        place = file.relative_to(ROOT / "tests")
        if place.parts[0] in ELSEWHERE or str(place) in ABOUT_EVERYTHING:
            continue
        module = PACKAGE / place.parent / place.name.removeprefix("test_")
        if not module.exists():
            strays.append(f"{place}: no module {module.relative_to(ROOT)}")
    assert not strays, "\n".join(strays)


def test_every_room_has_tests() -> None:
    rooms = {file.parent.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if file.name != "__init__.py"}
    bare = [str(room) for room in sorted(rooms) if not list((ROOT / "tests" / room).glob("test_*.py"))]
    assert not bare, f"rooms without a test file: {bare}"
