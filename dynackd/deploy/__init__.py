"""The student directory: what is written, checked and told of it."""
