"""One thread for what may wait for a disk: an agent's event loop must not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from queue import SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")
_END: Final = None


class Clerk:
    """Does one thing after another, in the order in which they were handed over."""

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._started = self._closed = False
        self._lock = threading.Lock()

    def do(self, act: Callable[[], T]) -> Future[T]:
        """What comes of `act`. After `close`, or where no thread can be had any more, it is done at once, here."""
        task: tuple[Future[T], Callable[[], T]] = (Future(), act)
        with self._lock:
            taken = self._start() and not self._closed
            if taken:
                self._tasks.put(task)
        if not taken:
            _do(*task)
        return task[0]

    def _start(self) -> bool:
        if not self._started:
            try:
                # A daemon: a store that hangs must not keep the process from ending.
                threading.Thread(target=self._run, name="omium-clerk", daemon=True).start()
                self._started = True
            except RuntimeError:
                return False
        return True

    def settle(self, timeout_s: float) -> bool:
        """Wait until all that was handed over so far is done; False where the time did not suffice."""
        if not self._started:
            return True
        try:
            self.do(lambda: None).result(timeout_s)
        except FutureTimeout:
            return False
        return True

    def close(self) -> None:
        """End the thread once it has done what it has."""
        with self._lock:
            if self._started and not self._closed:
                self._tasks.put(_END)
            self._closed = True

    def _run(self) -> None:
        while (task := self._tasks.get()) is not _END:
            _do(*task)


def _do(future: Future[T], act: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = act()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
