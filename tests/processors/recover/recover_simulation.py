"""A seeded world: duplicates, reorderings, lost replies, expiries, aborted steps and restarts; and what must hold.

`python -m ops.chaos.simulate --seeds 1000000` runs more of them; a seed that fails is named.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable

from recover_authorities import ASKING, TOOL, Authorities, check_people
from recover_world import EXECUTION, POLICIES, TENANT, World, again, failure, option, options, outcome

from processors.recover import ids
from processors.recover.events import Due
from processors.recover.policy import Policy
from processors.recover.state import MAX_CLOSED, MAX_EARLY, MEMORY_MS
from schemas.records import (
    Category,
    Checkpoint,
    CheckpointSaved,
    Disposition,
    Escalation,
    FailureEvent,
    RecoveryResult,
    ResumeCommand,
    ResumedBy,
    SettledAttempt,
    Strategy,
    ToolResponse,
    epoch_ms,
)
from schemas.topics import FAILURES

_STRATEGIES = (
    Strategy.EXPONENTIAL_BACKOFF, Strategy.FALLBACK_SERVICE, Strategy.CONSTRAINT_INJECTION, Strategy.MODEL_UPGRADE,
    Strategy.REFRESH_CREDENTIALS, Strategy.ASYNC_EXECUTION, Strategy.ASK_HUMAN,
)  # fmt: skip
_CATEGORIES = (
    *[Category.TOOL_FAILURE] * 6, *[Category.HALLUCINATION] * 6, Category.LOGICAL_ERROR, Category.PERFORMANCE,
    Category.UNCLASSIFIED, Category.NONE,
)  # fmt: skip
_LONGEST_MS = round((POLICIES.of(TENANT, None, None).start_within_s + Policy().max_outcome_wait_s) * 1000)
_BEAT_MS = round(Policy().attempt_s * 1000) - 1000
_BEATS = 2 + _LONGEST_MS // _BEAT_MS
_NO_PERSON = {"recovered", "not_a_failure", "abandoned"}


class Simulation:
    """One seed. `events` counts what happened, so that a run in which nothing happened is seen to be void."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._governed = self.rng.random() < 0.4
        """People are asked, and what failures name may be down."""
        self.world = World(policies=ASKING) if self._governed else World()
        self._authorities = Authorities(self.world, self.rng)
        self.events: Counter[str] = Counter()
        self._patient = self.rng.random() < 0.2
        self._failures = 0
        self._classified = 0
        self._answered: set[str] = set()

    def rules(self) -> tuple[Callable[[], None], ...]:
        """What may happen next; what stands here more than once is likelier."""
        others = self._authorities
        governed = (
            others.operate, others.operate, others.fail_or_heal, others.permit, others.permit,
            others.pause_or_resume, others.pause_or_resume, others.change_policy,
        )  # fmt: skip
        return (
            *(governed if self._governed else ()),
            self.fail, self.fail, self.repeat_failure, self.classify, self.classify, self.save, self.react, self.react,
            self.react, self.beat, self.forge, self.read, self.read, self.read, self.read, self.read_all,
            self.pass_time, self.restart, self.abort,
        )  # fmt: skip

    def run(self) -> Counter[str]:
        rules = self.rules()
        for _ in range(self.rng.randint(10, 35)):
            self.rng.choice(rules)()
            self.check_deadline()
            if self._governed:
                self._authorities.check_obeyed()
        self.settle()
        check(self.world, asking=self._governed)
        self.events["paused"] += self._authorities.held_up
        self.events.update(str(d.kind) for d in self.world.records(Disposition))
        self.events.update(str(r.status) for r in self.world.records(RecoveryResult))
        return self.events

    # --- the runtime

    def fail(self, resumed_by: ResumedBy | None = None) -> None:
        rng = self.rng
        self._failures += 1
        self.world.append(
            failure(
                f"f{self._failures}" if rng.random() < 0.8 else None,
                checkpoint=rng.choice((None, "c1", "c1", "c1", "c2")),
                resumed_by=resumed_by,
                tool_response=ToolResponse(call_fingerprint=rng.choice("ab"), tool=rng.choice((None, TOOL)))
                if rng.random() < 0.5
                else None,
                side_effects_since_checkpoint="unsafe" if rng.random() < 0.02 else "none",
            )
        )

    def repeat_failure(self) -> None:
        # A repeat after the memory of duplicates is another failure.
        recent = [r for at_ms, r in self.world.logs[FAILURES.name] if at_ms > self.world.now - MEMORY_MS]
        log = [record for record in recent if record.failure_id]
        if log:
            self.world.append(self.rng.choice(log))

    def save(self) -> None:
        self.world.append(
            CheckpointSaved(tenant_id=TENANT, execution_id=EXECUTION, checkpoint=Checkpoint(id=self.rng.choice("cd")))
        )

    def react(self) -> None:
        commands = self.world.commands
        if not commands:
            return
        command = self.rng.choice(commands[-1:] * 3 + commands[-2:])
        reply = self.rng.choice(
            (
                "succeeded",
                "succeeded",
                "succeeded",
                "again",
                "again",
                "again",
                "not_applied",
                "abandoned",
                "postponed",
                "running",
            )
        )
        if reply == "again":
            self.fail(again(command))
        else:
            for _ in range(self.rng.choice((1, 1, 2))):
                self.world.append(outcome(command, reply))

    def beat(self) -> None:
        """A runtime that says for hours that it is still at work."""
        if not self._patient or self.rng.random() < 0.8:
            return
        for _ in range(_BEATS):
            recovery = self.world.state.recovery if self.world.state else None
            if recovery is None or recovery.command is None:
                break
            self.world.append(outcome(self.world.commands[-1], "running"))
            self.world.tick(_BEAT_MS)
            self.check_deadline()

    def forge(self) -> None:
        commands = self.world.commands
        recovery, attempt = self.rng.choice(("r", *(c.recovery_id for c in commands))), self.rng.randint(1, 5)
        if commands and self.rng.random() < 0.3:
            self.world.append(outcome(commands[-1].model_copy(update={"command_id": "forged"})))
        elif self.rng.random() < 0.5:
            self.fail(ResumedBy(recovery_id=recovery, attempt=attempt))
        elif not any(c.recovery_id == recovery and c.attempt == attempt for c in commands):
            command_id = ids.command_id(recovery, attempt)
            forged = ResumeCommand.model_construct(command_id=command_id, recovery_id=recovery, attempt=attempt)
            self.world.append(outcome(forged))

    # --- streams

    def classify(self) -> None:
        rng, log = self.rng, self.world.logs[FAILURES.name]
        if self._classified < len(log):
            offset = self._classified
            self._classified += 1
        elif log:
            offset = rng.randrange(len(log))
        else:
            return
        record: FailureEvent = log[offset][1]
        chosen = [
            option(
                strategy, round(0.5 + rng.random() / 2, 2), rng.choice((0, 1000, 200_000)), self._parameters(strategy)
            )
            for strategy in rng.sample(_STRATEGIES, rng.choice((0, 2, 3, 4, 5, 6, 7)))
        ]
        self.world.append(
            options(record.identity(0, offset), offset, *chosen, category=rng.choice(_CATEGORIES), subtype="timeout")
        )

    def _parameters(self, strategy: Strategy) -> str:
        """In some worlds polls that would take a month; else what is usual."""
        endless = strategy is Strategy.ASYNC_EXECUTION and self._patient
        return '{"poll_interval_s":3600,"max_polls":1000}' if endless else ""

    # --- recover

    def check_deadline(self) -> None:
        """Neither modifications nor heartbeats keep an attempt open beyond the policy's bound."""
        recovery = self.world.state.recovery if self.world.state else None
        if recovery and (command := recovery.command):
            assert command.outcome_deadline_ms <= command.issued_ms + _LONGEST_MS, "a deadline beyond all bounds"

    def read(self) -> None:
        if waiting := self.world.unread():
            self.world.read(self.rng.choice(waiting))

    def read_all(self) -> None:
        self.world.read_all(self.rng)

    def restart(self) -> None:
        self.world.restart()
        self.events["restarts"] += 1

    def abort(self) -> None:
        """A transaction that is thrown away, and read again."""
        world = self.world
        state, said, at = world.state, len(world.said), dict(world.at)
        self.read()
        world.state, world.at = state, at
        del world.said[said:]
        self.events["aborts"] += 1

    def pass_time(self) -> None:
        """Deadlines fire behind everything that was said before them."""
        self.read_all()
        self.world.tick(self.rng.choice((1, 500, 1500, 2500, 30_000, 200_000, 3_600_000, MEMORY_MS // 2)))

    def settle(self) -> None:
        """No new failures: streams catches up, every deadline passes; a day later nothing may be left."""
        world = self.world
        if self._governed:
            self._authorities.go_home()
        for _ in range(100):
            while self._classified < len(world.logs[FAILURES.name]):
                self.classify()
            self.read_all()
            if world.state is None or world.state.recovery is None:
                break
            if world.state.recovery.command and self.rng.random() < 0.7:
                self.react()
            else:
                world.until_due()
        assert world.state is None or world.state.recovery is None, "a recovery never ends"
        read = len(world.said)
        for _ in range(60):
            if world.state is None:
                break
            world.until_due()
        assert world.state is None, f"left after a day: {world.state}"
        assert len(world.said) == read, "said something while forgetting"
        world.step(Due())


def check(world: World, *, asking: bool = False) -> None:
    """What must hold of all that was said, whatever the order. Knows only records. `asking`: people may be asked."""
    commands, results = world.commands, world.records(RecoveryResult)
    _check_commands(commands)
    ended = {r.recovery_id: r for r in results}
    assert len(ended) == len(results), "a recovery ended twice"
    assert {c.recovery_id for c in commands} <= set(ended), "a recovery without an end"
    issued = Counter(c.recovery_id for c in commands)
    for recovery_id, result in ended.items():
        assert result.attempts == issued[recovery_id]
        expected = "success" if result.reason == "recovered" else "partial" if result.attempts else "failed"
        assert result.status == expected
    escalated = Counter(e.recovery_id for e in world.records(Escalation))
    needed = Counter(r.recovery_id for r in results if r.reason not in _NO_PERSON)
    # Who is asked is told once a question, and need not be told again at the end.
    assert escalated.keys() >= needed.keys() if asking else escalated == needed
    settled = world.records(SettledAttempt)
    assert Counter(s.command_id for s in settled) == Counter(c.command_id for c in commands), "settled once each"
    succeeded = {s.recovery_id for s in settled if s.status == "succeeded"}
    assert succeeded == {r.recovery_id for r in results if r.status == "success"}
    _check_answers(world, {s.command_id: s for s in settled})
    _check_choices(world)
    _check_dispositions(world)
    _check_phantoms(world)
    check_people(world)


def _check_commands(commands: list[ResumeCommand]) -> None:
    assert len({(c.recovery_id, c.attempt) for c in commands}) == len(commands), "two commands for one attempt"
    assert len({c.command_id for c in commands}) == len(commands)
    fences = [(c.fence.offset, c.fence.attempt) for c in commands]
    assert fences == sorted(set(fences)), "a fence that does not rise"
    for recovery_id in {c.recovery_id for c in commands}:
        mine = [c for c in commands if c.recovery_id == recovery_id]
        assert [c.attempt for c in mine] == list(range(1, len(mine) + 1)), "attempts with a gap"
        assert len([c for c in mine if not c.decision.operator]) <= 3
    for command in commands:
        chosen = command.decision.candidates[command.decision.chosen]
        assert chosen.eligible or command.decision.operator
        assert chosen.strategy == command.strategy
        if command.strategy is Strategy.ASK_HUMAN:
            assert command.decision.operator, "nobody decided to run again unchanged"
        else:
            assert command.modifications
        assert command.issued_at <= command.not_before < command.expires_at < command.outcome_deadline


def _check_answers(world: World, settled: dict[str, SettledAttempt]) -> None:
    said = {(o.command_id, o.status) for _, o in world.logs["agent.outcomes.v1"]}
    for command_id, attempt in settled.items():
        if attempt.status in ("succeeded", "not_applied"):
            statuses = {status for id_, status in said if id_ == command_id}
            assert statuses & ({"succeeded"} if attempt.status == "succeeded" else {"not_applied", "abandoned"})
        if attempt.status == "failed":
            claims = [record.resumed_by for _, record in world.logs[FAILURES.name]]
            assert any(
                claim is None or claim.recovery_id != attempt.recovery_id or claim.attempt >= attempt.attempt
                for claim in claims[1:]
            ), "failed by nobody's word"


def _check_choices(world: World) -> None:
    """Each command was chosen from what was said of its failure, and does nothing for a second time."""
    log = [record for _, record in world.logs[FAILURES.name]]
    offsets = {(record.identity(0, n)): n for n, record in reversed(list(enumerate(log)))}
    offered: dict[int, list[tuple[Strategy, ...]]] = {}
    for _, said in world.logs["options"]:
        offered.setdefault(said.origin.offset, []).append(tuple(o.strategy for o in said.options))
    done: set[tuple[str, Strategy, str | None]] = set()
    for command in world.commands:
        offset = offsets[command.failure_id]
        # Of many that overtake their failures some are not kept; then what is said again counts.
        first = offered[offset] if len(world.overtook) > MAX_EARLY else offered[offset][:1]
        assert tuple(c.strategy for c in command.decision.candidates) in first, "not the first options"
        call = log[offset].tool_response
        deed = (command.recovery_id, command.strategy, call.call_fingerprint if call else None)
        assert deed not in done or command.decision.operator, "the same again on the same call"
        done.add(deed)


def _check_dispositions(world: World) -> None:
    last: dict[tuple[str, int], list[str]] = {}
    for d in world.records(Disposition):
        last.setdefault((d.origin_topic, d.origin_offset), []).append(str(d.kind))
    for topic in (FAILURES.name, "agent.outcomes.v1"):
        for offset in range(len(world.logs[topic])):
            assert any(kind != "opened" for kind in last.get((topic, offset), ())), f"{topic} {offset} is lost"
    issued = {c.command_id for c in world.commands}
    for offset, (_, said) in enumerate(world.logs["agent.outcomes.v1"]):
        assert said.command_id in issued or "phantom" in last["agent.outcomes.v1", offset], f"outcome {offset}"


def _check_phantoms(world: World) -> None:
    """No command is forgotten before its time."""
    if len(world.records(RecoveryResult)) > MAX_CLOSED:
        return
    issued: dict[str, int] = {}
    for record in (emit.record for emit in world.said):
        if isinstance(record, ResumeCommand):
            issued[record.command_id] = epoch_ms(record.issued_at)
        elif isinstance(record, Disposition) and record.kind == "phantom" and record.subject_id in issued:
            forgotten = epoch_ms(record.decided_at) >= issued[record.subject_id] + MEMORY_MS
            assert forgotten or record.reason == "no command of this log has that id", "a command was forgotten"


def simulate(seeds: Iterable[int]) -> Counter[str]:
    """Run the seeds; what happened in all. Raises AssertionError that names the seed."""
    events: Counter[str] = Counter()
    for seed in seeds:
        try:
            events += Simulation(seed).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    return events
