"""Any bytes become a row that ClickHouse takes; equal bytes become equal rows."""

from __future__ import annotations

import itertools
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.audit.batch import Batch
from processors.audit.rows import MALFORMED, Row, Source, row
from processors.audit.store import Store
from schemas.topics import AUDITED, FAILURES
from tests.processors.audit.scene import Scene

_TOPICS = st.sampled_from([topic.name for topic in AUDITED])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_FAILURES = st.fixed_dictionaries(
    {"tenant_id": st.just("acme"), "execution_id": st.text(min_size=1, max_size=20)},
    optional={
        "failure_id": st.text(min_size=1, max_size=20),
        "error": st.fixed_dictionaries({"message": st.text()}),
        "output": _JSON,
        "facts": _JSON,
        "resumed_by": st.fixed_dictionaries({"recovery_id": st.just("r"), "attempt": st.integers(0, 10**6)}),
    },
)


def _dumps(document: object) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # lone surrogates, integers beyond 64 bits
        return repr(document).encode(errors="surrogatepass")


_VALUES = st.none() | st.binary(max_size=300) | st.builds(_dumps, _JSON) | st.builds(_dumps, _FAILURES)
_offsets = itertools.count(10**6)


@st.composite
def _sources(draw: st.DrawFn) -> Source:
    return Source(
        topic=draw(_TOPICS),
        topic_id=UUID(int=9),
        partition=draw(st.integers(0, 2**31 - 1)),
        offset=next(_offsets),
        appended_ms=draw(st.integers(0, 4_000_000_000_000)),
        key=draw(st.none() | st.binary(max_size=600)),
        value=draw(_VALUES),
        headers=draw(st.none() | st.lists(st.tuples(st.just("traceparent"), st.binary(max_size=60)), max_size=2)),
    )


@given(source=_sources())
@settings(max_examples=300, deadline=None)
def test_any_bytes_become_a_row_and_equal_bytes_the_same(source: Source) -> None:
    one = row(source)
    assert one == row(source)
    assert (one.size_bytes, len(one.sha256)) == (len(source.value or b""), 32)
    assert (one.body == b"") == (one.kind == MALFORMED)


@pytest.mark.integration
@given(sources=st.lists(_sources(), min_size=1, max_size=40))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_clickhouse_takes_every_row_as_it_is(store: Store, sources: list[Source]) -> None:
    rows = [row(source) for source in sources]
    store.insert(rows)
    where = "topic_id = {id:UUID} AND offset IN {offsets:Array(UInt64)}"
    columns = ("kind", "execution_id", "partition", "offset", "failure_id", "attempt", "body", "size_bytes")
    found = store.client.query(
        f"SELECT {', '.join(columns)} FROM audit_events WHERE {where} ORDER BY offset",
        parameters={"id": str(UUID(int=9)), "offsets": [r.offset for r in rows]},
        column_formats={"body": "bytes"},
    ).result_rows
    assert found == [tuple(getattr(r, c) for c in columns) for r in sorted(rows, key=lambda r: r.offset)]


def test_secrets_do_not_reach_the_database() -> None:
    scene = Scene("acme")
    scene.append(
        FAILURES,
        orjson.dumps(
            {
                "tenant_id": "acme",
                "execution_id": "e",
                "error": {"message": "401 for key sk-abcdefghijklmnopqrstuvwxyz"},
                "output": {"password": "hunter2hunter2", "apr": 7},
            }
        ),
    )
    (one,) = scene.rows
    document = orjson.loads(one.body)
    assert "abcdefghijklmnop" not in document["error"]["message"]
    assert document["output"] == {"password": "[masked]", "apr": 7}


def _some_row(partition: int, offset: int) -> Row:
    return Scene("acme").recovered().rows[0]._replace(topic="t", partition=partition, offset=offset)


def test_a_batch_commits_what_it_holds_and_nothing_of_partitions_that_are_gone() -> None:
    batch = Batch(max_rows=10, max_age_s=1.0)
    batch.add(_some_row(0, 5), 0.0)
    batch.add(_some_row(1, 7), 0.1)
    batch.read_to(("t", 1), 9, 0.2)
    batch.read_to(("t", 1), 8, 0.3)
    assert batch.positions == {("t", 0): 6, ("t", 1): 9}
    assert not batch.due(0.9)
    assert batch.due(1.0)
    batch.drop([("t", 1)])
    assert (batch.positions, [r.partition for r in batch.rows]) == ({("t", 0): 6}, [0])
    batch.stored()
    assert batch.positions == {("t", 0): 6}, "stored, not yet committed"
    batch.committed()
    assert not batch.due(99.0)


def test_a_batch_is_bounded_by_rows_and_by_bytes() -> None:
    small = Batch(max_rows=2, max_age_s=1.0)
    small.add(_some_row(0, 1), 0.0)
    assert (small.room, small.due(0.0)) == (1, False)
    small.add(_some_row(0, 2), 0.0)
    assert (small.room, small.due(0.0)) == (0, True)
    large = Batch(max_rows=10_000, max_age_s=1.0)
    for offset in range(40):
        large.add(_some_row(0, offset)._replace(body=b"x" * 2**20), 0.0)
    assert large.room == 0
