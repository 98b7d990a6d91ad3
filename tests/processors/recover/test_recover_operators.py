"""People at their terminals, on a real broker: asked, answered, commanded; paused, held, resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from recover_broker import Load, Reader, eventually
from recover_world import option
from typer.testing import CliRunner

from cli.context import ExitCode
from cli.main import app
from ops.runtime.settings import Settings
from schemas.records import (
    Category,
    Classification,
    DispositionKind,
    Option,
    Origin,
    RecoveryOptions,
    ResumeOutcome,
    Strategy,
    from_epoch_ms,
)
from schemas.topics import COMMANDS, DISPOSITIONS, ESCALATIONS, OPTIONS, OUTCOMES, RESULTS

pytestmark = pytest.mark.integration
HUMAN = option(Strategy.ASK_HUMAN, 0.9, 0)
REMEDIES = (option(Strategy.FALLBACK_SERVICE, 0.8), option(Strategy.EXPONENTIAL_BACKOFF, 0.7))


class Terminal:
    """One person's: their key, the workers' policy file, and the command."""

    def __init__(self, settings: Settings, folder: Path, name: str = "ann") -> None:
        self._environment = {"OMIUM_BOOTSTRAP": settings.bootstrap, "XDG_CONFIG_HOME": str(folder / name)}
        self.policy = folder / "policy.toml"
        _, self.known = self.run("operator", "keygen", name)

    def run(self, *args: str, code: int | None = ExitCode.OK) -> tuple[int, str]:
        done = CliRunner().invoke(app, args, env=self._environment)
        assert code is None or done.exit_code == code, done.output
        return done.exit_code, done.stdout

    def waiting(self) -> list[dict]:  # type: ignore[type-arg]
        return json.loads(self.run("escalations", "--json")[1])

    def allow(self, person_wait_s: float = 3600) -> None:
        self.policy.write_text(f"[default]\nperson_wait_s = {person_wait_s}\n{self.known}\n")


def fail(load: Load, n: int, *chosen: Option) -> None:
    load.fail(range(n, n + 1), offer=False)
    partition, offset = load.failed[load.run(n)]
    record = RecoveryOptions(
        tenant_id=load.tenant, execution_id=load.run(n), failure_id="f1",
        origin=Origin(partition=partition, offset=offset),
        classification=Classification(category=Category.TOOL_FAILURE, subtype="timeout"),
        options=chosen, rules_version="r", catalogue_version="c", decided_at=from_epoch_ms(0),
    )  # fmt: skip
    load.send(OPTIONS[Category.TOOL_FAILURE].name, record)
    assert load.producer.flush(30) == 0


def succeed(load: Load, command) -> None:  # type: ignore[no-untyped-def]
    outcome = ResumeOutcome(
        command_id=command.command_id, recovery_id=command.recovery_id, attempt=command.attempt,
        tenant_id=command.tenant_id, execution_id=command.execution_id, status="succeeded",
    )  # fmt: skip
    load.send(OUTCOMES.name, outcome)
    assert load.producer.flush(30) == 0


def test_asked_answered_commanded_recovered(start, ours: Settings, load: Load, reader: Reader, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ann = Terminal(ours, tmp_path)
    Terminal(ours, tmp_path, "bob").allow()
    start(policy=ann.policy)
    for n in range(3):
        fail(load, n, HUMAN, *REMEDIES)
    eventually(reader.has(ESCALATIONS.name, 3))
    mine = {asked["execution_id"]: asked for asked in ann.waiting() if asked["tenant_id"] == load.tenant}
    assert [p["strategy"] for p in mine["run-0"]["proposals"]] == [
        "fallback_service",
        "exponential_backoff",
        "ask_human",
    ]
    assert not reader.of(RESULTS.name)

    # Nobody knows her yet; the file is read again without a restart.
    name = f"{load.tenant}/run-0"
    assert "refused: the policy knows no such operator" in ann.run("approve", name, "--yes", code=ExitCode.FAILED)[1]
    ann.allow()
    deadline = time.monotonic() + 30
    while ann.run("approve", name, "--yes", "--reason", "seen", code=None)[0] != ExitCode.OK:
        assert time.monotonic() < deadline
    recovery = mine["run-1"]["recovery_id"]
    _, text = ann.run("choose", recovery[:12], "exponential_backoff", "--yes", "--json")
    assert json.loads(text)["became"] == "commanded"
    assert "ended: rejected by ann" in ann.run("reject", f"{load.tenant}/run-2", "--reason", "no", "--yes")[1]

    eventually(reader.has(COMMANDS.name, 2))
    commands = {c.execution_id: c for c in reader.commands}
    assert {e: (str(c.strategy), c.decision.operator) for e, c in commands.items()} == {
        "run-0": ("fallback_service", "ann"),
        "run-1": ("exponential_backoff", "ann"),
    }
    assert commands["run-0"].decision.approval_hash == mine["run-0"]["approval_hash"]
    for command in commands.values():
        succeed(load, command)
    eventually(reader.has(RESULTS.name, 3))
    ended = {r.execution_id: (str(r.status), str(r.reason)) for r in reader.of(RESULTS.name)}
    assert ended["run-2"] == ("failed", "rejected")
    assert ended["run-0"] == ended["run-1"] == ("success", "recovered")
    # Said once more, it is too late.
    assert "stale: its recovery has ended" in ann.run("approve", name, "--yes", code=ExitCode.FAILED)[1]
    ann.run("approve", "no-such-recovery", "--yes", code=ExitCode.FAILED)
    ann.run("choose", name, "faster_model", "--yes", code=ExitCode.USAGE)
    ann.run("approve", name, code=ExitCode.USAGE)  # nobody to ask whether it is meant


def test_paused_held_killed_resumed(start, ours: Settings, load: Load, reader: Reader, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ann = Terminal(ours, tmp_path)
    ann.allow()
    ann.run("pause", "--tenant", load.tenant, "--reason", "the vendor is down", "--yes")
    worker = start(policy=ann.policy)
    fail(load, 0, *REMEDIES)
    held = lambda: [d for d in reader.of(DISPOSITIONS.name) if d.kind is DispositionKind.HELD]  # noqa: E731
    eventually(held)
    assert "is paused by ann: the vendor is down" in held()[0].reason
    worker.kill()
    start(policy=ann.policy)
    fail(load, 1, *REMEDIES)
    eventually(lambda: len(held()) == 2)
    assert load.tenant in ann.run("pauses")[1]
    assert not reader.commands
    ann.run("resume", "--tenant", load.tenant, "--yes")
    eventually(reader.has(COMMANDS.name, 2))
    assert load.tenant not in ann.run("pauses", "--json")[1]


def test_a_word_counts_while_its_operator_is_in_the_policy(  # type: ignore[no-untyped-def]
    start, ours: Settings, load: Load, reader: Reader, tmp_path: Path
) -> None:
    """Also where the policy is told of them after they said it, and no worker starts anew."""
    ann = Terminal(ours, tmp_path)
    ann.policy.write_text("")
    worker = start(policy=ann.policy)
    fail(load, 0, *REMEDIES)
    eventually(reader.has(COMMANDS.name, 1))
    log = tmp_path / "worker-0.log"
    unheard = "the policy knows no such operator"
    before = log.read_text().count(unheard)  # words of others
    ann.run("pause", "--tenant", load.tenant, "--reason", "too early", "--yes")
    eventually(lambda: log.read_text().count(unheard) > before)
    held = lambda: [d for d in reader.of(DISPOSITIONS.name) if d.kind is DispositionKind.HELD]  # noqa: E731

    def follows(change: Callable[[], object]) -> None:
        said = log.read_text().count("recover policy ")
        change()
        eventually(lambda: log.read_text().count("recover policy ") > said)

    follows(ann.allow)
    fail(load, 1, *REMEDIES)
    eventually(held)
    follows(lambda: ann.policy.write_text("[default]\n"))
    eventually(reader.has(COMMANDS.name, 2))
    assert worker.exit_code is None
