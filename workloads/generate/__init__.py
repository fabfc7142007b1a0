"""Answers of a model to the rows of a dataset, by a pool of vLLM engines over Ray Data."""
