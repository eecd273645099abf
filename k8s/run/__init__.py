"""A run in a cluster, for all verbs: found, checked before it starts, followed, and read."""
