"""Policy as data: layers, validation, version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from recover_world import World, option

from processors.recover import reload
from processors.recover.policy import Policies, Policy, PolicyError
from processors.recover.reload import PolicyFile
from schemas.records import Strategy

KEY = "MCowBQYDK2VwAyEAMCowBQYDK2VwAyEAMCowBQYDK2U="


def test_the_shipped_policy_says_what_the_defaults_are() -> None:
    assert Policies.load().of("any", None, None) == Policy()


def test_a_tenant_overrides_an_agent_an_agent_a_tool_a_tool_the_default() -> None:
    tables = {
        "default": {"max_attempts": 1, "min_confidence": 0.1},
        "tools": {"crm": {"max_attempts": 2, "max_cost_microusd": 7}},
        "agents": {"loans": {"max_attempts": 3, "min_confidence": 0.3}},
        "tenants": {"acme": {"max_attempts": 4}},
    }
    policies = Policies(tables)
    assert policies.of("zeta", None, None).max_attempts == 1
    assert policies.of("zeta", None, "crm").max_attempts == 2
    assert policies.of("zeta", "loans", "crm").max_attempts == 3
    acme = policies.of("acme", "loans", "crm")
    assert (acme.max_attempts, acme.min_confidence, acme.max_cost_microusd) == (4, 0.3, 7)


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"default": {"max_attempts": -1}}, "max_attempts"),
        ({"default": {"mode": "clever"}}, "mode"),
        ({"default": {"max_atempts": 1}}, "max_atempts"),
        ({"tenants": {"acme": {"allowed_strategies": ["pray"]}}}, "tenants.acme"),
        ({"tennants": {}}, "tennants"),
        ({"default": {"attempt_s": float("inf")}}, "attempt_s"),
        ({"default": {"dependency_per_s": 1e-310}}, "dependency_per_s"),
        ({"agents": {"a": {"approve_strategies": ["pray"]}}}, "approve_strategies"),
        ({"tools": {"crm": {"approve_above_microusd": -1}}}, r"tools\.crm. approve_above_microusd"),
        ({"default": {"forbidden_models": "large"}}, "forbidden_models"),
        ({"operators": {"ann": {"public_key": KEY}}}, r"operators\.ann. tenants"),
        ({"operators": {"ann": {"public_key": KEY, "tenants": []}}}, r"operators\.ann. tenants"),
        ({"operators": {"ann": {"public_key": KEY[:-4], "tenants": ["*"]}}}, r"operators\.ann. public_key"),
        ({"operators": {"ann": {"public_key": "?" * 44, "tenants": ["*"]}}}, r"operators\.ann. public_key"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_and_the_key_named(tables: dict[str, object], named: str) -> None:
    with pytest.raises(PolicyError, match=named):
        Policies(tables)


def test_the_version_changes_with_what_is_said_and_only_with_it() -> None:
    one = Policies({"default": {"max_attempts": 2}})
    assert one.version == Policies({"default": {"max_attempts": 2}}).version
    assert one.version != Policies({"default": {"max_attempts": 3}}).version
    assert one.version != Policies({"default": {"max_attempts": 2}, "tenants": {"acme": {"max_attempts": 2}}}).version


def test_allowed_and_forbidden_strategies() -> None:
    policy = Policy(allowed_strategies=frozenset({Strategy.RETRY_ONCE}), forbidden_strategies=frozenset())
    assert policy.forbids(Strategy.MODEL_UPGRADE)
    assert not policy.forbids(Strategy.RETRY_ONCE)


def test_allowed_and_forbidden_models() -> None:
    assert not Policy().forbids_model("large")
    assert Policy(forbidden_models=frozenset({"large"})).forbids_model("large")
    assert Policy(allowed_models=frozenset({"small"})).forbids_model("large")


def test_who_may_decide_for_whom() -> None:
    tables = {"ann": {"public_key": KEY, "tenants": ["acme"]}, "bob": {"public_key": KEY, "tenants": ["*"]}}
    operators = Policies({"operators": tables}).operators
    assert [operators[name].may_decide_for("acme") for name in ("ann", "bob")] == [True, True]
    assert [operators[name].may_decide_for("zeta") for name in ("ann", "bob")] == [False, True]
    assert [operators[name].may_decide_for("*") for name in ("ann", "bob")] == [False, True]


@pytest.mark.parametrize(
    "text",
    ["[default", "tenants = 3", "[tenants]\nacme = 3", "default = 3", "operators = 3", f"a = {'[' * 9999}{']' * 9999}"],
)
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError):
        Policies.load(path)


@pytest.mark.parametrize(
    ("strategy", "parameters", "limit", "why"),
    [
        (Strategy.MODEL_UPGRADE, '{"model":"large"}', {"forbidden_models": ["large"]}, "policy forbids its model"),
        (Strategy.FASTER_MODEL, '{"model":"large"}', {"allowed_models": ["small"]}, "policy forbids its model"),
        (Strategy.INCREASE_TIMEOUT, '{"timeout_s":90}', {"max_timeout_s": 60}, "allows a call longer than policy does"),
        (
            Strategy.EXPONENTIAL_BACKOFF,
            '{"max_attempts":5,"initial_delay_s":1e9}',
            {},
            "waits longer than policy allows",
        ),
    ],
)
def test_what_a_policy_forbids_is_not_done_and_said(
    strategy: Strategy, parameters: str, limit: dict[str, object], why: str
) -> None:
    world = World(policies=Policies({"default": limit}))
    world.offer(world.fail(), option(strategy, 0.9, parameters=parameters), option(Strategy.FALLBACK_SERVICE, 0.5))
    (command,) = world.commands
    assert command.strategy == "fallback_service"
    assert (command.decision.candidates[0].eligible, command.decision.candidates[0].why) == (False, why)


def test_a_file_that_is_still_being_written_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor empties it first, and an empty file is a policy that forbids nothing."""
    monkeypatch.setattr(reload, "_EVERY_S", 0)
    path = tmp_path / "policy.toml"
    whole = "[default]\nmax_attempts = 2\napprove_strategies = ['model_upgrade']\n"
    path.write_text(whole)
    file = PolicyFile(path)
    steps = ("", "[default]\n", "[default]\nmax_attempts = 2\n", whole + "min_confidence = 0.5\n")
    for moment, text in enumerate(steps, 1):
        path.write_text(text)
        os.utime(path, ns=(moment, moment))
        assert not file.look()
        assert file.policies.of("acme", None, None).approve_strategies
    assert file.look()
    assert file.policies.of("acme", None, None).min_confidence == 0.5
    assert not file.look()
