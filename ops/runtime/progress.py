"""Which offset of a partition may be committed. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

MAX_PENDING: Final = 50_000
"""Records of a partition that are not done, or done behind one that is not, before no more are read."""
_RECORD_BYTES: Final = 2048
"""What a record takes beside its key, value and headers: objects, and all that points to it."""


def size_of(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> int:
    """Bytes of memory that a record takes while it waits."""
    size = len(key or b"") + len(value or b"") + _RECORD_BYTES
    for name, text in headers:
        size += len(name) + len(text or b"")
    return size


class Progress:
    """The records of one partition that were delivered here, and which of them are done.

    What may be committed is the offset of the oldest record that is not done. Only offsets that were delivered
    are known, so a hole left by a transaction marker or by compaction is no gap, and a record that is never
    done holds the position back, whatever happens to those after it.
    """

    __slots__ = ("_left", "_next", "_pending", "closed", "size_bytes")

    def __init__(self) -> None:
        self._pending: deque[int] = deque()
        """Offsets from the first that is not done."""
        self._left: dict[int, int] = {}
        """Those of them that are not done, with their sizes."""
        self._next: int | None = None
        self.size_bytes = 0
        """Of the records that are not done."""
        self.closed = False
        """The partition is being given up: begin nothing more of it. Records already begun may still be done."""

    def __len__(self) -> int:
        """How many delivered records hold the position back or wait behind one that does."""
        return len(self._pending)

    def is_open(self) -> bool:
        """Whether records that were begun are still ours to finish."""
        return not self.closed

    def deliver(self, offset: int, size_bytes: int = 0) -> bool:
        """Note a record in the order of the partition. False: it was delivered before."""
        if self._next is not None and offset < self._next:
            return False
        self._pending.append(offset)
        self._left[offset] = size_bytes
        self._next = offset + 1
        self.size_bytes += size_bytes
        return True

    def done(self, offset: int) -> None:
        """The record needs no work any more. Any order, repeats allowed."""
        left, pending = self._left, self._pending
        size_bytes = left.pop(offset, None)
        if size_bytes is None:
            return
        self.size_bytes -= size_bytes
        while pending and pending[0] not in left:
            pending.popleft()

    def fullness(self, read_ahead_bytes: int) -> float:
        """From 0 to 1, where no more is to be read."""
        return max(self.size_bytes / read_ahead_bytes, len(self._pending) / MAX_PENDING)

    @property
    def ahead(self) -> int:
        """How many are done behind one that is not."""
        return len(self._pending) - len(self._left)

    @property
    def position(self) -> int | None:
        """The offset to commit: that of the first record still needed. None: nothing was delivered."""
        return self._pending[0] if self._pending else self._next
