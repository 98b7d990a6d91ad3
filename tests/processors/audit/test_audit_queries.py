"""`explain`, `history` and `sql`, as a person and a program use them, while another process owns the engine."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from cli.queries.page import clean
from cli.queries.story import Fact, tell
from processors.audit.rows import row
from processors.audit.store import Store
from schemas import codec
from schemas.records import DeadLetterReason, DispositionKind, ResultReason, ResultStatus, Strategy
from schemas.topics import DEAD_LETTERS, FAILURES, OUTCOMES
from tests.processors.audit.scene import START, Scene

Run = Callable[..., Result]
integration = pytest.mark.integration


@pytest.fixture
def run(store: Store, engine_url: str) -> Run:
    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["--clickhouse", engine_url, *arguments])

    return invoke


@integration
def test_explain_tells_what_failed_why_what_was_done_and_how_it_ended(store: Store, run: Run, tenant: str) -> None:
    store.insert(Scene(tenant).second_rung().rows)
    result = run("explain", f"{tenant}/exec-1")
    assert result.exit_code == 0
    for said in (
        "recovered in 4.0 s, 2 attempts",
        "APR 0 % is out of range",
        "hallucination / out_of_range",
        "apr is 0, and must lie between 0.1 and 36.",
        "the runtime cannot set a model",
        "attempt 1: constraint_injection",
        "failed again",
        "attempt 2: function_calling",
        "append_prompt: APR > 0",
        'output: {"apr":7}',
    ):
        assert said in result.stdout
    assert result.stdout.index("failed again") < result.stdout.index("succeeded")


@integration
def test_explain_as_json_is_one_document(store: Store, run: Run, tenant: str) -> None:
    store.insert(Scene(tenant).second_rung().rows)
    story = json.loads(run("explain", f"{tenant}/exec-1", "--json").stdout)
    (recovery,) = story["recoveries"]
    assert recovery["status"] == "success"
    assert [[a["strategy"] for a in f["attempts"]] for f in recovery["failures"]] == [
        ["constraint_injection"],
        ["function_calling"],
    ]


@integration
def test_explain_of_what_was_not_recovered_names_the_reason(store: Store, run: Run, tenant: str) -> None:
    scene = Scene(tenant)
    scene.failure("f1")
    scene.disposition("f1", DispositionKind.OPENED)
    scene.result("f1", ResultStatus.FAILED, ResultReason.NO_CHECKPOINT, 0)
    broken = scene.append(FAILURES, b"{", key=f"{tenant}/exec-1".encode())
    scene.append(OUTCOMES, b"{", key=f"{tenant}/exec-1".encode())
    problem = codec.Malformed(DeadLetterReason.HANDLER_ERROR, "KeyError")
    for worker in ("streams", "recover", "recover"):
        scene.write(
            DEAD_LETTERS,
            codec.dead_letter(
                problem,
                worker=worker,
                topic=broken.topic,
                partition=0,
                offset=broken.offset,
                key=broken.key,
                value=broken.value,
            ),
        )
    store.insert(scene.rows)
    said = run("explain", f"{tenant}/exec-1").stdout
    assert "streams and recover could not handle a record of agent.failures.v1" in said
    assert "handler_error: KeyError" in said
    assert "not recovered (no checkpoint)" in said
    assert "An unreadable record on agent.outcomes.v1" in said
    assert said.count("agent.failures.v1") == 1, "one record, however many workers met it"


@integration
def test_history_counts_what_is_open_neither_way(store: Store, run: Run, tenant: str) -> None:
    store.insert(Scene(tenant, "ended").recovered().rows)
    opened = Scene(tenant, "ended")
    opened.recovery = f"rec-{tenant}-later"
    opened.failure("later")
    opened.disposition("later", DispositionKind.OPENED)
    store.insert(opened.rows)
    document = json.loads(run("history", f"{tenant}/ended", "--json").stdout)
    assert (document["total_failures"], document["recovery_success_rate"]) == (2, 1)
    assert sorted(str(event["success"]) for event in document["events"]) == ["None", "True"]
    assert "2 failures, 100% of 1 recovered, 1 still open" in run("history", f"{tenant}/ended").stdout


@integration
def test_an_execution_is_found_by_its_id_alone_unless_tenants_share_it(store: Store, run: Run, tenant: str) -> None:
    one = f"{tenant}-run"
    store.insert(Scene(tenant, one).recovered().rows)
    assert run("history", one, "--json").exit_code == 0
    store.insert(Scene(f"{tenant}-b", one).recovered().rows)
    result = run("explain", one)
    assert result.exit_code == 2
    assert f"{tenant}/{one}, {tenant}-b/{one}" in result.stderr
    assert run("explain", f"{tenant}-b/{one}").exit_code == 0


@integration
def test_history_of_an_unknown_execution_is_zeros_and_says_so(run: Run) -> None:
    result = run("history", "nobody/nothing", "--json")
    assert json.loads(result.stdout)["recovery_success_rate"] == 0
    assert json.loads(result.stdout)["total_failures"] == 0
    assert (result.exit_code, result.stderr) == (1, "nothing is known of nobody/nothing\n")


@integration
@pytest.mark.parametrize(
    ("arguments", "stdout"),
    [
        (("SELECT 1 AS a, 'x' AS b;",), "a\tb\n1\tx\n"),
        (("SELECT 1 AS a, 'x' AS b", "--json"), '{"a":1,"b":"x"}\n'),
        (("SELECT 1 AS a, 'x' AS b", "--csv"), '"a","b"\n1,"x"\n'),
        (("SELECT 1 AS a FORMAT JSONCompactEachRow", "--json"), "[1]\n"),
    ],
)
def test_sql_prints_data(run: Run, arguments: tuple[str, ...], stdout: str) -> None:
    assert run("sql", *arguments).stdout == stdout


@integration
def test_sql_that_is_wrong_or_forbidden_is_a_usage_error(run: Run) -> None:
    for query in ("SELEC 1", "SELECT nope", "DROP TABLE audit_events"):
        result = run("sql", query)
        assert (result.exit_code, result.stdout) == (2, "")


def test_no_server_is_unreachable() -> None:
    result = CliRunner().invoke(app, ["--clickhouse", "http://127.0.0.1:1/x", "sql", "SELECT 1"])
    assert (result.exit_code, result.stdout) == (3, "")


def test_text_of_agents_cannot_steer_the_terminal() -> None:
    assert clean("\x1b[2J\x07ok\nnext\u202e\x9b") == "�[2J�ok next��"


def test_the_story_does_not_depend_on_the_order_of_its_records() -> None:
    facts = [
        Fact(
            kind=r.kind,
            topic=r.topic,
            at=START.fromtimestamp(r.appended_at / 1000, START.tzinfo),
            failure_id=r.failure_id,
            recovery_id=r.recovery_id,
            command_id=r.command_id,
            attempt=r.attempt,
            status=r.status,
            reason=r.reason,
            body=json.loads(r.body),
        )
        for r in map(row, Scene("acme").second_rung().sources)
    ]
    assert tell("acme", "e", facts) == tell("acme", "e", [*reversed(facts), *facts])


def test_a_parallel_failure_is_said_to_be_answered_by_the_others_attempt() -> None:
    at = [START.replace(second=n) for n in range(6)]
    facts = [
        Fact(kind="failure_event", topic="t", at=at[0], failure_id="f1", body={}),
        Fact(kind="failure_event", topic="t", at=at[1], failure_id="f2", body={}),
        Fact(
            kind="resume_command",
            topic="t",
            at=at[2],
            failure_id="f1",
            recovery_id="r",
            command_id="c",
            attempt=1,
            body={"strategy": str(Strategy.RETRY_ONCE)},
        ),
        Fact(kind="disposition", topic="t", at=at[3], failure_id="f2", recovery_id="r", attempt=1, status="joined"),
    ]
    (recovery,) = tell("acme", "e", facts).recoveries
    assert [(f.failure_id, f.answered_by) for f in recovery.failures] == [("f1", 0), ("f2", 1)]
