"""The policy file, looked at again while the worker runs."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

from processors.recover.policy import Policies, PolicyError

log = logging.getLogger("omium.recover")

_EVERY_S: Final = 1.0


class PolicyFile:
    """What holds now. A changed file counts from the next decision on; one that cannot be used changes nothing."""

    def __init__(self, path: Path | None) -> None:
        """`path` None: the policy that ships. Raises PolicyError."""
        self._path = path
        # Before it is read: what is written in between is seen as a change.
        self._read_ns = self._seen_ns = self._changed_ns()
        self.policies = Policies.load(path)
        self._looked_s = time.monotonic()

    def look(self) -> bool:
        """Whether there are new policies; looks once a second."""
        if time.monotonic() - self._looked_s < _EVERY_S:
            return False
        self._looked_s = time.monotonic()
        changed_ns, seen_ns = self._changed_ns(), self._seen_ns
        self._seen_ns = changed_ns
        # Half of a file is a policy too, one that forbids less: what is still being written is not read.
        if changed_ns in (0, self._read_ns) or changed_ns != seen_ns:
            return False
        self._read_ns = changed_ns
        try:
            self.policies = Policies.load(self._path)
        except PolicyError as error:
            log.error("policy %s stays: %s", self.policies.version, error)
            return False
        log.info("policy %s", self.policies.version)
        return True

    def _changed_ns(self) -> int:
        try:
            return self._path.stat().st_mtime_ns if self._path else 0
        except OSError:
            return 0
