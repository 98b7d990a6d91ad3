"""Which commands a runtime follows: the reference acceptor. `conformance/acceptor.json` states it in cases.

Delivery is at-least-once, by the broker and by whoever repeats it; the effect must happen once. So a
command is accepted by a compare-and-set of what the execution has accepted last, in a store that lives
as long as the execution can: the process's memory where the agent waits in place, a file or the
checkpointer's own database where others resume it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from omium.records import Command, Fence

_DAY_S: Final = 24 * 3600


class Refusal(StrEnum):
    """Why a command is not followed. In this order: the first that holds is said."""

    DUPLICATE = "duplicate"
    """It has been accepted before."""
    STALE = "stale"
    """Its fence is not above the last accepted one: a newer attempt has begun."""
    FINISHED = "finished"
    """An earlier attempt of its recovery has ended the matter."""
    NOT_CURRENT = "not_current"
    """It answers a failure that is not the one this runtime waits with."""
    EXPIRED = "expired"
    """It had to begin by `expires_at`, by the broker's clock."""


@dataclass(frozen=True, slots=True)
class Held:
    """What an execution accepted last."""

    fence: Fence
    command_id: str
    recovery_id: str
    finished: bool = False
    """Its run succeeded or was given up: this recovery needs no further attempt."""


class FenceStore(Protocol):
    """Where the last accepted fence of each execution is kept. Safe to call from any thread."""

    def load(self, execution: str) -> Held | None:
        """What `execution` (its key, `tenant_id/execution_id`) accepted last, or None."""

    def swap(self, execution: str, expected: Held | None, new: Held) -> bool:
        """Put `new` in the place of `expected`, atomically; False where something else is there."""


def refusal(
    held: Held | None, command: Command, now: datetime, current: Collection[str] | None = None
) -> Refusal | None:
    """Why `command` must not be followed, or None. Pure.

    `now` is the broker's time; `current` the failures that this runtime waits with, where it knows them.
    """
    if held is not None:
        if command.command_id == held.command_id:
            return Refusal.DUPLICATE
        if not command.fence > held.fence:
            return Refusal.STALE
        if held.finished and command.recovery_id == held.recovery_id:
            return Refusal.FINISHED
    if current is not None and command.failure_id not in current:
        return Refusal.NOT_CURRENT
    return Refusal.EXPIRED if now >= command.expires_at else None


class Acceptor:
    """Accepts each command at most once, across all that share the store."""

    def __init__(self, store: FenceStore) -> None:
        self.store = store

    def accept(self, command: Command, now: datetime, current: Collection[str] | None = None) -> Refusal | None:
        """Accept `command`: None, and it is this caller's to follow; or why not. Raises what the store raises."""
        while True:
            held = self.store.load(command.key)
            if reason := refusal(held, command, now, current):
                return reason
            if self.store.swap(command.key, held, Held(command.fence, command.command_id, command.recovery_id)):
                return None

    def finish(self, command: Command) -> None:
        """The run of `command` ended the matter: further commands of its recovery are refused."""
        held = self.store.load(command.key)
        if held is not None and held.command_id == command.command_id:
            # Losing the race means that a newer command was accepted: then that one decides.
            self.store.swap(command.key, held, replace(held, finished=True))


class MemoryFences:
    """Lives as long as the process: right for waiting in place. Forgets the least recent beyond `limit`."""

    def __init__(self, limit: int = 100_000) -> None:
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._limit = limit
        self._lock = threading.Lock()

    def forked(self) -> None:
        """In a forked child: the lock may be held by a thread that is not here."""
        self._lock = threading.Lock()

    def load(self, execution: str) -> Held | None:
        with self._lock:
            return self._held.get(execution)

    def swap(self, execution: str, expected: Held | None, new: Held) -> bool:
        with self._lock:
            if self._held.get(execution) != expected:
                return False
            self._held[execution] = new
            self._held.move_to_end(execution)
            if len(self._held) > self._limit:
                self._held.popitem(last=False)
            return True


class SqliteFences:
    """In a SQLite file, shared by every process that opens it: for `serve`.

    The file may be the one of a checkpointer; the table is `omium_fences`. Rows that were not touched for
    `keep_days` are deleted at the start: no command outlives the topic's seven days.
    """

    def __init__(self, path: str | Path, *, keep_days: int = 30) -> None:
        self._path = str(path)
        self._of_parent: list[sqlite3.Connection] = []
        self._open()
        self._db.execute("DELETE FROM omium_fences WHERE touched_s < unixepoch() - ?", (keep_days * _DAY_S,))

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(self._path, timeout=10, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS omium_fences (execution TEXT PRIMARY KEY, fence_offset INTEGER NOT NULL, "
            "attempt INTEGER NOT NULL, command_id TEXT NOT NULL, recovery_id TEXT NOT NULL, "
            "finished INTEGER NOT NULL, touched_s INTEGER NOT NULL DEFAULT (unixepoch())) WITHOUT ROWID"
        )

    def forked(self) -> None:
        """In a forked child: SQLite's connections must neither be used nor closed there."""
        self._of_parent.append(self._db)
        self._open()

    def load(self, execution: str) -> Held | None:
        query = "SELECT fence_offset, attempt, command_id, recovery_id, finished FROM omium_fences WHERE execution = ?"
        with self._lock, closing(self._db.execute(query, (execution,))) as rows:
            row = rows.fetchone()
        if row is None:
            return None
        return Held(Fence(offset=row[0], attempt=row[1]), row[2], row[3], bool(row[4]))

    def swap(self, execution: str, expected: Held | None, new: Held) -> bool:
        values = (new.fence.offset, new.fence.attempt, new.command_id, new.recovery_id, new.finished)
        if expected is None:
            statement = (
                "INSERT INTO omium_fences (fence_offset, attempt, command_id, recovery_id, finished, execution) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
            )
            where: tuple[object, ...] = (execution,)
        else:
            statement = (
                "UPDATE omium_fences SET fence_offset = ?, attempt = ?, command_id = ?, recovery_id = ?, "
                "finished = ?, touched_s = unixepoch() WHERE execution = ? AND fence_offset = ? AND attempt = ? "
                "AND command_id = ? AND finished = ?"
            )
            where = (execution, expected.fence.offset, expected.fence.attempt, expected.command_id, expected.finished)
        # One statement is one transaction: the comparison and the setting cannot come apart.
        with self._lock, closing(self._db.execute(statement, (*values, *where))) as done:
            return done.rowcount == 1

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
