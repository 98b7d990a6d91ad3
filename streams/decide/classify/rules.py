"""Rules as data: TOML files of named rules, compiled once so that all of them are searched together.

A rule says what one form of evidence means:

    [[rule]]
    name = "rate-limit-words"                    # unique; stands in the verdict's evidence
    verdict = "tool_failure/rate_limit"          # category/subtype of the taxonomy
    strength = 70                                # 0..100: how specific; the strongest rule decides
    source = "where this was seen"
    status = [429, "520-523"]                    # triggers: HTTP status,
    code = ["-32001"]                            #   protocol or library code, compared as text,
    name_like = ['rate_?limit']                  #   RE2, searched in exception class names and codes,
    text = ['rate[ _-]?limit']                   #   RE2, searched in messages; may span lines,
    when = { protocol = ["mcp"] }                # all must hold: tenant, origin, protocol, status,
                                                 #   seen (rules that spoke)
    unless = { seen = ["quota-words"] }          # none may hold

All patterns ignore case. A status is also found where a message spells it out ("Error code: 429", "HTTP 503"), and a
name where a message shows an exception class or a quoted code. An operator's file has the same form: its rules are
added, and one of an existing name replaces that one; `when = { tenant = ["acme"] }` makes a rule that of one tenant.
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

from schemas.records import Category, FailureOrigin, Protocol
from streams.decide.classify.patterns import PatternError, Patterns
from streams.decide.classify.taxonomy import CATEGORY_ORDER, SUBTYPES, TRANSIENT

MAX_PATTERN_CHARS: Final = 512
"""RE2 compiles in time linear in the pattern; this bounds the memory of its automaton."""
MAX_NAME_CHARS: Final = 120
MAX_RULES: Final = 2_000

STATUS_FORM: Final = (
    r"(?:^|error code:? ?|(?:status|response|reply|result|return)(?:[ _-]?code)?\\?[\"']?(?: of|:| =|=| is| was)? ?\(?"
    r"|\bHTTP(?:[ _-]?(?:error|status|response|code)){0,2}(?:/\d(?:\.\d)?)?[ :=(_-]+|\bcode(?: |=| = ?)E?"
    r"|[\"']code\\?[\"']: ?|(?:error|too many|returned|responded with|got|received|answered) [\"'(\[]?|: |\[|\(|>)"
    r"(?:STATUS)(?:[ ,;:<\])}\"'.\n]|$)"
)
"""Where a message spells a status out: "Error code: 429", "HTTP/1.1 503", "'code': 500", "429 Client Error"."""
NAME_FORMS: Final = (
    r"\b[A-Za-z]{3,48}(?:Error|Exception|Timeout|Exceeded|Exhausted|NotFound|Expired|Denied|Unavailable"
    r"|Disconnected|Interrupt|Violation|Throttled|Forbidden|Unauthorized|Conflict|Overloaded|Mismatch)\b"
    r"(?:\.[A-Z][A-Za-z]{2,48}){0,3}",
    r"\b(?:code|type|status|reason|error|__type|finish_?reason|title)\\?[\"']\s*:\s*\\?[\"'][A-Za-z][\w./-]{2,60}",
    r"\berrors\.[A-Z][A-Za-z]{2,48}",
    r"\bStatusCode\.[A-Z_]{2,30}",
    r"\[type=[a-z_]{2,60}",
    r"(?-i:\b(?:ERR_[A-Z_]{3,40}|E[A-Z]{4,14}|[A-Z]{3,16}_[A-Z_]{3,40})\b)",
    r"\bSQLSTATE(?:\[|=|: ?| )[0-9A-Z]{5}\b",
    r"\boccurred \([A-Z][A-Za-z.]{3,60}\) when calling",
    r"\b(?:error|code|reason)(?: ?= ?|: )[a-z]{2,24}(?:_[a-z]{2,24}){1,5}\b",
    r"(?:^|: )[a-z]{2,24}(?:_[a-z]{2,24}){1,5}\.?$",
    r"\b(?:error_?code|code_?name|reason|code) ?[:=] ?[A-Z][A-Za-z]{3,60}\b",
    r"\([a-z]{2,20}/[a-z]{2,24}(?:-[a-z]{2,24}){0,6}\)",
)
"""Where a message shows the name of an exception class or an error code."""
_NAME: Final = re2.compile(("(?:" + "|".join(NAME_FORMS) + ")").encode())
_MAX_NAMES: Final = 12
_RECURS_BYTES: Final = 256
"""A text that is longer says something of its own mostly: an id, a time."""


def names_in(text: bytes) -> list[str]:
    """The names of exception classes and error codes that a message shows, each once, a bounded number."""
    found: dict[str, None] = {}
    for match in _NAME.finditer(text):
        token = match.group(0).decode(errors="replace").rstrip("\"'.)")
        token = token.removesuffix(") when calling")
        for separator in ('"', "'", "=", ".", "[", "(", " ", ":", "/"):
            token = token.rpartition(separator)[2]
        found[token] = None
        if len(found) == _MAX_NAMES:
            break
    return list(found)


class RuleError(ValueError):
    """A rule file that cannot be used; says which rule and why."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the rest of the event may say; an empty part says nothing."""

    tenant: frozenset[str] = frozenset()
    origin: frozenset[str] = frozenset()
    protocol: frozenset[str] = frozenset()
    status: frozenset[int] = frozenset()
    seen: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return any(self.parts())

    def parts(self) -> tuple[frozenset[Any], ...]:
        return (self.tenant, self.origin, self.protocol, self.status, self.seen)

    def sorted(self) -> list[list[Any]]:
        return [sorted(part) for part in self.parts()]


