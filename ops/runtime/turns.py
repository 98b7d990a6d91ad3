"""Whose turn it is: the records that were read and wait, so that a flood of one tenant or service holds up no other.

Pure: times are arguments, of a monotonic clock, in seconds.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")
FlowId = tuple[bytes, bytes]
"""A tenant, and what its record is about: the service that failed, for example."""

FLOOD: Final = 256
FLOOD_S: Final = 2.0
"""More records than this that came within this time, by the broker's clock, make their flow a flood, until none of it
waits. After a pause of ours as many wait that came over a longer time: they are no flood."""
FLOOD_PER_S: Final = 50.0
"""What floods get of a partition while others come as well. They could have all the time that is left, but so few
cores are never idle then, and who comes waits for one."""
PATIENCE_S: Final = 30.0
"""A flood that has not shrunk for so long gets twice as much: what comes no faster than it could be served would else
wait for ever."""
SERVABLE_PER_S: Final = 1000.0
"""One that comes faster than this gets no more for it: it would cost the others, and not be served all the same. Twice
what a worker on two cores can do of one partition."""
CALM_S: Final = 5.0
"""After so long without others floods get all."""
MAX_FLOWS: Final = 64
"""Of a tenant: what else it names shares one."""
_BURST_S: Final = 0.4
_CLUMP_S: Final = 0.2
"""Floods get nothing, then so much at once: one by one each would be a transaction, which costs as much as ten."""


@dataclass(slots=True, eq=False)
class _Flow(Generic[T]):
    id: FlowId
    waiting: deque[tuple[bytes, T, int]] = field(default_factory=deque)
    """Keys, records, and when these came."""
    flood: bool = False


class _Rota(Generic[T]):
    """Flows in turn: first among tenants, then among the flows of each."""

    def __init__(self) -> None:
        self._tenants: deque[bytes] = deque()
        self._flows: dict[bytes, deque[_Flow[T]]] = {}

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def add(self, flow: _Flow[T]) -> None:
        """At the end."""
        tenant = flow.id[0]
        flows = self._flows.get(tenant)
        if flows is None:
            flows = self._flows[tenant] = deque()
            self._tenants.append(tenant)
        flows.append(flow)

    def pop(self) -> _Flow[T]:
        """The next, which is then in no turn."""
        tenant = self._tenants.popleft()
        flows = self._flows[tenant]
        flow = flows.popleft()
        if flows:
            self._tenants.append(tenant)
        else:
            del self._flows[tenant]
        return flow


class Turns(Generic[T]):
    """Records of one partition, flow by flow. Those of one key keep their order, whatever flows they name."""

    def __init__(self) -> None:
        self.crowded = False
        """Set where soon no more can be read: floods are held back no more, others wait unread behind them."""
        self._flows: dict[FlowId, _Flow[T]] = {}
        self._calm: _Rota[T] = _Rota()
        self._floods: _Rota[T] = _Rota()
        self._flow_of: dict[bytes, tuple[_Flow[T], int]] = {}
        """By key: where its records wait, and how many do."""
        self._flows_of: Counter[bytes] = Counter()
        """By tenant."""
        self._count = self._flooding = 0
        self._calm_s = float("-inf")
        """When a flood was last overtaken."""
        self._calm_had_it = False
        """The last turn."""
        self._tokens, self._refilled_s, self._open = 0.0, 0.0, False
        self._rate_per_s, self._looked_s, self._then, self._served = FLOOD_PER_S, float("-inf"), 0, 0
        """What floods get; how many records of them waited when that was looked at last, and were taken since."""

    def __len__(self) -> int:
        return self._count

    def waits(self, key: bytes) -> bool:
        """Whether a record of `key` is here."""
        return key in self._flow_of

    @property
    def flooding(self) -> int:
        """How many records of floods wait."""
        return self._flooding

    def put(self, key: bytes, flow_id: FlowId, record: T, at_ms: int) -> None:
        """Let `record`, which came at `at_ms`, wait in `flow_id`, or where earlier ones of its key do."""
        found = self._flow_of.get(key)
        flow, others = found or (self._flows.get(flow_id), 0)
        if flow is None:
            flow = self._begun(flow_id)
        self._flow_of[key] = flow, others + 1
        flow.waiting.append((key, record, at_ms))
        self._count += 1
        if flow.flood:
            self._flooding += 1
        elif len(flow.waiting) > FLOOD and at_ms - flow.waiting[-1 - FLOOD][2] < FLOOD_S * 1000:
            flow.flood = True
            self._flooding += len(flow.waiting)

    def _begun(self, flow_id: FlowId) -> _Flow[T]:
        tenant, _ = flow_id
        if self._flows_of[tenant] >= MAX_FLOWS:
            flow_id = tenant, b""
            if flow_id in self._flows:
                return self._flows[flow_id]
        flow = self._flows[flow_id] = _Flow(flow_id)
        self._flows_of[tenant] += 1
        self._calm.add(flow)
        return flow

    def ready(self, now_s: float) -> int:
        """How many may be taken now."""
        calm = self._count - self._flooding
        return calm + (min(self._flooding, self._allowance(now_s)) if self._flooding else 0)

    def take(self, now_s: float) -> T | None:
        """The record whose turn it is; None: none may be taken now."""
        if not (self.crowded and self._calm_had_it and self._floods):
            while self._calm:
                flow = self._calm.pop()
                if not flow.flood:
                    self._calm_had_it = True
                    if self._flooding:
                        self._calm_s = now_s
                    return self._first(flow, self._calm)
                self._floods.add(flow)
        self._calm_had_it = False
        if not self._floods or self._allowance(now_s) < 1:
            return None
        self._tokens = max(0.0, self._tokens - 1)
        self._served += 1
        return self._first(self._floods.pop(), self._floods)

    def _first(self, flow: _Flow[T], rota: _Rota[T]) -> T:
        key, record, _ = flow.waiting.popleft()
        self._count -= 1
        self._flooding -= flow.flood
        _, others = self._flow_of[key]
        if others > 1:
            self._flow_of[key] = flow, others - 1
        else:
            del self._flow_of[key]
        if flow.waiting:
            rota.add(flow)
        else:
            self._end(flow)
        return record

    def _end(self, flow: _Flow[T]) -> None:
        tenant, _ = flow.id
        del self._flows[flow.id]
        self._flows_of[tenant] -= 1
        if not self._flows_of[tenant]:
            del self._flows_of[tenant]
        if not self._flooding:
            self._rate_per_s, self._looked_s, self._then, self._served = FLOOD_PER_S, float("-inf"), 0, 0

    def _allowance(self, now_s: float) -> int:
        """How many of floods may be taken now."""
        if self.crowded or now_s - self._calm_s >= CALM_S:
            return self._flooding
        if now_s - self._looked_s >= PATIENCE_S:
            self._look(now_s)
        earned = (now_s - self._refilled_s) * self._rate_per_s
        self._tokens = min(_BURST_S * self._rate_per_s, self._tokens + earned)
        self._refilled_s = now_s
        self._open = self._tokens >= (1 if self._open else _CLUMP_S * self._rate_per_s)
        return int(self._tokens) if self._open else 0

    def _look(self, now_s: float) -> None:
        """Whether floods, which have not shrunk, can be served if they get more."""
        came_per_s = (self._flooding - self._then + self._served) / (now_s - self._looked_s)
        if came_per_s > SERVABLE_PER_S:
            self._rate_per_s = FLOOD_PER_S
        elif 0 < self._then <= self._flooding:
            self._rate_per_s *= 2
        self._looked_s, self._then, self._served = now_s, self._flooding, 0
