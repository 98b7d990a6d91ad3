"""What recover knows of the world beyond one execution, as of one transaction: a value, given to pure parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from schemas import codec
from schemas.records import Circuit, DependencyState, Pause, epoch_ms
from schemas.topics import DEPENDENCIES


@dataclass(frozen=True, slots=True)
class Standing:
    """What the governor last said of a dependency."""

    state: DependencyState
    at_ms: int
    """When, in epoch ms, and never in the future."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much of one partition's own allowance on a dependency is used: a token bucket, as times in epoch ms."""

    sent_ms: float = 0.0
    """When the bucket will be full again."""
    queued_ms: float = 0.0
    """When the turn of the next that is held comes, were there no governor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Empty: nothing is known to stand in anybody's way."""

    dependencies: Mapping[str, Standing] = field(default_factory=dict)
    allowances: dict[str, Allowance] = field(default_factory=dict)
    """Of this partition; between two steps it changes by what the first of them used."""
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    """The newest word on each scope, by its key."""
    held: int = 0
    """Recoveries of this partition that are held."""


NOTHING: Final = View()


_WELL: Final = frozenset({Circuit.CLOSED, Circuit.UNKNOWN})


class Standings:
    """The newest word on each dependency that is not well: a fold of the governor's broadcast."""

    def __init__(self, now: Callable[[], int]) -> None:
        """`now`: our own clock, in epoch ms."""
        self.known: dict[str, Standing] = {}
        self._now = now

    def take(self, key: bytes, value: bytes | None, at_ms: int) -> None:
        """One record of it; `value` None: all is well with what `key` names. Never raises."""
        decoded = codec.decode(DEPENDENCIES.name, value) if value else None
        record = decoded.record if isinstance(decoded, codec.Decoded) else None
        if isinstance(record, DependencyState) and record.circuit not in _WELL:
            spared = record.model_copy(update={"memory": ""})
            # Its broker's clock may be wrong, or ours behind the governor's; old by both it is old.
            said_ms = min(max(at_ms, epoch_ms(record.said_at)), self._now())
            self.known[record.dependency] = Standing(spared, said_ms)
        else:
            # Not even what cannot be read may go on saying what was true once.
            self.known.pop(key.decode(errors="replace"), None)