@dataclass(frozen=True, eq=False)
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
    precedence: tuple[int, int]
    """Of equally strong rules the one with the lower goes first: order of categories, then place in the files."""

    @cached_property
    def verdict(self) -> tuple[Category, str]:
        return (self.category, self.subtype)

    @cached_property
    def passing(self) -> bool | None:
        """Whether waiting may cure what it means; None where it speaks of no call and of no limit."""
        of_a_call = self.category in (Category.TOOL_FAILURE, Category.PERFORMANCE)
        return self.subtype in TRANSIENT if of_a_call else None

    @cached_property
    def lasts(self) -> bool:
        """Whether waiting cures nothing, of a call or of a run; a conflict may pass."""
        return self.passing is False or (
            self.passing is None and self.category is not Category.NONE and self.subtype != "state_conflict"
        )

    @cached_property
    def conditional(self) -> bool:
        return bool(self.when or self.unless)


@dataclass(frozen=True)
class Rules:
    """A compiled rule book."""

    rules: tuple[Rule, ...]
    version: str
    """Digest of the rules: equal rules, equal version."""
    by_status: Mapping[int, tuple[Rule, ...]] = field(repr=False)
    by_code: Mapping[str, tuple[Rule, ...]] = field(repr=False)
    _names: RulePatterns = field(repr=False)
    _texts: RulePatterns = field(repr=False)

    def in_name(self, name: str) -> tuple[Rule, ...]:
        """Rules that know this exception class or code. Some spell names with -: rate-limit-exceeded."""
        return self._names.match(name[:MAX_NAME_CHARS].replace("-", "_").encode(errors="replace"))[0]

    def in_text(self, text: bytes) -> tuple[tuple[Rule, ...], bool]:
        """Rules that find something in this UTF-8 message, and whether it shows names of errors. One pass over it."""
        return self._texts.match(text)


class RulePatterns:
    """Patterns and the rules that they belong to. A pattern without a rule only says that it was found."""

    def __init__(self, patterns: Iterable[tuple[str, Rule | None]]) -> None:
        owned = list(patterns)
        self._owner = [rule for _, rule in owned]
        try:
            self._patterns = Patterns(pattern for pattern, _ in owned)
        except PatternError as error:
            raise RuleError(str(error)) from error
        self._remembered = lru_cache(maxsize=4096)(self._match)

    def match(self, text: bytes) -> tuple[tuple[Rule, ...], bool]:
        """The rules whose patterns are found, and whether one without a rule is."""
        # Names recur, and in an outage so do words.
        return self._remembered(text) if len(text) <= _RECURS_BYTES else self._match(text)

    def _match(self, text: bytes) -> tuple[tuple[Rule, ...], bool]:
        found = self._patterns.match(text)
        if not found:
            return (), False
        owner = self._owner
        named = {rule.name: rule for index in found if (rule := owner[index]) is not None}
        return tuple(named.values()), any(owner[index] is None for index in found)


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
        _names=RulePatterns((pattern, rule) for rule in rules for pattern in rule.name_like),
        _texts=RulePatterns([*_text_patterns(rules), *((hint, None) for hint in NAME_FORMS)]),
    )


