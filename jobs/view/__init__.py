"""What a person sees of a run, live and afterwards."""
