"""Sliced models that load again: torch, code that travels, stock checkpoints."""
