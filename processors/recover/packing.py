"""States, packed to a third of their JSON: what a million open executions take of memory, and of a takeover's time.

LZ4 with a dictionary of what nearly all states say: 3 us a state. Deflate makes it a quarter, and takes 23 us.
"""

from __future__ import annotations

import struct
from typing import Final

import lz4.block

_MAX_BYTES: Final = 64 * 1024 * 1024
_SIZE: Final = struct.Struct("<I")
_OPTION: Final = '"confidence":0.9,"prior":0.9,"cost_microusd":1000,"latency_s":2.0,'
_COMMON: Final = (
    '"early":[{"options":{"until_ms":"closed":[{"recovery_id":"","attempts":1,"status":"success","ended_ms":'
    '"hold":{"kind":"permit","key":"/tool:","since_ms":,"until_ms":"permits":[["sdk_retries":"idempotency_key":"'
    '"call_fingerprint":"wire_format":"json","trace":[["traceparent","performance","logical_error","hallucination"'
    '"range_violation","format_violation","timeout","service_unavailable","network_error","auth_error","critical"'
    '"constraint_injection","function_calling","validation_tool","increase_timeout","circuit_breaker","cached_response"'
    '"fallback_service","model_upgrade","expired","failed","refused":"sampled":'
    '{"tenant_id":"","execution_id":"","recovery":{"recovery_id":"","failure_id":"","started_ms":17,"branches":['
    '{"failure_id":"","partition":0,"offset":1,"at_ms":17,"checkpoint":{"id":"","data":"{\\"step\\":"},"agent_id":"'
    '","tool":"","model":"","call_timeout_s":60.0,"options":{"tenant_id":"","execution_id":"","failure_id":"",'
    '"origin":{"partition":0,"offset":1},"classification":{"category":"tool_failure","subtype":"rate_limit","severity":'
    '"medium","confidence":0.95,"rule":"status-","details":"{\\"tool\\":\\"\\",\\"status_code\\":,\\"retry_after_s\\":'
    '}","evidence":[{"source":"structured","path":"tool_response.status_code","rule":"","text":""}],"explanation":"'
    '"counterfactual":"Had "},"checkpoint":{"id":"","data":""},"options":[{"strategy":"exponential_backoff",'
    '"parameters":"{\\"max_attempts\\":3,\\"base_delay_s\\":1.0,\\"max_delay_s\\":,\\"initial_delay_s\\":2.0,'
    '\\"multiplier\\":2.0,\\"jitter\\":}",'
    + _OPTION
    + '"why":"The "},{"strategy":"ask_human","confidence":0.0,"prior":'
    '0.0,"latency_s":900.0,"why":"Decide how to go on: fix the cause and resume the run, or end it."}],'
    '"value_microusd":,"rules_version":"","catalogue_version":"2026.","decided_at":"2026-"}}],"attempt":1,"command":'
    '{"attempt":1,"strategy":"","category":"tool_failure","subtype":"","severity":"high","cost_microusd":1000,'
    '"issued_ms":17,"not_before_ms":17,"outcome_deadline_ms":17},"tried":[""],"options_until_ms":17,'
    '"checkpoint_until_ms":17,"merge_until_ms":17,"category":"tool_failure","subtype":"","strategies":[""],"due_ms":17,'
    '"considered":[{"strategy":"",' + _OPTION + '"eligible":true,"why":""}]},"seen":[["'
).encode()
"""Never changed: states packed with another could not be read. A better one is another version of the state."""


def packed(body: bytes) -> bytes:
    """`body`, smaller, behind its size."""
    data: bytes = lz4.block.compress(body, store_size=True, dict=_COMMON)
    return data


def unpacked(data: bytes) -> bytes:
    """What `packed` was given. Raises ValueError where it was not, or is too large to be a state."""
    if len(data) < _SIZE.size or _SIZE.unpack_from(data)[0] > _MAX_BYTES:
        raise ValueError("a state that is cut off, or too large")
    try:
        body: bytes = lz4.block.decompress(data, dict=_COMMON)
    except lz4.block.LZ4BlockError as error:
        raise ValueError(f"a state that cannot be unpacked: {error}") from error
    return body
