"""`omium-recovery topics`: the contract's topics, on the broker."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Final

from cli.context import put_json, put_rows, say
from ops.runtime import topics
from ops.runtime.settings import Settings
from schemas.topics import BY_NAME

_TIMEOUT_S: Final = 10.0


def create(settings: Settings, *, as_json: bool) -> None:
    """Create what is missing, and say what that was."""
    made = topics.create(settings, _TIMEOUT_S)
    if as_json:
        put_json({"created": made})
    else:
        say(f"created {len(made)} topics with {settings.partitions} partitions" if made else "all topics exist")


def show(settings: Settings, *, as_json: bool) -> None:
    """One line a topic: what it carries, and what the broker has."""
    states = topics.list_topics(settings, _TIMEOUT_S)
    if as_json:
        put_json([asdict(state) | {"record": _record(state.name), "key": BY_NAME[state.name].key} for state in states])
        return
    rows = [("TOPIC", "RECORD", "PARTITIONS", "REPLICAS", "KEPT", "KEY")]
    for state in states:
        contract = BY_NAME[state.name]
        kept = _kept(contract.retention_ms)
        there = str(state.partitions) if state.partitions else "missing"
        rows.append((state.name, _record(state.name) or "-", there, str(state.replication), kept, contract.key))
    put_rows(rows)


def _record(name: str) -> str | None:
    record = BY_NAME[name].record
    return None if record is None else record.__name__


def _kept(retention_ms: int | None) -> str:
    if retention_ms is None:
        return "compacted"
    return "for ever" if retention_ms < 0 else str(timedelta(milliseconds=retention_ms)).removesuffix(", 0:00:00")
