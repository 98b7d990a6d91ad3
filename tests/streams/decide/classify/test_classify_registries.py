"""Registries of codes are known whole, and each code means one thing."""

from __future__ import annotations

import errno
import signal
from collections import defaultdict

import pytest
from classify_events import error, said

from streams.decide.classify import built_in

OF_STREAMS = (
    "EADV EBADE EBADR EBADRQC EBADSLT EBFONT ECHRNG EDOTDOT EISNAM EL2HLT EL2NSYNC EL3HLT EL3RST ELIBACC ELIBEXEC "
    "ELIBMAX ELIBSCN ELNRNG EMULTIHOP ENAVAIL ENOANO ENOCSI ENOSTR ENOTNAM EREMCHG EREMOTE ESRMNT EUNATCH"
)
"""Of STREAMS, XENIX and old disks: no program reports them today."""
HARMLESS = frozenset({"SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"})
"""Signals that do not end a process."""
UNTOLD = frozenset({"SIGUSR1", "SIGUSR2", "SIGIO", "SIGPWR", "SIGSTKFLT", "SIGRTMIN", "SIGRTMAX"})
"""Signals that end a process and tell nothing of why."""


@pytest.mark.parametrize("name", sorted(set(errno.errorcode.values()) - set(OF_STREAMS.split())))
def test_an_errno_is_known(name: str) -> None:
    assert said(error("call failed", "OSError", code=name)) != "unclassified/unknown"


@pytest.mark.parametrize("ended_by", sorted(set(signal.Signals) - {signal.Signals[n] for n in HARMLESS | UNTOLD}))
def test_a_signal_is_known_by_the_exit_code_of_a_shell_and_of_python(ended_by: signal.Signals) -> None:
    of_shell = said(error("the command failed", exit_code=128 + ended_by))
    assert of_shell == said(error("the command failed", exit_code=-ended_by))
    assert of_shell != "unclassified/unknown"


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("08006", "tool_failure/network_error"),
        ("22012", "logical_error/runtime_error"),
        ("22001", "hallucination/range_violation"),
        ("22P02", "hallucination/format_violation"),
        ("23505", "logical_error/state_conflict"),
        ("28P01", "tool_failure/auth_error"),
        ("42501", "tool_failure/auth_error"),
        ("42703", "hallucination/unknown_identifier"),
        ("42601", "hallucination/format_violation"),
        ("53200", "performance/out_of_memory"),
        ("53300", "tool_failure/service_unavailable"),
        ("57014", "tool_failure/timeout"),
    ],
)
def test_a_sqlstate_is_read_as_a_code_and_where_a_message_spells_it(code: str, verdict: str) -> None:
    assert said(error("the query failed", code=code)) == verdict
    assert said(error(f"the query failed. SQLSTATE: {code}")) == verdict
    assert said(error(f"SQLSTATE[{code}]: the query failed")) == verdict


def test_five_digits_of_another_system_are_no_sqlstate() -> None:
    assert said(error("the call failed", code="40613")) == "unclassified/unknown"
    assert said(error("the call failed", code="21610")) == "unclassified/unknown"


def test_a_code_that_needs_no_protocol_means_one_thing() -> None:
    means: dict[str, set[str]] = defaultdict(set)
    for rule in built_in().rules:
        for code in rule.code if not rule.when else ():
            means[code.lower()].add(f"{rule.category}/{rule.subtype}")
    assert not {code: verdicts for code, verdicts in means.items() if len(verdicts) > 1}
