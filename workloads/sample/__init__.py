"""Sampling: a dataset made of a model's own answers."""
