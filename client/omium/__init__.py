"""Report an AI agent's failure to Omium, and resume the run as commanded.

    client = Omium("localhost:9092", "acme", Agent(id="loan", capabilities=["append_prompt", "set_model"]))

    @client.step("apr", constraints={"apr": {"type": "range", "min": 2.5, "max": 8.5}})
    def propose(application: dict, mods: Modifications = NONE) -> dict:
        return llm(model=mods.model("small"), prompt=mods.prompt("You are a loan officer."))

By hand: `client.run(id)` with `report`, `wait`, `succeeded`. Elsewhere or later: `client.serve(handler)`.
"""

from omium.acceptor import Acceptor, FenceStore, Held, MemoryFences, Refusal, SqliteFences
from omium.client import Omium, Stats
from omium.modifications import (
    NONE,
    Modification,
    Modifications,
    OutputSchema,
    Polling,
    Retry,
    Rubric,
    Tool,
    current,
)
from omium.records import (
    Agent,
    Budget,
    Checkpoint,
    Command,
    Evidence,
    Execution,
    Fence,
    Metrics,
    Outcome,
    ToolCall,
    ToolResponse,
)
from omium.run import Run, current_command, current_run, note
from omium.serve import Service
from omium.step import NotAppliedError, Violation

__all__ = [
    "NONE",
    "Acceptor",
    "Agent",
    "Budget",
    "Checkpoint",
    "Command",
    "Evidence",
    "Execution",
    "Fence",
    "FenceStore",
    "Held",
    "MemoryFences",
    "Metrics",
    "Modification",
    "Modifications",
    "NotAppliedError",
    "Omium",
    "Outcome",
    "OutputSchema",
    "Polling",
    "Refusal",
    "Retry",
    "Rubric",
    "Run",
    "Service",
    "SqliteFences",
    "Stats",
    "Tool",
    "ToolCall",
    "ToolResponse",
    "Violation",
    "current",
    "current_command",
    "current_run",
    "note",
]
