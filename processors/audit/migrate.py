"""Brings a database to the schema of `ops/clickhouse`, and records what was applied."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

_NAME: Final = re.compile(r"(\d{4})_(\w+)\.sql")
_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version UInt32, name String, sha256 String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = MergeTree ORDER BY version
COMMENT 'Migrations that were applied; one may stand twice where two workers started at once'
"""


class MigrationError(Exception):
    """The database and the migrations of this release contradict each other; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of DDL."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def statements(self) -> tuple[str, ...]:
        """Split at each semicolon that ends a line; comment lines are left out."""
        lines = [line for line in self.sql.splitlines() if not line.lstrip().startswith("--")]
        parts = re.split(r";[ \t]*(?:\n|$)", "\n".join(lines))
        return tuple(part.strip() for part in parts if part.strip())


def migrations() -> tuple[Migration, ...]:
    """Those of this release, in order, numbered from 1 without gaps."""
    found = []
    for path in files("ops.clickhouse").iterdir():
        if match := _NAME.fullmatch(path.name):
            found.append(Migration(int(match[1]), match[2], path.read_text("utf-8")))
    found.sort(key=lambda m: m.version)
    assert [m.version for m in found] == list(range(1, len(found) + 1)), "migrations are numbered without gaps"
    return tuple(found)


def migrate(client: Any, wanted: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing; names of what was applied. `client` is clickhouse-connect's.

    Safe to run from several workers at once and after a crash: every statement can run twice.
    Raises MigrationError where an applied file was changed since. A database that is ahead of this
    release is left alone: migrations only ever add.
    """
    client.command(_LEDGER)
    applied = dict(client.query("SELECT version, any(sha256) FROM schema_migrations GROUP BY version").result_rows)
    done = []
    for migration in wanted if wanted is not None else migrations():
        digest = applied.get(migration.version)
        if digest == migration.sha256:
            continue
        if digest is not None:
            raise MigrationError(f"{migration.version:04}_{migration.name}.sql was changed after it was applied")
        for statement in migration.statements:
            client.command(statement)
        client.insert(
            "schema_migrations",
            [[migration.version, migration.name, migration.sha256]],
            column_names=["version", "name", "sha256"],
        )
        done.append(migration.name)
    return done
