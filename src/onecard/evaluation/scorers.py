"""What one answer is worth, by plain rules: pure functions from texts to numbers, no model and no library behind them.

A changed rule changes verdicts, so SCORERS counts up with every change and is part of the suite's digest.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

SCORERS = 2
SEQUENCE_WORDS = 4


def words(text: str) -> list[str]:
    """The lower-cased words: letters, marks and digits; everything else separates.

    >>> words("The B-tree's root, v2.")
    ['the', 'b', 'tree', 's', 'root', 'v2']
    """
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text.lower()).split()


def ended_by_itself(finish_reason: str | None) -> bool:
    """Whether the model ended the answer; otherwise a token limit cut it, or the server does not say.

    >>> ended_by_itself("stop"), ended_by_itself("length"), ended_by_itself(None)
    (True, False, False)
    """
    return finish_reason == "stop"


def repetition(text: str) -> float:
    """Share of the 4-word sequences that occurred before in the text, 0 to below 1; 0 for fewer than four words.

    1 - distinct / all, seq-rep-4 of Welleck et al., Neural Text Generation with Unlikelihood Training (2020).

    >>> repetition("a heap is a tree"), repetition("on and on and on and on and on and")
    (0.0, 0.7142857142857143)
    """
    found = words(text)
    sequences = [tuple(found[start : start + SEQUENCE_WORDS]) for start in range(len(found) - SEQUENCE_WORDS + 1)]
    return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


def overlap(answer: str, reference: str) -> float:
    """F1 of the words two texts share, each counted as often as it occurs: 1 for the same words, 0 for none in common.

    The measure of SQuAD (Rajpurkar et al. 2016), with articles kept. Word order does not count.

    >>> overlap("A heap is a tree.", "a tree is a heap"), overlap("", "a heap")
    (1.0, 0.0)
    >>> overlap("a tree", "a heap")
    0.5
    """
    ours, theirs = Counter(words(answer)), Counter(words(reference))
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


def ends_with(text: str, ending: str) -> bool:
    """Whether the text ends so, white space at its end aside.

    >>> ends_with("What is a heap? ", "?"), ends_with("A heap.", "?")
    (True, False)
    """
    return text.rstrip().endswith(ending.rstrip())


def exact(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the answer has the words of an accepted one, in order: case, punctuation, white space and articles aside.

    SQuAD's exact match (Rajpurkar et al. 2016). Texts without any word ("+", "{}") are compared as they stand.

    >>> exact("The B-tree.", ["a b-tree"]), exact("B-trees", ["B-tree"]), exact("+", ["-"]), exact("", ["the"])
    (True, False, False, False)
    """
    found = _plain(answer)
    if not found:
        return answer.strip() in {text.strip() for text in accepted}
    return any(found == _plain(text) for text in accepted)


def choice(answer: str, candidates: Sequence[str]) -> int | None:
    """The number of the one candidate whose words stand in the answer, in a row; None for none and for several.

    A candidate inside another that is named too ("tree" in "search tree") does not count.

    >>> choice("It is the heap.", ["heap", "stack"]), choice("heap or stack", ["heap", "stack"]), choice("?", ["heap"])
    (0, None, None)
    >>> choice("a search tree", ["tree", "search tree"])
    1
    """
    padded = f" {' '.join(words(answer))} "
    spoken = [f" {' '.join(words(text))} " for text in candidates]
    named = [number for number, text in enumerate(spoken) if text.strip() and text in padded]
    outer = [n for n in named if not any(n != m and spoken[n] in spoken[m] for m in named)]
    return outer[0] if len(outer) == 1 else None


def valid_json(text: str) -> bool:
    """Whether the text is one JSON value of RFC 8259 and nothing else; NaN and Infinity are none.

    >>> valid_json('{"a": 1}'), valid_json('Sure: {"a": 1}'), valid_json("NaN")
    (True, False, False)
    """
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def matches(text: str, pattern: str) -> bool:
    """Whether the whole text, white space around it aside, matches Python's regular expression.

    >>> matches(" 12 kg\\n", r"[0-9]+ kg"), matches("about 12 kg", r"[0-9]+ kg")
    (True, False)
    """
    return re.fullmatch(pattern, text.strip()) is not None


def reciprocal_rank(likelihoods: Sequence[float], best: int) -> float:
    """1 / the place of the best candidate, most likely first; ties count against it.

    Its mean over rows is the MRR (Voorhees, The TREC-8 Question Answering Track Report, 1999).

    >>> reciprocal_rank([-1.0, -0.5, -2.0], 0), reciprocal_rank([-1.0, -1.0], 0)
    (0.5, 0.5)
    """
    ahead = sum(value >= likelihoods[best] for number, value in enumerate(likelihoods) if number != best)
    return 1 / (1 + ahead)


def _plain(text: str) -> list[str]:
    return [word for word in words(text) if word not in ("a", "an", "the")]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
