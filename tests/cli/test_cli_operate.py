"""Operators' keys and the commands that need them; what they do on a broker is tested with recover."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from stat import S_IMODE

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from cli.context import ExitCode
from cli.demo.people import provide
from cli.main import app
from cli.operate import keys, wire
from processors.recover.policy import Policies, Policy
from schemas import signing
from schemas.records import Pause, PauseScope


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("OMIUM_OPERATOR_KEY", raising=False)
    monkeypatch.delenv("OMIUM_POLICY_FILE", raising=False)
    return tmp_path / "omium" / "operators"


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["--bootstrap", "127.0.0.1:1", *args])


def test_a_key_is_its_owners_alone_and_what_is_printed_goes_into_a_policy(home: Path) -> None:
    done = run("operator", "keygen", "ann")
    assert done.exit_code == ExitCode.OK
    assert S_IMODE((home / "ann.pem").stat().st_mode) == 0o600
    assert S_IMODE(home.stat().st_mode) == 0o700
    operator = Policies(tomllib.loads(done.stdout)).operators["ann"]
    identity = keys.mine(None)
    assert identity.name == "ann"
    assert operator.public_key == signing.public_text(identity.key.public_key())
    assert "PRIVATE" not in done.output


def test_a_key_is_never_overwritten(home: Path) -> None:
    run("operator", "keygen", "ann")
    before = (home / "ann.pem").read_bytes()
    assert run("operator", "keygen", "ann").exit_code == ExitCode.FAILED
    assert (home / "ann.pem").read_bytes() == before


@pytest.mark.parametrize("name", ["", "../ann", "ann\n", "a b", ".ann", "x" * 65])
def test_a_name_that_is_none_is_refused(name: str, home: Path) -> None:
    assert run("operator", "keygen", name).exit_code == ExitCode.USAGE
    assert not list(home.glob("*")) if home.exists() else True


def test_without_a_key_of_ones_own_nothing_is_asked_of_the_broker(home: Path, tmp_path: Path) -> None:
    assert "keygen" in run("approve", "r", "--yes").output
    for name in ("ann", "bob"):
        run("operator", "keygen", name)
    assert "--key" in run("approve", "r", "--yes").output
    (home / "ann.pem").chmod(0o640)
    assert "can be read by others" in run("approve", "r", "--yes", "--key", str(home / "ann.pem")).output
    other = tmp_path / "no.pem"
    other.write_text("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")
    other.chmod(0o600)
    for path in (other, tmp_path / "missing.pem"):
        done = run("approve", "r", "--yes", "--key", str(path))
        assert (done.exit_code, "Traceback" in done.output) == (ExitCode.USAGE, False)
    assert run("approve", "r", "--yes", "--key", str(home / "bob.pem")).exit_code == ExitCode.UNREACHABLE


@pytest.mark.parametrize(
    "args",
    [
        ("pause", "--reason", "x", "--yes"),
        ("pause", "--all", "--yes"),
        ("pause", "--strategy", "pray", "--reason", "x", "--yes"),
        ("pause", "--all", "--reason", "x"),
        ("resume", "--yes"),
        ("reject", "r", "--yes"),
        ("choose", "r", "--yes"),
    ],
)
def test_half_a_command_is_wrong_usage(args: tuple[str, ...]) -> None:
    run("operator", "keygen", "ann")
    assert run(*args).exit_code == ExitCode.USAGE


@pytest.mark.parametrize("known", [True, False])
def test_where_the_policy_is_at_hand_a_stranger_pauses_nothing(
    known: bool, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(run("operator", "keygen", "ann").stdout)
    monkeypatch.setenv("OMIUM_POLICY_FILE", str(policy))
    ann, stranger = keys.mine(None).key, Ed25519PrivateKey.generate()
    word = Pause(
        scope=PauseScope.ALL, paused=True, operator="ann", reason="it burns", issued_at=datetime.now(UTC), signature=b""
    )
    monkeypatch.setattr(wire, "pauses", lambda _: [signing.sign(word, ann if known else stranger)])
    assert ("it burns" in run("pauses").output) is known


def test_who_runs_up_may_decide_there_by_the_policy_that_ships(tmp_path: Path) -> None:
    key, policy = provide(tmp_path / "up")
    policies = Policies.load(policy)
    assert policies.of("any", None, None) == Policy()
    identity = keys.load(key)
    assert policies.operators[identity.name].public_key == signing.public_text(identity.key.public_key())
    policy.write_text(policy.read_text().replace("max_attempts = 3 ", "max_attempts = 2 "))
    assert provide(tmp_path / "up") == (key, policy)
    assert Policies.load(policy).of("any", None, None).max_attempts == 2
