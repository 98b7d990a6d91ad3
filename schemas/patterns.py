"""Many patterns, searched together in linear time.

RE2's filtered search: one pass finds which literals of the patterns occur in the text, and only those patterns are run
whose literals do. Unlike one automaton for all patterns, its states stay few, whatever the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import re2


class PatternError(ValueError):
    """RE2 refuses a pattern."""


class Patterns:
    """A compiled list of patterns, case ignored; `match` gives the places in it of those that are found."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._filter = re2.Filter()
        self._count = 0
        for pattern in patterns:
            try:
                self._filter.Add(pattern, _options())
            except re2.error as error:
                raise PatternError(f"RE2 refuses {pattern!r}") from error
            self._count += 1
        if self._count:
            try:
                self._filter.Compile()
            except re2.error as error:
                # A literal that is cut within a character: alternatives or a repeat of characters beyond ASCII.
                raise PatternError("RE2 cannot search for parts of a character beyond ASCII") from error

    def match(self, text: bytes) -> list[int]:
        """Indices of the patterns found in this UTF-8 text, in no order."""
        return (self._filter.Match(text) or []) if self._count and text else []


def _options() -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.never_capture = True
    # Bytes, not runes: smaller automata. A pattern's own UTF-8 still matches itself.
    options.encoding = re2.Options.Encoding.LATIN1
    return options