def _text_patterns(rules: Iterable[Rule]) -> Iterator[tuple[str, Rule]]:
    for rule in rules:
        for pattern in rule.text:
            yield pattern, rule
        if rule.status:
            yield STATUS_FORM.replace("STATUS", "|".join(map(str, sorted(rule.status)))), rule


def load_rules(*paths: Path) -> Rules:
    """The built-in rules, with those of `paths` added or replacing. Raises RuleError, OSError."""
    rules, documents = built_in(), list(_built_in_documents())
    for path in paths:
        try:
            documents.append(tomllib.loads(path.read_text(encoding="utf-8")))
            rules = compile_rules(documents)
        except (ValueError, RecursionError) as error:  # of UTF-8, of TOML, of a rule
            raise RuleError(f"{path}: {error}") from error
    return rules


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
    if set(document) - {"rule"} or not (isinstance(entries, list) and all(isinstance(item, dict) for item in entries)):
        raise RuleError("a rule file holds [[rule]] tables and nothing else")
    return entries


_FIELDS: Final = frozenset(
    ["name", "verdict", "strength", "source", "status", "code", "name_like", "text", "when", "unless"]
)


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
    if type(strength) is not int or not 0 <= strength <= 100:
        raise RuleError(f"rule {name}: strength is a whole number from 0 to 100")
    if not isinstance(entry.get("source"), str):
        raise RuleError(f"rule {name}: says no source")
    for listed in ("status", "code", "name_like", "text"):
        if not isinstance(entry.get(listed, []), list):
            raise RuleError(f"rule {name}: {listed} is a list")
    for listed in ("name_like", "text"):
        if not all(isinstance(pattern, str) for pattern in entry.get(listed, [])):
            raise RuleError(f"rule {name}: {listed} holds texts")
    rule = Rule(
        name=name,
        category=category,
        subtype=subtype,
        strength=strength,
        source=entry["source"],
        status=_statuses(name, entry.get("status", [])),
        code=frozenset(str(code) for code in entry.get("code", [])),
        name_like=_patterns(entry, "name_like"),
        text=_patterns(entry, "text"),
        when=_conditions(name, entry.get("when", {})),
        unless=_conditions(name, entry.get("unless", {})),
        precedence=(CATEGORY_ORDER.index(category), order),
    )
    if long := [pattern for pattern in (*rule.name_like, *rule.text) if len(pattern) > MAX_PATTERN_CHARS]:
        raise RuleError(f"rule {name}: a pattern is longer than {MAX_PATTERN_CHARS} characters: {long[0][:40]}...")
    if not (rule.status or rule.code or rule.name_like or rule.text):
        raise RuleError(f"rule {name}: nothing triggers it")
    return rule


def _patterns(entry: Mapping[str, Any], listed: str) -> tuple[str, ...]:
    """A pattern may be written on several lines: a line break and the spaces after it mean nothing."""
    return tuple(
        "".join(line.lstrip() if at else line for at, line in enumerate(pattern.splitlines()))
        for pattern in entry.get(listed, ())
    )


_KNOWN: Final[Mapping[str, frozenset[str]]] = {"origin": frozenset(FailureOrigin), "protocol": frozenset(Protocol)}


def _conditions(name: str, given: Mapping[str, Any]) -> Conditions:
    if not isinstance(given, dict):
        raise RuleError(f"rule {name}: conditions are a table")
    if unknown := set(given) - {"tenant", "origin", "protocol", "status", "seen"}:
        raise RuleError(f"rule {name}: unknown condition {sorted(unknown)[0]!r}")
    for condition, values in given.items():
        if not isinstance(values, list):
            raise RuleError(f"rule {name}: {condition} is a list")
        if strange := set(map(str, values)) - _KNOWN.get(condition, frozenset(map(str, values))):
            raise RuleError(f"rule {name}: there is no {condition} {min(strange)!r}")
    return Conditions(
        tenant=frozenset(given.get("tenant", ())),
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
            repr([rule.when.sorted(), rule.unless.sorted()]),
        )
        digest.update("\x1f".join(parts).encode() + b"\x1e")
    return digest.hexdigest()[:16]
