"""The network that runs any sub-network; importance and rewiring; counting; reading checkpoints."""
