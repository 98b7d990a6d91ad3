"""Faust 0.15.3, hardened by subclassing: it loses nothing and costs little."""
