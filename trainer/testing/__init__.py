"""Faults injected into gangs and stores, and what came of them."""
