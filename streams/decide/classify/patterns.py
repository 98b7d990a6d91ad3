"""Many patterns, searched together in linear time: see schemas.patterns."""

from schemas.patterns import PatternError, Patterns

__all__ = ["PatternError", "Patterns"]
