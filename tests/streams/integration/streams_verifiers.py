"""A verifier that does what the claim says. Loaded by the worker, by the name in its settings."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.records import FailureEvent
from streams.decide import Claim, Judgement


class Verifier:
    """Honest about "the sky is green"; slow, raising or babbling where it is told to."""

    async def verify(self, event: FailureEvent, claims: Sequence[Claim]) -> Sequence[Judgement]:
        if told := os.environ.get("VERIFIER_TELLS"):
            Path(told).touch()
        said: list[Any] = []
        for claim in claims:
            match claim.text:
                case "the sky is green":
                    said.append(Judgement(claim, holds=False, correct_value="blue", confidence=0.8))
                case "slow":
                    await asyncio.sleep(3600)
                case "blocking":
                    time.sleep(3)
                case "raises":
                    raise ValueError("a secret of the tenant")
                case "times out":
                    raise TimeoutError
                case "babbles":
                    said.append({"holds": False})
                case "judges another claim":
                    said.append(Judgement(Claim("the sea is dry"), holds=False))
                case "bytes":
                    said.append(Judgement(claim, holds=False, correct_value=b"\xff"))
        return said
