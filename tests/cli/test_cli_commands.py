"""The command line as scripts and people use it: what goes to stdout, and which exit code comes back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cli import context
from cli.context import Bootstrap, ExitCode
from cli.main import app, root

NOWHERE = "127.0.0.1:1"
GOOD = {"tenant_id": "t", "execution_id": "e", "tool_response": {"tool": "rates", "status_code": 429}}


def _run(*args: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("OMIUM_")} | environment
    return subprocess.run([sys.executable, "-m", "cli.main", *args], input=stdin, capture_output=True, env=env)


def _classify(stdin: bytes) -> tuple[int, list[dict[str, Any]]]:
    done = CliRunner().invoke(app, ["classify"], input=stdin)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]


def test_classify_says_verdict_and_ranked_options() -> None:
    code, (answer,) = _classify(json.dumps(GOOD).encode())
    assert code == ExitCode.OK
    assert answer["classification"]["category"] == "tool_failure"
    assert answer["classification"]["subtype"] == "rate_limit"
    confidences = [option["confidence"] for option in answer["options"]]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences


def test_classify_answers_each_line_in_its_place_and_goes_on() -> None:
    """A script must be able to zip what it sent with what it got; blank lines ask nothing."""
    lines = [json.dumps(GOOD).encode(), b"{", b"", b"[" * 300_000, b"\xff", json.dumps(GOOD).encode()]
    code, answers = _classify(b"\n".join(lines))
    assert code == ExitCode.FAILED
    assert [(a.get("line"), a.get("reason")) for a in answers] == [
        (None, None),
        (2, "not_json"),
        (4, "oversized"),
        (5, "not_utf8"),
        (None, None),
    ]


def test_classify_warns_of_fields_that_it_does_not_know() -> None:
    """On stderr: what is on stdout stays for the script that reads it."""
    line = json.dumps({**GOOD, "tool_respons": {}, "contraints": {}, "x": 1}).encode()
    done = CliRunner().invoke(app, ["classify"], input=line)
    assert done.exit_code == ExitCode.OK
    assert len(done.stdout.splitlines()) == 1
    assert [warning.partition("field ")[2] for warning in done.stderr.splitlines()] == [
        "'tool_respons' is not known and was ignored, perhaps 'tool_response' was meant",
        "'contraints' is not known and was ignored, perhaps 'constraints' was meant",
        "'x' is not known and was ignored",
    ]


def test_classify_uses_the_operator_s_rules_and_names_the_fault_of_a_broken_file(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '[[rule]]\nname = "our-429"\nverdict = "tool_failure/quota_exhausted"\nstrength = 90\n'
        'source = "our gateway"\nstatus = [429]\nwhen = { tenant = ["t"] }\n'
    )
    plain = json.loads(_run("classify", stdin=json.dumps(GOOD).encode()).stdout)
    done = _run("classify", stdin=json.dumps(GOOD).encode(), OMIUM_RULES_FILE=str(own))
    verdict = json.loads(done.stdout)
    assert verdict["classification"]["rule"] == "our-429"
    assert verdict["rules_version"] != plain["rules_version"]
    other = _run("classify", stdin=json.dumps({**GOOD, "tenant_id": "u"}).encode(), OMIUM_RULES_FILE=str(own))
    assert json.loads(other.stdout)["classification"]["subtype"] == "rate_limit"
    own.write_text(own.read_text().replace("[429]", '["4xx"]'))
    broken = _run("classify", stdin=json.dumps(GOOD).encode(), OMIUM_RULES_FILE=str(own))
    assert broken.returncode == ExitCode.FAILED
    assert str(own).encode() in broken.stderr
    assert b"our-429" in broken.stderr


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=60).filter(lambda line: line.strip() and b"\n" not in line), max_size=5))
def test_classify_survives_any_line(lines: list[bytes]) -> None:
    _, answers = _classify(b"\n".join(lines))
    assert len(answers) == len(lines)


def test_classify_streams_and_stops_when_nobody_reads() -> None:
    """`| head -1` ends it without a traceback, long before its input ends."""
    command = f"yes '{json.dumps(GOOD)}' | {sys.executable} -m cli.main classify | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert json.loads(done.stdout)["execution_id"] == "e"
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("args", [["nonsense"], ["tail"], ["worker", "nobody"], ["tail", "nothing-like-it"]])
def test_wrong_usage_is_2(args: list[str]) -> None:
    done = CliRunner().invoke(app, args)
    assert done.exit_code == ExitCode.USAGE
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_2_and_names_itself_only() -> None:
    done = _run("topics", "list", OMIUM_PARTITIONS="hunter2")
    assert done.returncode == ExitCode.USAGE
    assert b"OMIUM_PARTITIONS" in done.stderr
    assert b"hunter2" not in done.stderr


def test_a_broker_that_is_not_there_is_3() -> None:
    done = CliRunner().invoke(app, ["--bootstrap", NOWHERE, "tail", "commands", "--no-follow"])
    assert done.exit_code == ExitCode.UNREACHABLE
    assert "Traceback" not in done.stderr


def test_doctor_tells_programs_what_failed() -> None:
    done = _run("doctor", "--json", "--bootstrap", NOWHERE, "--clickhouse", f"http://u:hunter2@{NOWHERE}/d")
    assert done.returncode == ExitCode.UNREACHABLE
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert {name: check["status"] for name, check in checks.items()} == {
        "versions": "ok",
        "broker": "failed",
        "clickhouse": "failed",
    }
    assert b"hunter2" not in done.stdout + done.stderr


def test_options_win_over_environment_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "omium.toml").write_text('bootstrap = "toml:1"\npartitions = 7\napp = "toml"\n')
    (tmp_path / ".env").write_text("OMIUM_BOOTSTRAP=dotenv:1\nOMIUM_APP=dotenv\n")
    monkeypatch.chdir(tmp_path)
    probing = typer.Typer()
    probing.callback()(root)

    @probing.command()
    def probe(ctx: typer.Context, bootstrap: Bootstrap = None) -> None:
        found = context.settings(ctx, bootstrap=bootstrap)
        print(found.bootstrap, found.app, found.partitions)

    def said(*args: str, **environment: str) -> str:
        return CliRunner().invoke(probing, args, env=environment, catch_exceptions=False).stdout.strip()

    assert said("probe") == "dotenv:1 dotenv 7"
    assert said("probe", OMIUM_BOOTSTRAP="env:1") == "env:1 dotenv 7"
    assert said("--bootstrap", "global:1", "probe", OMIUM_BOOTSTRAP="env:1") == "global:1 dotenv 7"
    assert said("--bootstrap", "global:1", "probe", "--bootstrap", "own:1") == "own:1 dotenv 7"


def test_every_command_has_help() -> None:
    done = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    for command in (
        "demo",
        "up",
        "worker",
        "topics",
        "tail",
        "explain",
        "history",
        "sql",
        "doctor",
        "classify",
        "escalations",
        "approve",
        "choose",
        "reject",
        "pause",
        "resume",
        "pauses",
        "operator",
    ):
        assert command in done.output
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == ExitCode.OK
    assert "Exit codes" in done.output
