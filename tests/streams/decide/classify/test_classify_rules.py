"""Rules as data: what a file may say, and what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from classify_events import error

from streams.decide.classify import RuleError, built_in, classify, load_rules
from streams.decide.classify.rules import compile_rules

RULE = {"name": "r", "verdict": "tool_failure/timeout", "strength": 60, "source": "here", "text": ["slow"]}


def test_the_built_in_rules_are_whole() -> None:
    rules = built_in().rules
    assert len({rule.name for rule in rules}) == len(rules) > 60
    assert all(rule.source for rule in rules)


def test_a_tenant_adds_a_rule_and_replaces_one(tmp_path: Path) -> None:
    own = tmp_path / "tenant.toml"
    own.write_text(
        """
        [[rule]]
        name = "our-ledger-is-closed"
        verdict = "logical_error/state_conflict"
        strength = 80
        source = "the ledger's manual"
        text = ['ledger \\d+ is closed']

        [[rule]]
        name = "status-timeout"
        verdict = "tool_failure/service_unavailable"
        strength = 66
        source = "our gateway says 504 for a closed branch"
        status = [504]
        """
    )
    rules = load_rules(own)
    verdict = classify(error("ledger 7 is closed"), rules)
    assert (verdict.subtype, verdict.rule) == ("state_conflict", "our-ledger-is-closed")
    assert classify(error(http_status=504), rules).subtype == "service_unavailable"
    assert classify(error(http_status=504)).subtype == "timeout"
    assert rules.version != built_in().version
    assert load_rules().version == built_in().version


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": ""}, "no name"),
        ({"verdict": "tool_failure/nonsense"}, "no such verdict"),
        ({"verdict": "nonsense/timeout"}, "no such verdict"),
        ({"strength": 101}, "strength"),
        ({"strength": True}, "strength"),
        ({"source": None}, "source"),
        ({"text": []}, "nothing triggers"),
        ({"text": ["(?=x)"]}, "RE2 refuses"),
        ({"text": ["x{2000}"]}, "RE2 refuses"),
        ({"text": ["x" * 600]}, "longer than"),
        ({"text": "slow"}, "list"),
        ({"status": ["5xx"]}, "no status"),
        ({"when": {"colour": ["red"]}}, "unknown condition"),
        ({"when": {"seen": ["nobody"]}}, "no rule is called"),
        ({"when": {"protocol": "mcp"}}, "list"),  # its letters would be protocols
        ({"unless": {"origin": ["modle"]}}, "no origin 'modle'"),
        ({"when": ["mcp"]}, "table"),
        ({"text": [1]}, "texts"),
        ({"txt": ["x"]}, "unknown field"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused_by_name(change: dict[str, Any], why: str) -> None:
    with pytest.raises(RuleError, match=why):
        compile_rules([{"rule": [{**RULE, **change}]}])


def test_a_pattern_may_be_written_on_several_lines(tmp_path: Path) -> None:
    own = tmp_path / "tenant.toml"
    own.write_text(
        "[[rule]]\nname = 'x'\nverdict = 'tool_failure/timeout'\nstrength = 80\nsource = 'here'\n"
        "text = [\n  '''ledger (is closed|\n    was closed)''',\n]\n"
    )
    rules = load_rules(own)
    assert classify(error("the ledger was closed"), rules).rule == "x"
    assert rules.rules[-1].text == ("ledger (is closed|was closed)",)


@pytest.mark.parametrize("document", [{"rules": []}, {"rule": {}}, {"rule": ["x"]}])
def test_a_file_of_another_form_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(RuleError):
        compile_rules([document])


def test_broken_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("[[rule")
    with pytest.raises(RuleError):
        load_rules(tmp_path / "x.toml")
