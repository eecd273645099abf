"""From objects of a cluster to phase and cause: pure functions."""
