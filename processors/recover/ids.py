"""Names that follow from what happened: never from the strategy, the clock or a random number."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

_BYTES: Final = 16


def digest(*fields: str) -> str:
    """BLAKE2b-128 over length-prefixed fields, as 32 hexadecimal digits: ("ab", "c") and ("a", "bc") differ."""
    parts: list[bytes] = []
    for field in fields:
        data = field.encode("utf-8", "surrogatepass")
        parts += (len(data).to_bytes(8, "big"), data)
    return blake2b(b"".join(parts), digest_size=_BYTES).hexdigest()


def recovery_id(tenant_id: str, execution_id: str, failure_id: str) -> str:
    """The recovery that `failure_id`, the first of it, opens."""
    return digest("recovery", tenant_id, execution_id, failure_id)


def command_id(recovery: str, attempt: int) -> str:
    """The one command of this attempt."""
    return digest("command", recovery, str(attempt))
