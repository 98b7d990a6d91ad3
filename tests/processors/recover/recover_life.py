"""Options and questions that the tests of a recovery's life share."""

from __future__ import annotations

from recover_world import TENANT, World, option

from schemas.records import (
    Checkpoint,
    CheckpointSaved,
    Disposition,
    RecoveryResult,
    Strategy,
)

BACKOFF = option(Strategy.EXPONENTIAL_BACKOFF, 0.9)
LONGER = option(Strategy.INCREASE_TIMEOUT, 0.6)
ASYNC = option(Strategy.ASYNC_EXECUTION, 0.85)
FALLBACK = option(Strategy.FALLBACK_SERVICE, 0.7)
HUMAN = option(Strategy.ASK_HUMAN, 0.5, 0)
LADDER = (BACKOFF, ASYNC, FALLBACK, LONGER, HUMAN)


def saved(checkpoint_id: str, data: str | None = None) -> CheckpointSaved:
    return CheckpointSaved(tenant_id=TENANT, execution_id="run-1", checkpoint=Checkpoint(id=checkpoint_id, data=data))


def kinds(world: World, subject: str = "failure") -> list[str]:
    return [str(d.kind) for d in world.records(Disposition) if d.subject == subject]


def result(world: World) -> RecoveryResult:
    (found,) = world.records(RecoveryResult)
    return found


def commanded(*chosen: object, **fields: object) -> World:
    world = World()
    world.offer(world.fail(**fields), *(chosen or LADDER))  # type: ignore[arg-type]
    return world
