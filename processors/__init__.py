"""Downstream consumers: recover (the life of a recovery) and audit (everything into ClickHouse)."""
