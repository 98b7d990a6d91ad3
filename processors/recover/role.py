"""What a worker with one transactional writer a partition is made for: recover, or another that works like it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from ops.runtime import metrics
from ops.runtime.turns import FlowId
from processors.recover.broadcast import Take
from processors.recover.ledger import Ledger, Raw, Staged
from processors.recover.observe import forget, observe
from processors.recover.pauses import Pauses
from processors.recover.policy import Policies
from processors.recover.view import Standings, View
from schemas.flows import flow_of
from schemas.topics import (
    DEPENDENCIES,
    FAILURES,
    OPERATOR_PAUSES,
    OPTION_TOPICS,
    RECOVER_INPUTS,
    RECOVER_STATE,
    Topic,
)

if TYPE_CHECKING:
    from processors.recover.writer import Writer

log = logging.getLogger("omium.recover")

_FLOODS: Final = (FAILURES, *OPTION_TOPICS)
_FLOODING: Final = frozenset(topic.name for topic in _FLOODS)


class Kept(Protocol):
    """The state of one partition, and what batches make of it. Pure; see `Ledger` for what each does."""

    policies: Policies

    def __len__(self) -> int: ...
    def restore(self, key: bytes, value: bytes | None) -> None: ...
    def forget_beyond(self, ends: dict[str, int]) -> list[str]: ...
    def was_ahead(self, topic: str, offset: int) -> bool: ...
    def wake(self) -> None: ...
    @property
    def next_due_ms(self) -> int | None: ...
    def stage(
        self,
        batch: Sequence[Raw],
        now: int,
        *,
        fire_until: int = ...,
        tokens: int = ...,
        suspects: frozenset[tuple[str, int]] = ...,
        breaks: bool = ...,
        view: View | None = ...,
        positions: Mapping[str, int] | None = ...,
        waits: Callable[[bytes], bool] = ...,
    ) -> Staged: ...
    def commit(self, staged: Any) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """The name is part of group, transactional id and failpoints."""

    name: str
    inputs: tuple[Topic, ...]
    state: Topic
    ledger: Callable[[int, int, Policies], Kept]
    floods: tuple[Topic, ...]
    """Inputs of which no more is read while too much of them waits."""
    flow: Callable[[Raw], FlowId]
    observe: Callable[[Writer, Any, int], None]
    forget: Callable[[Writer], None]
    watch: Callable[[Callable[[], Policies], Callable[[], int]], tuple[dict[Topic, Take], View]]
    """The topics that it reads whole, who takes their records, and the view of it; by the policies, and the time in
    epoch ms, of now."""


def _watch(policies: Callable[[], Policies], now: Callable[[], int]) -> tuple[dict[Topic, Take], View]:
    standings, pauses = Standings(now), Pauses(policies, _refused_pause)
    # Its parts change while it is polled, and never during a transaction.
    view = View(dependencies=standings.known, pauses=pauses.known)
    return {DEPENDENCIES: standings.take, OPERATOR_PAUSES: pauses.take}, view


def _flow(raw: Raw) -> FlowId:
    """Failures and their options by what failed; what else is said of a tenant's runs is no part of their floods."""
    tenant, dependency = flow_of(raw.key, raw.headers)
    return tenant, dependency if raw.topic in _FLOODING else raw.topic.encode()


def _refused_pause(why: str) -> None:
    metrics.DISPOSITIONS.labels("pause", "refused").inc()
    log.warning("a pause is not heard: %s", why)


RECOVER: Final = Role(
    name="recover",
    inputs=RECOVER_INPUTS,
    state=RECOVER_STATE,
    ledger=Ledger,
    floods=_FLOODS,
    flow=_flow,
    observe=observe,
    forget=forget,
    watch=_watch,
)
