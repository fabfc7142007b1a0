"""Models: what a name in a spec stands for, and how it is loaded."""
