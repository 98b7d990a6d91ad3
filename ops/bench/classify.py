"""Scores the classifier on real errors, and measures what it costs.

`python -m ops.bench.classify FILE`: FILE holds JSON lines with source_system, exception_class, http_status, code,
message, expected_category and expected_subtype, where needed event (the rest of the FailureEvent, as JSON),
expected_transient and also. Nothing of the expected columns reaches the classifier. A row becomes a FailureEvent as a
runtime would report it: the exception with its class, status, code and message; origin and protocol, where event does
not say them, only from what a runtime knows, which library raised.

- answered: share of verdicts that are no abstention (`tool_failure/unknown`, unclassified); an expected `unknown`
  that is met is an answer, and right.
- defensible_of_answered: the same, with a row's other subtypes (`also`: a list) counted as right.
- transient_called_permanent, permanent_called_transient: harm. Transient is what waiting or repeating may cure:
  rate_limit, timeout (of a tool or a run), service_unavailable, network_error; a row's expected_transient decides for
  its own call. A state_conflict or a bad_response that is met and not called lasting is repeated once, which suits
  both kinds; what is short of performance is never repeated unchanged. An abstention harms nobody.
- The last line is JSON.

`--half train|held-out` takes the rows whose SHA-256 starts with an even or an odd byte: rules were written looking at
the first. `python -m ops.bench.classify --cost` measures CPU time of classify and of the whole decision, and the tail
of 10,000 random and mutated events.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ops.bench.classify_cost import print_costs
from schemas.records import NATURAL, Category, Classification, FailureEvent, FailureOrigin, Protocol, parse_json_text
from streams.decide.classify import Rules, classify, load_rules
from streams.decide.classify.taxonomy import TRANSIENT

_ONE_REPEAT: Final = frozenset({"state_conflict", "bad_response"})
_CLIENTS_OF_TOOLS: Final = [
    "requests",
    "urllib",
    "httpx",
    "aiohttp",
    "urllib3",
    "http.client",
    "smtplib",
    "ftplib",
    "paramiko",
    "botocore",
    "redis",
    "psycopg",
    "asyncpg",
    "sqlalchemy",
    "pymongo",
    "pymysql",
    "mysql",
    "kafka",
    "confluent",
    "aiokafka",
    "playwright",
    "selenium",
    "github",
    "stripe",
    "slack",
    "twilio",
    "elasticsearch",
    "opensearch",
    "grpc",
    "mcp",
    "a2a",
    "docker",
    "kubernetes",
    "qdrant",
    "pinecone",
    "weaviate",
    "chromadb",
    "tavily",
    "snowflake",
    "bigquery",
    "clickhouse",
    "neo4j",
    "notion",
    "jira",
]
_CLIENTS_OF_MODELS: Final = [
    "openai",
    "anthropic",
    "google-genai",
    "google.genai",
    "vertex",
    "bedrock",
    "litellm",
    "groq",
    "mistral",
    "cohere",
    "ollama",
    "vllm",
    "openrouter",
    "together",
    "fireworks",
    "replicate",
    "huggingface",
    "deepseek",
    "azure",
    "xai",
    "perplexity",
]


@dataclass(frozen=True, slots=True)
class Row:
    """One real error and the right answer."""

    given: Mapping[str, Any]
    category: str
    subtype: str
    transient: bool | None = None
    """Whether the same call may succeed after a wait; None: as its subtype says."""
    also: frozenset[str] = frozenset()
    """Other subtypes that whoever labelled it holds defensible."""

    @property
    def expected(self) -> str:
        return f"{self.category}/{self.subtype}"


def read(path: Path, half: str | None = None) -> list[Row]:
    """The rows of a file, or of one half of it."""
    rows: list[Row] = []
    for line in path.read_text().splitlines():
        if not line.strip() or (half and half != _half(line.strip())):
            continue
        given = json.loads(line)
        category, subtype = given.pop("expected_category"), given.pop("expected_subtype")
        transient = given.pop("expected_transient", None)
        given.pop("source", None)
        rows.append(Row(given, category, subtype, transient, frozenset(given.pop("also", ()))))
    return rows


def _half(line: str) -> str:
    return "train" if hashlib.sha256(line.encode()).digest()[0] % 2 == 0 else "held-out"


def event_of(given: Mapping[str, Any]) -> FailureEvent:
    """The event that a runtime would send for this error."""
    system, class_name = str(given.get("source_system") or "").lower(), given.get("exception_class")
    more = dict(given.get("event") or {})
    error = {"class": class_name, **{name: given.get(name) for name in ("message", "code", "http_status")}}
    document = {
        "tenant_id": "bench",
        "execution_id": "bench",
        "origin": origin_of(system, str(class_name or "")),
        "protocol": protocol_of(system, str(class_name or "")),
        "error": error | more.pop("error", {}),
        **more,
    }
    return FailureEvent.model_validate(document, context=NATURAL)


def origin_of(system: str, class_name: str) -> FailureOrigin:
    """Clients of models fail as the model, clients of services as tools; of what else raises, a runtime cannot tell."""
    raised_by = f"{system} {class_name.lower()}"
    if any(name in raised_by for name in _CLIENTS_OF_MODELS):
        return FailureOrigin.MODEL
    if any(name in raised_by for name in _CLIENTS_OF_TOOLS):
        return FailureOrigin.TOOL
    return FailureOrigin.UNKNOWN


def protocol_of(system: str, class_name: str) -> Protocol:
    """The protocol whose client raised, as far as its name says."""
    for protocol in (Protocol.A2A, Protocol.MCP, Protocol.GRPC):
        if protocol.value in system or protocol.value in class_name.lower():
            return protocol
    return Protocol.NONE


def answered(verdict: Classification) -> bool:
    """Whether the verdict is no abstention."""
    return verdict.category is not Category.UNCLASSIFIED and verdict.subtype != "unknown"


@dataclass
class Score:
    """What came of classifying rows."""

    confusion: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    by_confidence: dict[float, list[bool]] = field(default_factory=lambda: defaultdict(list))
    wrong: list[tuple[Row, Classification]] = field(default_factory=list)
    harms: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    answers: int = 0
    right: int = 0
    defensible: int = 0

    def add(self, row: Row, verdict: Classification) -> None:
        right = (verdict.category.value, verdict.subtype) == (row.category, row.subtype)
        self.rows += 1
        if answered(verdict) or right:
            self.answers += 1
            self.right += right
            self.defensible += right or verdict.subtype in row.also
            self.by_confidence[verdict.confidence].append(right)
        if not right:
            self.wrong.append((row, verdict))
        said = f"{verdict.category}/{verdict.subtype}" if answered(verdict) else "abstained"
        self.confusion[row.expected]["right" if right else said] += 1
        if harm := _harm(row, verdict):
            self.harms[harm] += 1

    def figures(self) -> dict[str, Any]:
        """The last line."""
        return {
            "rows": self.rows,
            "answered": round(self.answers / self.rows, 4) if self.rows else 0.0,
            "right_of_answered": round(self.right / self.answers, 4) if self.answers else 0.0,
            "defensible_of_answered": round(self.defensible / self.answers, 4) if self.answers else 0.0,
            "transient_called_permanent": self.harms["transient_called_permanent"],
            "permanent_called_transient": self.harms["permanent_called_transient"],
        }

    def print_tables(self, list_wrong: bool) -> None:
        print(f"{'expected':<42} {'right':>5} {'of':>4}  otherwise said")
        for expected, counts in sorted(self.confusion.items()):
            others = ", ".join(f"{name} {count}" for name, count in counts.most_common() if name != "right")
            print(f"{expected:<42} {counts['right']:>5} {counts.total():>4}  {others}")
        by_category: dict[str, Counter[str]] = defaultdict(Counter)
        for expected, counts in self.confusion.items():
            by_category[expected.partition("/")[0]].update(
                {"right": counts["right"], "abstained": counts["abstained"], "of": counts.total()}
            )
        for category, counts in sorted(by_category.items()):
            print(f"{category:<42} {counts['right']:>5} {counts['of']:>4}  abstained {counts['abstained']}")
        for confidence, marks in sorted(self.by_confidence.items(), reverse=True):
            print(f"said with confidence {confidence:.2f}: right {sum(marks)} of {len(marks)}")
        sure = [right for confidence, marks in self.by_confidence.items() if confidence >= 0.9 for right in marks]
        print(f"said with at least 0.90: right {sum(sure)} of {len(sure)}")
        for row, verdict in self.wrong if list_wrong else []:
            said = f"{verdict.category}/{verdict.subtype} by {verdict.rule or '-'}"
            print(f"WRONG {row.expected} <- {said}: {_short(row.given)}")


def _harm(row: Row, verdict: Classification) -> str | None:
    if not answered(verdict) or row.subtype == "unknown":
        return None
    was, said = row.subtype in TRANSIENT, verdict.subtype in TRANSIENT
    if row.transient is not None:
        lasts = parse_json_text(verdict.details).get("lasting") is True
        if verdict.subtype == row.subtype and verdict.subtype in _ONE_REPEAT and not lasts:
            return None
        if verdict.category.value == row.category == Category.PERFORMANCE.value:
            return None
        was, said = row.transient, said and not lasts
    if was == said:
        return None
    return "transient_called_permanent" if was else "permanent_called_transient"


def score(rows: Iterable[Row], rules: Rules) -> Score:
    """Classify every row."""
    result = Score()
    for row in rows:
        result.add(row, classify(event_of(row.given), rules))
    return result


def _short(given: Mapping[str, Any]) -> str:
    parts = [given.get(name) for name in ("exception_class", "http_status", "code", "message", "event")]
    return " | ".join(" ".join(str(part).split())[:220] for part in parts if part is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--half", choices=("train", "held-out"))
    parser.add_argument("--rules", type=Path, action="append", default=[], help="a tenant's rule file; may be repeated")
    parser.add_argument("--quiet", action="store_true", help="do not list what was wrong")
    parser.add_argument("--cost", action="store_true", help="measure CPU time instead")
    arguments = parser.parse_args()
    if arguments.cost:
        print(json.dumps(print_costs()))
        return 0
    if arguments.file is None:
        parser.error("FILE is needed, or --cost")
    rules = load_rules(*arguments.rules)
    result = score(read(arguments.file, arguments.half), rules)
    result.print_tables(list_wrong=not arguments.quiet)
    print(json.dumps(result.figures() | {"rules_version": rules.version}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
