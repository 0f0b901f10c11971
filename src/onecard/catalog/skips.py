"""Which Linears a checkpoint's own lists leave out or take in, matched on full module names as each library matches them.

Every library reads its list differently: the same `vision_tower` skips LLaVA's tower in one and nothing in another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from typing import Literal

from onecard.errors import CatalogError

Rule = Literal["transformers", "compressed-tensors", "substring", "glob", "regex"]


@dataclass(frozen=True)
class Names:
    """Patterns over module names and the rule they are read by.

    transformers 5.19, quantizers_utils.should_convert_module: a regex at the start of the name, or the end of it.
    compressed-tensors 0.18, utils/match.py: the whole name, the class, or a regex after `re:` at the start.
    substring, AutoAWQ 0.2.9, utils/module.py: anywhere in the name. glob: modelopt's wildcards over the whole name or a parent's.
    regex, GPTQModel 7.3.4, quantization/config.py: at the start.
    """

    patterns: tuple[str, ...]
    rule: Rule
    where: str = "config.json: quantization_config"

    def match(self, name: str) -> bool:
        """Whether any pattern means this module. A name is one Linear's full path."""
        if self.rule == "substring":
            return any(pattern in name for pattern in self.patterns)
        if name in self._whole or (self.rule == "transformers" and name.endswith(self.patterns)):
            return True
        return self._expression is not None and self._expression.match(name) is not None

    @cached_property
    def _whole(self) -> frozenset[str]:
        """Patterns that are names. Every Linear is of the class Linear."""
        return frozenset() if self.rule == "regex" else frozenset(self.patterns)

    @cached_property
    def _expression(self) -> re.Pattern[str] | None:
        """All the regexes as one, None when there are none."""
        expressions = list(self._expressions())
        for text in expressions:
            try:
                re.compile(text)
            except re.error as error:
                raise CatalogError(f"'{text}' is no regular expression: {error}", where=self.where) from None
        return re.compile("|".join(f"(?:{text})" for text in expressions)) if expressions else None

    def _expressions(self) -> Iterable[str]:
        if self.rule == "compressed-tensors":
            return [pattern.removeprefix("re:") for pattern in self.patterns if pattern.startswith("re:")]
        if self.rule == "glob":
            return [text for pattern in self.patterns for text in (translate(pattern), translate(f"{pattern}.*"))]
        return self.patterns if self.rule in ("transformers", "regex") else ()

    @property
    def every_linear(self) -> bool:
        """Whether these are targets that mean the class of all Linears."""
        return self.rule == "compressed-tensors" and "Linear" in self.patterns
