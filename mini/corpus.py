"""What the embedded base reads: documents made from the glossary, and the split that keeps test terms and test questions apart.

The base reads every term in several shapes (plain text, facts, chat), so that an adapter has knowledge to bring out. It never sees the
style tokens, and never the words "briefly", "concise", "detailed" or "well-structured": obeying a style is what an adapter has to learn.
A plain "What is a mutex?" is answered with the middle-sized text, which is neither terse nor verbose.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

GLOSSARY = Path(__file__).parent / "glossary"
HELD_OUT_TERM_EVERY = 7  # every seventh term is a test term for adapters
HELD_OUT_QUESTION_EVERY = 6  # of every sixth term the last question is never read by the base
NAMED = "{name}"

SHORT_ASKS = (
    "Define {name}.",
    "Give a definition of {name}.",
    "What does the term {bare} mean?",
    "In one sentence, what is {name}?",
)
LONG_ASKS = (
    "Explain {name}.",
    "Explain how {name} works.",
    "Describe {name} in a paragraph.",
    "Teach me about {name}.",
)
MIDDLE_ASKS = ("What is {name}?", "Tell me about {name}.", "What should I know about {name}?")
FACT_ASKS = ("Tell me one fact about {name}.", "Say something true about {name}.")
QUESTION_ASKS = ("Ask a question about {name}.", "Which question could someone ask about {name}?")


@dataclass(frozen=True)
class Term:
    """One glossary entry. `name` carries the article ("a mutex"), `term` does not."""

    term: str
    article: str
    short: str
    long: str
    facts: tuple[str, ...]
    synthesis: str
    questions: tuple[tuple[str, str], ...]
    related: tuple[str, ...]
    held_out: bool
    unread_question: tuple[str, str] | None

    @property
    def name(self) -> str:
        return f"{self.article} {self.term}".strip()

    def ask(self, template: str) -> str:
        return template.format(name=self.name, bare=self.term)


def read_terms() -> list[Term]:
    """All terms in file order; which are held out depends on the position alone."""
    entries = [e for file in sorted(GLOSSARY.glob("*.yaml")) for e in yaml.safe_load(file.read_text(encoding="ascii"))]
    terms = []
    for position, entry in enumerate(entries):
        pairs = [(pair["q"], pair["a"]) for pair in entry["questions"]]
        unread = pairs.pop() if position % HELD_OUT_QUESTION_EVERY == 0 else None
        terms.append(
            Term(
                entry["term"],
                entry["article"],
                entry["short"],
                entry["long"],
                tuple(entry["facts"]),
                entry["synthesis"],
                tuple(pairs),
                tuple(entry["related"]),
                held_out=position % HELD_OUT_TERM_EVERY == 3,
                unread_question=unread,
            )
        )
    return terms


def chat(prompt: str, answer: str) -> str:
    """The base's chat template, written out; the tokenizer's own template must give the same (checked in train_tokenizer.py)."""
    return f"<s>[INST] {prompt} [/INST] {answer}</s>"


def documents(terms: list[Term], rng: random.Random) -> Iterator[str]:
    """One pass over everything, in random order and with fresh random choices of wording."""
    made: list[str] = []
    for term in terms:
        title = term.term[0].upper() + term.term[1:]
        facts = rng.sample(term.facts, 4)
        made += [
            f"<s>{title}. {term.short}</s>",
            f"<s>{title}. {term.long}</s>",
            f"<s>Facts about {term.name}: {' '.join(facts)}</s>",
            f"<s>{title} is related to {', '.join(term.related)}.</s>",
            *(chat(term.ask(ask), term.short) for ask in SHORT_ASKS),
            *(chat(term.ask(ask), term.long) for ask in LONG_ASKS),
            *(chat(term.ask(ask), term.synthesis) for ask in MIDDLE_ASKS),
            *(chat(question, answer) for question, answer in term.questions),
            chat(term.ask(rng.choice(FACT_ASKS)), rng.choice(term.facts)),
            chat(term.ask(rng.choice(QUESTION_ASKS)), rng.choice(term.questions)[0]),
            chat(
                f"Write a question that this text answers. {rng.choice((term.short, term.long))}",
                rng.choice(term.questions)[0],
            ),
            chat(f"Combine these facts into a short text. {' '.join(facts[: rng.choice((3, 4))])}", term.synthesis),
        ]
        question, answer = rng.choice(term.questions)
        made.append(chat(f"Answer from the text. {term.long} {question}", answer))
    rng.shuffle(made)
    yield from made


def held_out_documents(terms: list[Term]) -> list[tuple[str, str]]:
    """Questions the base never reads, as (question, answer)."""
    return [term.unread_question for term in terms if term.unread_question]
