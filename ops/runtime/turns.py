"""Whose turn it is: the records that were read and wait, so that a flood of one tenant or service holds up no other.

Pure: times are arguments, of a monotonic clock, in seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

T = TypeVar("T")
FlowId = tuple[bytes, bytes]
"""A tenant, and what its record is about: the service that failed, for example."""

FLOOD: Final = 256
"""More records than this make their flow a flood, until none of it waits."""
FLOOD_PER_S: Final = 50.0
"""What floods get of a partition while others come as well. They could have all the time that is left, but so few
cores are never idle then, and who comes waits for one."""
CALM_S: Final = 5.0
"""After so long without others floods get all."""
_BURST: Final = 10.0


@dataclass(slots=True, eq=False)
class _Flow(Generic[T]):
    id: FlowId
    waiting: deque[tuple[bytes, T]] = field(default_factory=deque)
    """Keys and records."""
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
        self._count = self._flooding = 0
        self._calm_s = float("-inf")
        """When a record that was no flood's was taken last."""
        self._tokens, self._refilled_s = _BURST, 0.0

    def __len__(self) -> int:
        return self._count

    def waits(self, key: bytes) -> bool:
        """Whether a record of `key` is here."""
        return key in self._flow_of

    @property
    def flooding(self) -> int:
        """How many records of floods wait."""
        return self._flooding

    def put(self, key: bytes, flow_id: FlowId, record: T) -> None:
        """Let `record` wait in `flow_id`, or where earlier ones of its key do."""
        found = self._flow_of.get(key)
        flow, others = found or (self._flows.get(flow_id), 0)
        if flow is None:
            flow = self._flows[flow_id] = _Flow(flow_id)
            self._calm.add(flow)
        self._flow_of[key] = flow, others + 1
        flow.waiting.append((key, record))
        self._count += 1
        if flow.flood:
            self._flooding += 1
        elif len(flow.waiting) > FLOOD:
            flow.flood = True
            self._flooding += len(flow.waiting)

    def ready(self, now_s: float) -> int:
        """How many may be taken now."""
        calm = self._count - self._flooding
        return calm + (min(self._flooding, self._allowance(now_s)) if self._flooding else 0)

    def take(self, now_s: float) -> T | None:
        """The record whose turn it is; None: none may be taken now."""
        while self._calm:
            flow = self._calm.pop()
            if not flow.flood:
                self._calm_s = now_s
                return self._first(flow, self._calm)
            self._floods.add(flow)
        if not self._floods or self._allowance(now_s) < 1:
            return None
        self._tokens = max(0.0, self._tokens - 1)
        return self._first(self._floods.pop(), self._floods)

    def _first(self, flow: _Flow[T], rota: _Rota[T]) -> T:
        key, record = flow.waiting.popleft()
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
            del self._flows[flow.id]
        return record

    def _allowance(self, now_s: float) -> int:
        """How many of floods may be taken now."""
        if self.crowded or now_s - self._calm_s >= CALM_S:
            return self._flooding
        self._tokens = min(_BURST, self._tokens + (now_s - self._refilled_s) * FLOOD_PER_S)
        self._refilled_s = now_s
        return int(self._tokens)
