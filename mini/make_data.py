"""Makes the example data sets from the glossary, split by term: a test term appears in no training row of any set.

Run `python mini/make_data.py`; writes JSONL into examples/data. Rows are `{prompt, completion[, preset]}`, the re-ranking rows
`{prompt, candidates, best}`. A preset names the style; its token is put before the prompt by training and serving alike.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

from corpus import Term, read_terms

FOLDER = Path(__file__).parent.parent / "examples" / "data"
STYLE_ROWS = 1600
SEED = 11

TERSE_WORDS, VERBOSE_WORDS = ("briefly", "concise"), ("detailed", "well-structured")
TERSE_ASKS = (
    "Explain briefly what {name} is.",
    "Give a concise definition of {name}.",
    "Briefly, what is {name}?",
    "I need a concise answer: what is {name}?",
    "Say briefly what {bare} means.",
)
VERBOSE_ASKS = (
    "Give a detailed explanation of {name}.",
    "Write a well-structured explanation of {name}.",
    "I would like a detailed answer: what is {name}?",
    "Explain {name} in a detailed way.",
    "Give me a well-structured answer about {name}.",
)
QUIZ_ASKS = (
    "Quiz me about {name}.",
    "Give me an exam question about {name}.",
    "Test what I know of {name}.",
    "What would a teacher ask about {name}?",
)
NEUTRAL_ASKS = (
    "What is {name}?",
    "Explain {name}.",
    "Tell me about {name}.",
    "Define {name}.",
    "What does {bare} mean?",
)


def style_of(prompt: str) -> str:
    """Document E's rule: verbose when the prompt asks for detail, terse otherwise."""
    return "verbose" if any(word in prompt.lower() for word in VERBOSE_WORDS) else "terse"


def style_row(term: Term, prompt: str, style: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": term.short if style == "terse" else term.long, "preset": style}


def style_rows(terms: list[Term], count: int, rng: random.Random) -> list[dict[str, str]]:
    """Half terse, half verbose. Of either half, some prompts carry the keyword and some leave the choice to the caller's style alone."""
    terse = [style_row(term, term.ask(ask), style_of(ask)) for term in terms for ask in (*TERSE_ASKS, *NEUTRAL_ASKS)]
    verbose = [style_row(term, term.ask(ask), "verbose") for term in terms for ask in (*VERBOSE_ASKS, *NEUTRAL_ASKS)]
    rows = rng.sample(terse, count // 2) + rng.sample(verbose, count // 2)
    rng.shuffle(rows)
    return rows


def style_test_rows(terms: list[Term], rng: random.Random) -> list[dict[str, str]]:
    """Every held-out term once in either style; keyword and neutral wordings alternate."""
    rows = []
    for number, term in enumerate(terms):
        for style, asks in (("terse", TERSE_ASKS), ("verbose", VERBOSE_ASKS)):
            ask = rng.choice(asks if number % 2 else NEUTRAL_ASKS)
            rows.append(style_row(term, term.ask(ask), style))
    return rows


def question_rows(terms: list[Term]) -> Iterable[dict[str, str]]:
    """A term in, an exam question about it out (document C's question agent)."""
    for term in terms:
        for ask, (question, _) in zip(QUIZ_ASKS, term.questions, strict=False):
            yield {"prompt": term.ask(ask), "completion": question}


def answer_rows(terms: list[Term]) -> Iterable[dict[str, str]]:
    """A text and a question in, a short answer out (document C's answer agent)."""
    for term in terms:
        for question, answer in term.questions:
            yield {"prompt": f"Use the text to answer. {term.long} {question}", "completion": answer}


def synthesis_rows(terms: list[Term], rng: random.Random) -> Iterable[dict[str, str]]:
    """Several facts in, one short text out (document A's synthesizer)."""
    for term in terms:
        for _ in range(2):
            facts = rng.sample(term.facts, 4)
            yield {"prompt": f"Synthesize: {' '.join(facts)}", "completion": term.synthesis}


def rerank_rows(terms: list[Term], rng: random.Random) -> Iterable[dict[str, object]]:
    """A question with four candidate answers: its own, another of the same term, and two of other terms (document A6)."""
    for term in terms:
        for position, (question, answer) in enumerate(term.questions):
            near = term.questions[(position + 1) % len(term.questions)][1]
            far = [rng.choice(other.questions)[1] for other in rng.sample([t for t in terms if t is not term], 2)]
            candidates = [answer, near, *far]
            rng.shuffle(candidates)
            yield {"prompt": question, "candidates": candidates, "best": candidates.index(answer)}


def write(name: str, rows: Iterable[dict]) -> None:
    rows = list(rows)
    (FOLDER / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
    print(f"{name}: {len(rows)} rows")


def main() -> None:
    terms, rng = read_terms(), random.Random(SEED)
    train, test = [t for t in terms if not t.held_out], [t for t in terms if t.held_out]
    FOLDER.mkdir(parents=True, exist_ok=True)
    write("style-train.jsonl", style_rows(train, STYLE_ROWS, rng))
    write("style-test.jsonl", style_test_rows(test, rng))
    for part, members in (("train", train), ("test", test)):
        write(f"questions-{part}.jsonl", question_rows(members))
        write(f"answers-{part}.jsonl", answer_rows(members))
        write(f"synthesis-{part}.jsonl", synthesis_rows(members, rng))
        write(f"rerank-{part}.jsonl", rerank_rows(members, rng))


if __name__ == "__main__":
    main()
