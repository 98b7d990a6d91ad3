"""Scores the classifier on real errors: `python -m ops.bench.classify FILE`.

FILE holds JSON lines with source_system, exception_class, http_status, code, message, expected_category and expected_subtype.
Nothing of the expected columns reaches the classifier. A row becomes a FailureEvent as a runtime would report it: the
exception with its class, status, code and message; origin and protocol only from what a runtime knows, which library raised.

- answered: verdicts other than an abstention (`tool_failure/unknown`, unclassified). An expected `unknown` that is met is right.
- transient_called_permanent, permanent_called_transient: harm. Transient is what waiting or repeating may cure:
  rate_limit, timeout (of tool or run), service_unavailable, network_error. An abstention harms nobody.
- The last line is JSON.

`--half train|held-out` takes the rows whose SHA-256 starts with an even or an odd byte: rules were written looking at the first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from schemas.records import Category, Classification, ErrorInfo, FailureEvent, FailureOrigin, Protocol
from streams.decide.classify import Rules, classify, load_rules

TRANSIENT: Final = frozenset({"rate_limit", "timeout", "service_unavailable", "network_error"})

_TOOL_LIBRARIES: Final = [
    "requests",
    "urllib",
    "httpx",
    "aiohttp",
    "urllib3",
    "http.client",
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
    "ftplib",
    "smtplib",
    "paramiko",
    "docker",
    "kubernetes",
    "qdrant",
    "pinecone",
    "weaviate",
    "chromadb",
    "tavily",
    "exa",
    "snowflake",
    "bigquery",
    "clickhouse",
    "neo4j",
    "notion",
    "jira",
]
_MODEL_LIBRARIES: Final = [
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
    "azure-openai",
    "xai",
    "perplexity",
]


@dataclass(frozen=True, slots=True)
class Row:
    """One real error and the right answer."""

    given: Mapping[str, Any]
    category: str
    subtype: str

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
        given.pop("source", None)
        rows.append(Row(given, category, subtype))
    return rows


def _half(line: str) -> str:
    return "train" if hashlib.sha256(line.encode()).digest()[0] % 2 == 0 else "held-out"


def event_of(given: Mapping[str, Any]) -> FailureEvent:
    """The event that a runtime would send for this error."""
    system = str(given.get("source_system") or "").lower()
    class_name = given.get("exception_class")
    status, code = given.get("http_status"), given.get("code")
    return FailureEvent(
        tenant_id="bench",
        execution_id="bench",
        origin=origin_of(system, str(class_name or "")),
        protocol=protocol_of(system, str(class_name or "")),
        error=ErrorInfo(
            class_name=class_name,
            message=given.get("message"),
            code=None if code is None else str(code),
            http_status=status,
        ),
    )


def origin_of(system: str, class_name: str) -> FailureOrigin:
    """Clients of services fail as tools, clients of models as the model; what else raises, a runtime cannot tell."""
    module = f"{system} {class_name.lower()}"
    if any(name in module for name in _MODEL_LIBRARIES):
        return FailureOrigin.MODEL
    if any(name in module for name in _TOOL_LIBRARIES):
        return FailureOrigin.TOOL
    return FailureOrigin.UNKNOWN


def protocol_of(system: str, class_name: str) -> Protocol:
    for protocol in (Protocol.A2A, Protocol.MCP, Protocol.GRPC):
        if protocol.value in system or protocol.value in class_name.lower():
            return protocol
    return Protocol.NONE


def answered(verdict: Classification) -> bool:
    return verdict.category is not Category.UNCLASSIFIED and verdict.subtype != "unknown"


def right(row: Row, verdict: Classification) -> bool:
    return (verdict.category.value, verdict.subtype) == (row.category, row.subtype)


def harm(row: Row, verdict: Classification) -> str | None:
    """`transient_called_permanent`, `permanent_called_transient`, or None."""
    if not answered(verdict) or row.subtype == "unknown":
        return None
    was, said = row.subtype in TRANSIENT, verdict.subtype in TRANSIENT
    if was == said:
        return None
    return "transient_called_permanent" if was else "permanent_called_transient"


def report(rows: Iterable[Row], rules: Rules, show_wrong: bool = True) -> dict[str, Any]:
    """Classify every row, print the tables, return the figures."""
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    wrong: list[tuple[Row, Classification]] = []
    harms: Counter[str] = Counter()
    buckets: dict[float, list[bool]] = defaultdict(list)
    total = said = correct = 0
    for row in rows:
        verdict = classify(event_of(row.given), rules)
        total += 1
        got = f"{verdict.category}/{verdict.subtype}" if answered(verdict) else "abstained"
        ok = right(row, verdict)
        confusion[row.expected]["right" if ok else got] += 1
        if answered(verdict) or ok:
            said += 1
            correct += ok
            buckets[verdict.confidence].append(ok)
        if found := harm(row, verdict):
            harms[found] += 1
        if not ok:
            wrong.append((row, verdict))
    print(f"{'expected':<42} {'right':>5} {'of':>4}  otherwise said")
    for expected, counts in sorted(confusion.items()):
        others = ", ".join(f"{name} {count}" for name, count in counts.most_common() if name != "right")
        print(f"{expected:<42} {counts['right']:>5} {counts.total():>4}  {others}")
    for confidence, marks in sorted(buckets.items(), reverse=True):
        print(
            f"said with confidence {confidence:.2f}: {sum(marks)} of {len(marks)} right ({sum(marks) / len(marks):.3f})"
        )
    if show_wrong:
        for row, verdict in wrong:
            print(
                f"WRONG {row.expected} <- {verdict.category}/{verdict.subtype} by {verdict.rule or '-'}: {_short(row)}"
            )
    return {
        "rows": total,
        "answered": round(said / total, 4) if total else 0.0,
        "right_of_answered": round(correct / said, 4) if said else 0.0,
        "transient_called_permanent": harms["transient_called_permanent"],
        "permanent_called_transient": harms["permanent_called_transient"],
        "rules_version": rules.version,
    }


def _short(row: Row) -> str:
    given = row.given
    parts = (given.get("exception_class"), given.get("http_status"), given.get("code"), given.get("message"))
    return " | ".join(" ".join(str(part).split())[:220] for part in parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--half", choices=("train", "held-out"))
    parser.add_argument("--rules", type=Path, action="append", default=[], help="a tenant's rule file; may be repeated")
    parser.add_argument("--quiet", action="store_true", help="do not list what was wrong")
    arguments = parser.parse_args()
    rules = load_rules(*arguments.rules)
    figures = report(read(arguments.file, arguments.half), rules, show_wrong=not arguments.quiet)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
