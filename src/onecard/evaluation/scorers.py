"""What one answer is worth, by plain rules: pure functions from texts to numbers, no model and no library behind them.

A changed rule changes verdicts, so SCORERS counts up with every change and is part of the suite's digest.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

SCORERS = 1
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
