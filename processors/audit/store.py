"""Where the rows go: a ClickHouse server, or the embedded engine, through one client library."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from typing import Any, Final, Self
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError

from ops.runtime import failpoints
from processors.audit.embedded import CHDB, EmbeddedEngine, EmbeddedError, reading
from processors.audit.migrate import migrate
from processors.audit.rows import Row

UNAVAILABLE: Final = (ClickHouseError, EmbeddedError, OSError)
"""What a store raises while it cannot take rows; trying again is right, and may repeat rows."""
_CONNECT_TIMEOUT_S: Final = 5
# Less than Kafka's max.poll.interval: an insert that hangs must not cost the worker its partitions.
_INSERT_TIMEOUT_S: Final = 60


def connect(url: str) -> Any:
    """A clickhouse-connect client of the server at `url`. Raises one of `UNAVAILABLE`."""
    for name in ("clickhouse_connect", "urllib3.connectionpool"):
        # They log, with tracebacks, what they also raise.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return clickhouse_connect.get_client(
        dsn=url,
        interface=urlsplit(url).scheme,
        client_name="omium",
        connect_timeout=_CONNECT_TIMEOUT_S,
        send_receive_timeout=_INSERT_TIMEOUT_S,
        tz_mode="aware",
        # Requests of a session exclude each other; nothing here needs one.
        autogenerate_session_id=False,
    )


@contextmanager
def reader(url: str) -> Iterator[Any]:
    """A client that reads the audit database at `url`, whoever owns it. Raises one of `UNAVAILABLE`."""
    with ExitStack() as stack:
        if url.startswith(CHDB):
            url = stack.enter_context(reading(url))
        yield stack.enter_context(closing(connect(url)))


class Store(AbstractContextManager["Store"]):
    """Takes rows once it is open. One thread only."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: EmbeddedEngine | None = None
        self.client: Any = None
        """clickhouse-connect's, once open."""
        self._insert: Any = None

    def open(self) -> None:
        """Connect, and bring the schema up to date. Raises one of `UNAVAILABLE`, or MigrationError."""
        if self._insert is not None:
            return
        if self._url.startswith(CHDB):
            self._engine = self._engine or EmbeddedEngine(self._url).start()
            self.client = self._engine.client
        else:
            self.client = self.client or connect(self._url)
        migrate(self.client)
        self._insert = self.client.create_insert_context(
            "audit_events",
            Row._fields,
            column_oriented=True,
            # The server would otherwise answer before the rows are on disk: the offset is committed on this answer.
            settings={"async_insert": 0},
        )

    def insert(self, rows: Sequence[Row]) -> None:
        """Returns when all of `rows` are stored. Raises one of `UNAVAILABLE`: then some may be."""
        self.open()
        self._insert.data = [list(column) for column in zip(*rows, strict=True)]
        try:
            failpoints.hit("audit.before-insert")
            self.client.insert(context=self._insert)
            self._insert.data = None
        except UNAVAILABLE:
            # It may come back as another, empty one: the next try looks at its schema again.
            self._insert = None
            raise

    def close(self) -> None:
        """Let go of the server or the engine; safe to call twice."""
        if self._engine is not None:
            self._engine.close()
        elif self.client is not None:
            self.client.close()
        self._engine = self.client = self._insert = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
