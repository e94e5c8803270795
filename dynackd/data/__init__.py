"""Rows and where they come from: readers, labels, word replacement, the quickstart's texts; no kind of task."""
