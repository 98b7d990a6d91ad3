"""One partition of the governor: all tenants whose reports are in it, and what a batch of reports makes of them.

Stands to the core as recover's ledger to its reducer, and is written by the same writer. Pure: bytes in, bytes out.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from processors.govern.core import TimePassed, govern
from processors.govern.state import Tenant, restored, said
from processors.recover.ledger import Message, Raw, Staged, nothing_waits
from processors.recover.policy import Policies
from processors.recover.view import View
from schemas import codec
from schemas.records import (
    Circuit,
    DeadLetterReason,
    DependencyReport,
    DependencyState,
    Event,
    from_epoch_ms,
)
from schemas.topics import DEAD_LETTERS, DEPENDENCIES, INCIDENTS, PERMITS, Topic

WORKER: Final = "govern"
SOURCE: Final = "omium/govern"
_TOPIC_OF: Final[dict[type[Event], Topic]] = {t.record: t for t in (PERMITS, INCIDENTS, DEAD_LETTERS) if t.record}


@dataclass(slots=True)
class Turned(Staged):
    """What one transaction does."""

    tenants: dict[str, Tenant] = field(default_factory=dict)
    """As they are after it."""


class Book:
    """The tenants of one partition."""

    def __init__(self, partition: int, partitions: int, policies: Policies) -> None:
        self.partition = partition
        self.partitions = partitions
        self.policies = policies
        self.tenants: dict[str, Tenant] = {}
        self.census: Counter[str] = Counter()
        """Dependencies by circuit; those over budget; incidents; who waits."""
        self._last_words: dict[str, dict[str, DependencyState]] = defaultdict(dict)
        """While restoring: tenant to dependency to what was said of it."""
        self._due: list[tuple[int, str]] = []
        self._looked_at: dict[str, int] = {}
        """Tenant to the earliest of its entries in `_due`: what is put off is put in anew only when that one comes."""

    def __len__(self) -> int:
        return sum(len(tenant.dependencies) for tenant in self.tenants.values())

    # --- the broadcast is the changelog

    def restore(self, key: bytes, value: bytes | None) -> None:
        """Take one record of it. What cannot be read is as if nothing had been said."""
        name = key.decode(errors="replace")
        tenant_id, _, _ = name.partition("/")
        decoded = codec.decode(DEPENDENCIES.name, value) if value else None
        words = self._last_words[tenant_id]
        if isinstance(decoded, codec.Decoded) and isinstance(decoded.record, DependencyState):
            words[name] = decoded.record
        else:
            words.pop(name, None)

    def forget_beyond(self, ends: dict[str, int]) -> list[str]:  # noqa: ARG002  nothing here counts offsets
        """Called when all is restored."""
        for tenant_id, words in self._last_words.items():
            if words:
                self._keep(restored(tenant_id, words.values()))
        self._last_words.clear()
        return []

    def was_ahead(self, topic: str, offset: int) -> bool:  # noqa: ARG002  reports are applied in their order
        """Never."""
        return False

    def wake(self) -> None:
        """Nothing that is due waits."""

    def _keep(self, tenant: Tenant) -> None:
        before = self.tenants.pop(tenant.tenant_id, None)
        if before:
            self.census.subtract(_census(before))
        if not tenant.dependencies:
            return
        self.census.update(_census(tenant))
        self.tenants[tenant.tenant_id] = tenant
        self._look_at(tenant)

    def _look_at(self, tenant: Tenant) -> None:
        at_ms = self._looked_at.get(tenant.tenant_id)
        if tenant.due_ms and (at_ms is None or tenant.due_ms < at_ms):
            self._looked_at[tenant.tenant_id] = tenant.due_ms
            heapq.heappush(self._due, (tenant.due_ms, tenant.tenant_id))

    def _pop(self) -> str:
        due_ms, tenant_id = heapq.heappop(self._due)
        if self._looked_at.get(tenant_id) == due_ms:
            del self._looked_at[tenant_id]
        return tenant_id

    @property
    def next_due_ms(self) -> int | None:
        """When something happens by itself next; None: never."""
        while self._due:
            due_ms, tenant_id = self._due[0]
            tenant = self.tenants.get(tenant_id)
            if tenant is not None and tenant.due_ms == due_ms:
                return due_ms
            self._pop()
            if tenant is not None:
                self._look_at(tenant)
        return None

    # --- batches

    def stage(
        self,
        batch: Sequence[Raw],
        now: int,
        *,
        fire_until: int = 0,
        tokens: int = 500,  # noqa: ARG002  what is due here is a hundred a second at most
        suspects: frozenset[tuple[str, int]] = frozenset(),
        breaks: bool = False,
        view: View | None = None,  # noqa: ARG002  the governor is who makes it
        positions: Mapping[str, int] | None = None,  # noqa: ARG002  nothing here counts offsets
        waits: Callable[[bytes], bool] = nothing_waits,  # noqa: ARG002  what is due here is told by no record
    ) -> Turned:
        """What `batch`, then the time up to `fire_until`, make of the tenants. As of `recover.ledger.Ledger`."""
        out = Turned()
        for raw in sorted(batch, key=lambda raw: raw.offset):
            self._take(raw, now, suspects, out)
            out.applied[raw.topic] = raw.offset + 1
        due = set()
        while (due_ms := self.next_due_ms) is not None and due_ms <= fire_until:
            due.add(self._pop())
        for tenant_id in sorted(due):
            tenant = out.tenants.get(tenant_id) or self.tenants[tenant_id]
            if breaks:
                self._look_at(tenant)
                continue
            try:
                self._turn(tenant, TimePassed(), now, out)
            except Exception:
                # It would fail again at every tick. Forgotten, recover's own allowances hold for it.
                out.tenants[tenant_id] = Tenant(tenant_id=tenant_id)
        self._say(now, out)
        return out

    def _take(self, raw: Raw, now: int, suspects: frozenset[tuple[str, int]], out: Turned) -> None:
        if (raw.topic, raw.offset) in suspects:
            return _bury(raw, codec.Malformed(DeadLetterReason.HANDLER_ERROR, "the broker refused it"), now, out)
        decoded = codec.decode(raw.topic, raw.value, raw.headers)
        if isinstance(decoded, codec.Malformed):
            return _bury(raw, decoded, now, out)
        report = decoded.record
        assert isinstance(report, DependencyReport)
        tenant = out.tenants.get(report.tenant_id) or self.tenants.get(report.tenant_id)
        try:
            self._turn(tenant or Tenant(tenant_id=report.tenant_id), report, now, out)
        except Exception as error:
            _bury(raw, codec.Malformed(DeadLetterReason.HANDLER_ERROR, type(error).__name__), now, out)

    def _turn(self, tenant: Tenant, event: DependencyReport | TimePassed, now: int, out: Turned) -> None:
        after, effects = govern(tenant, event, now, self.policies)
        messages = [_encoded(effect) for effect in effects]
        out.tenants[tenant.tenant_id] = after
        out.messages += messages
        out.emitted += effects

    def _say(self, now: int, out: Turned) -> None:
        """The news of each dependency that changed, in this partition, whatever its key: one writer, one changelog."""
        for tenant_id, after in out.tenants.items():
            before = self.tenants.get(tenant_id)
            known = before.dependencies if before else {}
            for name, dependency in after.dependencies.items():
                if known.get(name) is not dependency:
                    news = said(tenant_id, dependency, now)
                    message = codec.encode(DEPENDENCIES, news, source=SOURCE)
                    out.messages.append(
                        Message(message.topic, message.key, message.value, tuple(message.headers), self.partition)
                    )
            for name in known.keys() - after.dependencies.keys():
                out.messages.append(Message(DEPENDENCIES.name, name.encode(), None, partition=self.partition))

    def commit(self, staged: Turned) -> None:
        """`staged` is on the broker: from now on it holds."""
        for tenant in staged.tenants.values():
            self._keep(tenant)


def _census(tenant: Tenant) -> Counter[str]:
    found: Counter[str] = Counter()
    for dependency in tenant.dependencies.values():
        found[dependency.circuit] += 1
        found["over_budget"] += dependency.circuit is Circuit.THROTTLED and not dependency.ramp
        found["incidents"] += dependency.outage is not None
    found["waiting"] = sum(len(waiting) for waiting in tenant.waiting.values())
    return found


def _encoded(record: Event) -> Message:
    message = codec.encode(_TOPIC_OF[type(record)], record, source=SOURCE)
    return Message(message.topic, message.key, message.value, tuple(message.headers))


def _bury(raw: Raw, malformed: codec.Malformed, now: int, out: Turned) -> None:
    letter = codec.dead_letter(
        malformed,
        worker=WORKER,
        topic=raw.topic,
        partition=raw.partition,
        offset=raw.offset,
        key=raw.key,
        value=raw.value,
        died_at=from_epoch_ms(now),
    )
    out.messages.append(_encoded(letter))
    out.emitted.append(letter)
