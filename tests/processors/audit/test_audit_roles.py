"""The roles for a server, as far as an engine without roles can judge them: its parser, its privileges, our tables."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import pytest

from processors.audit.migrate import Migration, migrations
from processors.audit.store import Store

pytestmark = pytest.mark.integration
STATEMENTS = Migration(0, "roles", files("ops.clickhouse").joinpath("roles.sql").read_text("utf-8")).statements


@pytest.fixture
def client(store: Store) -> Any:
    return store.client


@pytest.mark.parametrize("statement", STATEMENTS)
def test_each_statement_parses(client: Any, statement: str) -> None:
    assert client.query("SELECT formatQuery({q:String})", parameters={"q": statement}).first_row[0]


def test_each_privilege_and_each_table_exists(client: Any) -> None:
    known = client.query("SELECT privilege FROM system.privileges").result_columns[0]
    tables = client.query("SELECT name FROM system.tables WHERE database = currentDatabase()").result_columns[0]
    grants = [re.match(r"GRANT (.+?) ON audit\.(\S+) TO", s) for s in STATEMENTS if s.startswith("GRANT")]
    assert all(grants)
    for grant in filter(None, grants):
        assert set(grant[1].split(", ")) <= set(known)
        assert grant[2] in ("*", *tables)
    assert {name for s in STATEMENTS for name in re.findall(r"audit\.(\w+)", s)} <= set(tables)


def test_the_writer_may_do_what_migrations_do() -> None:
    """And nothing else: who writes can delete nothing."""
    needed = {
        r"CREATE TABLE": "CREATE TABLE",
        r"CREATE OR REPLACE VIEW": "CREATE VIEW, DROP VIEW",
        r"ALTER TABLE \w+\s+COMMENT COLUMN": "ALTER COMMENT COLUMN",
    }
    (granted,) = [s for s in STATEMENTS if s.startswith("GRANT") and s.endswith("TO omium_writer")]
    for migration in migrations():
        for statement in migration.statements:
            (kind,) = [kind for kind in needed if re.match(kind, statement)]
            assert all(
                f" {privilege}," in granted or f"{privilege} ON" in granted for privilege in needed[kind].split(", ")
            )
    assert "DELETE" not in granted
    assert "DROP TABLE" not in granted
