"""Omium client for agent runtimes."""
