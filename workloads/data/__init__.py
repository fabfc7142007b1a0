"""Datasets: from files to shuffled, tokenized rows, streamed to the train workers."""
