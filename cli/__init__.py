"""The `omium-recovery` command."""
