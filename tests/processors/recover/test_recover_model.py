"""The reducer against a plain model of one recovery after the other, with restarts as just another rule."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from recover_world import World, again, option

from processors.recover import ids
from schemas.records import Disposition, RecoveryResult, Strategy

LADDER = (
    (Strategy.EXPONENTIAL_BACKOFF, 0.9),
    (Strategy.ASYNC_EXECUTION, 0.8),
    (Strategy.FALLBACK_SERVICE, 0.7),
    (Strategy.INCREASE_TIMEOUT, 0.6),
)


class RecoveryModel(RuleBasedStateMachine):
    """`phase`: None, "waiting" for options, or "commanded"."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.phase: str | None = None
        self.offset = -1
        self.failures = 0
        self.tried: list[Strategy] = []
        self.offered: list[Strategy] = []
        self.commands: list[tuple[int, Strategy]] = []
        self.results: list[str] = []
        self.dispositions = 0

    def next_rung(self) -> None:
        left = [strategy for strategy in self.offered if strategy not in self.tried]
        if left and len(self.tried) < 3:
            self.tried.append(left[0])
            self.commands.append((len(self.tried), left[0]))
            self.phase = "commanded"
        else:
            self.end("partial" if self.tried else "failed")

    def end(self, status: str) -> None:
        self.results.append(status)
        self.phase = None

    @precondition(lambda self: self.phase != "waiting")
    @rule(named=st.booleans())
    def fail(self, named: bool) -> None:
        self.failures += 1
        resumed_by = again(self.world.commands[-1]) if self.phase == "commanded" else None
        if self.phase is None:
            self.tried = []
        self.offset = self.world.fail(f"f{self.failures}" if named else None, resumed_by=resumed_by)
        self.phase = "waiting"

    @precondition(lambda self: self.phase == "waiting")
    @rule(offered=st.sets(st.sampled_from(LADDER)))
    def offer(self, offered: set[tuple[Strategy, float]]) -> None:
        best_first = sorted(offered, key=lambda rung: -rung[1])
        self.offered = [strategy for strategy, _ in best_first]
        self.world.offer(self.offset, *(option(*rung) for rung in best_first))
        self.next_rung()

    @precondition(lambda self: self.offset >= 0 and self.phase != "waiting")
    @rule()
    def offer_twice(self) -> None:
        self.world.offer(self.offset, option(Strategy.RETRY_ONCE, 1.0))

    @precondition(lambda self: self.phase == "commanded")
    @rule()
    def succeed(self) -> None:
        self.world.answer(self.world.commands[-1])
        self.end("success")

    @precondition(lambda self: self.phase == "commanded")
    @rule(silent=st.booleans())
    def come_to_nothing(self, silent: bool) -> None:
        if silent:
            self.world.until_due()
        else:
            self.world.answer(self.world.commands[-1], "not_applied")
        self.next_rung()

    @precondition(lambda self: self.phase == "waiting")
    @rule()
    def wait_in_vain(self) -> None:
        self.world.until_due()
        self.end("partial" if self.tried else "failed")

    @precondition(lambda self: len(self.commands) > 1)
    @rule(data=st.data())
    def hear_of_an_older_attempt(self, data: st.DataObject) -> None:
        older = self.world.commands[:-1]
        self.world.answer(data.draw(st.sampled_from(older)))

    @rule(attempt=st.integers(1, 9))
    def hear_of_a_phantom(self, attempt: int) -> None:
        if self.world.commands:
            command = self.world.commands[-1]
            ghost = command.model_copy(
                update={"recovery_id": "ghost", "command_id": ids.command_id("ghost", attempt), "attempt": attempt}
            )
            self.world.answer(ghost)

    @precondition(lambda self: self.failures > 0)
    @rule(data=st.data())
    def repeat_a_failure(self, data: st.DataObject) -> None:
        log = [record for _, record in self.world.logs["agent.failures.v1"] if record.failure_id]
        if log:
            self.world.append(data.draw(st.sampled_from(log)))
            self.world.read_all()

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @invariant()
    def agrees(self) -> None:
        assert [(c.attempt, c.strategy) for c in self.world.commands] == self.commands
        assert [r.status for r in self.world.records(RecoveryResult)] == self.results
        state = self.world.state
        is_open = state is not None and state.recovery is not None
        assert is_open == (self.phase is not None)
        said = len(self.world.records(Disposition))
        assert said >= self.dispositions
        self.dispositions = said


TestRecoveryModel = RecoveryModel.TestCase
TestRecoveryModel.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
