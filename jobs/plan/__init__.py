"""From a spec to the plan that a run consumes. Pure."""
