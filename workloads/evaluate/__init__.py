"""Evaluation: models answer rows, and what they answer is measured."""
