"""Helpers that know nothing of training: text, YAML, JSON, sockets, CPUs, command lines."""
