"""Sweeps: many trials of one training stage under Ray Tune, each with other values."""
