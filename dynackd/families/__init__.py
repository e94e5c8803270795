"""The one rule of slicing, one file a family."""
