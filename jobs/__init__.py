"""What runs: the spec, the plan, the run's record, the controller and the command line."""
