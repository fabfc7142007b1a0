"""Reinforcement learning: engines write completions, rewards score them, workers train."""
