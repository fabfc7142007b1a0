"""What `raysmith doctor` looks at: the nodes of a cluster, their storage and their network."""
