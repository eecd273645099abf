"""A Cloud Storage server and a fault injector, for tests and local clusters."""
