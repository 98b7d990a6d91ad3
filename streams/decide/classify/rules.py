"""Rules as data: TOML files of named rules, compiled once into RE2 sets so that a text is read in one pass.

A rule says what one form of evidence means:

    [[rule]]
    name = "rate-limit-words"                    # unique; stands in the verdict's evidence
    verdict = "tool_failure/rate_limit"          # category/subtype of the taxonomy
    strength = 70                                # 0..100: how specific; the strongest rule decides
    source = "where this was seen"
    status = [429, "520-523"]                    # triggers: HTTP status,
    code = ["-32001"]                            #   protocol or library code, compared as text,
    name_like = ['rate_?limit']                  #   RE2, searched in exception class names and codes,
    text = ['rate[ _-]?limit']                   #   RE2, searched in messages,
    when = { protocol = ["mcp"] }                # conditions: origin, protocol, status, seen (other rules that spoke)
    unless = { seen = ["quota-words"] }

All patterns ignore case. A tenant's file has the same form: its rules are added, and one of an existing name replaces that one.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import re2

from schemas.records import Category

MAX_PATTERN_CHARS: Final = 512
"""RE2 compiles in time linear in the pattern; this bounds the memory of its automaton."""
MAX_NAME_CHARS: Final = 120
MAX_RULES: Final = 2_000
_SET_MEMORY_BYTES: Final = 64 << 20

SUBTYPES: Final[Mapping[Category, frozenset[str]]] = {
    Category.HALLUCINATION: frozenset(
        {"range_violation", "enum_violation", "format_violation", "unknown_tool", "unknown_identifier"}
    ),
    Category.TOOL_FAILURE: frozenset(
        ["rate_limit", "timeout", "auth_error", "not_found", "service_unavailable", "network_error", "quota_exhausted", "content_policy", "invalid_request", "bad_response", "retries_exhausted", "unknown"]
    ),
    Category.LOGICAL_ERROR: frozenset(
        ["incorrect_assumption", "wrong_conclusion", "missing_step", "incomplete_analysis", "loop", "invalid_history", "state_conflict", "missing_context", "no_final_answer", "runtime_error"]
    ),
    Category.PERFORMANCE: frozenset({"timeout", "out_of_memory", "token_limit_exceeded"}),
    Category.NONE: frozenset({"control_flow"}),
    Category.UNCLASSIFIED: frozenset({"unknown"}),
}
"""The taxonomy: every subtype a verdict may carry."""


class RuleError(ValueError):
    """A rule file that cannot be used; says which rule and why."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Each given part must hold; an empty part always does."""

    origin: frozenset[str] = frozenset()
    protocol: frozenset[str] = frozenset()
    status: frozenset[int] = frozenset()
    seen: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.origin or self.protocol or self.status or self.seen)


@dataclass(frozen=True, slots=True)
class Rule:
    """What one form of evidence means."""

    name: str
    category: Category
    subtype: str
    strength: int
    source: str
    status: frozenset[int]
    code: frozenset[str]
    name_like: tuple[str, ...]
    text: tuple[str, ...]
    when: Conditions
    unless: Conditions
    order: int = 0
    """Place in the files: settles what all else leaves equal."""


@dataclass(frozen=True)
class Rules:
    """A compiled rule book."""

    rules: tuple[Rule, ...]
    version: str
    """Digest of the rules: equal rules, equal version."""
    by_status: Mapping[int, tuple[Rule, ...]] = field(repr=False)
    by_code: Mapping[str, tuple[Rule, ...]] = field(repr=False)
    _names: PatternSet = field(repr=False)
    _texts: PatternSet = field(repr=False)

    @cached_property
    def by_name(self) -> Mapping[str, Rule]:
        return {rule.name: rule for rule in self.rules}

    def in_name(self, name: str) -> tuple[Rule, ...]:
        """Rules that know this exception class or code. Remembered: such names recur."""
        return self._names.match_cached(name[:MAX_NAME_CHARS])

    def in_text(self, text: str) -> tuple[Rule, ...]:
        """Rules that find something in this message, in one pass over it."""
        return self._texts.match(text)


class PatternSet:
    """Many patterns, searched together in one linear pass."""

    def __init__(self, patterns: Iterable[tuple[str, Rule]]) -> None:
        options = re2.Options()
        options.case_sensitive = False
        options.log_errors = False
        options.never_capture = True
        options.max_mem = _SET_MEMORY_BYTES
        self._set = re2.Set.SearchSet(options)
        self._owner: list[Rule] = []
        for pattern, rule in patterns:
            self._add(pattern, rule)
        if self._owner:
            self._set.Compile()
        self.match_cached = lru_cache(maxsize=4096)(self.match)

    def _add(self, pattern: str, rule: Rule) -> None:
        if len(pattern) > MAX_PATTERN_CHARS:
            raise RuleError(f"rule {rule.name}: a pattern is longer than {MAX_PATTERN_CHARS} characters")
        try:
            self._set.Add(pattern)
        except re2.error as error:
            raise RuleError(f"rule {rule.name}: RE2 refuses {pattern!r}") from error
        self._owner.append(rule)

    def match(self, text: str) -> tuple[Rule, ...]:
        if not self._owner or not text:
            return ()
        found = self._set.Match(text.encode(errors="replace"))
        if not found:
            return ()
        owner = self._owner
        return tuple({owner[index].name: owner[index] for index in found}.values())


