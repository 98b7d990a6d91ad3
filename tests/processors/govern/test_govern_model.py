"""The governor's core against whatever recover may do: never two probes, never over budget, nobody forgotten."""

from __future__ import annotations

from govern_world import SMALL, START_MS, World, wanted
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas.records import Circuit, IncidentStatus, Permit, PermitUse, epoch_ms

TOOLS = ("acme/tool:crm", "acme/tool:erp")
WINDOW_MS = SMALL["retry_budget_window_s"] * 1000


class GovernorModel(RuleBasedStateMachine):
    """`ended`: when each attempt of a permit got its word, so that a probe without one is known."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.runs = 0
        self.waiting: dict[str, str] = {}
        """Recovery id to dependency: who asked and has no permit since."""
        self.out: list[Permit] = []
        """Permits of which no word has come yet."""
        self.used: set[tuple[str, int]] = set()
        self.spent: dict[str, list[int]] = {name: [] for name in TOOLS}
        """When each command that counts was allowed."""
        self.successes: dict[str, list[int]] = {name: [] for name in TOOLS}

    def take(self, effects: list[object]) -> None:
        for effect in effects:
            if isinstance(effect, Permit):
                assert self.waiting.pop(effect.recovery_id, None) == effect.dependency, "a permit that nobody asked for"
                self.out.append(effect)
                self.spent[effect.dependency].append(epoch_ms(effect.issued_at))

    @rule(tool=st.sampled_from(TOOLS), failures=st.integers(0, 6), failed=st.integers(0, 3), told=st.booleans())
    def fail(self, tool: str, failures: int, failed: int, told: bool) -> None:
        self.take(self.world.hear(tool, failures=failures, failed=failed, told=failures if told else 0))

    @rule(tool=st.sampled_from(TOOLS), count=st.integers(1, 8))
    def ask(self, tool: str, count: int) -> None:
        asked = tuple(wanted(self.runs + n, self.world.now) for n in range(count))
        self.runs += count
        self.waiting |= {each.recovery_id: tool for each in asked}
        self.take(self.world.hear(tool, wanted=asked))

    @precondition(lambda self: self.out)
    @rule(pick=st.integers(0, 100), use=st.sampled_from(PermitUse))
    def word(self, pick: int, use: PermitUse) -> None:
        permit = self.out[pick % len(self.out)]
        key = (permit.recovery_id, permit.attempt)
        if use is PermitUse.USED:
            if key in self.used:
                return
            self.used.add(key)
        else:
            if use is PermitUse.RETURNED and key in self.used:
                return
            self.out.remove(permit)
        if use is PermitUse.SUCCEEDED:
            self.successes[permit.dependency].append(self.world.now)
        self.take(self.world.word(permit, use, succeeded=int(use is PermitUse.SUCCEEDED)))

    @rule(ms=st.sampled_from((1, 100, 700, 3_000, 11_000)))
    def pass_time(self, ms: int) -> None:
        self.take(self.world.pass_time(ms))

    @rule()
    def restart(self) -> None:
        """Who waited asks again, by and by."""
        self.world.restart()
        again = {tool: [r for r, t in self.waiting.items() if t == tool] for tool in TOOLS}
        known = {wanted(n, START_MS).recovery_id: n for n in range(self.runs)}
        for tool, those in again.items():
            if those:
                self.take(self.world.hear(tool, wanted=tuple(wanted(known[r], START_MS) for r in those)))

    @invariant()
    def one_probe_at_a_time(self) -> None:
        for dependency in self.world.tenant.dependencies.values():
            if dependency.circuit is Circuit.OPEN:
                assert dependency.probe is None
        for tool in TOOLS:
            probes = [p for p in self.world.permits if p.dependency == tool and p.probe]
            live = [
                p
                for p in probes
                if p in self.out
                and (p.recovery_id, p.attempt) not in self.used
                and epoch_ms(p.expires_at) > self.world.now
            ]
            assert len(live) <= 1

    @invariant()
    def within_budget(self) -> None:
        """In every window: the floor, and share for each success in it. Seconds that have begun count whole."""
        for tool in TOOLS:
            for end in self.spent[tool]:
                start = end - WINDOW_MS
                commands = sum(start < at <= end for at in self.spent[tool])
                paid = sum(start - 1000 <= at <= end for at in self.successes[tool])
                assert commands <= SMALL["retry_budget_floor"] + SMALL["retry_budget_share"] * paid

    @invariant()
    def an_open_circuit_has_its_incident(self) -> None:
        for dependency in self.world.tenant.dependencies.values():
            if dependency.circuit in (Circuit.OPEN, Circuit.HALF_OPEN):
                assert dependency.outage is not None
            if dependency.circuit is Circuit.CLOSED:
                assert dependency.outage is None

    def teardown(self) -> None:
        """Once it works again everybody is answered, and every incident has ended once."""
        for _ in range(200):
            for permit in [*self.out]:
                self.out.remove(permit)
                self.take(self.world.word(permit, PermitUse.SUCCEEDED, succeeded=1))
            self.take(self.world.pass_time(2_000))
            if not self.waiting and not self.out:
                break
        assert self.waiting == {}
        self.world.pass_time(1_500_000)
        assert self.world.tenant.dependencies == {}
        statuses: dict[str, list[IncidentStatus]] = {}
        for incident in self.world.incidents:
            statuses.setdefault(incident.incident_id, []).append(incident.status)
        for each in statuses.values():
            assert each.count(IncidentStatus.OPENED) == each.count(IncidentStatus.CLOSED) == 1
            assert (each[0], each[-1]) == (IncidentStatus.OPENED, IncidentStatus.CLOSED)


GovernorModel.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestGovernorModel = GovernorModel.TestCase
