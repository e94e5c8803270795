"""Recipes, stages and the Trainer of all sub-networks."""
