"""Paused is held, resumed goes on; only who may is heard, and the newest word holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
from recover_life import BACKOFF, FALLBACK, HUMAN, LADDER, kinds, result
from recover_operators import KEYS, answer, policies, say
from recover_world import START_MS, TENANT, World, failure, options

from processors.recover.events import FailureRead, OptionsRead, Place
from processors.recover.pauses import Pauses, said_after, standing
from processors.recover.reducer import step
from processors.recover.state import Execution
from processors.recover.view import View
from schemas import codec, signing
from schemas.records import Category, Pause, PauseScope, ResumeCommand, ToolResponse, epoch_ms, from_epoch_ms
from schemas.topics import OPERATOR_PAUSES


def pause(scope: str = "all", target: str = "", *, paused: bool = True, at: int = 0, by: str = "ann") -> Pause:
    record = Pause(
        scope=PauseScope(scope), target=target, paused=paused, operator=by, reason="the vendor is down",
        issued_at=from_epoch_ms(START_MS + at), signature=b"",
    )  # fmt: skip
    return signing.sign(record, KEYS[by])


def told(*records: Pause) -> tuple[Pauses, list[str]]:
    """What a worker knows that has read `records`, and what it refused."""
    refused: list[str] = []
    known = Pauses(policies, refused.append)
    for record in records:
        known.take(b"", codec.encode(OPERATOR_PAUSES, record, source="test").value, START_MS)
    return known, refused


def world_with(*records: Pause) -> World:
    known, refused = told(*records)
    assert not refused
    return World(policies=policies(), view=View(pauses=known.known))


@pytest.mark.parametrize(
    ("scope", "target"),
    [("all", ""), ("tenant", TENANT), ("tool", "crm"), ("strategy", "exponential_backoff")],
)
def test_what_is_paused_is_held_and_goes_on_when_it_is_resumed(scope: str, target: str) -> None:
    world = world_with(pause(scope, target))
    world.offer(world.fail(tool_response=ToolResponse(tool="crm")), *LADDER)
    assert kinds(world) == ["opened", "held"]
    for _ in range(20):
        world.restart()
        world.until_due()
    assert not world.commands
    assert kinds(world) == ["opened", "held"]
    world.view = View(pauses=told(pause(scope, target), pause(scope, target, paused=False, at=1))[0].known)
    world.until_due()
    (command,) = world.commands
    assert kinds(world) == ["opened", "held", "commanded"]
    world.answer(command)
    assert result(world).status == "success"


@pytest.mark.parametrize("category", [Category.TOOL_FAILURE, Category.LOGICAL_ERROR])
def test_nobody_falls_back_to_a_tool_that_is_paused(category: Category) -> None:
    world = world_with(pause("tool", "crm-2"))
    world.offer(world.fail(tool_response=ToolResponse(tool="crm")), FALLBACK, category=category)
    assert kinds(world) == ["opened", "held"]
    world.view = View()
    world.until_due()
    assert len(world.commands) == 1


@pytest.mark.parametrize(
    ("scope", "target"),
    [("tenant", "zeta"), ("tool", "mail"), ("strategy", "fallback_service"), ("tool", ""), ("tenant", "")],
)
def test_what_is_not_meant_goes_on(scope: str, target: str) -> None:
    world = world_with(pause(scope, target))
    world.offer(world.fail(), BACKOFF, FALLBACK)
    assert len(world.commands) == 1


def test_what_is_paused_too_long_expires() -> None:
    world = world_with(pause())
    world.offer(world.fail(), BACKOFF)
    for _ in range(200):
        world.until_due()
        if world.state is None or world.state.recovery is None:
            break
    assert result(world).reason == "expired"
    assert 7200 <= result(world).total_duration_s < 7201


def test_what_was_held_comes_back_one_by_one() -> None:
    """Of a thousand that were held for an hour no more than a hundred are looked at in any second."""
    view, policy, at_ms = View(pauses=told(pause())[0].known), policies(), START_MS + 3_600_000
    due: Counter[int] = Counter()
    for n in range(1000):
        state = Execution(tenant_id=TENANT, execution_id=f"run-{n}")
        place = Place(topic="t", partition=0, offset=n, at_ms=START_MS)
        for event, now in (
            (FailureRead(failure(f"f{n}"), place), START_MS),
            (OptionsRead(options(f"f{n}", n, BACKOFF), place), START_MS),
            (FailureRead(failure(f"g{n}"), replace(place, at_ms=at_ms)), at_ms),
        ):
            after, said = step(state, event, now, policy, view)
            assert after
            assert not any(isinstance(effect.record, ResumeCommand) for effect in said)
            state = after
        due[(state.due_ms - at_ms) // 1000] += 1
    assert max(due.values()) <= 100
    assert max(due) <= 120


def test_a_person_is_asked_while_it_is_paused_but_not_obeyed() -> None:
    world = world_with(pause("tenant", TENANT))
    world.offer(world.fail(), HUMAN, BACKOFF)
    assert say(world, answer(world)) == f"stale: tenant {TENANT} is paused by ann: the vendor is down"
    assert not world.commands
    world.view = View()
    assert say(world, answer(world)).startswith("commanded")


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_newest_word_holds_in_whatever_order_it_is_read(order: tuple[int, ...]) -> None:
    said = [pause(at=0), pause(at=1, paused=False), pause(at=2)]
    known, _ = told(*(said[n] for n in order), said[0], said[1])
    found = standing(known.known, TENANT, (), ())
    assert found == said[2]


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (pause(by="eve"), "the policy knows no such operator"),
        (pause(by="bob"), "the operator may not decide for all whom it would stop"),
        (pause("tool", "crm", by="bob"), "the operator may not decide for all whom it would stop"),
        (pause("tenant", TENANT, by="bob"), "the operator may not decide for all whom it would stop"),
        (pause("unknown"), "its scope is not known to this release"),
        (pause(at=300_001), "it was said in the future"),
        (pause().model_copy(update={"target": "x"}), "it is not signed by the operator's key"),
        (pause().model_copy(update={"paused": False}), "it is not signed by the operator's key"),
        (pause().model_copy(update={"signature": b""}), "it is not signed by the operator's key"),
    ],
)
def test_who_may_not_pause_is_not_heard(record: Pause, why: str) -> None:
    known, refused = told(record)
    assert not known.known
    assert len(refused) == 1
    assert refused[0].endswith(why)


@pytest.mark.parametrize("ahead_ms", [-3_600_000, -1, 0, 1, 240_000, 299_999])
def test_what_an_operator_said_whose_clock_is_ahead_can_be_taken_back_at_once(ahead_ms: int) -> None:
    wrong = pause(at=ahead_ms)
    at = epoch_ms(said_after(wrong, from_epoch_ms(START_MS))) - START_MS
    known, refused = told(wrong, pause(paused=False, at=at))
    assert not refused
    assert standing(known.known, TENANT, (), ()) is None
    # What the workers do not hear puts nothing off.
    assert said_after(pause(at=300_001), from_epoch_ms(START_MS)) == from_epoch_ms(START_MS)


def test_a_word_that_comes_after_a_later_one_is_not_heard_and_it_is_said_so() -> None:
    """Not so the same word once more."""
    known, refused = told(pause(at=1), pause(at=0, paused=False), pause(at=1))
    assert refused == ["ann, all: ann said something later"]
    assert standing(known.known, TENANT, (), ())


def test_bob_may_pause_his_own_tenant() -> None:
    known, refused = told(pause("tenant", "zeta", by="bob"))
    assert not refused
    assert standing(known.known, "zeta", (), ())


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"{}", b"\xc3\x01garbage..."])
def test_what_is_no_pause_is_refused(value: bytes | None) -> None:
    refused: list[Any] = []
    Pauses(policies, refused.append).take(b"k", value, START_MS)
    assert len(refused) == 1