def compile_rules(documents: Iterable[Mapping[str, Any]]) -> Rules:
    """Rules from parsed TOML documents; a later rule replaces an earlier one of its name. Raises RuleError."""
    named: dict[str, Rule] = {}
    for entry in (entry for document in documents for entry in _entries(document)):
        rule = _rule(entry, len(named))
        named[rule.name] = rule
    if len(named) > MAX_RULES:
        raise RuleError(f"more than {MAX_RULES} rules")
    rules = tuple(named.values())
    _check_references(named)
    by_status: dict[int, list[Rule]] = {}
    by_code: dict[str, list[Rule]] = {}
    for rule in rules:
        for status in rule.status:
            by_status.setdefault(status, []).append(rule)
        for code in rule.code:
            by_code.setdefault(code.lower(), []).append(rule)
    return Rules(
        rules=rules,
        version=_digest(rules),
        by_status={status: tuple(found) for status, found in by_status.items()},
        by_code={code: tuple(found) for code, found in by_code.items()},
        _names=PatternSet((pattern, rule) for rule in rules for pattern in rule.name_like),
        _texts=PatternSet((pattern, rule) for rule in rules for pattern in rule.text),
    )


def load_rules(*paths: Path) -> Rules:
    """The built-in rules, with those of `paths` added or replacing. Raises RuleError, OSError."""
    try:
        added = [tomllib.loads(path.read_text()) for path in paths]
    except tomllib.TOMLDecodeError as error:
        raise RuleError(str(error)) from error
    return compile_rules([*_built_in_documents(), *added])


@lru_cache(maxsize=1)
def built_in() -> Rules:
    """The rules that come with this package."""
    return compile_rules(_built_in_documents())


def _built_in_documents() -> Iterator[dict[str, Any]]:
    folder = resources.files("streams.decide.rules")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            yield tomllib.loads(file.read_text())


def _entries(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = document.get("rule", [])
    if not isinstance(entries, list) or set(document) - {"rule"}:
        raise RuleError("a rule file holds [[rule]] tables and nothing else")
    return entries


_FIELDS: Final = frozenset(["name", "verdict", "strength", "source", "status", "code", "name_like", "text", "when", "unless"])


def _rule(entry: Mapping[str, Any], order: int) -> Rule:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise RuleError("a rule has no name")
    if unknown := set(entry) - _FIELDS:
        raise RuleError(f"rule {name}: unknown field {sorted(unknown)[0]!r}")
    category_name, _, subtype = str(entry.get("verdict", "")).partition("/")
    category = Category(category_name)
    if category_name != category.value or subtype not in SUBTYPES[category]:
        raise RuleError(f"rule {name}: no such verdict {entry.get('verdict')!r}")
    strength = entry.get("strength")
    if not isinstance(strength, int) or not 0 <= strength <= 100:
        raise RuleError(f"rule {name}: strength is a whole number from 0 to 100")
    if not isinstance(entry.get("source"), str):
        raise RuleError(f"rule {name}: says no source")
    rule = Rule(
        name=name,
        category=category,
        subtype=subtype,
        strength=strength,
        source=entry["source"],
        status=_statuses(name, entry.get("status", [])),
        code=frozenset(str(code) for code in entry.get("code", [])),
        name_like=tuple(entry.get("name_like", ())),
        text=tuple(entry.get("text", ())),
        when=_conditions(name, entry.get("when", {})),
        unless=_conditions(name, entry.get("unless", {})),
        order=order,
    )
    if not (rule.status or rule.code or rule.name_like or rule.text):
        raise RuleError(f"rule {name}: nothing triggers it")
    return rule


def _conditions(name: str, given: Mapping[str, Any]) -> Conditions:
    if unknown := set(given) - {"origin", "protocol", "status", "seen"}:
        raise RuleError(f"rule {name}: unknown condition {sorted(unknown)[0]!r}")
    return Conditions(
        origin=frozenset(given.get("origin", ())),
        protocol=frozenset(given.get("protocol", ())),
        status=_statuses(name, given.get("status", [])),
        seen=frozenset(given.get("seen", ())),
    )


def _statuses(name: str, given: Iterable[Any]) -> frozenset[int]:
    statuses: set[int] = set()
    for item in given:
        low, _, high = str(item).partition("-")
        if not low.isdigit() or (high and not high.isdigit()):
            raise RuleError(f"rule {name}: {item!r} is no status or range of them")
        statuses.update(range(int(low), min(int(high or low), 999) + 1))
    return frozenset(statuses)


def _check_references(named: Mapping[str, Rule]) -> None:
    for rule in named.values():
        if missing := (rule.when.seen | rule.unless.seen) - set(named):
            raise RuleError(f"rule {rule.name}: no rule is called {sorted(missing)[0]!r}")


def _digest(rules: tuple[Rule, ...]) -> str:
    digest = hashlib.sha256()
    for rule in rules:
        parts = (
            rule.name,
            f"{rule.category}/{rule.subtype}",
            str(rule.strength),
            repr(sorted(rule.status)),
            repr(sorted(rule.code)),
            repr((rule.name_like, rule.text)),
            repr(
                [[sorted(part) for part in (c.origin, c.protocol, c.status, c.seen)] for c in (rule.when, rule.unless)]
            ),
        )
        digest.update("\x1f".join(parts).encode() + b"\x1e")
    return digest.hexdigest()[:16]
