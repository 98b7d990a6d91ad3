"""Which flow a record is of, told by key and headers: a reader need not decode what it cannot handle yet."""

from __future__ import annotations

from typing import Final

from schemas.codec import Headers
from schemas.records import FailureEvent, FailureOrigin

DEPENDENCY: Final = "ce_dependency"
"""CloudEvents extension attribute: the service that failed. Without it all of a tenant's records share a flow."""
_CHARS: Final = 128


def dependency_header(event: FailureEvent) -> tuple[tuple[str, bytes], ...]:
    """What names the flow of a failure, and of what answers it; nothing where it names no service."""
    tool = event.tool_response.tool if event.tool_response else None
    kind, name = ("model", event.agent.model) if event.origin is FailureOrigin.MODEL else ("tool", tool)
    return ((DEPENDENCY, f"{kind}:{name[:_CHARS]}".encode(errors="replace")),) if name else ()


def flow_of(key: bytes | None, headers: Headers | None) -> tuple[bytes, bytes]:
    """Tenant and service, as far as they are told."""
    tenant, _, _ = (key or b"").partition(b"/")
    for name, value in headers or ():
        if name == DEPENDENCY and value:
            return tenant, value if isinstance(value, bytes) else value.encode(errors="replace")
    return tenant, b""
