"""Faults on purpose, and a judge who shares no code with the workers: `python -m ops.chaos`."""
