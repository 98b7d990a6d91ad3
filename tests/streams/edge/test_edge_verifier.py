"""A verifier is found or refused by its name, and is not asked where it could change nothing; what is answered later
keeps its place in its execution, and can still stop the worker."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.runtime.progress import Progress
from schemas.codec import Encoded
from schemas.records import ErrorInfo, FailureEvent
from streams.decide import Judgement, claims_to_verify
from streams.edge.agent import Later, Mapper
from streams.edge.fuse import Fuse, FuseBlown
from streams.edge.transport import Batch
from streams.edge.verifier import VerifierError, load


class Honest:
    """Agrees with everything."""

    async def verify(self, event: FailureEvent, claims: Any) -> list[Judgement]:
        return [Judgement(claim, holds=True) for claim in claims]


class Broken:
    """Cannot even be made."""

    def __init__(self) -> None:
        raise RuntimeError

    verify = Honest.verify


honest = Honest()


@pytest.mark.parametrize("attribute", ["Honest", "honest"])
def test_a_verifier_is_a_class_or_an_object(attribute: str) -> None:
    assert type(load(f"{__name__}:{attribute}")).__name__ == "Honest"


@pytest.mark.parametrize(
    "path",
    ["no_such_module:Verifier", f"{__name__}:Missing", "pathlib:Path", "json", "json:", ":x", f"{__name__}:Broken"],
)
def test_what_is_no_verifier_is_refused(path: str) -> None:
    with pytest.raises(VerifierError, match="verifier"):
        load(path)


def test_it_is_not_asked_where_its_word_could_change_nothing() -> None:
    """Asking costs time, and maybe money."""
    doubtful = FailureEvent(tenant_id="t", execution_id="e", reasoning=orjson.dumps([{"assumption": "x"}]).decode())
    assert [claim.text for claim in claims_to_verify(doubtful)] == ["x"]
    limited = doubtful.model_copy(update={"error": ErrorInfo(message="HTTP 429 Too Many Requests", http_status=429)})
    assert claims_to_verify(limited) == []


def batch(keys: list[bytes]) -> Batch:
    progress = Progress()
    records = [
        SimpleNamespace(topic="in", partition=0, offset=offset, key=key, value=b"", headers=(), timestamp=0)
        for offset, key in enumerate(keys)
    ]
    for record in records:
        progress.deliver(record.offset)
    return Batch("in", 0, records, progress)


async def begin(mapper: Mapper, asked: Batch) -> None:
    mapper._put(asked)
    while mapper._waiting:
        await mapper._burst()


class Sent:
    """Takes outputs, and delivers them at once."""

    def __init__(self) -> None:
        self.values: list[tuple[bytes, bytes]] = []

    def send(self, record: Encoded, report: Callable[[None], None], **options: Any) -> None:
        self.values.append((record.key, record.value))
        report(None)

    async def room(self) -> None:
        """Always."""


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.sampled_from([None, 0, 1, 2, 3])), max_size=12))
def test_an_execution_s_outputs_keep_their_order_however_long_each_is_asked_for(
    records: list[tuple[bytes, int | None]],
) -> None:
    """(key, turns of the loop that its answer takes, or None where nothing is asked)."""
    sent, asked = Sent(), batch([key for key, _ in records])

    def handle(record: Any) -> Encoded | Later:
        turns = records[record.offset][1]
        output = Encoded("out", record.key, str(record.offset).encode(), [])

        async def wait() -> None:
            for _ in range(turns or 0):
                await asyncio.sleep(0)

        return output if turns is None else Later(wait, lambda _: output)

    async def feed() -> None:
        mapper = Mapper(handle, sent, worker="t", fail=pytest.fail, read_ahead_bytes=10**8)  # type: ignore[arg-type]
        await begin(mapper, asked)
        while len(asked.progress):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert mapper._last == {}

    asyncio.run(feed())
    expected = defaultdict(list)
    for offset, (key, _) in enumerate(records):
        expected[key].append(offset)
    assert {key: [int(value) for k, value in sent.values if k == key] for key in expected} == expected


def test_a_handler_that_raises_after_asking_blows_the_fuse() -> None:
    """What it asks for is no success: else every other failure would be one, and the fuse would never blow."""
    errors: list[Exception] = []

    async def nothing() -> None:
        """Answers at once."""

    def raise_(_: Any) -> Encoded:
        raise ValueError

    async def feed() -> None:
        later: Callable[[Any], Later] = lambda _: Later(nothing, raise_)  # noqa: E731
        mapper = Mapper(
            later, Sent(), worker="t", fuse=Fuse(max_consecutive=3), fail=errors.append, read_ahead_bytes=10**8
        )  # type: ignore[arg-type]
        await begin(mapper, batch([b"a", b"b", b"c"]))
        waiting: Awaitable[Any] = asyncio.gather(*mapper._last.values(), return_exceptions=True)
        await waiting

    asyncio.run(feed())
    assert [type(error) for error in errors] == [FuseBlown]
