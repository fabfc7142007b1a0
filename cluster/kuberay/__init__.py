"""KubeRay's objects for a plan: what they are, whether they are right, and how they are applied."""
