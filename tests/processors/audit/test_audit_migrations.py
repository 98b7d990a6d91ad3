"""Migrations run once, can break off anywhere, and never change under a database that has them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from processors.audit.migrate import Migration, MigrationError, migrate, migrations
from processors.audit.store import Store

pytestmark = pytest.mark.integration


@pytest.fixture
def client(store: Store) -> Iterator[Any]:
    """The engine, in an empty database."""
    name = f"db_{uuid.uuid4().hex[:8]}"
    store.client.command(f"CREATE DATABASE {name}")
    store.client.command(f"USE {name}")
    yield store.client
    store.client.command("USE default")


def schema(client: Any) -> list[tuple[Any, ...]]:
    query = """
    SELECT table, name, type, comment FROM system.columns WHERE database = currentDatabase()
    UNION ALL SELECT name, engine, '', comment FROM system.tables WHERE database = currentDatabase()
    """
    return sorted(map(tuple, client.query(query).result_rows))


def test_what_was_applied_is_not_applied_again(client: Any) -> None:
    assert migrate(client) == [m.name for m in migrations()]
    assert migrate(client) == []


def test_a_migration_that_broke_off_anywhere_runs_again(client: Any) -> None:
    migrate(client)
    whole = schema(client)
    client.command("TRUNCATE TABLE schema_migrations")
    for migration in migrations():
        for number in range(len(migration.statements) + 1):
            for statement in migration.statements[:number]:
                client.command(statement)
    assert migrate(client) == [m.name for m in migrations()]
    assert schema(client) == whole


def test_an_applied_file_that_was_changed_is_refused(client: Any) -> None:
    migrate(client)
    first, *others = migrations()
    with pytest.raises(MigrationError, match="was changed after it was applied"):
        migrate(client, [replace(first, sql=first.sql + "\n"), *others])


def test_a_newer_database_is_left_alone(client: Any) -> None:
    """Workers of two releases run at once while a deployment rolls."""
    newer = Migration(len(migrations()) + 1, "newer", "CREATE TABLE IF NOT EXISTS n (a Int8) ENGINE = Memory;")
    migrate(client, [*migrations(), newer])
    assert migrate(client) == []


def test_two_workers_that_start_at_once_agree(client: Any) -> None:
    migrate(client)
    ledger = "SELECT version, name, sha256 FROM schema_migrations"
    client.command(f"INSERT INTO schema_migrations (version, name, sha256) {ledger}")
    assert migrate(client) == []


def test_statements_are_split_at_the_ends_of_lines_only() -> None:
    migration = Migration(1, "m", "-- a; comment;\nSELECT ';' AS a,\n  -- inner;\n  1;  \n\nSELECT 2;")
    assert migration.statements == ("SELECT ';' AS a,\n  1", "SELECT 2")
