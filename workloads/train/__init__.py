"""Training: one loop for every objective, on Ray Train workers, with DeepSpeed."""
