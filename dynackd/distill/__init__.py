"""What a sub-network learns from: relations, terms, signals."""
