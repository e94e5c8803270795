"""Tasks, one file a kind; metrics; how rows become features."""
