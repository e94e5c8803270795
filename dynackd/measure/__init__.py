"""How good and how fast: evaluation, latency."""
