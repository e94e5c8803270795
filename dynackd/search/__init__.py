"""The best sub-network for a budget."""
