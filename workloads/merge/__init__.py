"""Merging: an adapter and its base model become one model."""
