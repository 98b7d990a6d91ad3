"""The pure parts: the broker's clock, constraints, modifications."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omium import NONE, Modification, Modifications, Retry, Tool
from omium.clock import BrokerClock
from omium.constraints import violations


def changes(*given: tuple[str, dict[str, Any]]) -> Modifications:
    return Modifications([Modification(kind=kind, parameters=parameters) for kind, parameters in given])


class World:
    """A true time, and a local clock that is off."""

    def __init__(self, ahead_s: float) -> None:
        self.true_s = 1_800_000_000.0
        self.ahead_s = ahead_s
        self.clock = BrokerClock(lambda: self.true_s + self.ahead_s, lambda: self.true_s)

    def error_s(self) -> float:
        return (self.clock.now() - datetime.fromtimestamp(self.true_s, UTC)) / timedelta(seconds=1)


delays = st.floats(0, 5)


@given(st.floats(-7200, 7200), st.lists(st.tuples(delays, delays), min_size=1, max_size=10))
def test_acknowledged_records_bound_the_clock(ahead_s: float, rounds: list[tuple[float, float]]) -> None:
    """However far the local clock is off, the guess is within the best round trip."""
    world = World(ahead_s)
    for there_s, back_s in rounds:
        sent_s = world.clock.local_s()
        world.true_s += there_s
        appended_ms = int(world.true_s * 1000)
        world.true_s += back_s
        world.clock.acknowledged(sent_s, appended_ms)
    best_s = min(there_s + back_s for there_s, back_s in rounds)
    assert abs(world.error_s()) <= max(best_s, 0) + max(0.01, 1e-6 * abs(ahead_s)) or abs(ahead_s) <= best_s


@given(delays)
def test_old_records_say_nothing_of_a_right_clock(age_s: float) -> None:
    """A backlog read at the start must not make every command in it look fresh."""
    world = World(0)
    world.clock.received(int((world.true_s - age_s * 1000) * 1000))
    assert abs(world.error_s()) < 0.01


def test_a_clock_behind_is_corrected_by_what_comes() -> None:
    world = World(-3600)
    world.clock.received(int(world.true_s * 1000))
    assert abs(world.error_s()) < 0.01


def test_a_clock_that_is_set_later() -> None:
    """The broker's clock is set back: the newest bound counts."""
    world = World(0)
    world.clock.acknowledged(world.clock.local_s(), int(world.true_s * 1000))
    world.clock.acknowledged(world.clock.local_s(), int((world.true_s - 60) * 1000))
    assert abs(world.error_s() + 60) < 0.01


@pytest.mark.parametrize(
    ("output", "constraints", "bad"),
    [
        ({"a": 5}, {"a": {"type": "range", "min": 1, "max": 9}}, False),
        ({"a": 0}, {"a": {"type": "range", "min": 1, "max": 9}}, True),
        ({"a": 99}, {"a": {"type": "range", "min": 1}}, False),
        ({"a": float("nan")}, {"a": {"type": "range", "min": 1, "max": 9}}, True),
        ({"a": "5"}, {"a": {"type": "range", "min": 1, "max": 9}}, True),
        ({"a": True}, {"a": {"type": "range", "min": 0, "max": 9}}, True),
        ({}, {"a": {"type": "range", "min": 1, "max": 9}}, True),
        ('{"a": 5}', {"a": {"type": "range", "min": 1, "max": 9}}, False),
        ("no JSON", {"a": {"type": "range", "min": 1, "max": 9}}, True),
        (None, {"a": {"type": "range", "min": 1, "max": 9}}, True),
        ({"a": "x"}, {"a": {"type": "enum", "values": ["x", "y"]}}, False),
        ({"a": "z"}, {"a": {"type": "enum", "values": ["x", "y"]}}, True),
        ({"a": "AB-12"}, {"a": {"type": "format", "pattern": "[A-Z]+-[0-9]+"}}, False),
        ({"a": "AB-12 "}, {"a": {"type": "format", "pattern": "[A-Z]+-[0-9]+"}}, True),
        ({"a": "x"}, {"a": {"type": "format", "pattern": "("}}, False),
        ({"a": 1}, {"type": "object", "required": ["a", "b"]}, True),
        ({"a": 1, "b": {"c": [1, 2]}}, {"properties": {"b": {"properties": {"c": {"items": {"maximum": 1}}}}}}, True),
        ({"a": 1.0}, {"properties": {"a": {"type": "integer"}}}, False),
        ({"a": 1}, {"properties": {"a": {"exclusiveMinimum": 1}}}, True),
        ("x", {"type": "string", "enum": ["x"]}, False),
        ("text", {"type": "string"}, False),
        ({"anything": 1}, {}, False),
    ],
)
def test_constraints(output: Any, constraints: Any, bad: bool) -> None:
    assert bool(violations(output, constraints)) is bad


