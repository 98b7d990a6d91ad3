"""The value that a model meant, where it wrote prose around it: fenced JSON, JSON in a sentence, `APR = 0 %`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

import orjson
import re2

from schemas.records import json_bounds_error

_MAX_TEXT: Final = 65_536
_MAX_STARTS: Final = 16
_MAX_NAME_CHARS: Final = 64
_VALUE: Final = (
    r"(?:\s+(?:is|was|of|are)|\s*[:=]|\s*->)\s*"
    r"[\"'`*]*([^\s\"'`*,;][^\n\"'`*,;]{0,100}?)[\"'`*]*(?:[.]?\s*$|[.]\s|[,;\n\"'`*])"
)


def json_in(text: str) -> Any | None:
    """The first JSON object or array within `text`, or None."""
    text = text[:_MAX_TEXT]
    starts = [index for index, character in enumerate(text) if character in "{["]
    for start in starts[:_MAX_STARTS]:
        closing = "}" if text[start] == "{" else "]"
        end = _end(text, start)
        for stop in (end, text.rfind(closing) + 1):
            if stop > start and (value := _parsed(text[start:stop])) is not None:
                return value
    return None


def _end(text: str, start: int) -> int:
    """Just after the bracket that closes the one at `start`; brackets in strings do not count."""
    depth, quoted, escaped = 0, False, False
    for index in range(start, len(text)):
        character = text[index]
        if quoted:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character in "{[":
            depth += 1
        elif character in "}]":
            depth -= 1
            if depth == 0:
                return index + 1
    return 0


def _parsed(text: str) -> Any | None:
    try:
        value = orjson.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) and value and json_bounds_error(value) is None else None


def fields_in(text: str, names: Iterable[str]) -> dict[str, str]:
    """Values that the text states for fields by name: {"apr": "0 %"} from "The APR = 0 %."."""
    found: dict[str, str] = {}
    for name in names:
        pattern = _statement(name)
        match = pattern.search(text[:_MAX_TEXT]) if pattern is not None else None
        if match is not None:
            found[name] = match.group(1).strip()
    return found


@lru_cache(maxsize=1024)
def _statement(name: str) -> Any | None:
    """Finds what a text states for this field; None for a name that no text would write."""
    words = [re2.escape(word) for word in name.replace("_", " ").replace("-", " ").split()]
    if not words or len(name) > _MAX_NAME_CHARS:
        return None
    try:
        return re2.compile(r"(?i)(?:^|[^A-Za-z0-9])" + r"[ _-]?".join(words) + _VALUE)
    except (re2.error, UnicodeError):
        return None
