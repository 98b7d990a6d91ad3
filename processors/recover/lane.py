"""One assigned partition as the worker's polling thread sees it."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from itertools import compress, islice
from typing import Final

from ops.runtime.pace import Pace
from ops.runtime.progress import Progress, size_of
from ops.runtime.turns import FlowId, Turns
from processors.recover.ledger import Raw
from processors.recover.writer import Writer
from schemas.topics import BY_NAME, FAILURES, OPTION_TOPICS

LINGER_S: Final = 0.05
"""A failure waits so long for its options, without which nothing can be commanded: both then take one transaction and
one state, not two, one behind the other. Streams sends them a few milliseconds later, where it is busy some tens; while
it is away, this is all that waiting costs."""
REST_S: Final = 0.025
"""A busy partition begins no transaction sooner after the last: each costs the broker as much as ten failures."""
_FLOOD_REST_S: Final = 0.005
"""One that is only flooded is looked at so often: its records come all the time."""
_BUSY_PER_S: Final = 150
"""Records taken, without those of floods: four partitions that share a hundred failures a second have fifty."""
_RANK: Final = {name: rank for rank, name in enumerate(BY_NAME)}
"""Records of one millisecond: the failure before its options."""
_OPTION_TOPICS: Final = tuple(topic.name for topic in OPTION_TOPICS)
_MAX_AHEAD: Final = 4_000
"""Records applied behind one that waits: each transaction says which they are."""
_CROWDED: Final = 0.9
_RESUMES: Final = 0.8
_OVERFULL: Final = 1.5
_TOKENS_PER_S: Final = 500
"""A hundred next rungs, or five hundred closed recoveries forgotten."""


class Lane:
    """One assigned partition: its writer, what was read for it, and how far its inputs are read."""

    def __init__(self, writer: Writer, flow: Callable[[Raw], FlowId], read_ahead_bytes: int) -> None:
        """`flow`: which flow a record is of; they take turns. `read_ahead_bytes`: how much may wait here."""
        self.writer = writer
        self.read: dict[str, deque[Raw]] = defaultdict(deque)
        """What came just now, and what waits for options that may follow."""
        self.paused = 0
        """Nothing more is read: 1 of the inputs that flood, 2 of any."""
        self._flow = flow
        self._read_ahead_bytes = read_ahead_bytes
        self._young: set[bytes | None] = set()
        """Keys of what is in `read`."""
        self._turns: Turns[Raw] = Turns()
        self._progress: dict[str, Progress] = defaultdict(Progress)
        self._read_s: deque[float] = deque()
        """When each failure in `read` was read."""
        self._pace = Pace()
        self._batched_s = 0.0
        self._seen: dict[str, int] = {}
        """Topic to the offset after the last record that was delivered, since the last doubt."""
        self._told: dict[str, int] = {}
        """The same, whatever became of it."""
        self._ends: dict[str, tuple[int, int]] = {}
        """Topic to (what had been delivered, the offset) when it was seen to be at its end. Kept over a doubt:
        what had no record then has none, whether or not the end is told again."""
        self.asked: tuple[int, dict[str, int]] | None = None
        """(broker's time, ends of the inputs taken after it)"""
        self.barrier_ms = 0
        """All that was appended before then has been applied, or waits here."""
        self.doubts = 0
        self.retry_at_s = 0.0
        self._tokens = float(_TOKENS_PER_S)
        self._refilled_s = time.monotonic()

    def tokens(self) -> int:
        """What deadlines may cost now: after an outage they drain at a ramp, not as a herd."""
        now_s = time.monotonic()
        self._tokens = min(_TOKENS_PER_S, self._tokens + (now_s - self._refilled_s) * _TOKENS_PER_S)
        self._refilled_s = now_s
        return int(self._tokens)

    def spend(self, tokens: int) -> None:
        self._tokens -= tokens

    def forget_read(self) -> None:
        self.read.clear()
        self._read_s.clear()
        self._young = set()
        self._turns = Turns()
        self._progress.clear()
        self._seen.clear()
        self.paused = 0
        self.writer.ledger.wake()
        self.asked = None
        self.barrier_ms = 0

    def append(self, raw: Raw, now_s: float) -> None:
        """Keep what was read until a batch takes it. All times here are of the monotonic clock."""
        progress = self._progress[raw.topic]
        if not progress.deliver(raw.offset, size_of(raw.key, raw.value, raw.headers)):
            return
        self._seen[raw.topic] = self._told[raw.topic] = raw.offset + 1
        if self.writer.ledger.was_ahead(raw.topic, raw.offset):
            # Read again behind one that waited: to wait with it once more would hold up what is new.
            progress.done(raw.offset)
            return
        self.read[raw.topic].append(raw)
        self._young.add(raw.key)
        if raw.topic == FAILURES.name:
            self._read_s.append(now_s)

    def rests_s(self, now_s: float) -> float:
        """How long no batch is to be taken yet, so that the next one is worth its transaction."""
        rest_s = REST_S if self._pace.per_s >= _BUSY_PER_S else _FLOOD_REST_S if self._turns.flooding else 0.0
        if not rest_s:
            return 0.0
        if sum(map(len, self.read.values())) + self._turns.ready(now_s) >= self.writer.limit:
            return 0.0
        return max(0.0, self._batched_s + rest_s - now_s)

    def lingers_s(self, now_s: float) -> float | None:
        """How long the oldest failure still waits for its options; None: none does."""
        return max(0.0, self._read_s[0] + LINGER_S - now_s) if self._read_s else None

    def batch(self, now_s: float) -> list[Raw]:
        """The records whose turn it is: a flood of one flow holds up no other."""
        if self.rests_s(now_s):
            return []
        self._ripen(now_s)
        self._turns.crowded = self._kept() > _CROWDED
        flooding = self._turns.flooding
        taken: list[Raw] = []
        while len(taken) < self.writer.limit and (raw := self._turns.take(now_s)) is not None:
            self._progress[raw.topic].done(raw.offset)
            taken.append(raw)
        self._pace.count(len(taken) - (flooding - self._turns.flooding), now_s)
        # What floods a partition comes so often that to look at it each time would cost more than all the others.
        if taken or self._turns.flooding:
            self._batched_s = now_s
        return taken

    def positions(self) -> dict[str, int]:
        """Topic to the first offset of which nothing was read that batches have not taken by now."""
        known = {topic: progress.position for topic, progress in self._progress.items()}
        return {topic: position for topic, position in known.items() if position is not None}

    def waits(self, key: bytes) -> bool:
        """Whether a record of `key` was read that no batch has taken yet."""
        return key in self._young or self._turns.waits(key)

    @property
    def waiting(self) -> int:
        """How many records no batch has taken yet."""
        return len(self._turns)

    @property
    def flooding(self) -> int:
        """How many records of floods wait."""
        return self._turns.flooding

    def to_pause(self) -> int:
        """What is not to be read for now, as `paused` says it."""
        kept = self._kept()
        if kept >= _OVERFULL:
            return 2
        # What was fetched of a paused input is fetched again: not at every record.
        return 1 if kept >= (1 if self.paused < 1 else _RESUMES) else 0

    def _kept(self) -> float:
        """How much of what may be kept is."""
        progress = self._progress.values()
        ahead, size_bytes = sum(p.ahead for p in progress), sum(p.size_bytes for p in progress)
        return max(ahead / _MAX_AHEAD, size_bytes / self._read_ahead_bytes)

    def _ripen(self, now_s: float) -> None:
        """Let those take turns that need not wait for options. What is said of an execution whose failure does waits
        with it: options may not overtake their failure."""
        young = bisect_right(self._read_s, now_s - LINGER_S)
        held = self._unanswered(young)
        ripe: list[Raw] = []
        for topic, queue in self.read.items():
            old = young if topic == FAILURES.name else 0
            waits = [n >= old and raw.key in held for n, raw in enumerate(queue)]
            ripe += [raw for raw, wait in zip(queue, waits, strict=True) if not wait]
            self.read[topic] = deque(compress(queue, waits))
            if topic == FAILURES.name:
                self._read_s = deque(compress(self._read_s, waits))
        for raw in in_time(ripe):
            self._turns.put(raw.key or b"", self._flow(raw), raw, raw.at_ms)
        self._young = held

    def _unanswered(self, young: int) -> set[bytes | None]:
        """Keys of the failures from `young` on of which no options were read."""
        failures = self.read[FAILURES.name]
        if young == len(failures):
            return set()
        answered = {raw.key for topic in _OPTION_TOPICS for raw in self.read[topic]}
        return {raw.key for raw in islice(failures, young, None)} - answered

    def at_end(self, topic: str, offset: int) -> None:
        """The consumer found nothing more before `offset`, the end."""
        self._ends[topic] = self._told.get(topic, 0), offset

    def _reached(self, topic: str) -> int:
        """The offset before which all was applied, or waits here, or is no record."""
        read_to = max(self._seen.get(topic, 0), self.writer.positions.get(topic, 0))
        told, end = self._ends.get(topic, (0, 0))
        return max(read_to, end) if read_to >= told else read_to

    def pass_barrier(self) -> None:
        """Whether all that was there when the ends were taken has been applied, or waits here."""
        if self.asked:
            asked_ms, at = self.asked
            if all(self._reached(topic) >= end for topic, end in at.items()):
                self.barrier_ms, self.asked = asked_ms, None


def in_time(records: Iterable[Raw]) -> list[Raw]:
    """In the order of time, those of one topic as they stand there: a broker's clock may go back."""
    newest: dict[str, int] = defaultdict(int)
    placed: list[tuple[int, int, int, Raw]] = []
    for raw in sorted(records, key=lambda raw: raw.offset):
        at_ms = newest[raw.topic] = max(newest[raw.topic], raw.at_ms)
        placed.append((at_ms, _RANK[raw.topic], raw.offset, raw))
    return [raw for _, _, _, raw in sorted(placed, key=lambda place: place[:3])]
