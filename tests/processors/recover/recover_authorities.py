"""Who else has a say in a seeded world: people who are asked and who pause, strangers who answer for them, a governor
that spares what is down, and whoever writes the policy."""

from __future__ import annotations

import random
from dataclasses import replace

from recover_operators import KEYS, answer, policies
from recover_world import EXECUTION, TENANT, World

from processors.recover.events import PermitRead, Place
from processors.recover.governed import NEWS_MS
from processors.recover.pauses import Pauses
from processors.recover.policy import Policies
from processors.recover.view import Standing, View
from schemas import codec, signing
from schemas.records import (
    Category,
    Circuit,
    DependencyState,
    Disposition,
    Escalation,
    FailureEvent,
    OperatorAction,
    Pause,
    PauseScope,
    Permit,
    ResumeCommand,
    Strategy,
    epoch_ms,
    from_epoch_ms,
)
from schemas.topics import FAILURES, OPERATOR_ACTIONS, PERMITS

APPROVED = ["model_upgrade", "refresh_credentials"]
ASKING = policies(approve_strategies=APPROVED)
FORBIDDEN = Strategy.FALLBACK_SERVICE
_FORBIDDING = policies(approve_strategies=APPROVED, forbidden_strategies=[FORBIDDEN])
_NOBODY = Policies({"default": {"person_wait_s": 3600, "approve_strategies": APPROVED}})
TOOL = "payments"
_SCOPES = (
    (PauseScope.ALL, ""), (PauseScope.TENANT, TENANT), (PauseScope.TENANT, "zeta"), (PauseScope.TOOL, TOOL),
    *[(PauseScope.TOOL, "crm-2")] * 3, (PauseScope.STRATEGY, "exponential_backoff"),
)  # fmt: skip
_DEPENDENCY = f"{TENANT}/tool:{TOOL}"


class Authorities:
    """Their rules, for a world whose policy asks people."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._pauses = Pauses(lambda: ASKING, lambda _: None)
        self._said: list[Pause] = []
        self._permits: list[Permit] = []
        self._obeyed = 0
        self.held_up = 0
        """How often somebody paused something."""

    def pause_or_resume(self) -> None:
        """A word on a scope, by who may or not; some come late, some once more."""
        rng = self._rng
        scope, target = rng.choice(_SCOPES)
        by = rng.choice(("ann", "ann", "ann", "ann", "bob", "eve"))
        paused = rng.random() < 0.5
        issued_at = from_epoch_ms(self._world.now - rng.choice((0, 0, 0, 5_000)))
        word = Pause(scope=scope, target=target, paused=paused, operator=by, issued_at=issued_at, signature=b"")
        self._said.append(signing.sign(word, KEYS[by]))
        self.held_up += paused
        for record in (self._said[-1], *rng.sample(self._said, rng.choice((0, 0, 1)))):
            self._pauses.take(b"", codec.to_avro(record), self._world.now)
        self._world.view = replace(self._world.view, pauses=self._pauses.known)

    def change_policy(self) -> None:
        """A strategy is forbidden, or nobody may decide any more, whatever is being asked."""
        self._world.policies = self._rng.choice((ASKING, ASKING, _FORBIDDING, _NOBODY))

    def go_home(self) -> None:
        """Nothing is in anybody's way."""
        self._world.view = View()
        self._world.policies = ASKING

    def check_obeyed(self) -> None:
        """Of the commands since the last look: nothing that is paused or forbidden, by nobody who may not."""
        world = self._world
        commands, self._obeyed = world.said[self._obeyed :], len(world.said)
        for command in (emit.record for emit in commands if isinstance(emit.record, ResumeCommand)):
            by = command.decision.operator
            assert not by or by in world.policies.operators, "decided by who may no longer"
            assert world.policies is not _FORBIDDING or command.strategy is not FORBIDDEN, "forbidden"
            assert self._is_permitted(command), "what is down was not spared"
            tools = {r.tool_response.tool for r in self._answered(command) if r.tool_response}
            if command.strategy is Strategy.FALLBACK_SERVICE:
                tools.add("crm-2")
            for word in self._holding():
                covered = {"all": True, "tenant": word.target == TENANT, "tool": word.target in tools}
                assert not covered.get(word.scope, word.target == command.strategy), f"{word.key} is paused"

    def _is_permitted(self, command: ResumeCommand) -> bool:
        """That the run may call what is down. A person may have it do so; another service is another one."""
        down = self._world.view.dependencies.get(_DEPENDENCY)
        calls = [record.tool_response for record in self._answered(command)[:1]]
        leans = calls and calls[0] and calls[0].tool == TOOL and command.category == Category.TOOL_FAILURE
        if not leans or command.decision.operator or command.strategy is Strategy.FALLBACK_SERVICE or down is None:
            return True
        mine = [p for p in self._permits if (p.recovery_id, p.attempt) == (command.recovery_id, command.attempt)]
        silent = epoch_ms(command.issued_at) - down.at_ms > NEWS_MS
        return silent or any(permit.expires_at > command.issued_at for permit in mine)

    def _answered(self, command: ResumeCommand) -> list[FailureEvent]:
        log = enumerate(record for _, record in self._world.logs[FAILURES.name])
        return [record for n, record in log if record.identity(0, n) == command.failure_id]

    def _holding(self) -> list[Pause]:
        """By a plain look at all that ann said: bob and eve may pause none of it but bob his own tenant."""
        if not self._world.view.pauses:
            return []
        newest = {}
        for word in sorted(self._said, key=lambda word: (word.issued_at, word.signature)):
            if word.operator == "ann" or (word.operator == "bob" and word.target == "zeta"):
                newest[word.key] = word
        return [word for word in newest.values() if word.paused]

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
            self._world.view = replace(self._world.view, dependencies={})
            return
        state = DependencyState(
            tenant_id=TENANT, dependency=_DEPENDENCY, circuit=circuit, said_at=from_epoch_ms(self._world.now)
        )
        standing = {_DEPENDENCY: Standing(state, self._world.now)}
        self._world.view = replace(self._world.view, dependencies=standing)

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
        self._permits.append(permit)
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
