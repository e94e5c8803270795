"""What a person sees: the terminal, and the page about a run."""
