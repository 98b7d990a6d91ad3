"""Who else has a say in a seeded world: people who are asked, strangers who answer for them, a governor that spares
what is down."""

from __future__ import annotations

import random

from recover_operators import answer, policies
from recover_world import EXECUTION, TENANT, World

from processors.recover.events import PermitRead, Place
from processors.recover.view import NOTHING, Standing, View
from schemas.records import (
    Circuit,
    DependencyState,
    Disposition,
    Escalation,
    OperatorAction,
    Permit,
    ResumeCommand,
    from_epoch_ms,
)
from schemas.topics import OPERATOR_ACTIONS, PERMITS

ASKING = policies(approve_strategies=["model_upgrade", "refresh_credentials"])
TOOL = "payments"
_DEPENDENCY = f"{TENANT}/tool:{TOOL}"


class Authorities:
    """Their rules, for a world whose policy asks people."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng

    def operate(self) -> None:
        """An answer to the newest question: once or twice, by whom it may concern or not, of any attempt."""
        asked = self._world.records(Escalation)
        if not asked or not asked[-1].attempt:
            return
        rng = self._rng
        kind = rng.choice(("approve", "approve", "choose", "reject"))
        proposal = rng.randrange(3) if kind == "choose" else 0
        changes = {"attempt": rng.randint(1, 4)} if rng.random() < 0.1 else {}
        action = answer(self._world, kind, proposal, by=rng.choice(("ann", "ann", "ann", "bob", "eve")), **changes)
        for _ in range(rng.choice((1, 1, 2))):
            self._world.append(action)

    def fail_or_heal(self) -> None:
        """News of the tool that failures name."""
        circuit = self._rng.choice((None, Circuit.OPEN, Circuit.HALF_OPEN))
        if circuit is None:
            self._world.view = NOTHING
            return
        state = DependencyState(
            tenant_id=TENANT, dependency=_DEPENDENCY, circuit=circuit, said_at=from_epoch_ms(self._world.now)
        )
        self._world.view = View(dependencies={_DEPENDENCY: Standing(state, self._world.now)})

    def permit(self) -> None:
        """A permit for an attempt that waits for it, or for another; fresh, or too late."""
        recovery = self._world.state.recovery if self._world.state else None
        rng = self._rng
        late = rng.random() < 0.2
        permit = Permit(
            tenant_id=TENANT,
            execution_id=EXECUTION,
            recovery_id=recovery.recovery_id if recovery and rng.random() < 0.9 else "another",
            attempt=(recovery.attempt if recovery else 0) + rng.choice((1, 1, 1, 2)),
            dependency=_DEPENDENCY,
            issued_at=from_epoch_ms(self._world.now - 60_000 * late),
            expires_at=from_epoch_ms(self._world.now + 15_000 - 60_000 * late),
        )
        place = Place(topic=PERMITS.name, partition=0, offset=0, at_ms=self._world.now)
        for _ in range(rng.choice((1, 1, 2))):
            self._world.step(PermitRead(permit, place))


def check_people(world: World) -> None:
    """Each answer counts or is refused, and only theirs counts who may give it."""
    told: dict[int, list[Disposition]] = {}
    for said in world.records(Disposition):
        if said.origin_topic == OPERATOR_ACTIONS.name:
            told.setdefault(said.origin_offset, []).append(said)
    decided: set[tuple[str, int]] = set()
    for offset, (_, action) in enumerate(world.logs[OPERATOR_ACTIONS.name]):
        assert isinstance(action, OperatorAction)
        (said,) = told[offset]
        if action.operator != "ann":
            assert said.kind == "refused", f"{action.operator} may not decide"
        if said.kind in ("commanded", "ended"):
            assert (action.recovery_id, action.attempt) not in decided, "one question, two answers"
            decided.add((action.recovery_id, action.attempt))
    for command in world.records(ResumeCommand):
        if command.decision.operator:
            assert (command.recovery_id, command.attempt) in decided, "a command that nobody decided on"
