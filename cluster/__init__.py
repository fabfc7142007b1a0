"""Where it runs: a Ray of this machine, or one that is running already."""
