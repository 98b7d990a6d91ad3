"""What a run has shown: a table for people, one line of JSON for whoever compares runs."""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ops.chaos.checker import AUDIT, COUNTS, DECISIONS, INPUT, LOST, TENANTS, TWICE, Verdict

INVARIANTS: Final = (LOST, TWICE, AUDIT, COUNTS, INPUT, TENANTS, DECISIONS)
SETTLES: Final = "0 settles after healing"
SOMETIMES: Final = (
    "killed inside a transaction", "zombie after its offsets were sent", "producer fenced", "fence refused",
    "failure duplicate", "failure forwarded", "failure joined", "failure stale", "outcome duplicate", "outcome stale",
    "options stale", "options overtook their failure", "attempt expired", "audit row repeated", "garbage",
    "forgery refused", "what the broker refused buried",
)  # fmt: skip
"""What must have happened in a long run, beside every fault: else it proved nothing."""


@dataclass(frozen=True, slots=True)
class Struck:
    """One fault. `recovered_s`: from its end until the backlog was gone; None: others struck meanwhile."""

    kind: str
    where: str
    recovered_s: float | None = None


@dataclass
class Run:
    """Everything that a run found out."""

    seed: int
    nodes: int
    struck: list[Struck] = field(default_factory=list)
    storms_s: list[float] = field(default_factory=list)
    """The same of several faults at once."""
    missed: Counter[str] = field(default_factory=Counter)
    unsettled: str | None = None
    said: Counter[str] = field(default_factory=Counter)
    verdict: Verdict = field(default_factory=Verdict)
    wall_s: float = 0.0
    """Of the run itself, without what was planted."""
    cpu_s: float = 0.0
    """Of all its processes, brokers too."""
    planted: Mapping[str, str | None] = field(default_factory=dict)
    """Planted bug to what caught it."""

    @property
    def happened(self) -> Counter[str]:
        """All that should sometimes happen, by name."""
        inside = sum(self.said[f"failpoint recover.{place}: exit"] for place in ("produced", "offsets_sent"))
        more = {
            "killed inside a transaction": inside,
            "zombie after its offsets were sent": sum(s.kind == "zombie_in_transaction" for s in self.struck),
        }
        return self.verdict.happened + self.said + Counter(more)

    def void(self, kinds: set[str]) -> list[str]:
        """Which of `kinds` of faults did not strike, and what else did not happen."""
        happened = self.happened
        return sorted(kinds - {s.kind for s in self.struck}) + [name for name in SOMETIMES if not happened[name]]


def say(text: str) -> None:
    """To people, at once."""
    print(text, file=sys.stderr, flush=True)


def report(run: Run, required: set[str]) -> int:
    """Print the run; the exit code. `required`: kinds of faults without which it is void; empty: it may lack any."""
    verdict = run.verdict
    if run.unsettled:
        verdict.accuse(SETTLES, run.unsettled)
    for invariant in INVARIANTS:
        if not verdict.looked_at[invariant]:
            verdict.accuse(invariant, "there was nothing to look at")
    void = run.void(required) if required else []
    _table(run, void)
    print(json.dumps(_line(run, void)))
    escaped = [name for name, by in run.planted.items() if by is None]
    return 1 if verdict.broken or void or escaped else 0


def _line(run: Run, void: list[str]) -> dict[str, Any]:
    verdict = run.verdict
    times = _times(run)
    waits = [s for seconds in times.values() for s in seconds] + run.storms_s
    return {
        "faults": len(run.struck),
        "failures": verdict.failures,
        "lost": verdict.lost,
        "commands_twice": verdict.commands_twice,
        "audit_missing": verdict.audit_missing,
        "audit_twice": verdict.audit_twice,
        "recovery_p50_s": _round(statistics.median(waits)) if waits else None,
        "recovery_max_s": _round(max(waits)) if waits else None,
        "planted": len(run.planted),
        "planted_caught": sum(by is not None for by in run.planted.values()),
        "seed": run.seed,
        "nodes": run.nodes,
        "wall_s": _round(run.wall_s),
        "cpu_s": _round(run.cpu_s),
        "commands": verdict.commands,
        "duplicates_dropped": verdict.duplicates_dropped,
        "success_p50_s": _round(statistics.median(verdict.success_s)) if verdict.success_s else None,
        "success_max_s": _round(verdict.success_s[-1]) if verdict.success_s else None,
        "invariants": {name: [verdict.looked_at[name], len(verdict.broken.get(name, ()))] for name in INVARIANTS},
        "by_fault": {
            kind: {
                "count": count,
                "recovery_p50_s": _round(statistics.median(times[kind])) if times[kind] else None,
                "recovery_max_s": _round(max(times[kind])) if times[kind] else None,
            }
            for kind, count in sorted(Counter(s.kind for s in run.struck).items())
        },
        "storms": {"count": len(run.storms_s), "recovery_max_s": _round(max(run.storms_s, default=0))},
        "sometimes": {name: run.happened[name] for name in SOMETIMES},
        "void": void,
        "broken": sorted(verdict.broken),
    }


def _times(run: Run) -> defaultdict[str, list[float]]:
    times: defaultdict[str, list[float]] = defaultdict(list)
    for struck in run.struck:
        if struck.recovered_s is not None:
            times[struck.kind].append(struck.recovered_s)
    return times


def _round(seconds: float) -> float:
    return round(seconds, 2)


def _table(run: Run, void: list[str]) -> None:
    verdict, times = run.verdict, _times(run)
    for name, count in sorted(run.happened.items()):
        say(f"{count:8} {name}")
    for name, count in sorted(run.missed.items()):
        say(f"{count:8} times {name} did not come about")
    say(f"{'fault':24} {'count':>5} {'alone':>5} {'p50 s':>6} {'max s':>6}")
    for kind, count in sorted(Counter(s.kind for s in run.struck).items()):
        waits = times[kind]
        p50, most = (f"{statistics.median(waits):6.1f}", f"{max(waits):6.1f}") if waits else ("     -", "     -")
        say(f"{kind:24} {count:5} {len(waits):5} {p50} {most}")
    if run.storms_s:
        say(f"{'several at once':36} {statistics.median(run.storms_s):6.1f} {max(run.storms_s):6.1f}")
    say(
        f"{verdict.failures} failures, {verdict.commands} commands, {verdict.duplicates_dropped} duplicates dropped, "
        f"{verdict.lost} lost, {verdict.commands_twice} commands twice"
    )
    for invariant in INVARIANTS:
        held = "BROKEN" if invariant in verdict.broken else "held"
        say(f"{held:6} {invariant} ({verdict.looked_at[invariant]} cases)")
    for invariant, cases in sorted(verdict.broken.items()):
        say(f"BROKEN {invariant}: {len(cases)} cases, such as {'; '.join(cases[:3])}")
    if void:
        say(f"VOID: {', '.join(void)} did not happen")
    for name, by in run.planted.items():
        say(f"planted {name}: {f'caught by {by}' if by else 'ESCAPED'}")