@given(st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_any_output_can_be_looked_at(output: Any) -> None:
    violations(output, {"a": {"type": "range", "min": 1, "max": 9}})
    violations(output, {"type": "object", "properties": {"a": {"minimum": 1}}})


def test_texts_of_a_command_are_paragraphs() -> None:
    mods = changes(
        ("append_prompt", {"text": "one"}), ("provide_context", {"text": "two"}), ("set_model", {"model": "m"})
    )
    assert mods.prompt("base") == "base\n\none\n\ntwo"
    assert (mods.applied, mods.unused) == ("some", ("set_model",))
    assert mods.model("small") == "m"
    assert mods.applied == "all"


def test_without_a_command_nothing_changes() -> None:
    assert (NONE.prompt("p"), NONE.model("m"), NONE.timeout_s(3), NONE.service("s"), NONE.batch_size(7)) == (
        "p",
        "m",
        3,
        "s",
        7,
    )
    assert list(NONE.batches([1, 2, 3])) == [[1, 2, 3]]
    assert not NONE


def test_a_fallback_for_another_service_is_not_used() -> None:
    mods = changes(("use_fallback", {"service": "b", "instead_of": "a"}))
    assert mods.service("c") == "c"
    assert mods.applied == "none"
    assert mods.service("a") == "b"


def test_parameters_that_do_not_fit_are_not_applied() -> None:
    mods = changes(("set_retry", {"max_attempts": "many"}), ("set_output_schema", {}), ("set_model", {"model": 5}))
    assert mods.retrying(lambda: "once") == "once"
    assert mods.output_schema() is None
    assert mods.model("small") == "small"
    assert mods.applied == "none"


def test_retrying_counts_and_delays() -> None:
    """1, 2, 4 ... seconds, and the number of repeats that the outcome tells."""
    mods = changes(("set_retry", {"max_attempts": 5, "base_delay_s": 1, "jitter": 0}))
    slept: list[float] = []
    answers = iter([OSError(), OSError(), "at last"])

    def call() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert mods.retrying(call, sleep=slept.append) == "at last"
    assert slept == [1, 2, 4]
    assert (mods.retry_count, mods.applied) == (3, "all")


def test_retrying_gives_up() -> None:
    mods = changes(("set_retry", {"max_attempts": 3, "base_delay_s": 0}))
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise OSError(f"call {len(calls)}")

    with pytest.raises(OSError, match="call 3"):
        mods.retrying(call, sleep=lambda _: None)
    with pytest.raises(ValueError, match="other"):
        mods.retrying(lambda: int("other"), on=OSError, sleep=lambda _: None)


def test_retrying_stops_at_the_deadline_of_the_outcome() -> None:
    mods = changes(("set_retry", {"max_attempts": 9, "base_delay_s": 60, "jitter": 0}))
    mods.stop_at = float("-inf")
    assert mods.retrying(lambda: "once", sleep=lambda _: pytest.fail("slept")) == "once"


def test_retrying_async() -> None:
    mods = changes(("set_retry", {"max_attempts": 3, "base_delay_s": 0.001}))
    answers = iter([OSError(), "at last"])

    async def call() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert asyncio.run(mods.retrying_async(call)) == "at last"
    assert mods.retry_count == 2


@given(
    st.builds(
        Retry,
        max_attempts=st.integers(1, 20),
        initial_delay_s=st.floats(0, 100),
        base_delay_s=st.floats(0, 100),
        multiplier=st.floats(1, 10),
        max_delay_s=st.floats(0, 100),
        jitter=st.floats(0, 1),
    )
)
def test_delays_are_bounded(retry: Retry) -> None:
    """Never earlier than the service asked for, never above the maximum and its jitter."""
    first, *rest = retry.delays_s()
    if retry.initial_delay_s:
        assert first >= retry.initial_delay_s
    assert all(0 <= delay_s <= retry.max_delay_s * (1 + retry.jitter) for delay_s in rest)
    assert len(rest) == retry.max_attempts - 1


def test_a_checking_tool_answers() -> None:
    schema = {"type": "object", "properties": {"apr": {"type": "number", "minimum": 2.5}}, "required": ["apr"]}
    tool = Tool(name="check", input_schema=schema, suggestion="between 2.5 and 8.5")
    assert tool.check({"apr": 3}) == {"valid": True}
    assert tool.check({"apr": 0})["valid"] is False
    assert tool.check({})["suggestion"] == "between 2.5 and 8.5"
