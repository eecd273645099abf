"""Helpers and simulators that tests share."""
