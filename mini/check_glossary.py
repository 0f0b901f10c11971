"""Checks the glossary files: shape, lengths, plain text, no term twice.

Run `python mini/check_glossary.py [FILE ...]`; without files it checks every file in mini/glossary.
The limits exist because the small base model has to learn the text by heart: one-sentence definitions stay under
50 tokens and explanations above 80, so that "terse" and "verbose" mean something that can be counted.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent / "glossary"
KEYS = {"term", "article", "short", "long", "facts", "synthesis", "questions", "related"}


def words(text: str) -> int:
    return len(text.split())


def sentences(text: str) -> int:
    return len(re.findall(r"[.!?](?=\s+[A-Z]|$)", text.strip()))


def names_term(term: str, text: str) -> bool:
    """True if the text names the term, also in its plural or with another case."""
    stem = term.lower().rstrip("s")
    stem = stem[:-1] if stem.endswith("y") else stem
    return stem in text.lower()


def check_entry(entry: dict) -> list[str]:
    """All faults of one entry, as sentences; empty when it is fine."""
    faults: list[str] = []
    missing, extra = KEYS - set(entry), set(entry) - KEYS
    if missing or extra:
        return [f"missing keys {sorted(missing)}, unknown keys {sorted(extra)}"]
    term = entry["term"]
    if entry["article"] not in ("a", "an", ""):
        faults.append("article must be a, an or empty")

    def text(name: str, value: str, low: int, high: int, sentence_range: tuple[int, int], named: bool = True) -> None:
        if not isinstance(value, str) or not value.strip():
            faults.append(f"{name} must be text")
            return
        if not low <= words(value) <= high:
            faults.append(f"{name} has {words(value)} words, allowed {low} to {high}")
        if not sentence_range[0] <= sentences(value) <= sentence_range[1]:
            faults.append(
                f"{name} has {sentences(value)} sentences, allowed {sentence_range[0]} to {sentence_range[1]}"
            )
        if not value.isascii():
            faults.append(f"{name} has characters outside ASCII: {[c for c in value if ord(c) > 127]}")
        if named and not names_term(term, value):
            faults.append(f"{name} does not name the term")
        if "\n" in value.strip() or "  " in value.strip():
            faults.append(f"{name} has a line break or a double space")

    text("short", entry["short"], 12, 26, (1, 1))
    text("long", entry["long"], 82, 125, (4, 6))
    text("synthesis", entry["synthesis"], 25, 50, (2, 3))
    if len(entry["facts"]) != 4:
        faults.append("facts must be exactly 4")
    for number, fact in enumerate(entry["facts"], 1):
        text(f"fact {number}", fact, 7, 20, (1, 1))
    if len(entry["questions"]) != 4:
        faults.append("questions must be exactly 4")
    for number, pair in enumerate(entry["questions"], 1):
        if set(pair) != {"q", "a"}:
            faults.append(f"question {number} must have q and a")
            continue
        text(f"question {number}", pair["q"], 5, 18, (1, 1))
        text(f"answer {number}", pair["a"], 7, 24, (1, 1), named=False)
        if not pair["q"].endswith("?"):
            faults.append(f"question {number} must end with a question mark")
    if not 2 <= len(entry["related"]) <= 4:
        faults.append("related must have 2 to 4 terms")
    return faults


def check(files: list[Path]) -> list[str]:
    """Faults over all files, each line naming file and term."""
    faults: list[str] = []
    seen: dict[str, Path] = {}
    for file in files:
        for entry in yaml.safe_load(file.read_text(encoding="ascii")):
            term = str(entry.get("term", "?"))
            if term in seen:
                faults.append(f"{file.name}: {term}: also in {seen[term].name}")
            seen[term] = file
            faults += [f"{file.name}: {term}: {fault}" for fault in check_entry(entry)]
    return faults


def main() -> int:
    files = [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.yaml"))
    faults = check(files)
    print("\n".join(faults) or f"{sum(len(yaml.safe_load(f.read_text())) for f in files)} terms, no faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
