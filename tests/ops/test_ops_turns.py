"""Whose turn it is: nothing lost, each key in order, and what a flood may take from the others."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from ops.runtime.turns import CALM_S, FLOOD, FLOOD_PER_S, SERVABLE_PER_S, Turns

keys = st.tuples(st.sampled_from([b"t", b"u"]), st.sampled_from([b"a", b"b", b"c"]), st.sampled_from([b"", b"x", b"y"]))


@given(st.lists(st.one_of(keys, st.none()), max_size=200))
def test_all_are_taken_and_those_of_one_key_in_order(steps: list[tuple[bytes, bytes, bytes] | None]) -> None:
    """Also where the records of one key name several flows."""
    turns: Turns[int] = Turns()
    left: dict[bytes, list[int]] = defaultdict(list)

    def take(now_s: float) -> None:
        record = turns.take(now_s)
        waiting = [records for records in left.values() if records]
        assert (record is None) == (not waiting)
        if record is not None:
            (records,) = (records for records in waiting if records[0] == record)
            records.pop(0)

    for n, step in enumerate(steps):
        if step is None:
            take(0.0)
        else:
            tenant, name, flow = step
            key = tenant + b"/" + name
            turns.put(key, (tenant, flow), n, n)
            left[key].append(n)
        assert len(turns) == turns.ready(0.0) == sum(map(len, left.values()))
        assert all(turns.waits(key) == bool(records) for key, records in left.items())
    while len(turns):
        take(0.0)
    assert not any(left.values())


def put(turns: Turns[str], tenant: str, flow: str, count: int) -> None:
    for n in range(count):
        turns.put(f"{tenant}/{flow}{n}".encode(), (tenant.encode(), flow.encode()), f"{tenant}/{flow}", 0)


def test_tenants_take_turns_and_so_do_the_services_of_each() -> None:
    turns: Turns[str] = Turns()
    put(turns, "a", "x", 100)
    put(turns, "a", "y", 2)
    put(turns, "b", "x", 3)
    first = [turns.take(0.0) for _ in range(7)]
    assert sorted(map(str, first)) == ["a/x", "a/x", "a/y", "a/y", "b/x", "b/x", "b/x"]


def test_a_flood_gets_its_part_while_others_come_and_all_when_they_do_not() -> None:
    turns: Turns[str] = Turns()
    put(turns, "a", "x", 10 * FLOOD)
    put(turns, "a", "y", 1)
    assert turns.take(0.0) == "a/y"
    seconds = 3
    now_s, floods = 0.0, 0
    for tick in range(seconds * 100):
        now_s = tick / 100
        put(turns, "b", "x", 1)
        taken = [turns.take(now_s) for _ in range(20)]
        assert "b/x" in taken
        floods += taken.count("a/x")
    assert (seconds - 1) * FLOOD_PER_S <= floods <= (seconds + 1) * FLOOD_PER_S
    assert turns.ready(now_s + CALM_S) == len(turns)
    assert all(turns.take(now_s + CALM_S) == "a/x" for _ in range(1000))


def test_a_flood_gets_its_part_in_clumps() -> None:
    """One by one each would be a transaction of its own."""
    turns: Turns[str] = Turns()
    put(turns, "a", "x", 10 * FLOOD)
    clumps = []
    for tick in range(1000):
        put(turns, "b", "x", 1)
        taken = [turns.take(tick / 1000) for _ in range(30)]
        clumps.append(taken.count("a/x"))
    assert 3 <= sum(map(bool, clumps)) <= 6


def test_a_flood_is_one_until_none_of_it_waits() -> None:
    turns: Turns[str] = Turns()
    put(turns, "a", "x", FLOOD + 1)
    while len(turns):
        assert turns.flooding
        assert turns.take(100.0) == "a/x"
    put(turns, "a", "x", FLOOD)
    assert not turns.flooding


def test_what_came_while_nobody_read_is_no_flood() -> None:
    """It would be held back although it can be served, and what comes meanwhile with it."""
    turns: Turns[int] = Turns()
    for n in range(10 * FLOOD):
        turns.put(f"a/{n}".encode(), (b"a", b"x"), n, n * 20)
    assert not turns.flooding


def test_a_flood_that_does_not_shrink_gets_more() -> None:
    """One that others would have had time for ends, however fast it comes."""
    turns: Turns[str] = Turns()
    put(turns, "a", "x", FLOOD + 1)
    for tick in range(300 * 10):
        put(turns, "a", "x", 15)
        put(turns, "b", "x", 1)
        while turns.take(tick / 10) is not None:
            """All that may be."""
        if not turns.flooding:
            break
    assert not turns.flooding


def test_a_flood_that_nobody_could_serve_gets_no_more_for_that() -> None:
    """It would cost the others, and not shrink all the same."""
    turns: Turns[str] = Turns()
    put(turns, "a", "x", FLOOD + 1)
    seconds, floods = 120, 0
    for tick in range(seconds * 10):
        put(turns, "a", "x", round(SERVABLE_PER_S / 5))
        put(turns, "b", "x", 1)
        while (taken := turns.take(tick / 10)) is not None:
            floods += taken == "a/x"
    assert floods <= (seconds + 1) * FLOOD_PER_S


def test_one_tenant_has_so_many_flows_and_no_more() -> None:
    """Each record of another name would have a turn of its own, and none of them would be a flood."""
    turns: Turns[str] = Turns()
    for n in range(10 * FLOOD):
        turns.put(f"a/{n}".encode(), (b"a", str(n).encode()), "a", 0)
    assert turns.flooding > 9 * FLOOD


def test_where_no_more_can_be_read_a_flood_is_held_back_no_more() -> None:
    """The others then wait behind it, unread."""
    turns: Turns[str] = Turns()
    put(turns, "a", "x", 10 * FLOOD)
    put(turns, "b", "x", 1)
    turns.crowded = True
    taken = [turns.take(0.0) for _ in range(100)]
    assert taken.count("a/x") == 99


def test_where_no_more_can_be_read_the_calm_do_not_take_all() -> None:
    turns: Turns[str] = Turns()
    put(turns, "a", "x", 10 * FLOOD)
    for n in range(10 * FLOOD):
        turns.put(f"c/{n}".encode(), (f"c{n}".encode(), b""), "c", 0)
    turns.crowded = True
    assert 49 <= [turns.take(0.0) for _ in range(100)].count("a/x") <= 51
