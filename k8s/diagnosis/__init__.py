"""From objects of a cluster to phase and cause: pure functions, but for `observe`."""
